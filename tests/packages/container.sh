# The static binary and the container. Sourced by run.sh.

# Without optimisation and debug information: what counts here is that the binary links, and runs without a system around it.
build_static() {
    local file
    static=$(CARGO_TARGET_DIR=$cache/static CARGO_PROFILE_DEV_DEBUG=0 packaging/static.sh --profile dev \
        --config 'profile.dev.package."*".opt-level=0')
    file=$(LC_ALL=C ldd "$static" 2>&1 || true)
    [[ $file == *"statically linked"* || $file == *"not a dynamic"* ]] || fail "not static: $file"
    "$static" --version
    # The list of libraries for scanners.
    objcopy --dump-section .dep-v0="$work/list" "$static" /dev/null
    python3 - "$work/list" <<'PYTHON'
import json, sys, zlib
names = {package["name"] for package in json.loads(zlib.decompress(open(sys.argv[1], "rb").read()))["packages"]}
assert {"janus-server", "tokio", "rustls", "mimalloc"} <= names, names
print(len(names), "libraries are listed in the binary")
PYTHON
}

test_container() {
    ENGINE=$engine packaging/container.sh "$static" --quiet --layers=false
    engine images
    # Without a network of its own, which would need rules of a firewall, and with limits that root in a container may set.
    engine run --detach --name janus --network none --read-only --env JANUS_ALLOW_PUBLISH=true --env "JANUS_API_KEY=$key" \
        --ulimit "nofile=$(ulimit -Hn)" --ulimit nproc=1000 janus
    until_true "the container is healthy" engine healthcheck run janus
    until_true "the container is ready" engine exec janus /janus-server health --ready
    engine exec janus /janus-server publish news '"It works"'
    [ "$(awk '/^Uid:/ { print $2 }' "/proc/$(engine inspect --format '{{.State.Pid}}' janus)/status")" = 65532 ] || fail "another user"
    engine stop --time 20 janus
    expect 0 engine inspect --format '{{.State.ExitCode}}' janus
}

# Against the schemas of Kubernetes, unknown keys included.
test_kubernetes() {
    local validate=$cache/python/bin/kubernetes-validate
    [ -x "$validate" ] || { python3 -m venv "$cache/python" && "$cache/python/bin/pip" install --quiet --requirement tests/packages/requirements.txt; }
    "$validate" --strict docs/kubernetes/janus.yaml
    sed 's/enableServiceLinks/enableServiceLink/' docs/kubernetes/janus.yaml > "$work/wrong.yaml"
    ! "$validate" --strict --quiet "$work/wrong.yaml" >/dev/null || fail "a wrong key is accepted"
}
