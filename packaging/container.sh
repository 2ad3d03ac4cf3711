#!/usr/bin/env bash
# Builds the container image: packaging/container.sh BINARY [OPTION OF THE ENGINE…]
#
# BINARY is the static binary of packaging/static.sh. ENGINE is podman, unless the variable names another engine, such as
# docker.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$1
shift
engine=${ENGINE:-podman}
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

install -m 755 "$binary" "$context/janus-server"
install -m 644 packaging/container.toml "$context/janus.toml"
install -m 644 /etc/ssl/certs/ca-certificates.crt "$context/"
python3 packaging/notices.py > "$context/THIRD-PARTY"

# The format of docker is the one that has a health check.
format=()
[ "$(basename "${engine%% *}")" != podman ] || format=(--format docker)
version=$(cargo metadata --format-version 1 --no-deps |
    python3 -c 'import json, sys; print(next(p["version"] for p in json.load(sys.stdin)["packages"] if p["name"] == "janus-server"))')
# shellcheck disable=SC2086  # the engine may have options
$engine build "${format[@]}" --file packaging/Containerfile --tag janus --tag "janus:$version" \
    --label "org.opencontainers.image.version=$version" "$@" "$context"
