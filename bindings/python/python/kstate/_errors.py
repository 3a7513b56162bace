"""The exceptions of kstate: all are an ``OSError`` with an ``errno`` and the library's sentence."""

from __future__ import annotations


class Error(OSError):
    """Any error of kstate: ``errno`` says which, ``str()`` is a sentence that says what to do.

    >>> try:
    ...     kstate.subscribe("no such name")
    ... except kstate.Error as error:
    ...     print(error.errno == errno.EINVAL, error)  # doctest: +ELLIPSIS
    True ...
    """

    def __str__(self) -> str:
        return self.strerror if isinstance(self.strerror, str) else super().__str__()


class NotMounted(Error, FileNotFoundError):
    """No kstate file system is where one was looked for."""


class DaemonDied(Error, ConnectionError):
    """The daemon has gone; what is mapped can still be read, and a daemon that follows is found again."""


class InvalidName(Error, ValueError):
    """No state can have that name: words of ``[A-Za-z0-9_-]`` joined by single dots, at most 247 bytes."""


class NotFound(Error, FileNotFoundError):
    """There is no such state."""


class Denied(Error, PermissionError):
    """The mode bits of the state, or its ownership, do not allow it."""


class ReadOnly(Error, PermissionError):
    """The state was subscribed to for reading; subscribe with ``write=True``."""


class TooLong(Error, ValueError):
    """The value has more bytes than there is room for."""


class WrongLayout(Error, ValueError):
    """The newest version is not as long as the format, type or dtype of this handle."""


class Deleted(Error):
    """The state was deleted; subscribe again to what may have taken its place."""


class Conflict(Error):
    """Others committed first, and nothing was changed: begin again, or use ``State.transact``.

    Attributes:
        base: The generation that the transaction began from.
        found: The newest generation at the attempt.
    """

    base: int = 0
    found: int = 0


class Exhausted(Conflict):
    """Others committed first at each attempt that was allowed.

    Attributes:
        attempts: How often the function ran.
    """

    attempts: int = 0


class Busy(Error):
    """Something is in use: by another process that is subscribed, by another thread, or by a commit under way."""


class Timeout(Error, TimeoutError):
    """What was waited for did not come in time."""


class NoSpace(Error):
    """The daemon's memory is used up."""


class Forked(Error):
    """It belongs to the process that began it; the forked child begins its own."""


class Damaged(Error):
    """A process that may write the state wrote over its bookkeeping."""


class NotPersistent(Error):
    """The state is kept in no file."""


class NotDurable(Error):
    """The version was committed, and everybody sees it; a loss of power may take it back."""


class Closed(Error, ValueError):
    """The handle was closed, or the transaction has ended."""


# They are used by this name, and shown so.
for _class in list(globals().values()):
    if isinstance(_class, type) and issubclass(_class, Error):
        _class.__module__ = "kstate"
del _class
