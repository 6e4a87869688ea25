"""Several processes on one port: one answers for the other, and all stop well."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp

from tests.support.harness import RelayProcess, post_hook


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(task) for task in tasks}


def listening(relay: RelayProcess) -> int:
    """How many of its workers accept calls."""
    return sum(event["event"] == "relay.listening" for event in relay.events)


async def test_a_killed_worker_is_replaced_and_no_lead_is_lost(tmp_path: Path) -> None:
    relay = RelayProcess(
        tmp_path,
        {"RELAY_LISTEN": f"127.0.0.1:{free_port()}"},
        arguments=("--workers", "2", "--no-delivery"),
    )
    await relay.start()
    assert relay.process is not None
    parent = relay.process.pid
    async with asyncio.timeout(20):
        while listening(relay) < 2:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.05)
    first = children(parent)

    os.kill(min(first), signal.SIGKILL)
    taken: set[str] = set()
    async with aiohttp.ClientSession() as session:
        for n in range(40):
            hook = {
                "clickId": "hQWlM0a9Zk3xY7bT",
                "eventName": "Sign Up",
                "customerExternalId": f"u_{n}",
            }
            try:
                status, answer = await post_hook(session, relay.url, hook, f"msg_{n}")
            except aiohttp.ClientError:
                continue
            if status == 202:
                taken.add(answer["id"])
    async with asyncio.timeout(20):
        while len(children(parent) - {min(first)}) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)

    assert taken
    # One whose answer the kill cut off may be there too.
    assert taken <= {lead["id"] for lead in await relay.leads()}
    assert await relay.stop() == 0


async def test_workers_without_a_port_to_share_are_refused(tmp_path: Path) -> None:
    relay = RelayProcess(tmp_path)

    code, _, err = await relay.run("serve", "--workers", "2")

    assert code == 2
    assert err.count("\n") == 1
    assert "RELAY_LISTEN" in err


async def test_a_stop_while_workers_still_start_is_no_failure(tmp_path: Path) -> None:
    # A worker has no handler for signals before its event loop runs.
    starting = (
        "import os, sys, time; from relay.server.supervision import supervise\n"
        "def run():\n    os.write(1, b'up'); time.sleep(60); return 0\n"
        "sys.exit(supervise(run, 2))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", starting, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readexactly(4) == b"upup"
    process.terminate()

    assert await process.wait() == 0
