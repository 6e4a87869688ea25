"""The relays that tests fork do as relays that are started from nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support import harness
from tests.support.forked import PYTHON_M_RELAY, can_fork
from tests.support.harness import RelayProcess

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    "words",
    [
        ("version",),
        ("leads", "list", "--json"),
        ("no-such-command",),
        ("serve", "--workers", "none"),
    ],
    ids=" ".join,
)
async def test_a_command_says_the_same_and_ends_alike(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = RelayProcess(tmp_path, {"RELAY_DATABASE": "sqlite:///none/relay.db"})
    forked = await relay.run(*words)
    monkeypatch.setattr(harness, "can_fork", lambda *_: False)

    assert forked == await relay.run(*words)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
async def test_a_relay_ends_by_signals_as_any_process(
    by: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for fork in (True, False):
        monkeypatch.setattr(harness, "can_fork", lambda *_, fork=fork: fork)
        relay = await RelayProcess(tmp_path).start()
        ends.append((await relay.stop(by), [one["event"] for one in relay.events]))

    assert ends[0] == ends[1]
    assert ends[0][0] == (0 if by == signal.SIGTERM else -by)


@pytest.mark.parametrize("name", ["LD_PRELOAD", "TZ", "SSL_CERT_FILE", "PYTHONHOME"])
def test_what_counts_at_an_interpreters_start_is_not_forked(name: str) -> None:
    command = [*PYTHON_M_RELAY, "serve"]

    assert can_fork(command, os.environ | {"RELAY_LISTEN": "127.0.0.1:0"})
    assert not can_fork(command, os.environ | {name: "another"})
    assert not can_fork(["env", *command], os.environ)
