"""A hook's fast path and aiohttp's own: nobody can see which one it took."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from relay.app import Relay
from relay.config.settings import load
from relay.core import signing
from relay.http.aiohttp_internals import RawRequestMessage
from relay.http.fast_path import FAST_PATHS, Endpoint, FastEndpoints
from relay.http.listener import ListenerRunner
from tests.support.harness import HOOK_SECRET, RELAY_SECRET

PATH = "/_dub/hooks/signup"
GOOD = b'{"clickId":"hQWlM0a9Zk3xY7bT","eventName":"Go","customerExternalId":"u"}'
NO_CLICK = b'{"eventName":"Go","customerExternalId":"u"}'
KEYS = signing.parse_webhook_secrets(HOOK_SECRET)


def hook(
    body: bytes = GOOD,
    message_id: str = "m1",
    *,
    path: str = PATH,
    method: str = "POST",
    version: str = "1.1",
    age: int = 0,
    signed: bytes | None = None,
    more: str = "",
    chunked: bool = False,
) -> bytes:
    """A request on the wire, signed now."""
    headers = signing.sign_webhook(
        KEYS, message_id, int(time.time()) - age, body if signed is None else signed
    )
    lines = [f"{method} {path} HTTP/{version}", "Host: shop.test"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(
        "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    )
    head = ("\r\n".join(lines) + f"\r\n{more}\r\n").encode()
    if chunked:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return head + body


ORDINARY = {
    "good": lambda: [hook(), hook(NO_CLICK, "m2"), hook(GOOD, "m3")],
    "repeated": lambda: [hook(), hook()],
    "conflict": lambda: [hook(), hook(GOOD + b" ")],
    "forged": lambda: [hook(signed=b"{}"), hook()],
    "stale": lambda: [hook(age=400)],
    "no JSON": lambda: [hook(b"{")],
    "no UTF-8": lambda: [hook(b'{"eventName": "\xff"}')],
    "no object": lambda: [hook(b"[]")],
    "no customer": lambda: [hook(b'{"eventName": "Go"}')],
    "closing": lambda: [hook(more="Connection: close\r\n")],
    "unsigned": lambda: [hook().replace(b"webhook-id", b"webhook-di")],
    "empty": lambda: [hook(b"")],
    "two ids": lambda: [hook(more="webhook-id: m2\r\n")],
}

UNUSUAL = {
    "old": lambda: [hook(version="1.0")],
    "chunked": lambda: [hook(chunked=True)],
    "query": lambda: [hook(path=PATH + "?a=1")],
    "escaped": lambda: [hook(path="/_dub/hooks/%73ignup")],
    "other method": lambda: [hook(method="PUT")],
    "other path": lambda: [hook(path="/_dub/hooks/other")],
    "compressed": lambda: [hook(more="Content-Encoding: gzip\r\n")],
    "expecting": lambda: [hook(more="Expect: 100-continue\r\n")],
    "upgrading": lambda: [hook(more="Connection: Upgrade\r\nUpgrade: h2c\r\n")],
    "long": lambda: [hook(GOOD + b" " * 100_000)],
    "too long": lambda: [hook(GOOD + b" " * 1024 * 1024)],
    "at once": lambda: [hook() + hook(GOOD, "m2")],
}

Conversation = Callable[[], list[bytes]]


class Counting:
    """An endpoint that counts how often it was asked."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.asked = 0
        self.begun = asyncio.Event()

    def __call__(
        self, message: RawRequestMessage, peer: str | None, body: bytes
    ) -> Awaitable[web.Response]:
        self.asked += 1
        self.begun.set()
        return self._endpoint(message, peer, body)


@asynccontextmanager
async def served(folder: Path, *, fast: bool) -> AsyncIterator[tuple[int, Counting]]:
    """A relay's web side with the fast path or without it: its port, and a count."""
    settings = {
        "DUB_API_KEY": "dub_x",
        "RELAY_SECRET": RELAY_SECRET,
        "RELAY_HOOK_SECRET": HOOK_SECRET,
        "RELAY_DATABASE": f"sqlite:///{folder}.db",
    }
    relay = Relay(load(None, settings))
    await relay.outbox.open()
    app = relay.application()
    (own,) = app[FAST_PATHS]
    assert isinstance(own, FastEndpoints)
    counting = Counting(own.endpoints[PATH])
    runner = ListenerRunner(
        app,
        [FastEndpoints({PATH: counting})] if fast else [],
        access_log=None,
        shutdown_timeout=1,
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1], counting
    finally:
        await runner.cleanup()
        await relay.outbox.close()


async def answers(folder: Path, talk: Conversation, *, fast: bool) -> tuple[bytes, int]:
    """Everything that is answered on one connection; how often the fast path."""
    async with served(folder, fast=fast) as (port, counting):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        given = b""
        for request in talk():
            writer.write(request)
            given += await one_answer(reader)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            given += await reader.read()
        writer.close()
    return same_for_all(given), counting.asked


async def one_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100 "):
        return head + await one_answer(reader)
    found = re.search(rb"Content-Length: (\d+)", head)
    assert found, head
    return head + await reader.readexactly(int(found[1]))


def same_for_all(answer: bytes) -> bytes:
    """Number the leads' ids as they come, and take the time out."""
    ids = dict.fromkeys(re.findall(rb"lead_\w+", answer))
    for number, one in enumerate(ids):
        answer = answer.replace(one, b"lead_%d" % number)
    return re.sub(rb"Date: [^\r]+", b"Date: now", answer)


@pytest.mark.parametrize("name", ORDINARY)
async def test_the_fast_path_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    fast, taken = await answers(tmp_path / "fast", ORDINARY[name], fast=True)
    slow, none = await answers(tmp_path / "slow", ORDINARY[name], fast=False)

    assert fast == slow
    assert (taken, none) == (len(ORDINARY[name]()), 0)


@pytest.mark.parametrize("name", UNUSUAL)
async def test_what_is_not_ordinary_takes_the_slow_path(
    tmp_path: Path, name: str
) -> None:
    fast, taken = await answers(tmp_path / "fast", UNUSUAL[name], fast=True)
    slow, _ = await answers(tmp_path / "slow", UNUSUAL[name], fast=False)

    assert fast == slow
    assert taken == 0


async def test_a_hook_in_two_packets_is_taken(tmp_path: Path) -> None:
    head, _, body = hook().partition(b"\r\n\r\n")
    async with served(tmp_path / "relay", fast=True) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"\r\n\r\n")
        await writer.drain()
        writer.write(body)
        answer = await one_answer(reader)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 202 ")


async def test_a_caller_who_leaves_ends_nothing_but_the_answer(tmp_path: Path) -> None:
    async with served(tmp_path / "relay", fast=True) as (port, counting):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(hook())
        await writer.drain()
        writer.transport.abort()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await counting.begun.wait()
        writer.write(hook())
        answer = await one_answer(reader)
        writer.close()

    # Whether or not it was written down before its caller left: once.
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] in {
        "queued",
        "duplicate",
    }
    assert counting.asked == 2
