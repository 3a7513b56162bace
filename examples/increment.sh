#!/usr/bin/env bash
# Adds one to a counter, safely beside others who do the same: an optimistic transaction in shell.
#
#   one terminal:   for i in {1..100}; do ./increment.sh /run/kstate/visits; done
#   another:        the same, or ./increment.py /run/kstate/visits 100
#
# What is written is validated against what was read through the same descriptor. If somebody else
# wrote in between, the write fails (ESTALE) and nothing is changed: read again and retry.
#
# The state is there while a file of it is open: `exec 9>>/run/kstate/visits` in a shell keeps it.
set -u
trap 'exit 130' INT
[ $# -eq 1 ] || { echo "usage: $0 STATE" >&2; exit 2; }

while true; do
    exec 3<>"$1" || exit 1
    read -r count <&3
    error=$( (LC_ALL=C && echo $((${count:-0} + 1)) >&3) 2>&1) && break
    case $error in
        *"Stale file handle") ;;
        *) echo "$error" >&2 && exit 1 ;;
    esac
done
