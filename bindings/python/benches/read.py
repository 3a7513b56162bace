#!/usr/bin/env python3
"""What `State.read()` of 64 bytes costs beside a bare call that returns as many bytes.

Both are methods of the same extension class with the same calling convention; the bare one copies 64 bytes of the
process's own memory into a new `bytes`. They take turns, many short rounds each in one run, so that whatever else the
machine does meets both. Medians of the rounds are compared. Needs a mount: $KSTATE_MOUNT or the usual one.

    python benches/read.py [--rounds N] [--calls N] [--size BYTES] [--json] [--check]

With --check the exit status is 1 if reading takes more than 1.5 times the bare call.
"""

import argparse
import functools
import json
import os
import statistics
import sys
from collections.abc import Callable
from time import perf_counter_ns

import kstate
from kstate import _kstate

BOUND = 1.5


def rounds_of(
    calls: int, count: int, cases: list[tuple[str, Callable[[], object]]]
) -> dict[str, list[float]]:
    """The time of one call in ns, a round each, of cases that take turns."""
    times: dict[str, list[float]] = {name: [] for name, _ in cases}
    loop = range(calls)
    for turn in range(count):
        # Nobody is always the first.
        for name, call in cases[turn % len(cases) :] + cases[: turn % len(cases)]:
            start = perf_counter_ns()
            for _ in loop:
                call()
            times[name].append((perf_counter_ns() - start) / calls)
    return times


def add(tx: kstate.Transaction) -> None:
    tx.value += 1


def add_in_block(number: kstate.State) -> None:
    with number.transaction() as tx:
        tx.value += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2000, help="rounds a case (default 2000)")
    parser.add_argument("--calls", type=int, default=500, help="calls a round (default 500)")
    parser.add_argument("--size", type=int, default=64, help="bytes of the state (default 64)")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--check", action="store_true", help=f"fail above {BOUND} times the bare call")
    options = parser.parse_args()

    name = f"bench.python.read.{os.getpid()}"
    with kstate.subscribe(name, write=True) as state, kstate.subscribe(name + ".n", write=True, format="<q") as number:
        number.set(0)
        state.write(bytes(options.size))
        assert len(state.read()) == options.size and len(state._bare()) == 64
        cases: list[tuple[str, Callable[[], object]]] = [
            ("read", state.read),
            ("bare method", state._bare),
            ("bare function", _kstate._bare),
            ("snapshot", state.snapshot),
            ("write", functools.partial(state.write, bytes(options.size))),
            ("get, a format", number.get),
            ("set, a format", functools.partial(number.set, 1)),
            ("with transaction", functools.partial(add_in_block, number)),
            ("@transact", number.transact(add)),
        ]
        times = rounds_of(options.calls, options.rounds, cases)
    medians = {name: statistics.median(of) for name, of in times.items()}
    ratio = medians["read"] / medians["bare method"]
    result = {
        "case": f"python read of {options.size} B",
        "ours_ns": medians["read"],
        "limit_ns": medians["bare method"],
        "ratio": ratio,
        "ratio_to_function": medians["read"] / medians["bare function"],
        "bound": BOUND,
        "medians_ns": medians,
    }
    if options.json:
        print(json.dumps([result]))
    else:
        for name, median in medians.items():
            print(f"{name:17} {median:8.1f} ns")
        print(f"read / bare       {ratio:8.2f}   (bound {BOUND})")
    if options.check and ratio > BOUND:
        sys.exit(f"reading takes {ratio:.2f} times the bare call, more than {BOUND}")


if __name__ == "__main__":
    main()
