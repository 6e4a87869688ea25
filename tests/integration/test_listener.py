"""The listener by both paths, and on an aiohttp that lacks what the fast one needs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from relay.http import aiohttp_internals as internals
from relay.http.aiohttp_internals import RawRequestMessage
from relay.http.fast_path import FastEndpoints
from relay.http.limits import ListenerLimits
from relay.http.listener import ListenerRunner
from relay.proxy.exchange import UpstreamLimits
from tests.support.proxy_rig import proxied
from tests.support.recording_site import (
    OK,
    Site,
    Visit,
    as_message,
    dripped,
    says,
    visits,
)

LIMITS = ListenerLimits(head=0.4, body_rate=1000, body_span=0.4, idle=5)
GET = b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n"


def post(path: str, body: bytes = b"hi", *, length: int | None = None) -> bytes:
    """Write a request on a connection that is kept, or its beginning."""
    length = len(body) if length is None else length
    head = (
        f"POST {path} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n"
    )
    return head.encode() + body


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with visits() as opened:
        yield opened


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().listening() as listening:
        yield listening


@pytest.fixture(params=["fast", "slow"])
def fast(request: pytest.FixtureRequest) -> bool:
    """Whether the listener has a fast path."""
    return bool(request.param == "fast")


async def echo(request: web.Request) -> web.StreamResponse:
    return web.Response(body=await request.read())


async def fast_echo(_: RawRequestMessage, __: str | None, body: bytes) -> web.Response:
    return web.Response(body=body)


async def early(_: web.Request) -> web.StreamResponse:
    """Answer without reading the body."""
    return web.Response(text="early")


@contextlib.asynccontextmanager
async def listening(
    *, fast: bool, limits: ListenerLimits = LIMITS
) -> AsyncIterator[tuple[int, ListenerRunner]]:
    """An application behind a listener: its port, and its runner."""
    app = web.Application()
    app.router.add_route("*", "/early", early)
    app.router.add_route("*", "/{path:.*}", echo)
    runner = ListenerRunner(
        app,
        [FastEndpoints({"/fast": fast_echo})] if fast else (),
        limits=limits,
        access_log=None,
        shutdown_timeout=1,
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1], runner
    finally:
        await runner.cleanup()


async def one_answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(as_message(head).one("Content-Length"))
        return head + await reader.readexactly(length)


# --- Both paths have the same limits. ---


async def test_a_head_that_drips_is_cut(visit: Visit, *, fast: bool) -> None:
    async with listening(fast=fast) as (port, _):
        reader, writer = await visit(port)
        writer.write(GET[:5])

        assert as_message(await dripped(reader, writer, b"x")).status == 408


async def test_a_second_head_that_drips_is_cut(visit: Visit, *, fast: bool) -> None:
    async with listening(fast=fast) as (port, _):
        reader, writer = await visit(port)
        writer.write(post("/fast"))
        await one_answer(reader)
        writer.write(GET)
        await one_answer(reader)
        writer.write(GET[:5])

        assert as_message(await dripped(reader, writer, b"x")).status == 408


@pytest.mark.parametrize("path", ["/fast", "/slow"])
async def test_a_body_that_drips_is_cut(visit: Visit, path: str, *, fast: bool) -> None:
    async with listening(fast=fast) as (port, _):
        reader, writer = await visit(port)
        writer.write(post(path, b"", length=1000))

        assert as_message(await dripped(reader, writer, b"x")).status == 408


@pytest.mark.parametrize("path", ["/fast", "/slow"])
async def test_a_connection_that_was_in_time_is_kept(
    visit: Visit, path: str, *, fast: bool
) -> None:
    """What timed a request's head and body is over with it."""
    async with listening(fast=fast) as (port, _):
        reader, writer = await visit(port)
        head, body = post(path, b"", length=2), b"hi"
        for _ in range(2):
            for piece in (head[:10], head[10:], body):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
            assert (await one_answer(reader)).endswith(b"\r\n\r\nhi")
            # Longer than a head or a body may take.
            await asyncio.sleep(0.6)

        assert not reader.at_eof()


