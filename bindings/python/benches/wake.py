#!/usr/bin/env python3
"""How long it takes from a write in one process until another one, which waits, has the value: median and 99th percentile.

By `State.wait` in a thread, and by `async for` in asyncio. Needs a mount: $KSTATE_MOUNT or the usual one.

    python benches/wake.py [--count N] [--json]
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time

import kstate


def write(state: kstate.State, count: int) -> None:
    """Each a while after the one before, so that the other one sleeps."""
    for _ in range(count):
        time.sleep(0.002)
        state.set(time.perf_counter_ns())


def by_wait(state: kstate.State, count: int) -> list[int]:
    seen, times = state.generation, []
    for _ in range(count):
        seen = state.wait(since=seen) or seen
        times.append(time.perf_counter_ns() - state.get())
    return times


def by_asyncio(state: kstate.State, count: int) -> list[int]:
    async def follow() -> list[int]:
        times: list[int] = []
        async for now in state.changes():
            times.append(time.perf_counter_ns() - now.value)
            if len(times) == count:
                break
        return times

    return asyncio.run(follow())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="writes a case (default 1000)")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    results = []
    for case, follow in (("wait", by_wait), ("async for", by_asyncio)):
        with kstate.subscribe(f"bench.python.wake.{os.getpid()}", write=True, format="<q") as state:
            # A margin, for those that come together.
            writer = multiprocessing.get_context("fork").Process(target=write, args=(state, options.count + 50))
            writer.start()
            times = follow(state, options.count)[1:]
            writer.join()
        p99 = statistics.quantiles(times, n=100)[98]
        results.append({"case": case, "p50_us": statistics.median(times) / 1e3, "p99_us": p99 / 1e3})
    if options.json:
        print(json.dumps(results))
    else:
        for result in results:
            print(f"{result['case']:12} p50 {result['p50_us']:6.1f} us   p99 {result['p99_us']:6.1f} us")


if __name__ == "__main__":
    main()
