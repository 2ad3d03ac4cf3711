#!/usr/bin/env bash
# Runs every check and test of the project on a machine with nothing but Rust, and installs the other programs needed.
set -euo pipefail
cd "$(dirname "$0")/.."

# The files of incremental compilation are of no use to a build from nothing.
export CARGO_INCREMENTAL=0

# With the seconds since the start, so that a log tells where the time goes.
step() { printf '\n== %4d s: %s\n' "$SECONDS" "$*"; }

# The tests hold thousands of connections open at once.
ulimit -n "$(ulimit -H -n)"

for component in rustfmt clippy; do
    cargo "${component/rust/}" --version >/dev/null 2>&1 || rustup component add "$component"
done

# The scripts in docs/benchmarks are tested, too, and janus-js and examples/web in real browsers, also over TLS and behind nginx; the
# addresses of clients behind nginx and HAProxy; client libraries of Node and Python; and the clients of Pusher Channels, in
# Node and in the browser.
missing=()
# nginx is in /usr/sbin, which may be missing in a user's path.
export PATH="$PATH:/usr/sbin"
for program in python3 chromium curl jq nginx haproxy openssl npm; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing+=(libnginx-mod-stream)
command -v node >/dev/null || missing+=(nodejs)
# The second browser of the client's tests.
command -v firefox-esr >/dev/null || command -v firefox >/dev/null || missing+=(firefox-esr)
# Scrapes the server, with promtool, which checks rules and figures.
command -v prometheus >/dev/null || missing+=(prometheus)
# The engine of a cluster; and networks of the tests' own, to cut a server off.
command -v redis-server >/dev/null || missing+=(redis-server)
command -v ip >/dev/null || missing+=(iproute2)
# certutil, which tells a browser of an authority.
command -v certutil >/dev/null || missing+=(libnss3-tools)
# libFuzzer is C++.
command -v c++ >/dev/null || missing+=(g++)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
root=()
[ "$(id -u)" = 0 ] || root=(sudo env "PATH=$PATH" "HOME=$HOME")
if [ "${#missing[@]}" -gt 0 ]; then
    "${root[@]}" apt-get update && "${root[@]}" apt-get install --yes --no-install-recommends "${missing[@]}"
fi

step "formatting"
cargo fmt --all --check

step "lints, as released and with everything the tests use"
cargo clippy --workspace --locked -- --deny warnings
# Like the build of a transport's author, without the further features of this workspace's tests.
cargo clippy --package janus-core --features conformance --locked -- --deny warnings
# Like the build of a program with a client.
cargo clippy --package janus-core --features client --locked -- --deny warnings
# Like the build of a program that mounts Janus, without the features that the server asks of the same crates.
cargo clippy --package janus-axum --package janus-actix-web --all-features --locked -- --deny warnings
cargo clippy --workspace --all-targets --all-features --locked -- --deny warnings

step "tests and doctests"
cargo test --workspace --all-features --locked

# Of the streams of several topics, one test only: the others rely on passes that follow each other, as on one home. Left
# out besides: a test whose client claims a session on another home in the moment of the acknowledgement, and may be told
# that it does not resume; and a test whose readers, on one thread, cannot keep up with three homes.
step "drains, limits and returning clients with three home arbiters"
JANUS_TEST_HOMES=3 cargo test --package janus-server --all-features --locked --test e2e -- \
    bursts:: churn:: crashes:: drain:: homes:: full:: in_process:: limits:: protocol:: resume:: several_topics::random_cuts_lose_nothing_even_if_passes_overlap slow:: streams:: tls:: websocket:: \
    --skip a_client_may_come_back_on_a_spare_connection \
    --skip senders_may_die_while_helping_a_home_arbiter_that_is_behind

step "fuzzing, 20 seconds a target"
janus-core/fuzz/run.sh 20

step "the Autobahn suite"
cargo build --package janus-core --all-features --locked --example echo
tests/autobahn/run.sh target/debug/examples/echo

step "clients, and client libraries"
cargo build --package janus-core --all-features --locked --example client_program
tests/clients/run.sh target/debug/janus-server

# The sources have been tested in Chromium with all other tests. Left out are event streams of a browser's own over TLS, where
# Firefox takes a closed port for final (docs/PROXIES.md).
step "the packed client in Chromium and in Firefox"
for browser in chromium firefox; do
    JANUS_TEST_CLIENT="$PWD/target/clients/janus-client" JANUS_TEST_BROWSER=$browser \
        cargo test --package janus-server --all-features --locked --test e2e -- browser:: --skip tls:: --include-ignored
done

step "official clients and publishers of Pusher Channels"
tests/pusher/run.sh target/debug/janus-server

step "clients and backends of Centrifugo"
tests/centrifuge/run.sh target/debug/janus-server

step "documentation"
RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --locked

step "packages"
# cargo checks each package against the packaged members of the workspace that it depends on, and reuses an unpacked or
# compiled package of the same version. Both must go, or the check would use the package of an earlier run.
rm -rf target/packages "${CARGO_HOME:-$HOME/.cargo}"/registry/src/-*/janus-{access,actix-web,axum,api,centrifuge,core,pusher,server,supervision}-*
# Uncommitted changes are no reason to refuse on a developer's machine; a fresh checkout has none.
cargo package --workspace --locked --allow-dirty --quiet --target-dir target/packages

step "installing"
# The check of the packages has left a binary in the form of a release: with the default features.
"${root[@]}" tests/packages/run.sh target/packages/debug/janus-server

step "all checks passed"
