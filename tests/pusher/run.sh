#!/usr/bin/env bash
# Installs the official clients and publishers of Pusher Channels under target/, in the versions pinned here, and runs the
# scenarios with them:
#     tests/pusher/run.sh BINARY [TEST...]
set -euo pipefail
binary=$(realpath "$1")
shift
cd "$(dirname "$0")"
target=$(realpath -m ../../target/pusher)
mkdir -p "$target"

cp package.json package-lock.json client.js program.mjs publisher.mjs "$target"
(cd "$target" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
[ -x "$target/python/bin/python" ] || python3 -m venv "$target/python"
"$target/python/bin/python" -m pip install --quiet --disable-pip-version-check --requirement requirements.txt

export PUSHER_TARGET="$target"
exec "$target/python/bin/python" scenarios.py "$binary" "$@"
