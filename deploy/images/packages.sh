#!/bin/sh
# Of the Dockerfile: `packages.sh [--upgrade] PACKAGE...` installs Debian packages, and leaves nothing of the installing
# behind: no cache, list or log, no file that runs as its owner, nothing that differs from one build to the next.
# Licences (copyright files) stay, since images are handed on.
set -eu
export DEBIAN_FRONTEND=noninteractive
began=/dev/shm/packages-began
[ -e "$began" ] || touch "$began"
apt-get update --quiet
if [ "${1:-}" = --upgrade ]; then shift; apt-get upgrade --quiet --yes; fi
apt-get install --quiet --yes --no-install-recommends "$@"
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/* \
    /usr/share/man/* /usr/share/info/* /usr/share/locale/* /etc/machine-id /var/lib/dbus/machine-id \
    /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid-
find /usr/share/doc ! -type d ! -name copyright -delete
find /usr/share/doc -type d -empty -delete
find / -xdev ! -type l -perm /6000 -exec chmod ug-s {} +
# nobody has a password, so that none was ever changed
sed -i 's/^\([^:]*:[^:]*\):[0-9]*:/\1:1:/' /etc/shadow
# what the build wrote, and no package brought, has one time
find / -xdev -newer "$began" -exec touch --no-dereference --date=2026-01-01T00:00:00Z {} +
