#!/usr/bin/env bash
# Packs janus-js, installs it and client libraries under target/, in the versions pinned here, and runs the clients of
# docs/CLIENTS.md and then the libraries against Janus:
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
npm_ci=(npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
cp package.json package-lock.json client.mjs program.mjs "$target"
(cd "$target" && "${npm_ci[@]}" "${omit[@]}")

# The tests of the package, and the packed package as a program has it: $target/janus-client and $target/node_modules.
rm -rf "$target/janus-js" "$target/janus-client"
mkdir -p "$target/janus-js/tests"
cp -r ../../janus-js "$target/janus-js/"
cp -r ../browser "$target/janus-js/tests/"
(cd "$target/janus-js/janus-js" && rm -rf node_modules dist && "${npm_ci[@]}" && npm test --silent && npm pack --silent --pack-destination "$target")
mkdir "$target/janus-client"
tar -C "$target/janus-client" --strip-components=1 -xzf "$target"/janus-client-*.tgz
ln -sfn ../janus-client "$target/node_modules/janus-client"

[ -x "$target/python/bin/python" ] || python3 -m venv "$target/python"
"$target/python/bin/python" -m pip install --quiet --disable-pip-version-check "${requirements[@]}"

export CLIENTS_TARGET="$target"
"$target/python/bin/python" passes.py "$binary"
exec python3 run.py "$binary" "$@"
