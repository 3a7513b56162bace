#!/usr/bin/env bash
# Every warning of rustc, clippy and rustdoc is an error here.
. "$(dirname "$0")/lib.sh"
cargo clippy --workspace --all-targets -- --deny warnings
RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --document-private-items --quiet
