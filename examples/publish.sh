#!/usr/bin/env bash
# Publishes a position ten times a second, in shell.
#
#   one terminal:   ./publish.sh /run/kstate/demo.position
#   another:        any watcher, such as ./watch.sh /run/kstate/demo.position
#
# A position is a line of text, "STEP X Y". A second argument says how many to publish.
set -u
[ $# -ge 1 ] || { echo "usage: $0 STATE [COUNT]" >&2; exit 2; }
count=${2:-0}

# The positions, a line each.
exec 4< <(LC_ALL=C awk -v count="$count" 'BEGIN {
    for (step = 0; count == 0 || step < count; step++)
        printf "%d %.3f %.3f\n", step, cos(step / 10), sin(step / 10)
}')
# Not earlier: a shell that is interrupted while it reads what is in parentheses complains of that.
trap 'exit 130' INT

# The state is there for as long as somebody has its file open, and this descriptor makes it.
exec 3>>"$1" || exit 1

while read -r position <&4; do
    # One write is one version: a reader gets it whole or not at all. Not by its name, of which
    # there may be another file once the state has gone.
    echo "$position" >/proc/self/fd/3 || exit 1
    sleep 0.1
done
