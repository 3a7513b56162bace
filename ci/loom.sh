#!/usr/bin/env bash
# Explores the interleavings of the real code of the region's protocol.
. "$(dirname "$0")/lib.sh"
RUSTFLAGS="--cfg kstate_loom" cargo test --release -p kstate-sys --target-dir target/loom --test 'loom_*'
