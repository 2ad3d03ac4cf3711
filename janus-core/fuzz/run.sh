#!/usr/bin/env bash
# Fuzzes every target for a number of seconds (20 without an argument), two targets at a time, with the stable compiler.
#
# libFuzzer needs the coverage counters of LLVM, and the stable compiler can insert these counters. Only the sanitizers need
# a nightly, and the crate has no `unsafe` for the sanitizers to check: `cargo +nightly fuzz` adds little here.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-20}
triple=$(rustc --print host-tuple)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-../../target/fuzz}
passes="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
counters="-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
# With the target named, the flags leave build scripts alone. Several units of code generation would each lack the counters
# of the others.
RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 $passes $counters" cargo build --release --locked --target "$triple"

fuzz() {
    name=$(basename "$1" .rs)
    # The corpus stays, so that the next run begins with what this run has found.
    corpus=$CARGO_TARGET_DIR/corpus/$name
    mkdir -p "$corpus"
    seeds=(seeds/"$name")
    [ -d "${seeds[0]}" ] || seeds=()
    log=$CARGO_TARGET_DIR/$name.log
    "$CARGO_TARGET_DIR/$triple/release/$name" -max_total_time="$seconds" -timeout=5 -artifact_prefix="$CARGO_TARGET_DIR/$name-" \
        "$corpus" "${seeds[@]}" >"$log" 2>&1 || { tail -40 "$log"; exit 255; }
    echo "$name: $(tail -1 "$log")"
}
export -f fuzz
export seconds triple
printf '%s\n' fuzz_targets/*.rs | xargs -P 2 -I {} bash -c 'fuzz {}'
