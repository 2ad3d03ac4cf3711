#!/usr/bin/env bash
# Builds the Debian package, and prints its path: packaging/deb.sh [--binary FILE] [OPTION OF CARGO-DEB…]
#
# Without --binary the release binary is built, and its debug symbols become a package of their own (-dbgsym). Needs
# cargo-deb (`cargo install --locked cargo-deb`) and dpkg. Everything in the package that describes the server is made by
# the binary itself: manual pages, completions, /etc/janus.toml.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=
if [ "${1:-}" = --binary ]; then
    binary=$2
    shift 2
fi

target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
if [ -z "$binary" ]; then
    cargo build --release --locked --package janus-server >&2
    binary=$target/release/janus-server
fi

# cargo-deb looks for everything below release/ of a target folder; this one has nothing but the package's files.
stage=$target/deb
files=$stage/release/deb
rm -rf "$stage"
mkdir -p "$files"/man1 "$files"/man5 "$files"/systemd
cp "$binary" "$stage/release/janus-server"

env --ignore-environment "$binary" config example > "$files/janus.toml"
"$binary" man "$files/man1"
gzip -9n "$files"/man1/*
mv "$files/man1/janus.toml.5.gz" "$files/man5/"
"$binary" completions bash > "$files/janus-server.bash"
"$binary" completions zsh > "$files/_janus-server"
"$binary" completions fish > "$files/janus-server.fish"

# The units of docs/systemd with the package's paths. systemd 252 of Debian 12 has no Type=notify-reload: there the check
# of the file tells systemctl of mistakes, and SIGHUP has the server read it.
cp docs/systemd/*.socket "$files/systemd/"
sed -e 's|/usr/local/bin/|/usr/bin/|' \
    -e '/^# The second line needs systemd 253/,/^Type=notify-reload/c\
Type=notify\
ExecReload=/usr/bin/janus-server config check --config /etc/janus.toml\
ExecReload=/bin/sh -c "kill -HUP $MAINPID"' \
    -e 's|^Description=.*|&\nDocumentation=man:janus-server(1) man:janus.toml(5) file:/usr/share/doc/janus-server/|' \
    -e 's|docs/OPERATIONS.md|/usr/share/doc/janus-server/OPERATIONS.md|' \
    docs/systemd/janus.service > "$files/systemd/janus.service"

# What changed is in CHANGELOG.md; a changelog of Debian has a date, here that of the last commit.
version=$(cargo metadata --format-version 1 --no-deps |
    python3 -c 'import json, sys; print(next(p["version"] for p in json.load(sys.stdin)["packages"] if p["name"] == "janus-server"))')-1
arguments=("$@")
for index in "${!arguments[@]}"; do
    [ "${arguments[$index]}" != --deb-version ] || version=${arguments[$((index + 1))]}
done
date=$(git log -1 --format=%cD 2>/dev/null || date -R)
printf 'janus-server (%s) unstable; urgency=medium\n\n  * Changes are in changelog.gz.\n\n -- %s  %s\n' \
    "$version" "$(sed -n 's/^maintainer = "\(.*\)"/\1/p' janus-server/Cargo.toml)" "$date" | gzip -9n > "$files/changelog.Debian.gz"
gzip -9nc CHANGELOG.md > "$files/changelog.gz"
python3 packaging/notices.py | gzip -9n > "$files/THIRD-PARTY.gz"

# Quiet, because cargo-deb looks for units among the scripts of the package and misses them there.
CARGO_TARGET_DIR=$stage cargo deb --quiet --no-build --locked --package janus-server --output "$target/debian/" "$@"
