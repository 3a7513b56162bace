"""Following states in an asyncio event loop."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import threading
import time

import pytest

import kstate

PATIENCE_S = 20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def first(changes: kstate.Changes) -> kstate.Snapshot:
    return await asyncio.wait_for(anext(changes), PATIENCE_S)


def test_the_newest_comes_first_and_then_each_change(state: kstate.State) -> None:
    state.write(b"0")

    async def main() -> None:
        changes = state.changes()
        assert bytes(await first(changes)) == b"0"
        loop = asyncio.get_running_loop()
        for value in (b"1", b"2", b"3"):
            loop.call_later(0.02, state.write, value)
            assert bytes(await first(changes)) == value
        await changes.aclose()
        await changes.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(changes)

    asyncio.run(main())


def test_a_loop_over_changes_sees_the_last_of_each_burst(state: kstate.State) -> None:
    async def main() -> list[int]:
        seen = []

        async def follow() -> None:
            async for now in state.changes():
                seen.append(now.generation)
                if now.generation == 300:
                    return

        task = asyncio.create_task(follow())
        for number in range(300):
            state.write(str(number).encode())
            if number % 10 == 9:
                await asyncio.sleep(0)
        await asyncio.wait_for(task, PATIENCE_S)
        return seen

    seen = asyncio.run(main())
    assert seen[-1] == 300 and seen == sorted(set(seen)), "none twice, none out of order"


def test_many_states_take_no_thread_and_no_descriptor_each(name: str) -> None:
    states = [kstate.subscribe(f"{name}.{i}", write=True) for i in range(50)]

    async def main() -> None:
        one = states[0].changes()
        states[0].write(b"x")
        await first(one)
        threads, before = threading.active_count(), descriptors()
        tasks = [asyncio.create_task(first(state.changes())) for state in states]
        await asyncio.sleep(0.05)
        assert threading.active_count() == threads and descriptors() <= before
        for number, state in enumerate(states):
            state.write(str(number).encode())
        found = await asyncio.gather(*tasks)
        assert [bytes(now) for now in found[1:]] == [str(i).encode() for i in range(1, 50)]
        await one.aclose()

    asyncio.run(main())
    for state in states:
        state.close()


def test_what_is_cancelled_loses_nothing(state: kstate.State) -> None:
    async def main() -> None:
        changes = state.changes()
        for value in (b"1", b"2"):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(changes), 0.02)
            state.write(value)
            await asyncio.sleep(0.02)
            assert bytes(await first(changes)) == value

    asyncio.run(main())


def test_closing_ends_who_waits(state: kstate.State) -> None:
    async def main() -> None:
        changes = state.changes()

        async def follow() -> int:
            return len([now async for now in changes])

        task = asyncio.create_task(follow())
        await asyncio.sleep(0.02)
        await changes.aclose()
        assert await asyncio.wait_for(task, PATIENCE_S) == 0

    asyncio.run(main())


def test_a_deletion_is_raised(name: str) -> None:
    state = kstate.subscribe(name, write=True)

    async def main() -> None:
        changes = state.changes()
        asyncio.get_running_loop().call_later(0.02, state.delete)
        with pytest.raises(kstate.Deleted, match=name):
            await first(changes)
        with pytest.raises(kstate.Deleted):
            await first(changes)

    asyncio.run(main())


def test_a_rate_is_kept_and_the_last_always_comes(state: kstate.State) -> None:
    async def main() -> None:
        seen = []

        async def follow() -> None:
            async for now in state.changes(hz=10):
                seen.append(int(bytes(now)))
                if seen[-1] == 99:
                    return

        start = time.monotonic()
        task = asyncio.create_task(follow())
        for number in range(100):
            state.write(str(number).encode())
            await asyncio.sleep(0.003)
        await asyncio.wait_for(task, PATIENCE_S)
        assert len(seen) <= (time.monotonic() - start) / 0.1 + 2

    asyncio.run(main())


def test_being_overdue_is_told(name: str) -> None:
    with kstate.subscribe(name, write=True, deadline=0.05) as state:
        state.write(b"once")

        async def main() -> None:
            changes = state.changes()
            assert not (await first(changes)).overdue
            late = await first(changes)
            assert late.overdue and late.generation == 1

        asyncio.run(main())


def test_two_tasks_do_not_share_an_iterator(state: kstate.State) -> None:
    async def main() -> None:
        changes = state.changes()
        task = asyncio.create_task(changes.__anext__())
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(changes)
        state.write(b"x")
        assert bytes(await task) == b"x"

    asyncio.run(main())


def test_nothing_is_left_behind_a_loop(state: kstate.State) -> None:
    async def main() -> None:
        state.write(b"x")
        await first(state.changes())
        forgotten = state.changes()
        await first(forgotten)

    asyncio.run(main())
    gc.collect()
    before = descriptors()
    for _ in range(5):
        asyncio.run(main())
    gc.collect()
    assert descriptors() <= before


def test_a_view_is_followed(state: kstate.State) -> None:
    async def main() -> None:
        state.write(b"x")
        changes = state.view(every=0.05).changes()
        assert bytes(await first(changes)) == b"x"
        state.write(b"y")
        assert bytes(await first(changes)) == b"y"

    asyncio.run(main())


def test_what_nobody_asks_for_is_not_kept(state: kstate.State) -> None:
    async def main() -> None:
        changes = state.changes()
        state.write(b"first")
        assert bytes(await first(changes)) == b"first"
        for number in range(200):
            state.write(str(number).encode())
            await asyncio.sleep(0.001)
        assert bytes(await first(changes)) == b"199"
        more = asyncio.create_task(changes.__anext__())
        await asyncio.sleep(0.05)
        assert not more.done()
        state.write(b"more")
        assert bytes(await more) == b"more"

    asyncio.run(main())


def test_an_iterator_is_neither_copied_nor_pickled(state: kstate.State) -> None:
    changes = state.changes()
    with pytest.raises(TypeError, match="event loop"):
        copy.copy(changes)
    with pytest.raises(TypeError, match="event loop"):
        pickle.dumps(changes)
