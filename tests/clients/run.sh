#!/usr/bin/env bash
# Installs client libraries under target/, in the versions pinned here, and runs the clients of docs/CLIENTS.md and then
# the libraries against Janus:
#     tests/clients/run.sh BINARY            the libraries of tests/run.sh
#     tests/clients/run.sh BINARY --all      all libraries, which take a minute to install
set -euo pipefail
binary=$(realpath "$1")
shift
cd "$(dirname "$0")"
target=$(realpath -m ../../target/clients)
mkdir -p "$target"

all=0
for argument in "$@"; do [ "$argument" != --all ] || all=1; done

requirements=(--requirement requirements.txt)
omit=(--omit=dev)
if [ "$all" = 1 ]; then
    requirements+=(--requirement requirements-all.txt)
    omit=()
fi
cp package.json package-lock.json client.mjs program.mjs ../../examples/web/janus.js "$target"
(cd "$target" && npm ci "${omit[@]}" --ignore-scripts --no-audit --no-fund --loglevel=error)
[ -x "$target/python/bin/python" ] || python3 -m venv "$target/python"
"$target/python/bin/python" -m pip install --quiet --disable-pip-version-check "${requirements[@]}"

export CLIENTS_TARGET="$target"
"$target/python/bin/python" passes.py "$binary"
exec python3 run.py "$binary" "$@"
