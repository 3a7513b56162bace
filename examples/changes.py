#!/usr/bin/env python3
"""Waits for a state that need not be there yet, and tells what happens to it until it has gone.

  one terminal:   ./changes.py /run/kstate/demo.position
  another:        any publisher, such as ./publish.sh /run/kstate/demo.position 30

Nothing is subscribed to, so the state goes with its publisher.
"""
import argparse
import json
import os
import signal
import sys


def follow(path):
    mount, name = os.path.split(path)
    # A stream of what happens to all states whose names begin so: a read waits for the next lines.
    with open(os.path.join(mount, ".kstate", f"changes@{name}"), encoding="ascii") as changes:
        for line in changes:
            change = json.loads(line)
            if change["state"] != name:
                continue
            print(change["event"], change.get("generation", ""), flush=True)
            if change["event"] == "deleted":
                return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("state", help="file of the state")
    arguments = parser.parse_args()
    try:
        follow(arguments.state)
    except OSError as error:
        sys.exit(f"{arguments.state}: {error.strerror}")
