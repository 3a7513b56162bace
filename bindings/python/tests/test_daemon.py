"""Programs that start the daemon that the package carries."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator

import pytest

import kstate

PATIENCE_S = 20


class Place:
    """Where nothing is mounted at first, nor any directory."""

    def __init__(self, home: pathlib.Path) -> None:
        self.mount = home / "run" / "kstate"

    def start(self, program: str, **environment: str) -> subprocess.Popen[str]:
        variables = {key: value for key, value in os.environ.items() if not key.startswith("KSTATE_")}
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
            env={**variables, "KSTATE_MOUNT": str(self.mount), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hosts(self) -> list[int]:
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                name = (entry / "comm").read_text().strip()
            except (OSError, ValueError):
                continue
            # The process that holds regions is split off by the daemon, and has its arguments.
            if b"--hosted" in words and str(self.mount).encode() in words and name == "kstatefs":
                found.append(int(entry.name))
        return found

    def await_hosts(self, number: int) -> list[int]:
        deadline = time.monotonic() + PATIENCE_S
        while len(found := self.hosts()) != number:
            assert time.monotonic() < deadline, found
            time.sleep(0.01)
        return found


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="kstate-python-") as home:
        place = Place(pathlib.Path(home))
        try:
            yield place
        finally:
            for host in place.hosts():
                os.kill(host, signal.SIGTERM)
            place.await_hosts(0)
            if f" {place.mount} " in pathlib.Path("/proc/self/mounts").read_text():
                subprocess.run(["umount", "-l", place.mount], check=False, timeout=PATIENCE_S)


PROGRAM = """
    import kstate, sys
    {start}
    state = kstate.subscribe("position", write=True, format="<d")
    state.set(1.5)
    print("ready", flush=True)
    sys.stdin.readline()
    assert state.get() == 1.5
    # These take a daemon.
    other = kstate.subscribe("position", format="<d")
    assert other.get() == 1.5
    state.set_capacity(64)
    print("done", flush=True)
    sys.stdin.readline()
"""


def line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def say(program: subprocess.Popen[str]) -> None:
    assert program.stdin is not None
    program.stdin.write("\n")
    program.stdin.flush()


@pytest.mark.parametrize("by_call", [False, True], ids=["by the environment", "by a call"])
def test_programs_run_with_nothing_set_up_and_bear_the_death_of_their_host(place: Place, by_call: bool) -> None:
    program = PROGRAM.format(start="kstate.start_daemon()" if by_call else "")
    environment = {} if by_call else {"KSTATE_EMBED": "1"}
    programs = [place.start(program, **environment) for _ in range(3)]
    try:
        assert [line(program) for program in programs] == ["ready"] * 3
        (host,) = place.await_hosts(1)
        os.kill(host, signal.SIGKILL)
        place.await_hosts(0)
        for one in programs:
            say(one)
        assert [line(program) for program in programs] == ["done"] * 3
        (follower,) = place.await_hosts(1)
        assert follower != host
        for one in programs:
            say(one)
            assert one.wait(PATIENCE_S) == 0
    finally:
        for one in programs:
            one.kill()
            one.communicate()


def test_a_daemon_ends_when_nobody_uses_it(place: Place) -> None:
    mount = kstate.start_daemon(place.mount, stays=0.3)
    assert str(mount.path) == str(place.mount) and mount.names() == []
    with mount.subscribe("position", write=True) as state:
        state.write(b"1")
        time.sleep(1.5)
        assert len(place.hosts()) == 1
    place.await_hosts(0)
    with pytest.raises(kstate.NotMounted):
        kstate.Mount(place.mount)


def test_without_being_asked_nothing_is_started(place: Place) -> None:
    program = "import kstate\ntry:\n    kstate.Mount()\nexcept kstate.NotMounted:\n    print('none')"
    for environment in ({}, {"KSTATE_EMBED": "0"}):
        started = place.start(program, **environment)
        assert started.communicate(timeout=PATIENCE_S)[0] == "none\n"
    assert not place.mount.exists()


def test_what_cannot_be_started_is_told_of(place: Place) -> None:
    with pytest.raises(kstate.NotMounted, match="/nonexistent/kstatefs") as raised:
        kstate.start_daemon(place.mount, program="/nonexistent/kstatefs")
    assert raised.value.errno == 2
    with pytest.raises(kstate.NotMounted, match="did not mount"):
        kstate.start_daemon(place.mount, program="/bin/false")
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError):
            kstate.start_daemon(place.mount, stays=wrong)
    assert not place.hosts()


def test_a_daemon_can_stay_for_ever(place: Place) -> None:
    kstate.start_daemon(place.mount, stays=float("inf"))
    (host,) = place.await_hosts(1)
    assert b"--exit-when-unused" not in pathlib.Path(f"/proc/{host}/cmdline").read_bytes()
