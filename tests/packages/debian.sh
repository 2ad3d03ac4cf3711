# The Debian package, in a clean Debian with systemd as its first process. Sourced by run.sh.

install_programs() {
    local missing=() program
    declare -A packages=([mmdebstrap]=mmdebstrap [systemd-nspawn]=systemd-container [lintian]=lintian [dpkg-shlibdeps]=dpkg-dev
        [musl-gcc]=musl-tools [podman]=podman [buildah]=buildah [runc]=runc [zsh]=zsh [fish]=fish [mandoc]=mandoc [python3]=python3 [curl]=curl [pgrep]=procps)
    for program in "${!packages[@]}"; do
        command -v "$program" >/dev/null || missing+=("${packages[$program]}")
    done
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    [ "${#missing[@]}" = 0 ] && return
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
}

# Compiled without optimisation: the tools run for seconds.
install_tools() {
    local tool
    for tool in cargo-deb cargo-auditable; do
        [ -x "$cache/bin/$tool" ] || cargo install --quiet --locked --debug --root "$cache" --target-dir "$cache/tools" "$tool"
    done
    rustup target add "$(uname -m)-unknown-linux-musl" >/dev/null 2>&1 || true
}

# From the sources of Debian that this machine has.
make_root() {
    local release
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    local sources=() file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
        [ ! -s "$file" ] || sources+=("$file")
    done
    mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv --aptopt='Apt::Install-Recommends "false"' \
        --aptopt='Acquire::Check-Valid-Until "false"' "$release" "$work/root" "${sources[@]}"
}

make_packages() {
    local version
    first=$(packaging/deb.sh --binary "$binary" --strip --no-dbgsym --fast | tail -1)
    version=$(dpkg-deb --field "$first" Version)
    later=$(packaging/deb.sh --binary "$binary" --strip --no-dbgsym --fast --deb-version "${version%-*}-99" | tail -1)
    mv "$first" "$work/first.deb"
    mv "$later" "$work/later.deb"
    dpkg-deb --info "$work/first.deb"
    lintian --allow-root --fail-on error,warning "$work/first.deb"
    test_documents
}

# Manual pages and completions, by the programs that read them.
test_documents() {
    local files="$work/files" page count=0
    dpkg-deb --extract "$work/first.deb" "$files"
    for page in "$files"/usr/share/man/man*/*.gz; do
        gzip -dc "$page" > "$work/page"
        # What mandoc calls an error is one; a date is no part of the pages.
        mandoc -T lint -W error "$work/page" || fail "$page"
        count=$((count + 1))
    done
    [ "$count" -gt 10 ] || fail "$count manual pages"
    gzip -dc "$files/usr/share/man/man5/janus.toml.5.gz" | mandoc -T utf8 | sed 's/.\x08//g' | grep max_connections >/dev/null || fail "janus.toml(5)"
    bash -c 'source "$1" && complete -p janus-server' - "$files/usr/share/bash-completion/completions/janus-server"
    zsh -n "$files/usr/share/zsh/vendor-completions/_janus-server"
    fish --no-execute "$files/usr/share/fish/vendor_completions.d/janus-server.fish"
}

# Starts the first process of the Debian, in a network of its own.
boot() {
    cp "$work/first.deb" "$work/later.deb" "$work/root/root/"
    systemd-nspawn --quiet --register=no --keep-unit --private-network --machine="janus-$$" --directory="$work/root" --boot \
        < /dev/null > "$work/boot.log" 2>&1 &
    machine=$!
    until_true "the Debian boots" booted
}

booted() {
    kill -0 "$machine" || fail "the Debian ended: $(tail -5 "$work/boot.log")"
    first_process=$(pgrep --parent "$machine" | head -1) && [ -n "$first_process" ] &&
        inside systemctl is-system-running 2>/dev/null | grep -E 'running|degraded' >/dev/null
}

# A command in the Debian, and a program of this machine in the network of the Debian.
inside() { nsenter --target "$first_process" --all --root --wd -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb "JANUS_API_KEY=$key" "$@"; }
near() { nsenter --target "$first_process" --net -- "$@"; }

# Waits at most half a minute.
until_true() {
    local what=$1 end=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "$what: not within 30 s"
        sleep 0.2
    done
}

expect() {
    local expected=$1 got
    shift
    got=$("$@" 2>&1) || true
    [ "$got" = "$expected" ] || fail "$*: expected \"$expected\", got \"$got\""
}

logged() { inside journalctl --unit janus --output cat --no-pager | grep -F -- "$1" >/dev/null; }
main_pid() { inside systemctl show --property MainPID --value janus; }

# Every file of the Debian outside of what programs write as they run.
files_of_root() {
    (cd "$work/root" && find etc usr var opt srv home boot -xdev \( -path var/log -o -path var/cache -o -path var/lib/dpkg -o -path var/tmp \
        -o -path var/lib/systemd/random-seed -o -path var/lib/private \) -prune -o -print | sort)
}

test_installation() {
    files_of_root > "$work/before"
    inside dpkg --install /root/first.deb
    inside janus-server --version
    expect enabled inside systemctl is-enabled janus
    expect active inside systemctl is-active janus
    for socket in admin classic http https tls; do
        expect disabled inside systemctl is-enabled "janus-$socket.socket"
    done
    inside janus-server config check --config /etc/janus.toml
    inside janus-server config example | cmp - "$work/root/etc/janus.toml"
    inside dpkg-query --show --showformat '${Conffiles}' janus-server | grep ' /etc/janus.toml ' >/dev/null || fail "no conffile"
    inside systemd-analyze verify --man=no janus.service janus-http.socket
    expect '{"live":true,"checks":{}}' near curl --silent http://127.0.0.1:8082/livez
    until_true "the server is ready" near curl --silent --fail http://127.0.0.1:8082/readyz
    until_true "systemctl shows the clients" inside sh -c 'systemctl status janus | grep -q "Status:.*topics"'
    [ "$(awk '/^Uid:/ { print $2 }' "/proc/$(host_pid)/status")" != 0 ] || fail "the server runs as root"
    test_messages
    test_reload
}

# The process of the server, as this machine numbers it.
host_pid() { pgrep --full --ns "$first_process" --nslist pid '^/usr/bin/janus-server --config' | head -1; }

test_messages() {
    local subscriber
    # Or the words of an earlier subscriber would do.
    rm -f "$work/message" "$work/subscribed"
    inside janus-server subscribe news --count 1 > "$work/message" 2> "$work/subscribed" &
    subscriber=$!
    until_true "a subscriber" grep -q subscribed "$work/subscribed" "$work/message"
    inside janus-server publish news '{"headline":"It works"}'
    wait "$subscriber" || fail "the subscriber: $(cat "$work/subscribed")"
    grep -q 'It works' "$work/message" || fail "no message: $(cat "$work/message")"
}

test_reload() {
    local process conf=$work/root/etc/janus.toml
    process=$(main_pid)
    sed -i 's/^#max_topics = .*/max_topics = 4242/' "$conf"
    inside systemctl reload janus
    until_true "the change is in force" logged "max_topics"
    cp "$conf" "$work/good.toml"
    echo 'max_conections = 5' >> "$conf"
    ! inside systemctl reload janus 2> "$work/reload.log" || fail "a reload with a mistake succeeds"
    cat "$work/reload.log"
    until_true "the mistake is in the journal" logged 'did you mean max_connections?'
    cp "$work/good.toml" "$conf"
    inside systemctl reload janus
    expect "$process" main_pid
    expect active inside systemctl is-active janus
}

