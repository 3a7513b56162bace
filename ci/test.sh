#!/usr/bin/env bash
# The README's second command.
. "$(dirname "$0")/lib.sh"
cargo test --workspace
