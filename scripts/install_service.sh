#!/usr/bin/env bash
# Installs GLM-Crush as a systemd service, or brings an installed one up to this checkout. Run it as root:
#
#   scripts/install_service.sh [MODEL]      MODEL is what it serves; by default what it served, at first smollm2:135m
#
# The program goes to /opt/glm-crush, models and data to /var/lib/glm-crush, settings and the operator's key to
# /etc/glm-crush/environment, of which no more than the model is ever changed. PYTHON= names another Python than the system's.
set -euo pipefail
cd "$(dirname "$0")/.."

program=/opt/glm-crush
home=/var/lib/glm-crush
environment=/etc/glm-crush/environment

if [ "$(id -u)" != 0 ]; then
    echo "this writes to /opt, /etc and /var/lib: run it as root, for example with sudo" >&2
    exit 1
fi
# The system's own before one of root's: the service may read neither /root nor /home.
python=${PYTHON:-$(PATH="/usr/local/bin:/usr/bin:/bin:$PATH" command -v python3)}
"$python" scripts/check_build.py --service

served=$(sed -n 's/^GLM_MODEL_NAME=//p' "$environment" 2> /dev/null || true)
model=${1:-${served:-smollm2:135m}}

echo "program into $program: some minutes"
"$python" -m venv "$program"
"$program/bin/pip" install --quiet -r requirements.lock
"$program/bin/pip" install --quiet --no-deps --no-build-isolation --force-reinstall .

id glm-crush > /dev/null 2>&1 || useradd --system --home-dir "$home" --shell /usr/sbin/nologin glm-crush
install -d -o glm-crush -g glm-crush -m 750 "$home"
echo "$model into $home"
runuser -u glm-crush -- env GLM_HOME="$home" "$program/bin/glm" pull "$model"

if [ ! -e "$environment" ]; then
    echo "settings and a new key into $environment"
    key=$("$program/bin/python" -c "import secrets; print(secrets.token_hex(24))")
    install -d -m 700 "$(dirname "$environment")"
    (umask 077 && printf 'GLM_API_KEY=%s\nGLM_MODEL_NAME=%s\n' "$key" "$model" > "$environment")
elif [ "$model" != "$served" ]; then
    echo "GLM_MODEL_NAME=$model into $environment"
    sed -i '/^GLM_MODEL_NAME=/d' "$environment"
    printf 'GLM_MODEL_NAME=%s\n' "$model" >> "$environment"
fi

install -m 644 deploy/systemd/glm-crush.service /etc/systemd/system/glm-crush.service
if [ ! -d /run/systemd/system ]; then
    echo "systemd does not run here: the service is installed and starts with it"
    exit 0
fi
systemctl daemon-reload
systemctl enable --quiet glm-crush
systemctl restart glm-crush
echo "glm-crush runs: systemctl status glm-crush, journalctl -u glm-crush; the key is in $environment"
