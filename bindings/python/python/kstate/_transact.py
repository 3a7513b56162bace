"""Functions that change states, run again until nobody was faster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, Concatenate, ParamSpec, TypeVar

from . import _kstate

P = ParamSpec("P")
R = TypeVar("R")
Options = tuple[int, float, int | None, bool]


def of_state(state: _kstate.State, function: Callable[..., Any] | None, options: Options) -> Any:
    """What ``State.transact`` gives."""
    def run(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        return state._transact(function, arguments, keywords, *options)

    return _decorated(run, function)


def transact(
    *states: _kstate.State,
    attempts: int = 1000,
    longest_pause: float = 0.001,
    turn_after: int | None = 16,
    durable: bool = False,
) -> Callable[[Callable[Concatenate[_kstate.Transactions, P], R]], Callable[P, R]]:
    """Makes of a function one that changes several states at once, or none of them.

    It gets a :class:`Transactions` as its first argument, and runs again on the newest values for as long as others
    commit first; options as for :meth:`State.transact`. An exception that it raises counts when the values it saw
    belong together; else it may have been wrong, and it runs again.

    >>> alice = kstate.subscribe("docs.transact.alice", write=True, format="<q")
    >>> bob = kstate.subscribe("docs.transact.bob", write=True, format="<q")
    >>> alice.set(100), bob.set(0)
    (1, 1)
    >>> @kstate.transact(alice, bob)
    ... def pay(tx, amount):
    ...     tx[alice].value -= amount
    ...     tx[bob].value += amount
    >>> pay(30)
    >>> alice.get(), bob.get()
    (70, 30)
    """
    for state in states:
        if not isinstance(state, _kstate.State):
            raise TypeError(f"@transact takes the states to be changed, and not {state!r}")
    if not states:
        raise TypeError("@transact takes the states to be changed; there is none")
    _kstate._check_policy(attempts, longest_pause, turn_after)
    options = (attempts, longest_pause, turn_after, durable)
    
    def run(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        return _kstate._transact_many(states, function, arguments, keywords, *options)

    def decorate(function: Callable[Concatenate[_kstate.Transactions, P], R]) -> Callable[P, R]:
        changed: Callable[P, R] = _decorated(run, function)
        return changed

    return decorate


Run = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def _decorated(run: Run, function: Callable[..., Any] | None) -> Any:
    if function is None:
        return lambda function: _decorated(run, function)
    if not callable(function):
        raise TypeError(f"a function is run, and not {function!r}")
    if any(is_one(function) for is_one in (iscoroutinefunction, isgeneratorfunction, isasyncgenfunction)):
        raise TypeError(f"{function!r} only begins when it is called; a transaction is over when its function returns")

    @functools.wraps(function)
    def changed(*arguments: Any, **keywords: Any) -> Any:
        return run(function, arguments, keywords)

    return changed
