"""Functions that run again until nobody was faster."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import kstate


@pytest.fixture
def number(name: str) -> kstate.State:
    state = kstate.subscribe(name, write=True, format="<q")
    state.set(0)
    return state


def test_it_returns_what_the_function_does_and_keeps_its_name(number: kstate.State) -> None:
    @number.transact
    def add(tx: kstate.Transaction, n: int, *, twice: bool = False) -> str:
        """Adds."""
        tx.value += 2 * n if twice else n
        return f"now {tx.value}"

    assert add.__name__ == "add" and add.__doc__ == "Adds."
    assert add(3) == "now 3" and add(n=1, twice=True) == "now 5"
    assert number.get() == 5


def test_it_runs_again_on_the_newest_value(number: kstate.State) -> None:
    seen = []

    @number.transact
    def add(tx: kstate.Transaction) -> None:
        seen.append(tx.value)
        if len(seen) <= 3:
            number.set(100 * len(seen))
        tx.value += 1

    add()
    assert seen == [0, 100, 200, 300] and number.get() == 301


def test_it_gives_up_after_so_many_attempts(number: kstate.State) -> None:
    runs = 0

    @number.transact(attempts=4, longest_pause=0, turn_after=None)
    def add(tx: kstate.Transaction) -> None:
        nonlocal runs
        runs += 1
        number.set(runs)
        tx.value += 1

    with pytest.raises(kstate.Exhausted, match="each of 4 attempts") as raised:
        add()
    assert raised.value.attempts == runs == 4 and isinstance(raised.value, kstate.Conflict)
    assert number.get() == 4


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_aborts(number: kstate.State, error: BaseException) -> None:
    runs = 0

    def fail(tx: kstate.Transaction) -> None:
        nonlocal runs
        runs += 1
        tx.value = 9
        raise error

    with pytest.raises(type(error)) as raised:
        number.transact(fail)()
    assert raised.value is error and runs == 1 and number.get() == 0
    with pytest.raises(type(error)) as raised:
        kstate.transact(number)(lambda tx: fail(tx[number]))()
    assert raised.value is error and runs == 2 and number.get() == 0


def test_what_ends_a_program_is_not_run_again_though_the_values_were_stale(number: kstate.State) -> None:
    runs = 0

    @kstate.transact(number)
    def fail(tx: kstate.Transactions) -> None:
        nonlocal runs
        runs += 1
        number.set(runs)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert runs == 1


def test_an_ordinary_exception_over_stale_values_runs_again(number: kstate.State) -> None:
    runs = 0

    @kstate.transact(number)
    def check(tx: kstate.Transactions) -> None:
        nonlocal runs
        runs += 1
        if tx[number].value == 0:
            number.set(1)
            raise ValueError("what was seen is gone by now")
        raise ValueError("this counts")

    with pytest.raises(ValueError, match="this counts"):
        check()
    assert runs == 2


def test_it_can_be_aborted_and_ends_with_the_function(number: kstate.State) -> None:
    kept = []

    @number.transact
    def change(tx: kstate.Transaction, how: str) -> str:
        kept.append(tx)
        tx.value = 5
        if how == "abort":
            tx.abort()
        elif how == "commit":
            with pytest.raises(kstate.Error, match="committed by who runs"):
                tx.commit()
        return how

    assert change("abort") == "abort" and number.get() == 0
    assert change("commit") == "commit" and number.get() == 5
    assert kept[1].generation == 2 and kept[0].generation is None
    for tx in kept:
        with pytest.raises(kstate.Closed, match="has ended"):
            tx.value = 6
    assert number.get() == 5


def test_one_that_only_reads_commits_nothing(number: kstate.State) -> None:
    assert number.transact(lambda tx: tx.value)() == 0
    assert number.generation == 1


def test_threads_lose_no_update(number: kstate.State) -> None:
    @number.transact
    def add(tx: kstate.Transaction) -> None:
        tx.value += 1

    def many() -> None:
        for _ in range(200):
            add()

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number.get() == 800


def _pay(number: kstate.State, other: kstate.State, times: int) -> None:
    @kstate.transact(number, other)
    def pay(tx: kstate.Transactions) -> None:
        tx[number].value += 1
        tx[other].value -= 1

    for _ in range(times):
        pay()


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_processes_lose_no_update_of_several_states(number: kstate.State, name: str, how: str) -> None:
    with kstate.subscribe(name + ".b", write=True, format="<q") as other:
        other.set(0)
        context: Any = multiprocessing.get_context(how)
        workers = [context.Process(target=_pay, args=(number, other, 200)) for _ in range(2)]
        for worker in workers:
            worker.start()
        sums = {sum(now.value for now in kstate.cut(number, other)) for _ in range(1000)}
        for worker in workers:
            worker.join(40)
            assert worker.exitcode == 0
        assert sums == {0}, "a cut shows all of a commit or nothing"
        assert (number.get(), other.get()) == (400, -400)


def test_a_long_function_gets_through_beside_a_writer_that_leaves_no_time(
    number: kstate.State, name: str
) -> None:
    stop = threading.Event()

    def write() -> None:
        with kstate.subscribe(name, write=True, format="<q") as writer:
            while not stop.is_set():
                writer.set(1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        @number.transact
        def slow(tx: kstate.Transaction) -> None:
            end = time.perf_counter() + 0.0005
            while time.perf_counter() < end:
                pass
            tx.value = -1

        slow()
    finally:
        stop.set()
        thread.join()


def test_writers_stand_back_for_a_function_of_another_process(
    number: kstate.State, name: str, run: Callable[..., str]
) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            number.set(1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        # Without a turn it would be changed in the middle of every attempt.
        said = run(
            """
            import sys, time, kstate
            state = kstate.subscribe(sys.argv[1], write=True, format="<q")

            @state.transact(turn_after=2, attempts=10_000)
            def slow(tx):
                time.sleep(0.002)
                tx.value = -1
                return "through"

            for _ in range(5):
                print(slow())
            """,
            name,
        )
    finally:
        stop.set()
        thread.join()
    assert said == "through\n" * 5


@pytest.mark.parametrize(
    "options", [{"longest_pause": -1}, {"longest_pause": float("nan")}, {"attempts": -1}, {"turn_after": "x"}]
)
def test_options_that_are_none_are_refused_at_once(number: kstate.State, options: dict[str, object]) -> None:
    with pytest.raises((ValueError, OverflowError, TypeError)):
        number.transact(**options)  # type: ignore[call-overload]
    with pytest.raises((ValueError, OverflowError, TypeError)):
        kstate.transact(number, **options)  # type: ignore[arg-type]


def test_what_is_no_function_or_state_is_refused(number: kstate.State) -> None:
    with pytest.raises(TypeError, match="function"):
        number.transact(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="states"):
        kstate.transact(lambda tx: None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="states"):
        kstate.transact()


def test_what_only_begins_when_called_is_refused(number: kstate.State) -> None:
    async def later(tx: kstate.Transaction) -> None:
        tx.value += 1

    def one_by_one(tx: kstate.Transaction) -> Any:
        yield tx.value

    for function in (later, one_by_one):
        with pytest.raises(TypeError, match="only begins"):
            number.transact(function)
    assert number.generation == 1


def test_a_part_that_is_aborted_takes_all_with_it(number: kstate.State, name: str) -> None:
    with kstate.subscribe(name + ".other", write=True, format="<q") as other:
        other.set(0)
        with pytest.raises(kstate.Closed, match="aborted"):
            with kstate.transaction(number, other) as tx:
                assert number in tx and other in tx and object() not in tx
                try:
                    with tx[number] as part:
                        part.value -= 10
                        raise ValueError
                except ValueError:
                    pass
                tx[other].value += 10

        @kstate.transact(number, other)
        def move(tx: kstate.Transactions) -> str:
            tx[other].value += 10
            tx[number].abort()
            return "done"

        assert move() == "done"
        assert number.get() == 0 and other.get() == 0
        assert number.generation == 1 and other.generation == 1
