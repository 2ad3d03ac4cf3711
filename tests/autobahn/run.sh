#!/usr/bin/env bash
# Runs the Autobahn suite against the echo server of examples/echo.rs: ./run.sh PROGRAM, where PROGRAM is the built example.
# The 301 cases of the groups 1 to 10 must pass. The groups 12 and 13 are about compression, which the server does not have.
#
# The suite is a program for Python 2, which Debian no longer has. PYTHON2 names an interpreter; without any, the suite is
# skipped, and the rules of RFC 6455 are tested by janus-core/src/wire/websocket/tests.rs and tests/websocket/framing.rs alone.
set -euo pipefail
program=$(realpath "$1")
cd "$(dirname "$0")"

# The name alone says nothing: pyenv has a python2.7 that only says where one could be.
python=
for candidate in ${PYTHON2:-python2.7 "$HOME"/.pyenv/versions/2.7.*/bin/python2.7}; do
    if "$candidate" -c "import pip" 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    echo "skipped: there is no Python 2.7 for the Autobahn suite; name one in PYTHON2"
    exit 0
fi

# Kept for the next run, because some of it is compiled.
suite=../../target/autobahn
if [ ! -e "$suite/installed" ]; then
    rm -rf "$suite"
    "$python" -m pip install --quiet --disable-pip-version-check --target "$suite/packages" --requirement requirements.txt
    touch "$suite/installed"
fi

log=$(mktemp)
trap 'kill "${server:-}" 2>/dev/null || true; rm -f "$log"' EXIT
"$program" 0 >"$log" &
server=$!
for _ in $(seq 100); do
    url=$(head -n 1 "$log")
    [ -n "$url" ] && break
    sleep 0.1
done

rm -rf "$suite/reports"
cat >"$suite/spec.json" <<SPEC
{"outdir": "$suite/reports", "servers": [{"agent": "janus", "url": "$url"}], "cases": ["*"], "exclude-cases": ["12.*", "13.*"]}
SPEC
# A folder of packages that spreads one of them over several has to be read as a site.
wstest="import site; site.addsitedir('$suite/packages'); from autobahntestsuite.wstest import run; run()"
"$python" -c "$wstest" --mode fuzzingclient --spec "$suite/spec.json" >"$suite/log" 2>&1 || { tail -n 50 "$suite/log"; exit 1; }
python3 check.py "$suite/reports/index.json"
