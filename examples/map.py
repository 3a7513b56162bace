#!/usr/bin/env python3
"""Prints a position ten times a second out of mapped memory: no system call to look at it.

  one terminal:   any publisher, such as ./publish.py /run/kstate/demo.position
  another:        ./map.py /run/kstate/demo.position

A second argument says how many to print. This takes a mount with passthrough
(`cat /run/kstate/.kstate/version` says), and an x86 processor, since Python has no memory barriers;
map.c has them. Python's own mmap module maps no more than the length of the value.
"""
import argparse
import ctypes
import errno
import mmap
import os
import platform
import signal
import sys
import time

# Of the page behind the value, as in kstate_ioctl.h: the generation, and the length in bytes.
LIVE_TAG, LIVE_LENGTH, LIVE_UNFINISHED = 192, 200, 1 << 63


class Live:
    """The live value of a state."""

    def __init__(self, path):
        state = os.open(path, os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        size, offset = ctypes.c_size_t(2 * mmap.PAGESIZE), ctypes.c_long(0)
        # The descriptor stays open: a map alone does not keep the state.
        self.at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, state, offset)
        if self.at == ctypes.c_void_p(-1).value:
            code = ctypes.get_errno()
            raise OSError(code, "no passthrough" if code == errno.ENODEV else os.strerror(code))
        page = self.at + mmap.PAGESIZE
        self.tag = ctypes.c_uint64.from_address(page + LIVE_TAG)
        self.length = ctypes.c_uint32.from_address(page + LIVE_LENGTH)

    def read(self):
        """A whole version, with its generation; None if it changed meanwhile."""
        before = self.tag.value
        value = ctypes.string_at(self.at, min(self.length.value, mmap.PAGESIZE))
        whole = not before & LIVE_UNFINISHED and self.tag.value == before
        return (before, value) if whole else None


def watch(path, count):
    live = Live(path)
    seen = printed = 0
    while count is None or printed < count:
        generation, value = live.read() or (seen, b"")
        if generation != seen:
            step, x, y = value.decode().split()
            print(f"{step}: {x} {y}", flush=True)
            seen = generation
            printed += 1
        time.sleep(0.1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("state", help="file of the state")
    parser.add_argument("count", nargs="?", type=int, help="how many to print")
    arguments = parser.parse_args()
    if platform.machine() != "x86_64":
        sys.exit(f"{parser.prog}: only on x86-64; elsewhere see map.c")
    try:
        watch(arguments.state, arguments.count)
    except OSError as error:
        sys.exit(f"{arguments.state}: {error.strerror}")
    except ValueError:
        sys.exit(f"{arguments.state}: no position")
