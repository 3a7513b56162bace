#!/usr/bin/env bash
# Arbitrary bytes where other processes' bytes are read, and arbitrary requests, for half a minute a
# target. More by hand:
# ci/fuzz.sh SECONDS [TARGET...]
#
# The layout of fuzz/ is that of cargo-fuzz (`cargo fuzz run --sanitizer none TARGET` does the same),
# but to build that takes longer than all the rest; it needs nothing of what it adds.
. "$(dirname "$0")/lib.sh"
seconds=${1:-25}
shift || true
[ $# -gt 0 ] || set -- region words requests
triple=$(rustc -vV | sed -n 's/^host: //p')
# With a target named, build scripts are built without these.
RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares" \
    cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$triple" \
    --target-dir target/fuzz
mkdir -p fuzz/artifacts
for target in "$@"; do
    # What it finds on the way stays for the next time.
    mkdir -p "fuzz/corpus/$target" "fuzz/seeds/$target"
    # Long inputs from the start: what goes wrong takes many requests.
    "target/fuzz/$triple/release/$target" -len_control=0 -max_total_time="$seconds" -max_len=1024 -timeout=60 \
        -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target-" \
        "fuzz/corpus/$target" "fuzz/seeds/$target" 2>&1 |
        grep -v -e '#[0-9]*[[:space:]]*\(NEW\|REDUCE\|RELOAD\|pulse\)' -e NEW_FUNC -e '# Uses:'
done
