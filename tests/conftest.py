"""What holds for every test: its marker, and what it may start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

from relay.outbox import store

# These assert, and some hold tests, but no file of tests is named so.
pytest.register_assert_rewrite("tests.support")

HERE = Path(__file__).parent

set_hypothesis_home_dir(HERE.parent / ".venv" / "cache" / "hypothesis")
# A shared machine may stall for a moment: speed is measured in bench/, not here.
settings.register_profile("relay", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=20)
settings.load_profile("relay")
# The same of commits: what callers are promised is tested with relays as processes.
pytest.MonkeyPatch().setattr(store, "PATIENCE_S", 10.0)

pytest_plugins = [
    "tests.support.browsers",
    "tests.support.engines",
    "tests.support.pages_rig",
    "tests.support.postgres_server",
    "tests.support.relays",
]
"""Fixtures that tests of several folders share."""

BY_FOLDER = {HERE / "acceptance": "process", HERE / "browser": "browser"}

BY_FIXTURE = {
    "delivering": "process",
    "postgres": "postgres",
    "context": "browser",
    "shared": "browser",
}

STARTING = ("process", "postgres", "browser")
"""The markers of tests that may start other programs."""


@cache
def _markers(folder: Path) -> list[str]:
    return [mark for top, mark in BY_FOLDER.items() if folder.is_relative_to(top)]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test by where it is and by what its fixtures start."""
    for marker in _markers(item.path.parent):
        item.add_marker(marker)
    for fixture in getattr(item, "fixturenames", ()):
        if fixture in BY_FIXTURE:
            item.add_marker(BY_FIXTURE[fixture])


class _Guard:
    """Lets a program be started by tests alone whose marker says that they do."""

    running: pytest.Item | None = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        item = self.running
        if event != "subprocess.Popen" or item is None:
            return
        if not any(item.get_closest_marker(name) for name in STARTING):
            pytest.fail(f"{arguments[0]} is started: mark the test as `process`")


_guard = _Guard()
sys.addaudithook(_guard)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _guard.running = item
    try:
        return (yield)
    finally:
        _guard.running = None
