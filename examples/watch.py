#!/usr/bin/env python3
"""Prints a position whenever it changes, with nothing but the standard library.

  one terminal:   any publisher, such as ./publish.py /run/kstate/demo.position
  another:        ./watch.py /run/kstate/demo.position

A second argument says how many to print. For no more than four a second, watch
/run/kstate/demo.position@4hz.
"""
import argparse
import os
import select
import signal
import sys


def watch(path, count):
    state = os.open(path, os.O_RDONLY)
    poll = select.poll()
    poll.register(state, select.POLLIN | select.POLLPRI)
    printed = 0
    while count is None or printed < count:
        [(_, events)] = poll.poll()
        # Read in either case, and from offset 0: that is what was waited for, and what ends it.
        value = os.pread(state, 4096, 0).decode()
        # Readable: there is a version newer than the last one read through this descriptor.
        if events & select.POLLIN:
            step, x, y = value.split()
            print(f"{step}: {x} {y}", flush=True)
            printed += 1
        elif events & select.POLLPRI:
            print("overdue: nothing new by the state's deadline", file=sys.stderr)
        if events & select.POLLHUP:
            break  # The state was deleted.


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("state", help="file of the state")
    parser.add_argument("count", nargs="?", type=int, help="how many to print")
    arguments = parser.parse_args()
    try:
        watch(arguments.state, arguments.count)
    except OSError as error:
        sys.exit(f"{arguments.state}: {error.strerror}")
    except ValueError:
        sys.exit(f"{arguments.state}: no position")
