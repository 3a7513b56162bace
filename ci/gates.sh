#!/usr/bin/env bash
# Shows of each gate that can be fooled that it fails when it should: a gate that cannot fail
# guards nothing.
. "$(dirname "$0")/lib.sh"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git archive HEAD | tar -x -C "$copy"
cp Cargo.lock "$copy/"
must_fail() {
    local what=$1
    shift
    if (cd "$copy" && "$@") >"$copy/log" 2>&1; then
        echo "$what passed, and should have failed"
        exit 1
    fi
    echo "$what fails as it should"
}
export CARGO_TARGET_DIR=$PWD/target/gates
printf 'pub  fn  misformatted( ) {}\n' >>"$copy/kstate-sys/userfaultfd/src/lib.rs"
must_fail "formatting of a misformatted file" ci/format.sh
printf '/// A block without its argument.\npub fn unargued(p: *const u8) -> u8 { unsafe { *p } }\n' \
    >>"$copy/kstate-sys/userfaultfd/src/lib.rs"
must_fail "lint of an unsafe block without its argument" \
    cargo clippy -p kstate-userfaultfd -- --deny warnings
