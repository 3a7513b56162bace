#!/usr/bin/env bash
# libkstate as a user has it: its programs in C++, under the sanitizers and valgrind; installed, and found by pkg-config.
. "$(dirname "$0")/lib.sh"
need() {
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" = 0 ]; then
        # Lists that are there serve; on a fresh machine there may be none.
        apt-get install --yes "$1" >/dev/null 2>&1 || { apt-get update >/dev/null && apt-get install --yes "$1" >/dev/null; }
    else
        echo "this gate takes $1: apt install $1"
        exit 1
    fi
}
need make
need g++
need valgrind
cargo test -p kstate-tests --test c -- --ignored

prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
make --directory bindings/c --no-print-directory install PREFIX="$prefix/usr"
for file in include/kstate.h lib/libkstate.so lib/libkstate.so.0 lib/libkstate.a lib/pkgconfig/kstate.pc \
    libexec/kstate/kstatefs share/man/man3/kstate.3 share/man/man3/kstate_commit.3; do
    [ -e "$prefix/usr/$file" ] || { echo "not installed: $file"; exit 1; }
done

# A program of a few lines, built by what kstate.pc says, that runs with nothing set up: the daemon is found where it was
# installed.
cat >"$prefix/program.c" <<'C'
#include <errno.h>
#include <kstate.h>

int main(void)
{
    kstate_state_p state = kstate_subscribe("position", KSTATE_READ | KSTATE_WRITE);
    if (state == NULL) {
        fprintf(stderr, "%s\n", kstate_last_error());
        return 1;
    }
    int done;
    do {
        kstate_transaction_p transaction = kstate_start_transaction(state);
        *(int *)kstate_get_ptr(transaction) = 42;
        done = kstate_commit(transaction);
    } while (done == -EPERM);
    printf("%d\n", *(const volatile int *)kstate_get_ptr(state));
    kstate_free_state(&state);
    return done;
}
C
says() { sed -n "s/^$1: //p" "$prefix/usr/lib/pkgconfig/kstate.pc"; }
flags=$(echo "$(says Cflags) $(says Libs)" |
    sed "s|\${includedir}|$prefix/usr/include|; s|\${libdir}|$prefix/usr/lib|")
if command -v pkg-config >/dev/null; then
    found=$(PKG_CONFIG_PATH="$prefix/usr/lib/pkgconfig" pkg-config --cflags --libs kstate)
    [ "$(echo $found)" = "$(echo $flags)" ] || { echo "kstate.pc says $found"; exit 1; }
fi
read -r -a words <<<"$flags"
for language in "-std=c11" "-xc++ -std=c++17"; do
    # shellcheck disable=SC2086
    cc $language -Wall -Wextra -Wpedantic -Werror "$prefix/program.c" "${words[@]}" -o "$prefix/program"
    printed=$(env -u KSTATE_DAEMON LD_LIBRARY_PATH="$prefix/usr/lib" KSTATE_EMBED=1 KSTATE_MOUNT="$prefix/states" \
        timeout 60 "$prefix/program")
    [ "$printed" = 42 ] || { echo "the program printed '$printed'"; exit 1; }
done
umount "$prefix/states"
rmdir "$prefix/states"

make --directory bindings/c --no-print-directory uninstall PREFIX="$prefix/usr" >/dev/null 2>&1
left=$(find "$prefix/usr" ! -type d)
[ -z "$left" ] || { echo "uninstall has left $left"; exit 1; }
