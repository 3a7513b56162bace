#!/usr/bin/env python3
"""Prints a position whenever it changes, with nothing but the standard library.

One terminal:    ./publish.py /run/kstate/demo.position
Another:         ./watch.py /run/kstate/demo.position
"""
import os
import select
import struct
import sys

path, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
state = os.open(path, os.O_RDONLY)
poll = select.poll()
poll.register(state, select.POLLIN)
for _ in range(count):
    # Readable: there is a version newer than the last one read through this descriptor.
    poll.poll()
    value = os.pread(state, 4096, 0)
    x, y, step = struct.unpack("<ddQ", value)
    print(f"{step}: {x:+.3f} {y:+.3f}", flush=True)
