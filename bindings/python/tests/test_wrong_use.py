"""Whatever a program gets wrong is an exception, and never the end of its process."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

import kstate


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", ".a", "a.", "a/b", "a b", "a@4hz", "../x", "nul\0byte", "ü", "日本", "a\n", "\U0001f600"],
)
def test_names_outside_the_rules_are_refused(name: str) -> None:
    for call in (kstate.subscribe, kstate.Mount().subscribe, kstate.Mount().info, kstate.Mount().remove):
        with pytest.raises(kstate.InvalidName) as raised:
            call(name)
        assert raised.value.errno == errno.EINVAL and isinstance(raised.value, ValueError)


@pytest.mark.parametrize("length", [248, 10_000, 10_000_000])
def test_names_that_are_too_long_are_refused(length: int) -> None:
    for call in (kstate.subscribe, kstate.Mount().info, kstate.Mount().remove):
        with pytest.raises(kstate.InvalidName) as raised:
            call("x" * length)
        assert raised.value.errno == errno.ENAMETOOLONG
    kstate.subscribe("x" * 247).close()


def test_names_that_are_no_text_are_refused() -> None:
    for name in ("\ud800", "a\udcff", "\udfff" * 300):
        with pytest.raises(UnicodeEncodeError):
            kstate.subscribe(name)
    for wrong in (b"bytes", 5, None, ["a"], object()):
        with pytest.raises(TypeError):
            kstate.subscribe(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mount", ["/nowhere", "/", "/etc/passwd", "x" * 5000, "", "\udcff", "nul\0byte"])
def test_mounts_that_are_none_are_refused(mount: str) -> None:
    with pytest.raises((kstate.Error, ValueError)):
        kstate.subscribe("x", mount=mount)
    with pytest.raises((kstate.Error, ValueError)):
        kstate.Mount(mount)


@pytest.mark.parametrize("capacity", [-1, 1 << 32, 1 << 70, 4097 * 16, "x", 1.5])
def test_capacities_that_cannot_be_are_refused(name: str, capacity: Any) -> None:
    with pytest.raises((kstate.Error, OverflowError, TypeError)):
        kstate.subscribe(name, write=True, capacity=capacity)
    assert name not in kstate.Mount().names()


def test_what_has_no_buffer_is_no_value(state: kstate.State) -> None:
    for wrong in (5, "text", None, [1, 2], object(), {}, state):
        with pytest.raises(TypeError, match="has a buffer"):
            state.write(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            state.transaction().write(wrong)  # type: ignore[arg-type]
    view = memoryview(b"abc")
    view.release()
    with pytest.raises((ValueError, BufferError)):
        state.write(view)
    with pytest.raises(BufferError, match="contiguous"):
        state.write(memoryview(b"abcdef")[::2])
    assert state.generation == 0


def test_classes_are_not_made_by_hand(state: kstate.State) -> None:
    made = [state, state.snapshot(), state.watch(), state.view(), state.transaction(), state.live()]
    for thing in (*made, kstate.transaction(state), state.info()):
        with pytest.raises(TypeError):
            type(thing)()
        with pytest.raises(AttributeError):
            setattr(thing, "no_such_thing", 1)
    with pytest.raises(TypeError):

        class Derived(kstate.State):  # type: ignore[misc]
            pass


def test_functions_that_close_what_they_work_on_are_borne(name: str) -> None:
    state = kstate.subscribe(name, write=True)
    state.write(b"x")

    def work(tx: kstate.Transaction) -> int:
        state.close()
        tx.write(b"y")
        return 5

    assert state.transact(work)() == 5
    state = kstate.subscribe(name, write=True)
    state.write(b"x")

    def holds(now: kstate.Snapshot) -> bool:
        state.close()
        return False

    with pytest.raises(kstate.Closed):
        state.wait_for(holds, timeout=20)
    state = kstate.subscribe(name, write=True)
    with pytest.raises(kstate.Closed):
        with kstate.transaction(state) as tx:
            tx[state].write(b"z")
            state.close()
            state.read()


class Evil:
    """A value whose conversion uses and closes the handle it is for."""

    def __init__(self, state: kstate.State) -> None:
        self.state = state

    def __index__(self) -> int:
        self.state.set(7)
        self.state.close()
        return 5


def test_values_that_close_the_handle_they_are_for_are_borne(name: str) -> None:
    state = kstate.subscribe(name, write=True, format="<i")
    with pytest.raises(kstate.Closed):
        state.set(Evil(state))
    state = kstate.subscribe(name, write=True, format="<i")
    tx = state.transaction()
    tx.value = Evil(state)
    assert tx.value == 5


def test_values_that_use_the_transaction_they_are_for_are_borne(name: str) -> None:
    class Nested:
        def __index__(self) -> int:
            tx.commit()
            return 5

    with kstate.subscribe(name, write=True, format="<i") as state:
        tx = state.transaction()
        with pytest.raises((RuntimeError, kstate.Error)):
            tx.value = Nested()
        tx.abort()


def test_values_that_end_the_transaction_they_are_a_part_of_are_borne(name: str) -> None:
    class Ending:
        def __init__(self, end: Callable[[], object]) -> None:
            self.end = end

        def __index__(self) -> int:
            self.end()
            return 5

    with kstate.subscribe(name, write=True, format="<i") as state:
        tx = kstate.transaction(state)
        with pytest.raises(kstate.Busy):
            tx[state].value = Ending(tx.commit)
        tx[state].value = Ending(lambda: repr(tx))
        tx[state].value = Ending(tx.abort)
        with pytest.raises(kstate.Closed):
            tx.commit()
        assert state.generation == 0

        @kstate.transact(state)
        def nested(tx: kstate.Transactions) -> None:
            tx[state].value = Ending(lambda: tx[state])

        nested()
        assert state.get() == 5


def test_random_calls_with_random_arguments_end_no_process(name: str, run: Callable[..., str]) -> None:
    said = run(
        """
        import ctypes, gc, random, resource, sys, time
        import numpy
        import kstate

        name, seed = sys.argv[1], int(sys.argv[2])
        # Nothing that is asked for takes more than that.
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        random = random.Random(seed)

        class Pair(ctypes.Structure):
            _fields_ = [("a", ctypes.c_int32), ("b", ctypes.c_int32)]

        options = [{}, {"format": "<q"}, {"type": Pair}, {"dtype": "<i4"}, {"write": False}]
        things = []
        def subscribe():
            chosen = {"write": True, **random.choice(options)}
            things.append(kstate.subscribe(f"{name}.{random.randrange(4)}", **chosen))
        subscribe()
        junk = [
            None, 0, 1, -1, 1 << 70, 0.0, 0.001, float("nan"), "", "x", "\\ud800", b"", b"12345678", bytearray(9000),
            [], {}, Pair(1, 2), numpy.arange(3), numpy.arange(8)[::2], lambda *a, **k: None, lambda *a: 1 / 0,
            object(), memoryview(b"abc"), range(3), Pair, "<q", True, 2.5,
        ]
        skipped = {"wait", "wait_for", "__class__", "__getattribute__", "__reduce_ex__", "__init_subclass__", "__new__",
                   "__subclasshook__", "__dir__", "__sizeof__", "set_persistent", "changes", "__next__"}
        calls = raised = 0
        end = time.monotonic() + 4
        while time.monotonic() < end:
            thing = random.choice(things)
            attribute = random.choice([a for a in dir(thing) if a not in skipped])
            arguments = [random.choice(junk + things[-8:]) for _ in range(random.randrange(4))]
            calls += 1
            try:
                if random.random() < 0.1:
                    setattr(thing, attribute, random.choice(junk))
                found = getattr(thing, attribute)
                if callable(found):
                    found = found(*arguments)
                if type(found).__module__ == "kstate":
                    things.append(found)
                if attribute == "watch" or attribute == "view":
                    memoryview(things[0].snapshot())
            except MemoryError:
                raise
            except Exception:
                raised += 1
            if random.random() < 0.1:
                subscribe()
            if len(things) > 60:
                random.shuffle(things)
                del things[20:]
                gc.collect()
            if not things:
                subscribe()
        assert calls > 1000 and 0 < raised < calls, (calls, raised)
        print("well")
        """,
        name,
        "17",
    )
    assert said == "well\n"


def test_handles_that_outlive_the_interpreters_end_are_borne(name: str, run: Callable[..., str]) -> None:
    said = run(
        """
        import sys, threading, kstate
        state = kstate.subscribe(sys.argv[1], write=True)
        tx = state.transaction()
        tx.write(b"x")
        many = kstate.transaction(state)
        notifier, live, view = kstate.Notifier(), state.live(), state.view(hz=4)
        notifier.add(state)
        kept = memoryview(state.snapshot()), memoryview(live), tx.buffer
        threading.Thread(target=state.wait, daemon=True).start()
        threading.Thread(target=lambda: next(state.watch()), daemon=True).start()
        sys.kept = (state, tx, many, notifier, live, view, kept)
        print("well")
        """,
        name,
    )
    assert said == "well\n"


def test_threads_that_share_and_close_handles_meet_no_other_error_than_that(name: str, run: Callable[..., str]) -> None:
    said = run(
        """
        import random, sys, threading, time
        import kstate

        sys.setswitchinterval(1e-5)
        name = sys.argv[1]
        shared = [kstate.subscribe(f"{name}.{i}", write=True, format="<q") for i in range(3)]
        wrong = []
        end = time.monotonic() + 3

        def work(seed):
            random_ = random.Random(seed)
            while time.monotonic() < end:
                at = random_.randrange(3)
                state = shared[at]
                try:
                    match random_.randrange(10):
                        case 0: state.read()
                        case 1: state.get()
                        case 2: state.set(seed)
                        case 3: state.write(bytearray(8))
                        case 4: state.transact(lambda tx: tx.set((tx.value or 0) + 1))()
                        case 5: state.snapshot().value
                        case 6: state.wait(timeout=0.001)
                        case 7:
                            with state.transaction() as tx:
                                tx.value = 5
                        case 8: kstate.cut(*shared)
                        case 9:
                            if random_.random() < 0.1:
                                shared[at] = kstate.subscribe(f"{name}.{at}", write=True, format="<q")
                                state.close()
                except (kstate.Closed, kstate.Conflict):
                    pass
                except BaseException as error:
                    wrong.append(repr(error))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(set(wrong) or "well")
        """,
        name,
    )
    assert said == "well\n"
