#!/usr/bin/env bash
# What is only built with the feature `dbus`: signals on a real bus; with --lint no warning either, which
# takes another build of all it depends on.
. "$(dirname "$0")/lib.sh"
if ! command -v dbus-daemon >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "dbus-daemon is missing; install the package dbus-daemon"
        exit 1
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends dbus-daemon
fi
[ "${1:-}" != --lint ] || cargo clippy -p kstatefs --features dbus --lib --test dbus -- --deny warnings
# Those of the options that depend on the feature, and of announcing.
cargo test -p kstatefs --features dbus --lib -- config:: announce::
cargo test -p kstatefs --features dbus --test dbus
# Without a bus they cannot pass, or they would show nothing.
mkdir -p target/tmp
log=target/tmp/dbus-gate.log
if PATH=$(dirname "$(command -v cargo)") cargo test -p kstatefs --features dbus --test dbus >"$log" 2>&1 ||
    ! grep -q "dbus-daemon, as in the package dbus-daemon" "$log"; then
    echo "without a bus the test should have failed for want of one:"
    cat "$log"
    exit 1
fi
echo "without a bus the test fails as it should"
# The command passes the feature on.
cargo tree -p kstate-cli --features dbus -e normal --prefix none | grep "^zbus " >/dev/null
