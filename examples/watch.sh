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
case $1 in *@*) view=$1,wait ;; *) view=$1@wait ;; esac
count=${2:-0} printed=0

# Of this view a read waits until there is a version that has not been read.
exec 3<"$view" || exit 1

while ((count == 0 || printed < count)); do
    # Not the shell's own `read`, which does not tell an error from the end of a file.
    line=$(LC_ALL=C dd bs=4096 count=1 status=none <&3 2>&1)
    case $line in
        "") exit 0 ;; # The state was deleted.
        "dd: "*"timed out") echo "overdue: nothing new by the state's deadline" >&2 ;;
        "dd: "*) echo "$view: ${line##*: }" >&2 && exit 1 ;;
        *)
            read -r step x y <<<"$line"
            printf '%s: %s %s\n' "$step" "$x" "$y"
            ((++printed))
            ;;
    esac
done
