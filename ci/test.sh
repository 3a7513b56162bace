#!/usr/bin/env bash
# The README's second command.
. "$(dirname "$0")/lib.sh"
cargo test --workspace
# Copies by instructions of our own beside a compiler that uses the same wide registers.
if grep -qw avx2 /proc/cpuinfo; then
    RUSTFLAGS="-C target-feature=+avx2" cargo test --release -p kstate-sys --lib --target-dir target/avx2
fi
