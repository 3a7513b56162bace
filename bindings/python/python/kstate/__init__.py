"""Live state shared between Linux processes.

A *state* is a named, versioned value of at most a page. One process publishes it thousands of times a second; others read
it whenever they like, wait for it to change, look at it no more often than they want to, or change it in transactions.

>>> speed = kstate.subscribe("docs.package", write=True, format="<d")
>>> speed.set(2.5)
1
>>> speed.get()
2.5

A kstate file system has to be mounted, by ``kstate mount``: at ``$KSTATE_MOUNT``, else at the usual place. Or the program starts
a daemon by itself, which the package carries: :func:`start_daemon`, or ``KSTATE_EMBED=1`` in its environment.
"""

from ._errors import (
    Busy,
    Closed,
    Conflict,
    DaemonDied,
    Damaged,
    Deleted,
    Denied,
    Error,
    Exhausted,
    Forked,
    InvalidName,
    NoSpace,
    NotDurable,
    NotFound,
    NotMounted,
    NotPersistent,
    ReadOnly,
    Timeout,
    TooLong,
    WrongLayout,
)
from ._aio import Changes
from ._kstate import (
    Change,
    Info,
    Live,
    Mount,
    Notifier,
    Snapshot,
    State,
    Transaction,
    Transactions,
    View,
    Watch,
    __version__,
    cut,
    start_daemon,
    subscribe,
    transaction,
)
from . import _daemon
from ._transact import transact

_daemon.carry()
del _daemon

__all__ = [
    "Busy",
    "Change",
    "Changes",
    "Closed",
    "Conflict",
    "DaemonDied",
    "Damaged",
    "Deleted",
    "Denied",
    "Error",
    "Exhausted",
    "Forked",
    "Info",
    "InvalidName",
    "Live",
    "Mount",
    "NoSpace",
    "NotDurable",
    "NotFound",
    "NotMounted",
    "NotPersistent",
    "Notifier",
    "ReadOnly",
    "Snapshot",
    "State",
    "Timeout",
    "TooLong",
    "Transaction",
    "Transactions",
    "View",
    "Watch",
    "WrongLayout",
    "__version__",
    "cut",
    "start_daemon",
    "subscribe",
    "transact",
    "transaction",
]