# Visits a port on new connections while a command runs, and expects that none is refused.
none_refused() {
    local visitors result
    coproc VISITORS { near python3 tests/packages/visitors.py 8080; }
    visitors=$VISITORS_PID
    read -r result <&"${VISITORS[0]}"
    "$@"
    until_true "the server is ready" near curl --silent --fail http://127.0.0.1:8082/readyz
    echo >&"${VISITORS[1]}"
    read -r result <&"${VISITORS[0]}"
    wait "$visitors" || true
    printf '%s: %s\n' "$*" "$result"
    [[ $result == *'"failures": []'* ]] || fail "connections failed"
}

test_restart() {
    # A port belongs either to the server or to systemd.
    inside systemctl stop janus
    # The sockets listen on all addresses, so no client counts as one of this machine.
    sed -i -e 's/^#allow_publish = .*/allow_publish = true/' -e "s/^#api_key = .*/api_key = \"$key\"/" "$work/root/etc/janus.toml"
    inside systemctl enable --now janus-http.socket janus-classic.socket janus.service
    until_true "the server is ready" near curl --silent --fail http://127.0.0.1:8082/readyz
    logged "socket of the service manager" || fail "no sockets of systemd"
    none_refused inside systemctl restart janus
}

test_upgrade() {
    local process
    process=$(main_pid)
    none_refused inside dpkg --install /root/later.deb
    [ "$(main_pid)" != "$process" ] || fail "the upgrade does not restart the server"
    inside grep -q '^max_topics = 4242' /etc/janus.toml || fail "the upgrade replaces the operator's file"
    expect active inside systemctl is-active janus-http.socket
    expect disabled inside systemctl is-enabled janus-tls.socket
    test_messages
}

test_removal() {
    inside dpkg --remove janus-server
    ! inside systemctl is-active --quiet janus janus-http.socket janus-classic.socket || fail "the server runs on"
    ! near curl --silent http://127.0.0.1:8080/ || fail "the port is open"
    inside test -e /etc/janus.toml || fail "a removal takes the operator's file"
    inside dpkg --purge janus-server
    files_of_root > "$work/after"
    diff "$work/before" "$work/after" || fail "a purge leaves files"
    ! inside sh -c 'ls -d /run/janus /run/private/janus' 2>/dev/null || fail "a purge leaves the state"
    expect 0 inside sh -c 'systemctl list-units --all "janus*" --no-legend | wc -l'
}
