#!/usr/bin/env python3
"""Publishes a position ten times a second, with nothing but the standard library.

One terminal:    ./publish.py /run/kstate/demo.position
Another:         ./watch.py /run/kstate/demo.position
"""
import math
import os
import struct
import sys
import time

path, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
# Opening with O_CREAT subscribes, and creates the state if it is not there.
state = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
for step in range(count):
    angle = step / 10
    # One write is one version: a reader gets it whole or not at all.
    os.pwrite(state, struct.pack("<ddQ", math.cos(angle), math.sin(angle), step), 0)
    time.sleep(0.1)
