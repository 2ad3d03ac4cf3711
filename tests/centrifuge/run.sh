#!/usr/bin/env bash
# Installs the libraries of Centrifugo under target/, in the versions pinned here, and runs them against Janus:
#     tests/centrifuge/run.sh BINARY [TEST...]
set -euo pipefail
binary=$(realpath "$1")
shift
cd "$(dirname "$0")"
target=${CENTRIFUGE_TARGET:-$(realpath -m ../../target/centrifuge)}
mkdir -p "$target"
cp package.json package-lock.json program.js program.mjs page.html "$target"
(cd "$target" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
[ -x "$target/python/bin/python" ] || python3 -m venv "$target/python"
"$target/python/bin/python" -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
export CENTRIFUGE_TARGET="$target"
exec "$target/python/bin/python" passes.py "$binary" "$@"