async def test_the_rest_of_a_body_is_not_taken_for_a_head(
    visit: Visit, *, fast: bool
) -> None:
    async with listening(fast=fast) as (port, _):
        reader, writer = await visit(port)
        writer.write(post("/early", b"", length=1000))
        assert (await one_answer(reader)).endswith(b"early")
        writer.write(b"x" * 1000)
        await writer.drain()
        await asyncio.sleep(0.6)
        writer.write(GET)

        assert as_message(await one_answer(reader)).status == 200


async def test_requests_at_once_are_answered_in_order(
    visit: Visit, *, fast: bool
) -> None:
    async with listening(fast=fast) as (port, runner):
        reader, writer = await visit(port)
        for number in range(3):
            writer.write(post("/fast", b"%d" % number))
        got = [(await one_answer(reader))[-1:] for _ in range(3)]

        assert got == [b"0", b"1", b"2"]
        assert runner.fast_requests <= 3 * fast


async def test_no_address_holds_more_connections_than_it_may(
    visit: Visit, *, fast: bool
) -> None:
    limits = ListenerLimits(connections=1)
    async with listening(fast=fast, limits=limits) as (port, _):
        reader, writer = await visit(port)
        writer.write(GET)
        await one_answer(reader)
        late, late_writer = await visit(port)
        late_writer.write(GET)
        with contextlib.suppress(ConnectionError):
            assert await late.read() == b""
        writer.write(GET)

        assert as_message(await one_answer(reader)).status == 200


async def test_a_listener_that_drains_ends_connections_with_their_answers(
    visit: Visit, *, fast: bool
) -> None:
    async with listening(fast=fast) as (port, runner):
        reader, writer = await visit(port)
        runner.drain()
        writer.write(post("/fast"))
        answer = as_message(await asyncio.wait_for(reader.read(), 10))

        assert (answer.status, answer.one("Connection")) == (200, b"close")


async def test_what_is_no_request_is_refused_in_one_line(
    visit: Visit, capsys: pytest.CaptureFixture[str], *, fast: bool
) -> None:
    async with listening(fast=fast) as (port, _):
        reader, writer = await visit(port)
        writer.write(b"nonsense from ada@example.com\r\n\r\n")
        answer = as_message(await asyncio.wait_for(reader.read(), 10))

    assert answer.status == 400
    assert "ada" not in capsys.readouterr().err


# --- An aiohttp that lacks what the fast path needs. ---


async def test_this_aiohttp_has_all_that_the_fast_path_needs() -> None:
    assert internals.missing_attributes() == []


async def test_an_ordinary_request_takes_the_fast_path(visit: Visit) -> None:
    async with listening(fast=True) as (port, runner):
        reader, writer = await visit(port)
        for _ in range(2):
            writer.write(post("/fast"))
            await one_answer(reader)

        assert runner.fast_requests == 2


@pytest.mark.parametrize("needs", ["SERVER_NEEDS", "CLIENT_NEEDS"])
async def test_without_an_attribute_all_requests_take_the_slow_path(
    site: Site,
    visit: Visit,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    needs: str,
) -> None:
    counted: list[int] = []
    got = {}
    for lacking in (False, True):
        if lacking:
            names = (*getattr(internals, needs), "_renamed")
            monkeypatch.setattr(internals, needs, names)
        async with proxied(site.url, fast_requests=counted) as port:
            reader, writer = await visit(port)
            got[lacking] = b""
            for sent in (GET, GET[:20], GET[20:], GET):
                writer.write(sent)
                await writer.drain()
                if sent.endswith(b"\r\n\r\n"):
                    got[lacking] += await reader.readexactly(len(OK))

    assert got[True] == got[False] == OK * 3
    assert counted == [2, 0]
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"]) == ("listener.slow_path_only", "warning")
    assert event["missing"].endswith("._renamed")
    assert event["aiohttp"] == internals.VERSION


async def test_without_one_timer_a_silent_site_is_a_504_all_the_same(
    site: Site, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (*internals.CLIENT_NEEDS, "_renamed")
    monkeypatch.setattr(internals, "CLIENT_NEEDS", names)
    site.script = says(b"")
    limits = UpstreamLimits(answer=0.2)
    async with proxied(site.url, limits=limits) as port:
        reader, writer = await visit(port)
        writer.write(GET)
        answer = as_message(await asyncio.wait_for(reader.read(), 10))

    assert answer.status == 504
