#!/usr/bin/env bash
# Builds the static binary with musl, and prints its path: packaging/static.sh [OPTION OF CARGO BUILD…]
#
# Needs the target (`rustup target add x86_64-unknown-linux-musl`), musl-gcc for the parts in C (Debian: musl-tools), and
# cargo-auditable (`cargo install --locked cargo-auditable`), which writes the list of all libraries and their versions
# into the binary. Scanners (syft, trivy, grype, `cargo audit bin`) read the list from the binary, or from an image that
# contains the binary. So the list cannot be lost on the way, as a file beside the binary can.
set -euo pipefail
cd "$(dirname "$0")/.."

triple=$(uname -m)-unknown-linux-musl
cargo auditable build --locked --package janus-server --target "$triple" --message-format json-render-diagnostics "${@:---release}" |
    python3 -c '
import json, sys
messages = (json.loads(line) for line in sys.stdin)
print([m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "janus-server"][-1])'
