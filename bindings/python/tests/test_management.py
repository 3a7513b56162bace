"""File systems, what is known of states, and what becomes of them."""

from __future__ import annotations

import errno
import pathlib
import subprocess
import sys
import time

from collections.abc import Callable

import pytest

import kstate
from daemon import Daemon


def test_a_file_system_is_found_by_path_or_variable(
    daemon: Daemon, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kstate.Mount().path == daemon.mount == kstate.Mount(str(daemon.mount)).path
    monkeypatch.setenv("KSTATE_MOUNT", "/nowhere")
    with pytest.raises(kstate.NotMounted, match="kstate mount /nowhere") as raised:
        kstate.Mount()
    assert isinstance(raised.value, FileNotFoundError) and raised.value.errno == errno.ENOENT
    with pytest.raises(kstate.NotMounted):
        kstate.subscribe(name)
    for mount in (daemon.mount, str(daemon.mount), kstate.Mount(daemon.mount)):
        with kstate.subscribe(name, mount=mount) as state:
            assert state.mount == daemon.mount
    with kstate.Mount(daemon.mount).subscribe(name, write=True, format="<i") as state:
        assert state.set(1) == 1


def test_states_are_listed_asked_about_and_removed(state: kstate.State, name: str) -> None:
    mount = kstate.Mount()
    state.write(b"abc")
    assert name in mount.names() and mount.names() == sorted(mount.names())
    info = mount.info(name)
    assert (info.generation, info.length, info.subscribers, info.writers) == (1, 3, 2, 1)
    assert info.age is not None and info.age < 30 and info.state_id == state.state_id
    assert not info.persistent and info.file is None and info.layout is None
    assert "version 1, 3 of" in repr(info)
    mount.remove(name)
    with pytest.raises(kstate.NotFound):
        mount.info(name)
    with pytest.raises(kstate.NotFound):
        mount.remove(name)


def test_a_state_that_others_have_is_not_deleted(state: kstate.State, name: str) -> None:
    program = f"import kstate; state = kstate.subscribe({name!r}); print('there', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "there\n"
        for delete in (state.delete, lambda: kstate.Mount().remove(name)):
            with pytest.raises(kstate.Busy, match="subscribed") as raised:
                delete()
            assert raised.value.errno == errno.EBUSY
        other.communicate("\n", timeout=20)
    state.delete()
    for call in (state.read, state.snapshot, lambda: state.write(b""), state.transaction):
        with pytest.raises(kstate.Deleted):
            call()
    with pytest.raises(kstate.NotFound):
        state.delete()


def test_how_long_a_state_lives_is_said(name: str, mount: pathlib.Path) -> None:
    with kstate.subscribe(name, write=True, linger=0.3) as state:
        assert state.info().linger == 0.3
        state.write(b"x")
    assert (mount / name).exists()
    deadline = time.monotonic() + 20
    while (mount / name).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with kstate.subscribe(name, write=True, keep=True, mode=0o600) as state:
        assert state.info().kept
        state.write(b"kept")
    assert (mount / name).read_bytes() == b"kept"
    assert (mount / name).stat().st_mode & 0o777 == 0o600
    kstate.Mount().remove(name)


def test_only_what_exists_is_subscribed_to(name: str) -> None:
    with pytest.raises(kstate.NotFound, match=f"no state `{name}`"):
        kstate.subscribe(name, existing=True)
    assert name not in kstate.Mount().names()


def test_a_deadline_is_set_and_taken_back(name: str) -> None:
    with kstate.subscribe(name, write=True, deadline=0.05) as state:
        state.write(b"x")
        assert state.info().deadline == 0.05
        deadline = time.monotonic() + 20
        while not state.info().overdue:
            assert time.monotonic() < deadline
        with kstate.subscribe(name, deadline=0):
            assert state.info().deadline is None


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "state.kstate"


def test_a_state_is_kept_in_a_file(name: str, disk: pathlib.Path) -> None:
    with kstate.subscribe(name, write=True, format="<i", persistent=disk, durability=0.5) as state:
        info = state.info()
        assert info.persistent and info.file == disk and info.durability == 0.5
        assert state.set_durable(1) == 1 and state.write_durable(b"\x02\0\0\0") == 2
        assert state.sync() == 2 and state.info().durable == 2
        state.set_durability("each")
        assert state.info().durability == 0
        with state.transaction(durable=True) as tx:
            tx.value += 1
        assert state.info().durable == 3
        assert state.transact(durable=True)(lambda tx: tx.set(9))() is None
        assert state.info().durable == 4
        with kstate.transaction(state, durable=True) as many:
            many[state].value = 10
        kstate.transact(state, durable=True)(lambda tx: tx[state].set(11))()
        assert state.info().durable == 6
        state.delete()
    with kstate.subscribe(name + ".again", write=True, format="<i") as other:
        with pytest.raises(kstate.Error, match="state"):
            other.set_persistent(disk)
    with kstate.subscribe(name, write=True, format="<i") as state:
        state.set_persistent(disk, durability=2)
        assert state.get() == 11, "the value is back"
        state.delete()


def test_what_is_in_no_file_is_not_committed_as_durable(state: kstate.State) -> None:
    calls: list[Callable[[], object]] = [
        lambda: state.write_durable(b"x"),
        lambda: state.set_durable(b"x"),
        lambda: state.transact(lambda tx: tx.write(b"x"), durable=True)(),
        lambda: kstate.transact(state, durable=True)(lambda tx: tx[state].write(b"x"))(),
        state.sync,
        lambda: state.set_durability("each"),
    ]
    for call in calls:
        with pytest.raises(kstate.NotPersistent):
            call()
    for begin in (lambda: state.transaction(durable=True), lambda: kstate.transaction(state, durable=True)):
        with pytest.raises(kstate.NotPersistent):
            with begin() as tx:
                (tx[state] if isinstance(tx, kstate.Transactions) else tx).write(b"x")
    assert state.generation == 0


def test_where_a_state_cannot_be_kept_is_said(state: kstate.State, tmp_path: pathlib.Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "such", "/proc/nothing", "nul\0byte"):
        with pytest.raises(OSError):
            state.set_persistent(path)
    with pytest.raises(ValueError, match="durability"):
        state.set_persistent(tmp_path / "x", durability="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="durability"):
        state.set_durability(-1)
    assert not state.info().persistent and list(tmp_path.iterdir()) == []


def test_announcing_takes_somewhere_to_announce(name: str) -> None:
    with kstate.subscribe(name, write=True, announce="off") as state:
        state.announce()
        assert state.info().announced == (False, False)
        with pytest.raises(kstate.Error):
            state.announce(kbus=True, dbus=True)
    with pytest.raises(ValueError, match="smoke"):
        kstate.subscribe(name, announce="smoke")
    assert kstate.subscribe(name, write=True).polite


def test_a_writer_can_be_impolite(state: kstate.State) -> None:
    state.polite = False
    assert not state.polite and state.write(b"x") == 1
    with state.transaction() as tx:
        tx.write(b"y")


def test_there_is_a_bound_to_writers(name: str) -> None:
    handles = []
    with pytest.raises(kstate.Error, match="255 writing handles") as raised:
        for _ in range(300):
            handles.append(kstate.subscribe(name, write=True))
    assert raised.value.errno == errno.EUSERS and len(handles) == 255
    with pytest.raises(kstate.Error, match="255"):
        handles[0].transaction()
    handles.pop().close()
    with handles[0].transaction() as tx:
        tx.write(b"x")
    for handle in handles:
        handle.close()


def test_a_daemon_that_dies_is_said_to_have() -> None:
    daemon = Daemon()
    try:
        state = kstate.subscribe("dies", write=True, mount=daemon.mount)
        state.write(b"before")
        daemon.kill()
        assert state.read() == b"before" and state.write(b"meanwhile") == 2
        with pytest.raises(kstate.DaemonDied) as raised:
            kstate.Mount(daemon.mount)
        assert isinstance(raised.value, ConnectionError)
        for call in (state.info, state.acknowledge):
            with pytest.raises(kstate.DaemonDied):
                call()
        daemon.start()
        assert state.info().generation == 2 and kstate.Mount(daemon.mount).names() == ["dies"]
        assert state.wait(since=1, timeout=20) == 2
        state.close()
    finally:
        daemon.stop()
