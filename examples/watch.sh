#!/usr/bin/env bash
# Prints a position whenever it changes, in shell.
#
#   one terminal:   any publisher, such as ./publish.sh /run/kstate/demo.position
#   another:        ./watch.sh /run/kstate/demo.position
#
# A second argument says how many to print. For no more than four a second, watch
# /run/kstate/demo.position@4hz: the suffixes of a view add up.
set -u
[ $# -ge 1 ] || { echo "usage: $0 STATE [COUNT]" >&2; exit 2; }
trap 'exit 130' INT
case $1 in *@*) view=$1,wait ;; *) view=$1@wait ;; esac
count=${2:-0} printed=0

# Of this view a read goes on in its version, and at the end waits until there is a newer one.
exec 3<"$view" || exit 1

while ((count == 0 || printed < count)); do
    if read -r step x y <&3 2>/dev/null; then
        echo "$step: $x $y"
        ((++printed))
    elif [ -e "$view" ]; then
        # The read failed with ETIMEDOUT, once for each version that no other followed in time.
        echo "overdue: nothing new by the state's deadline" >&2
    else
        echo "$1 has gone" >&2
        exit 1
    fi
done
