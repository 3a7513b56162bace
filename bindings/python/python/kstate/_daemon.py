"""The daemon that the package carries: a program with the arguments of ``kstatefs``.

Run by its path, and not as a module: whatever the working directory of a program that starts it, it is of this package.
"""

import os
import sys


def carry() -> None:
    """Has this be what is run where a program is to start a daemon."""
    from ._kstate import _carry_daemon

    # Programs that carry an interpreter within may not know of one to run.
    if sys.executable:
        _carry_daemon(sys.executable, ["-P", "-s", os.path.abspath(__file__)])


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from kstate._kstate import _serve

    sys.exit(0 if _serve(["kstatefs", *sys.argv[1:]]) else 1)
