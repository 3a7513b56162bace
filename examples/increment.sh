#!/usr/bin/env bash
# Adds one to a counter, safely beside others who do the same: an optimistic transaction in shell.
#
#   ./increment.sh /run/kstate/visits
#
# What is written is validated against what was read through the same descriptor. If somebody else
# wrote in between, the write fails (ESTALE) and nothing is changed: read again and retry.
set -u
while true; do
    exec 3<>"$1" || exit 1
    read -r count <&3
    if echo $((${count:-0} + 1)) 2>/dev/null >&3; then
        break
    fi
done
