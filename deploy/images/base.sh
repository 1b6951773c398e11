#!/usr/bin/env bash
# Makes the base image out of Debian packages, where none can be pulled: deploy/images/base.sh [NAME], as root.
# The mirror is the one of this machine's apt sources; REMPART_DEBIAN_MIRROR names another. Needs debootstrap and docker.
set -euo pipefail
name=${1:-rempart/base:trixie}
suite=trixie

fail() { echo "base image: $1" >&2; echo "  What to do: $2" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "debootstrap needs root" "Run it with sudo, or build with BASE_IMAGE=debian:trixie-slim."
command -v debootstrap >/dev/null || fail "there is no debootstrap" "apt-get install debootstrap"
docker info >/dev/null 2>&1 || fail "no Docker Engine answers" "Start it (dockerd), or set DOCKER_HOST."

# one line of sources.list for each http(s) source of the suite and of its updates
sources=$(apt-get indextargets --format '$(CREATED_BY) $(SITE) $(RELEASE) $(COMPONENT)' 2>/dev/null \
    | awk -v suite="$suite" '$1 == "Packages" && $2 ~ /^https?:/ && $3 ~ "^" suite "(-updates|-security)?$" && $4 == "main" \
        {print "deb", $2, $3, $4}' | sort -u)
[ -z "${REMPART_DEBIAN_MIRROR:-}" ] || sources="deb $REMPART_DEBIAN_MIRROR $suite main"
mirror=$(awk -v suite="$suite" '$3 == suite {print $2; exit}' <<<"$sources")
[ -n "$mirror" ] || fail "apt names no http source of $suite" "Set REMPART_DEBIAN_MIRROR=https://mirror.example/debian."
case $sources in *@*) fail "a mirror's address holds a password, and it would be kept in the image" \
    "Set REMPART_DEBIAN_MIRROR to one that asks for none." ;; esac

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" "$mirror" >"$root.log" 2>&1 \
    || { tail -20 "$root.log" >&2; fail "debootstrap ended with an error" "Read $root.log."; }
rm -f "$root.log"
echo "$sources" >"$root/etc/apt/sources.list"
# what differs from one run to the next or is this machine's, and what nobody reads in a container
rm -rf "$root"/etc/resolv.conf "$root"/etc/hostname "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log "$root"/var/log/apt "$root"/var/cache/ldconfig/* \
    "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/etc/machine-id
find "$root/usr/share/doc" ! -type d ! -name copyright -delete  # licences stay, since images are handed on
tar -C "$root" --sort=name --numeric-owner -c . | docker import --message "debootstrap $suite" - "$name" >/dev/null
echo "$name"
