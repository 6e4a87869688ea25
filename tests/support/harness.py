"""Starts real relay processes for tests and talks to them as a user would."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer
from pytest_aiohttp import AiohttpServer

from relay.cli.base import existing_outbox
from relay.config.settings import load
from relay.core import signing
from relay.operations.presentation import entry_json
from relay.outbox.contract import Outbox, Query
from relay.sandbox.app import DUB, make_dub
from relay.sandbox.dub import Dub
from tests.support.forked import LINE_LIMIT, ForkedRelay, can_fork

HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLUSw"
RELAY_SECRET = "a-secret-for-tests-only"
API_KEY = "dub_test_key"


def clean_environment() -> dict[str, str]:
    """The environment without any setting of a relay."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RELAY_", "DUB_"))
    }


@dataclass
class RelayProcess:
    """`dub-relay serve` as a process of its own.

    Its log lines are kept in ``events``; ``url`` is known once it listens.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    config: str | None = None
    url: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    process: asyncio.subprocess.Process | ForkedRelay | None = None
    _reader: asyncio.Task[None] | None = None
    _started: asyncio.Event = field(default_factory=asyncio.Event)

    def settings(self) -> dict[str, str]:
        return {
            "DUB_API_KEY": API_KEY,
            "DUB_API_URL": "http://127.0.0.1:9",
            "RELAY_LISTEN": "127.0.0.1:0",
            "RELAY_SECRET": RELAY_SECRET,
            "RELAY_HOOK_SECRET": HOOK_SECRET,
            "RELAY_DATABASE": f"sqlite:///{self.folder}/relay.db",
            "RELAY_RETRY_BASE": "0.05",
            "RELAY_RATE": "100000",
            "RELAY_DRAIN": "10ms",
        } | self.environment

    def command(self, *arguments: str) -> list[str]:
        path = self._config_file()
        config = [] if path is None else ["--config", path]
        return [sys.executable, "-m", "relay", *arguments, *config]

    def _config_file(self) -> str | None:
        if self.config is None:
            return None
        path = self.folder / "relay.toml"
        path.write_text(self.config)
        return str(path)

    async def _started_as(
        self, *arguments: str, streams: tuple[int, ...]
    ) -> asyncio.subprocess.Process | ForkedRelay:
        """Start a command with pipes to these of its streams: forked, where one can."""
        command = self.command(*arguments)
        environment = clean_environment() | self.settings()
        if can_fork(command, environment):
            return await ForkedRelay.start(command, environment, self.folder, streams)
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            cwd=self.folder,
            stdin=pipe if 0 in streams else None,
            stdout=pipe if 1 in streams else None,
            stderr=pipe,
            limit=LINE_LIMIT,
        )

    async def start(self) -> RelayProcess:
        self._started.clear()
        self.process = await self._started_as("serve", *self.arguments, streams=(2,))
        self._reader = asyncio.create_task(self._read())
        started = asyncio.create_task(self._started.wait())
        done, _ = await asyncio.wait(
            {started, self._reader}, timeout=20, return_when=asyncio.FIRST_COMPLETED
        )
        if started not in done:
            raise AssertionError(f"the relay did not start: {self.events}")
        return self

    async def _read(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "text", "text": line.decode(errors="replace")}
            self.events.append(event)
            if event["event"] == "relay.listening":
                self.url = event["url"]
                self._started.set()

    async def stop(self, by: int = signal.SIGTERM) -> int:
        """End the process that this object started; give its exit code."""
        assert self.process is not None
        assert self._reader is not None
        if self.process.returncode is None:
            self.process.send_signal(by)
        code = await asyncio.wait_for(self.process.wait(), 30)
        await self._reader
        return code

    async def run(
        self, *arguments: str, stdin: bytes = b"", within: float = 60
    ) -> tuple[int, str, str]:
        """Run another command with the same settings; exit code, out, err."""
        process = await self._started_as(*arguments, streams=(0, 1, 2))
        out, err = await asyncio.wait_for(process.communicate(stdin), within)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def leads(self, customer: str | None = None) -> list[dict[str, Any]]:
        """The ledger, as `leads list --json` prints it, newest first."""
        async with self.outbox() as outbox:
            entries = await outbox.list(Query(customer=customer))
        return [entry_json(entry) for entry in entries]

    @asynccontextmanager
    async def outbox(self) -> AsyncIterator[Outbox]:
        """The database, beside the relay: a command takes a second to start."""
        environment = clean_environment() | self.settings()
        settings = load(self._config_file(), environment, complete=False)
        outbox = existing_outbox(settings)
        await outbox.open()
        try:
            yield outbox
        finally:
            await outbox.close()

    async def logged(self, event: str, within: float = 30) -> None:
        """Wait until it has logged an event of this name."""
        async with asyncio.timeout(within):
            while event not in {one["event"] for one in self.events}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def settled(self, count: int, within: float = 30) -> list[dict[str, Any]]:
        """Wait until so many leads are in the ledger and none is on its way."""
        deadline = time.monotonic() + within
        while True:
            leads = await self.leads()
            moving = [
                x for x in leads if x["status"] in ("queued", "sending", "waiting")
            ]
            if len(leads) >= count and not moving:
                return leads
            assert time.monotonic() < deadline, f"not settled: {leads}"
            await asyncio.sleep(0.02)


def signed(
    body: Mapping[str, Any] | bytes,
    message_id: str = "msg_1",
    *,
    at: float | None = None,
    secret: str = HOOK_SECRET,
) -> tuple[dict[str, str], bytes]:
    """Headers and bytes of a signed hook."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    keys = signing.parse_webhook_secrets(secret)
    stamp = int(time.time() if at is None else at)
    return signing.sign_webhook(keys, message_id, stamp, raw), raw


