"""What all tests have: a mounted file system, by either way to get at a region, and names of their own."""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest

import kstate
from daemon import Daemon


@pytest.fixture(scope="session", params=["auto", "off"], ids=["passthrough", "socket"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon: one that lets the kernel pass maps through where it can, and one that never does."""
    daemon = Daemon(f"--passthrough={request.param}")
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture(autouse=True)
def mount(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where it is mounted, which is where states are found."""
    monkeypatch.setenv("KSTATE_MOUNT", str(daemon.mount))
    return daemon.mount


_numbers = itertools.count(1)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test has."""
    return f"{request.function.__name__[:60]}.n{next(_numbers)}"


@pytest.fixture
def state(name: str) -> Iterator[kstate.State]:
    """A state of bytes, to be written."""
    with kstate.subscribe(name, write=True) as state:
        yield state


@pytest.fixture
def run(daemon: Daemon) -> Callable[..., str]:
    """Runs a program in a process of its own, and gives what it printed. It must end well: a crash is none."""

    def run(program: str, *arguments: str, timeout: float = 50) -> str:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-W", "error", "-c", textwrap.dedent(program), *arguments],
            env={**os.environ, "KSTATE_MOUNT": str(daemon.mount)},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
