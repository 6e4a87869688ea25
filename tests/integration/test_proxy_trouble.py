"""Streaming, cut answers, and sites in trouble: nothing is made up or repeated."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import aiohttp
import pytest

from relay.proxy.exchange import UpstreamLimits
from tests.support.proxy_rig import proxied
from tests.support.recording_site import (
    OK,
    Message,
    Script,
    Site,
    Visit,
    as_message,
    ask,
    closed,
    request,
    says,
    serving,
    visits,
)

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().listening() as listening:
        yield listening


@pytest.fixture
async def port(site: Site) -> AsyncIterator[int]:
    async with proxied(site.url) as number:
        yield number


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with visits() as opened:
        yield opened


# -- streaming


async def test_server_sent_events_pass_one_by_one(site: Site, port: int) -> None:
    wanted = asyncio.Event()

    async def events(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(3):
            writer.write(b"9\r\ndata: %d\n\n\r\n" % number)
            await wanted.wait()
            wanted.clear()
        writer.write(b"0\r\n\r\n")

    site.script = events
    async with (
        aiohttp.ClientSession() as visitor,
        visitor.get(f"http://127.0.0.1:{port}/events") as answer,
    ):
        for number in range(3):
            # The site sends the next event only after this one has arrived.
            event = await asyncio.wait_for(answer.content.readany(), 10)
            assert event == b"data: %d\n\n" % number
            wanted.set()


async def test_a_body_flows_no_faster_than_the_site_takes_it(
    site: Site, port: int, visit: Visit
) -> None:
    size, piece = 48 * 2**20, b"x" * 2**16
    site.reading.clear()
    reader, writer = await visit(port)
    sent = 0

    async def upload() -> None:
        nonlocal sent
        writer.write(request("POST /", f"Content-Length: {size}"))
        while sent < size:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    uploading = asyncio.create_task(upload())
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.1)

    assert not uploading.done()
    site.reading.set()
    await uploading
    assert as_message(await reader.read()).status == 200
    assert len(site.seen[0].raw_body) == size


async def test_an_answer_flows_no_faster_than_the_visitor_takes_it(
    site: Site, port: int, visit: Visit
) -> None:
    size, piece = 48 * 2**20, b"x" * 2**16
    sent = 0

    async def download(_: Message, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    site.script = download
    reader, writer = await visit(port)
    writer.write(request("GET /"))
    before = -1
    while sent != before or not sent:
        before = sent
        await asyncio.sleep(0.1)

    assert sent < size
    got = as_message(await reader.read())
    assert len(got.raw_body) == size


async def test_a_site_may_answer_before_it_has_the_whole_body(visit: Visit) -> None:
    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Big\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            await reader.read()

    async with serving(refuse) as url, proxied(url) as port:
        reader, writer = await visit(port)
        writer.write(request("POST /", f"Content-Length: {2**30}") + b"x" * 2**16)
        answer = as_message(await reader.readuntil(b"\r\n\r\n"))
        await closed(writer)

    assert answer.status == 413


# -- cut


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n",
    ],
)
async def test_a_cut_answer_is_cut_for_the_visitor(
    site: Site, port: int, answer: bytes
) -> None:
    site.script = says(answer, then_close=True)

    got = await ask(port, request("GET /"))

    assert (got.status, got.body) == (200, None)


async def test_a_wrong_chunk_cuts_an_answer(
    site: Site, port: int, visit: Visit
) -> None:
    async def wrong(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"5\r\nhello")
        await arrived.wait()
        writer.write(b"\r\nzz\r\n")

    arrived = asyncio.Event()
    site.script = wrong
    reader, writer = await visit(port)
    writer.write(request("GET /"))
    raw = await reader.readuntil(b"hello")
    arrived.set()
    got = as_message(raw + await asyncio.wait_for(reader.read(), 10))

    assert got.body is None


async def test_a_reset_is_no_end_of_an_answer_without_length(
    site: Site, port: int, visit: Visit
) -> None:
    async def reset(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        await arrived.wait()
        # Close without lingering: a reset instead of an orderly end.
        peer = writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    arrived = asyncio.Event()
    site.script = reset
    reader, writer = await visit(port)
    writer.write(request("GET /"))
    raw = await reader.readuntil(b"hello")
    arrived.set()
    got = as_message(raw + await reader.read())

    assert got.body is None


async def test_an_old_visitor_is_told_of_a_cut_by_a_reset(
    site: Site, port: int, visit: Visit
) -> None:
    async def cut(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"5\r\nhel")
        await writer.drain()
        await arrived.wait()
        writer.close()

    arrived = asyncio.Event()
    site.script = cut
    reader, writer = await visit(port)
    writer.write(b"GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n")
    await reader.readuntil(b"hel")
    arrived.set()

    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_a_visitor_who_leaves_ends_the_call_to_the_site(visit: Visit) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        gone.set()

    async with serving(silent) as url, proxied(url) as port:
        _, writer = await visit(port)
        writer.write(request("GET /slow"))
        await asyncio.wait_for(arrived.wait(), 10)
        await closed(writer)
        await asyncio.wait_for(gone.wait(), 10)


@pytest.mark.parametrize(
    ("rest", "status"),
    [(b"nonsense\r\n", 408), (b"-1\r\n", 408), (b"5\r\nhel", 408)],
)
async def test_half_a_request_is_never_a_whole_one_for_the_site(
    site: Site, visit: Visit, rest: bytes, status: int
) -> None:
    async with proxied(site.url, limits=UpstreamLimits(visitor=0.2)) as port:
        reader, writer = await visit(port)
        head = request("POST /", "Transfer-Encoding: chunked")
        # A small body is read before the site is asked.
        writer.write(head + b"%x\r\n%s\r\n" % (70_000, b"a" * 70_000))
        await asyncio.wait_for(site.came.wait(), 10)
        writer.write(rest)
        answer = as_message(await reader.readuntil(b"\r\n\r\n"))
        await asyncio.wait_for(site.left.wait(), 10)

    assert answer.status == status
    assert site.seen == []


async def test_a_visitor_who_leaves_in_mid_body_cuts_it(
    site: Site, port: int, visit: Visit
) -> None:
    _, writer = await visit(port)
    writer.write(request("POST /", "Content-Length: 100000") + b"x" * 1000)
    await asyncio.wait_for(site.came.wait(), 10)
    writer.transport.abort()
    await asyncio.wait_for(site.left.wait(), 10)
    assert site.seen == []


# -- a site in trouble


async def test_a_site_that_is_not_there_is_a_502(unused_tcp_port: int) -> None:
    async with proxied(f"http://127.0.0.1:{unused_tcp_port}") as port:
        page = await ask(port, request("GET /", "Accept: text/html,*/*"))
        data = await ask(port, request("GET /", "Accept: application/json"))

    assert (page.status, data.status) == (502, 502)
    assert b"<h1>Bad Gateway</h1>" in page.raw_body
    assert page.one("Content-Type") == b"text/html; charset=utf-8"
    assert data.one("Content-Type") == b"application/json"
    assert b'"bad_gateway"' in data.raw_body


async def test_a_site_that_does_not_answer_in_time_is_a_504(site: Site) -> None:
    async def silent(_: Message, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    site.script = silent
    async with proxied(site.url, limits=UpstreamLimits(answer=0.05)) as port:
        answer = await ask(port, request("GET /"))

    assert answer.status == 504


async def test_an_answer_that_stalls_is_cut(site: Site) -> None:
    async def stalls(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        await asyncio.Event().wait()

    site.script = stalls
    async with proxied(site.url, limits=UpstreamLimits(stall=0.05)) as port:
        answer = await ask(port, request("GET /"))

    assert (answer.status, answer.body) == (200, None)


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-Bad: a\rb\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-Bad: a\x01b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX(Bad): a\r\nContent-Length: 2\r\n\r\nok",
        CHUNKED + b"5\r\nhello\r\nzz\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"",
    ],
)
async def test_an_answer_that_is_no_clear_http_is_a_502(
    site: Site, port: int, answer: bytes
) -> None:
    site.script = says(answer, then_close=True)

    got = await ask(port, request("GET /"))

    assert got.status == 502


async def test_nothing_is_reused_after_a_wrong_answer(site: Site, port: int) -> None:
    site.script = says(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    first = await ask(port, request("GET /1"))
    site.script = says(OK)
    second = await ask(port, request("GET /2"))

    assert (first.body, second.body) == (b"ok", b"ok")
    assert site.connections == 2


async def test_a_get_survives_a_kept_connection_that_died(
    site: Site, port: int
) -> None:
    await ask(port, request("GET /1"))
    site.script = _dies_once(site)

    answer = await ask(port, request("GET /2"))

    assert answer.status == 200
    assert [seen.target for seen in site.seen] == [b"/1", b"/2", b"/2"]


async def test_a_post_is_never_sent_twice(site: Site, port: int) -> None:
    await ask(port, request("GET /1"))
    site.script = _dies_once(site)

    answer = await ask(port, request("POST /2", body=b"x=1"))

    assert answer.status == 502
    assert [seen.target for seen in site.seen] == [b"/1", b"/2"]


def _dies_once(site: Site) -> Script:
    async def script(_: Message, writer: asyncio.StreamWriter) -> None:
        site.script = says(OK)
        writer.transport.abort()

    return script
