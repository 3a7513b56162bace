"""One descriptor for many states."""

from __future__ import annotations

import selectors
import threading

import pytest

import kstate


@pytest.fixture(params=["uring", "thread", "files"])
def notifier(request: pytest.FixtureRequest) -> kstate.Notifier:
    notifier = kstate.Notifier(way=request.param)
    assert notifier.way == request.param
    return notifier


def test_changes_are_told_with_their_keys(notifier: kstate.Notifier, name: str) -> None:
    states = [kstate.subscribe(f"{name}.{i}", write=True) for i in range(20)]
    keys = [notifier.add(state) for state in states]
    assert len(notifier) == 20 and bool(kstate.Notifier()) and notifier.changed() == []
    states[3].write(b"x")
    states[7].write(b"y")
    told: list[kstate.Change] = []
    while len(told) < 2:
        told += notifier.wait(20)
    assert sorted((change.key, change.kind, change.generation) for change in told) == sorted(
        [(keys[3], "changed", 1), (keys[7], "changed", 1)]
    )
    assert notifier.wait(0) == []


def test_its_descriptor_is_selected_on(notifier: kstate.Notifier, state: kstate.State) -> None:
    notifier.add(state)
    with selectors.DefaultSelector() as selector:
        selector.register(notifier, selectors.EVENT_READ)
        notifier.changed()
        timer = threading.Timer(0.05, lambda: state.write(b"x"))
        timer.start()
        told: list[kstate.Change] = []
        while not told:
            assert selector.select(20)
            told = notifier.changed()
        timer.join()
    assert told[0].generation == 1 and told[0].error is None


def test_only_what_is_newer_is_told(notifier: kstate.Notifier, state: kstate.State) -> None:
    state.write(b"x")
    notifier.add(state, since=1)
    assert notifier.wait(0.02) == []
    notifier.add(state, since=0)
    assert [change.generation for change in notifier.wait(20)] == [1]


def test_what_is_removed_is_told_no_more(notifier: kstate.Notifier, state: kstate.State) -> None:
    key = notifier.add(state)
    assert notifier.remove(key) and not notifier.remove(key) and not notifier.remove(12345)
    state.write(b"x")
    assert notifier.wait(0.02) == [] and len(notifier) == 0


def test_a_view_is_told_at_its_rate(notifier: kstate.Notifier, state: kstate.State) -> None:
    notifier.add(state.view(every=0.2))
    told = 0
    for number in range(100):
        state.write(str(number).encode())
        told += len(notifier.wait(0.002))
    assert told <= 5
    while not (last := notifier.wait(20)):
        pass
    assert last[-1].generation == 100


def test_a_deletion_is_told(notifier: kstate.Notifier, name: str) -> None:
    state = kstate.subscribe(name, write=True)
    notifier.add(state)
    notifier.changed()
    state.delete()
    told = notifier.wait(20)
    assert [change.kind for change in told] == ["deleted"] and len(notifier) == 0
    assert "deleted" in repr(told[0])


def test_wrong_use_is_an_error(state: kstate.State) -> None:
    notifier = kstate.Notifier()
    for wrong in (5, "x", None, state.snapshot()):
        with pytest.raises(TypeError, match="State or View"):
            notifier.add(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="way is"):
        kstate.Notifier(way="smoke")  # type: ignore[arg-type]
    started = threading.Event()

    def wait() -> None:
        started.set()
        notifier.wait(0.5)

    notifier.add(state)
    thread = threading.Thread(target=wait)
    thread.start()
    started.wait()
    with pytest.raises(kstate.Busy, match="another thread"):
        while thread.is_alive():
            notifier.changed()
    thread.join()
    notifier.close()
    notifier.close()
    for call in (notifier.changed, notifier.wait, notifier.fileno, lambda: notifier.add(state), lambda: len(notifier)):
        with pytest.raises(kstate.Closed):
            call()
    assert "closed" in repr(notifier)
