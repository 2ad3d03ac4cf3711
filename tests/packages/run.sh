#!/usr/bin/env bash
# Tests the packages: tests/packages/run.sh BINARY
#
# BINARY becomes two Debian packages, an earlier and a later version, which are installed, used, upgraded and removed in a
# clean Debian with systemd as its first process. The static binary becomes a container, which is built, run, asked for
# its health and stopped. Needs root and a network for Debian's packages; installs the programs it needs. Leaves nothing
# behind but the folder target/packaging, with tools and compiled code for the next run.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Far longer than a run takes, so that a hang ends.
if [ -z "${BOUNDED:-}" ]; then
    BOUNDED=1 exec timeout --kill-after=30 2400 "$0" "$@"
fi

[ "$(id -u)" = 0 ] || { echo "run as root" >&2; exit 1; }
binary=$(realpath "$1")
cache=$PWD/target/packaging
mkdir -p "$cache"
export PATH="$cache/bin:$PATH:/usr/sbin:/sbin"

work=$(mktemp -d)
# For the API of a server that listens on other addresses than loopback.
key=$(od -An -tx1 -N16 /dev/urandom | tr -d ' \n')
machine=
# A container of systemd that is told to stop, and everything that was made, goes away, however the run ends.
clean_up() {
    trap '' INT TERM
    engine rm --all --force --time 0 >/dev/null 2>&1 || true
    engine rmi --all --force >/dev/null 2>&1 || true
    if [ -n "$machine" ]; then
        kill -TERM "$machine" 2>/dev/null || true
        timeout 30 tail --pid="$machine" -f /dev/null || kill -KILL "$machine" 2>/dev/null || true
    fi
    jobs -p | xargs --no-run-if-empty kill 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

step() { printf -- '-- %4d s: %s\n' "$SECONDS" "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
# podman with all of its files below the working folder. runc, unlike crun, runs where the groups of version 1 and 2 are both
# in use.
engine() { $engine "$@"; }
engine="podman --root $work/storage --runroot $work/run --tmpdir $work/tmp --storage-driver vfs --cgroup-manager cgroupfs --runtime runc"

source tests/packages/debian.sh
source tests/packages/container.sh

step "programs"
install_programs
make_root > "$work/root.log" 2>&1 &
root_job=$!
install_tools

step "the static binary"
build_static

step "packages"
make_packages

step "a clean Debian"
wait "$root_job" || { cat "$work/root.log" >&2; fail "no Debian"; }
boot

step "install, use, reload"
test_installation
step "restart with sockets"
test_restart
step "upgrade"
test_upgrade
step "remove and purge"
test_removal

step "container"
test_container
step "Kubernetes"
test_kubernetes

step "packages and containers work"
