"""A real redis-server on a free loopback port, one for the whole session; databases are emptied for each test."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest
import redis


@pytest.fixture(scope="session")
def _redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    program = shutil.which("redis-server")
    assert program, "the tests start a real redis-server: run scripts/install_test_tools.sh"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Ready to accept connections" in line:
                break
        yield port
        process.terminate()


@pytest.fixture
def redis_url(_redis_port: int) -> str:
    """The URL of an empty database."""
    with redis.Redis(port=_redis_port) as client:
        client.flushall()
    return f"redis://127.0.0.1:{_redis_port}/0"
