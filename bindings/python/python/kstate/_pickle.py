"""Handles made again where they are unpickled."""

from __future__ import annotations

from typing import Any

from . import _kstate


def state(name: str, arguments: dict[str, Any]) -> _kstate.State:
    """A handle of the state of that name, which exists."""
    return _kstate.subscribe(name, existing=True, **arguments)


def view(name: str, arguments: dict[str, Any], every: float) -> _kstate.View:
    """A view of it."""
    return state(name, arguments).view(every=every)
