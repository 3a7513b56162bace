"""A daemon on a directory of its own, for tests."""

from __future__ import annotations

import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
BINARY = pathlib.Path(os.environ.get("KSTATE_BINARY") or ROOT / "target" / "debug" / "kstate")
PATIENCE_S = 20
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    # Whatever becomes of the tests, no mount is left: the daemon unmounts when it is terminated.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Daemon:
    """A running daemon; :meth:`stop` unmounts and removes its directory, whatever has happened."""

    def __init__(self, *arguments: str) -> None:
        if not BINARY.exists():
            raise FileNotFoundError(f"{BINARY} is missing: cargo build -p kstate-cli")
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="kstate-python-"))
        self.mount = self.home / "mount"
        self.mount.mkdir()
        self.arguments = arguments
        self.start()

    def start(self) -> None:
        self.log = open(self.home / "log", "ab")
        self.process = subprocess.Popen(
            [BINARY, "mount", self.mount, *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            preexec_fn=_end_with_parent,
            start_new_session=True,
        )
        deadline = time.monotonic() + PATIENCE_S
        while not self.serves():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.home / "log").read_text()
                self.stop()
                raise RuntimeError(f"the daemon did not mount: {said}")
            time.sleep(0.01)

    def serves(self) -> bool:
        try:
            return (self.mount / ".kstate" / "registry").exists()
        except OSError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.log.close()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE_S)
        self.log.close()
        mounts = pathlib.Path("/proc/self/mounts").read_text()
        if f" {self.mount} " in mounts:
            subprocess.run([BINARY, "umount", self.mount], timeout=PATIENCE_S, check=False)
            subprocess.run(["umount", "-l", self.mount], timeout=PATIENCE_S, check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.home, ignore_errors=True)
