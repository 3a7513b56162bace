#!/usr/bin/env python3
"""Adds one to a counter, safely beside others who do the same: an optimistic transaction.

  one terminal:   ./increment.py /run/kstate/visits 1000
  another:        the same, or ./increment.sh /run/kstate/visits

The second argument says how often. The state is there while a file of it is open:
`exec 9>>/run/kstate/visits` in a shell keeps it.
"""
import argparse
import errno
import os
import signal
import sys


def transact(state, change):
    """Replaces the value by what `change` makes of it. Returns how often others came first."""
    conflicts = 0
    while True:
        # Reading from offset 0 takes the newest version, and is what the write is validated against.
        value = os.pread(state, 4096, 0)
        os.ftruncate(state, 0)
        try:
            os.pwrite(state, change(value), 0)
            return conflicts
        except OSError as error:
            # Somebody has committed since the read, and nothing was changed.
            if error.errno != errno.ESTALE:
                raise
            conflicts += 1


def increment(path, times):
    state = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    conflicts = sum(
        transact(state, lambda value: b"%d\n" % (int(value or 0) + 1)) for _ in range(times)
    )
    print(f"{times} added, {conflicts} conflicts")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("state", help="file of the state")
    parser.add_argument("times", nargs="?", type=int, default=1, help="how often")
    arguments = parser.parse_args()
    try:
        increment(arguments.state, arguments.times)
    except OSError as error:
        sys.exit(f"{arguments.state}: {error.strerror}")
    except ValueError:
        sys.exit(f"{arguments.state}: no number")
