"""The examples in docstrings and on the page for users."""

from __future__ import annotations

import doctest
import pathlib
import re
from typing import Any

import pytest

import kstate
from kstate import _aio, _codec, _errors, _transact

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "python.md"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
GLOBALS = {"kstate": kstate, "errno": __import__("errno")}


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {}
    for module in (kstate, _aio, _codec, _errors, _transact):
        for test in finder.find(module, globs=dict(GLOBALS)):
            found[test.name] = test
    # What the extension module defines besides classes is found by hand: doctest looks for Python functions.
    for owner in [value for value in vars(kstate).values() if hasattr(value, "__doc__")]:
        for label, thing in [("", owner), *vars(owner).items()] if isinstance(owner, type) else [("", owner)]:
            text = getattr(thing, "__doc__", None)
            if isinstance(text, str) and ">>>" in text:
                name = f"{getattr(owner, '__name__', owner)}.{label}".rstrip(".")
                parsed = doctest.DocTestParser().get_doctest(text, dict(GLOBALS), name, None, None)
                found.setdefault(name, parsed)
    unique = {test.docstring: test for test in found.values() if test.examples}
    return sorted(unique.values(), key=lambda test: test.name)


EXAMPLES = examples()


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_docstring(test: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    test.globs = dict(GLOBALS)
    result = runner.run(test, out=said.append, clear_globs=True)
    assert result.failed == 0, "".join(said)
    assert result.attempted > 0


def test_what_programs_call_has_an_example() -> None:
    owners = {test.name.removeprefix("kstate.").split(".")[0] for test in EXAMPLES}
    wanted = {"State", "Snapshot", "View", "Live", "Transaction", "Transactions", "Notifier", "Mount", "cut", "transact"} | {"start_daemon"}
    assert wanted | {"subscribe", "Error"} <= owners
    methods = {test.name.split(".")[-1] for test in EXAMPLES}
    assert {"read", "write", "get", "set", "snapshot", "wait", "wait_for", "watch", "changes", "fileno"} <= methods
    assert len(EXAMPLES) >= 30


def test_everything_public_is_described() -> None:
    for name in kstate.__all__:
        thing: Any = getattr(kstate, name)
        assert thing.__doc__ or name == "__version__", name
        for label, member in vars(thing).items() if isinstance(thing, type) else []:
            if not label.startswith("_") and (callable(member) or hasattr(member, "__get__")):
                # Fields of plain records are described with their class.
                assert member.__doc__ or name in ("Info", "Change"), f"{name}.{label}"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_pages_examples_run_one_after_another() -> None:
    found = blocks()
    assert len(found) >= 7
    variables: dict[str, Any] = {}
    for block in found:
        exec(compile(block, str(PAGE), "exec"), variables)
