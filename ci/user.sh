#!/usr/bin/env bash
# The tests that mount, as an ordinary user has them: in a user namespace, where there is no
# passthrough and no other user.
. "$(dirname "$0")/lib.sh"
if [ "$(id -u)" != 0 ]; then
    echo "the test gate was run as an ordinary user already"
    exit 0
fi
unshare --user --map-root-user --mount cargo test -p kstate-tests -p kstate-cli
