#!/usr/bin/env python3
"""Publishes a position ten times a second, with nothing but the standard library.

  one terminal:   ./publish.py /run/kstate/demo.position
  another:        any watcher, such as ./watch.py /run/kstate/demo.position

A position is a line of text, "STEP X Y". A second argument says how many to publish.
"""
import argparse
import itertools
import math
import os
import signal
import sys
import time


def publish(path, count):
    # Opening with O_CREAT subscribes, and creates the state if it is not there.
    state = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    # Who watches is told when nothing new has come for so long.
    os.setxattr(state, "user.kstate.deadline", b"1s")
    for step in itertools.count() if count is None else range(count):
        line = f"{step} {math.cos(step / 10):.3f} {math.sin(step / 10):.3f}\n"
        # Truncating commits nothing: it makes the next write replace the whole value, which the
        # last one may have been longer than. One write is one version.
        os.ftruncate(state, 0)
        os.pwrite(state, line.encode(), 0)
        time.sleep(0.1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("state", help="file of the state")
    parser.add_argument("count", nargs="?", type=int, help="how many to publish")
    arguments = parser.parse_args()
    try:
        publish(arguments.state, arguments.count)
    except OSError as error:
        sys.exit(f"{arguments.state}: {error.strerror}")
