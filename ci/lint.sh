#!/usr/bin/env bash
# Every warning of rustc, clippy and rustdoc is an error here.
. "$(dirname "$0")/lib.sh"
cargo clippy --workspace --all-targets -- --deny warnings
# The library as it is without its features.
cargo clippy -p kstate --all-targets -- --deny warnings
# What is in no workspace of this: its peers are many, and the gate rivals.sh runs them.
cargo clippy --locked --manifest-path benches/rivals/Cargo.toml -- --deny warnings
# The doc comments of the command's arguments are its --help, where brackets are no links.
RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --exclude kstate-cli --exclude kstate-tests \
    --exclude kstate-benches --features kstate/tokio --no-deps --document-private-items --quiet
