"""The files of a relay at any moment hold every lead acknowledged before."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.support.harness import RelayProcess, post_hook


def copy_database(source: Path, target: Path) -> None:
    """Copy what a power cut would leave: the file and its write-ahead log.

    The shared-memory index is no part of what is kept; SQLite makes it anew.
    """
    target.mkdir()
    for name in ("relay.db", "relay.db-wal"):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


@pytest.mark.slow
async def test_a_copy_at_any_moment_holds_what_was_acknowledged(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    relay = await RelayProcess(tmp_path, arguments=("--no-delivery",)).start()
    assert relay.process is not None
    acknowledged: set[str] = set()
    over = asyncio.Event()
    number = iter(range(1_000_000))

    async def load() -> None:
        while not over.is_set():
            n = next(number)
            hook = {
                "clickId": "hQWlM0a9Zk3xY7bT",
                "eventName": "Sign Up",
                "customerExternalId": f"u_{n}",
                "metadata": {"a": "x" * 500},
            }
            status, answer = await post_hook(session, relay.url, hook, f"msg_{n}")
            assert status == 202
            acknowledged.add(answer["id"])

    senders = [asyncio.create_task(load()) for _ in range(16)]
    copies: list[tuple[Path, set[str]]] = []
    for n in range(12):
        wanted = len(acknowledged) + 40 * (n + 1)
        while len(acknowledged) < wanted:  # noqa: ASYNC110 - polls other tasks
            await asyncio.sleep(0.001)
        # Stopped wherever it stands, in the middle of a commit or a checkpoint.
        relay.process.send_signal(signal.SIGSTOP)
        before = set(acknowledged)
        copy = tmp_path / f"copy{n}"
        copy_database(tmp_path, copy)
        relay.process.send_signal(signal.SIGCONT)
        copies.append((copy, before))
    over.set()
    await asyncio.gather(*senders)
    assert await relay.stop() == 0

    for copy, before in copies:
        kept = {lead["id"] for lead in await RelayProcess(copy).leads()}
        assert before <= kept
