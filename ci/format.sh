#!/usr/bin/env bash
# Formatting is rustfmt's.
. "$(dirname "$0")/lib.sh"
cargo fmt --all -- --check
cargo fmt --manifest-path fuzz/Cargo.toml -- --check
cargo fmt --manifest-path benches/rivals/Cargo.toml -- --check
