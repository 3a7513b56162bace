#!/usr/bin/env python3
"""Runs `read.py`, or `wake.py` if that is the first argument, on a mount of its own, which is gone afterwards.

Takes the same options.
"""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from daemon import Daemon  # noqa: E402


def main() -> int:
    arguments = sys.argv[1:]
    bench = arguments.pop(0) if arguments[:1] == ["wake.py"] else "read.py"
    daemon = Daemon()
    try:
        environment = {**os.environ, "KSTATE_MOUNT": str(daemon.mount)}
        done = subprocess.run([sys.executable, HERE / bench, *arguments], env=environment, check=False)
        return done.returncode
    finally:
        daemon.stop()


if __name__ == "__main__":
    sys.exit(main())