async def post_hook(
    session: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, Any] | bytes,
    message_id: str = "msg_1",
    **how: Any,
) -> tuple[int, Any]:
    """Send a signed hook; the status and the JSON answer."""
    headers, raw = signed(body, message_id, **how)
    async with session.post(
        f"{url}/_dub/hooks/signup", data=BytesIO(raw), headers=headers
    ) as answer:
        return answer.status, await answer.json()


@dataclass
class SandboxDub:
    """The sandbox on a port of its own, reached as the relay reaches Dub."""

    url: str
    dub: Dub
    session: aiohttp.ClientSession
    server: TestServer

    @classmethod
    async def start(cls, serve: AiohttpServer, port: int | None = None) -> SandboxDub:
        app = make_dub(api_key=API_KEY, secrets=(RELAY_SECRET,))
        server = await serve(app, port=port, access_log=None, shutdown_timeout=0.2)
        url = f"http://127.0.0.1:{server.port}"
        return cls(url, app[DUB], aiohttp.ClientSession(), server)

    async def close(self) -> None:
        await self.session.close()
        await self.server.close()

    async def click(self, link: str = "ada") -> str:
        """Mint a click; its id."""
        async with self.session.post(
            f"{self.url}/sandbox/clicks", json={"link": link}
        ) as answer:
            return str((await answer.json())["id"])

    async def fault(self, **knobs: Any) -> None:
        """Turn a knob."""
        async with self.session.post(
            f"{self.url}/sandbox/faults", json=knobs
        ) as answer:
            assert answer.status == 201, await answer.text()

    async def mend(self) -> None:
        """Take all faults back."""
        async with self.session.delete(f"{self.url}/sandbox/faults") as answer:
            assert answer.status == 200

    async def state(self, what: str) -> list[dict[str, Any]]:
        """What it holds: "leads", "calls", "customers", ..."""
        async with self.session.get(f"{self.url}/sandbox/state") as answer:
            found: list[dict[str, Any]] = (await answer.json())[what]
            return found
