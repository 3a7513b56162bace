#!/usr/bin/env bash
# The benches in short, each case held against the limit of the same run: past its guard in benches/bounds.toml at each of
# four attempts it fails. And the instructions of the hot paths, which callgrind counts the same on any day.
. "$(dirname "$0")/lib.sh"
for question in read commit transaction several file wake durable c; do
    cargo run --release --quiet -p kstate-benches -- "$question" --blocks 100 --guard --attempts 4 --json "$@" |
        python3 -c '
import json, sys
cases = json.load(sys.stdin)
assert cases, "no cases"
for case in cases:
    for key in ("case", "ours_ns", "limit_ns", "ratio", "bound"):
        assert key in case, f"{case} lacks {key}"
    print("%-55s %8.1f %8.1f %6.2f" % (case["case"], case["ours_ns"], case["limit_ns"], case["ratio"]))
'
done
cargo run --release --quiet -p kstate-benches -- instructions
