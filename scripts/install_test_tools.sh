#!/usr/bin/env bash
# The real servers that tests start and that PyPI does not have: redis-server, from the system's packages.
set -euo pipefail
command -v redis-server > /dev/null && exit 0
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
if ! command -v apt-get > /dev/null; then
    echo "The tests start a real redis-server; install it with your system's packages (redis or valkey)." >&2
    exit 1
fi
echo "installing redis-server for the tests"
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q redis-server > /dev/null 2>&1 ||
    { $as_root apt-get update -q > /dev/null && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q redis-server > /dev/null; }
command -v redis-server > /dev/null
