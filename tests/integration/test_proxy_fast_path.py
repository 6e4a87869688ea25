"""The fast path and the slow one: nobody can tell which a request took."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from relay.proxy.exchange import UpstreamLimits
from tests.support.proxy_rig import Remembering, proxied
from tests.support.recording_site import (
    OK,
    Message,
    Script,
    Site,
    Visit,
    as_message,
    closed,
    says,
    visits,
)

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

REQUESTS = {
    "plain": b"GET /a?b=%41 HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    "browser": (
        b"GET / HTTP/1.1\r\nhost: shop.test:81\r\nAccept: text/html\r\n"
        b"cookie: a=1\r\nCookie: b=2\r\nX-Empty:\r\nx-LATIN: caf\xe9\r\n\r\n"
    ),
    "hearsay": (
        b"GET / HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 6.6.6.6\r\n"
        b"X-Forwarded-Port: 1\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n"
        b"X_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\r\n"
    ),
    "hop by hop": (
        b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: keep-alive\r\n"
        b"Keep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: x\r\nTrailer: x\r\n\r\n"
    ),
    "named": (
        b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: X-Mine\r\nX-Mine: 1\r\n\r\n"
    ),
    "closing": b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n",
    "old": b"GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n",
    "head": b"HEAD / HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    "body": b"GET / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\n\r\nhi",
    "h2c": (
        b"GET / HTTP/1.1\r\nHost: shop.test\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade\r\n\r\n"
    ),
    "two hosts": b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
    "bad host": b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "bad target": b"GET //x HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    "NUL": b"GET /x%00 HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    "landing": b"GET /?dub_id=hQWlMnb8pKc2Zt5R HTTP/1.1\r\nHost: shop.test\r\n\r\n",
}

ANSWERS = {
    "counted": OK,
    "many cookies": (
        b"HTTP/1.1 201 Caf\xe9\r\nset-cookie: a=1\r\nX-Latin: \xe9\r\n"
        b"Set-Cookie: b=2\r\nKeep-Alive: 5\r\nCONTENT-length: 2\r\n\r\nok"
    ),
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "chunked": CHUNKED + b"3\r\nabc\r\n2;x=1\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n",
    "chunked and empty": CHUNKED + b"0\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK,
    "no content": b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    "naming": (
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
        b"Content-Length: 2\r\n\r\nok"
    ),
    "ambiguous": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"
    ),
    "control": b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 2\r\n\r\nok",
    "bad name": b"HTTP/1.1 200 OK\r\nX(y): 1\r\nContent-Length: 2\r\n\r\nok",
    "no HTTP": b"nonsense\r\n\r\n",
}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().listening() as listening:
        yield listening


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with visits() as opened:
        yield opened


async def one_answer(reader: asyncio.StreamReader, *, bodiless: bool) -> bytes:
    """Read one answer of a connection that may stay open."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    message = as_message(head)
    if bodiless or message.status in (204, 304):
        return head
    if message.all("Transfer-Encoding"):
        return head + await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
    return head + await reader.readexactly(int(message.one("Content-Length")))


async def exchanged(
    site: Site, raw: bytes, answer: Script, *, fast: bool, trusted: bool
) -> tuple[bytes, list[Message]]:
    """The answer to a request on a warm connection, and what the site saw of it."""
    networks = [ip_network("127.0.0.0/8")] if trusted else []
    async with (
        proxied(site.url, fast=fast, trusted=networks) as port,
        visits() as visit,
    ):
        site.script = says(OK)
        reader, writer = await visit(port)
        writer.write(REQUESTS["plain"])
        await one_answer(reader, bodiless=False)
        site.seen.clear()
        site.script = answer
        writer.write(raw)
        got = await one_answer(reader, bodiless=raw.startswith(b"HEAD"))
    return got, list(site.seen)


def without_life(raw: bytes) -> bytes:
    """Leave out the moment a cookie ends and the seal over it."""
    return re.sub(rb"(?i)(set-cookie: dub_relay)=[^;]*|expires=[^;]*", rb"\1", raw)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
async def test_both_paths_send_the_site_the_same_bytes(
    site: Site, name: str, *, trusted: bool
) -> None:
    got = [
        await exchanged(site, REQUESTS[name], says(OK), fast=fast, trusted=trusted)
        for fast in (True, False)
    ]

    (fast, seen), (slow, expected) = got
    assert seen == expected
    assert without_life(fast) == without_life(slow)


@pytest.mark.parametrize("name", ANSWERS)
async def test_both_paths_give_the_visitor_the_same_bytes(
    site: Site, name: str
) -> None:
    got = [
        await exchanged(
            site, REQUESTS["plain"], says(ANSWERS[name]), fast=fast, trusted=False
        )
        for fast in (True, False)
    ]

    assert got[0] == got[1]


async def test_ordinary_requests_do_take_the_fast_path(
    site: Site, visit: Visit
) -> None:
    counted: list[int] = []
    async with proxied(site.url, fast_requests=counted) as port:
        reader, writer = await visit(port)
        for _ in range(4):
            writer.write(REQUESTS["browser"])
            await one_answer(reader, bodiless=False)

    # The first has to open the connection to the site.
    assert counted == [3]


async def test_a_sign_up_by_get_is_not_taken_past_its_rule(
    site: Site, visit: Visit
) -> None:
    signups = Remembering()
    rule = {
        "method": "GET",
        "path": "/a",
        "customer_external_id": "query.b",
        "known_customer": True,
    }
    async with proxied(site.url, [rule], signups) as port:
        reader, writer = await visit(port)
        for _ in range(2):
            writer.write(REQUESTS["plain"])
            await one_answer(reader, bodiless=False)

    assert len(signups.named("take")) == 2


async def test_requests_sent_at_once_are_answered_in_their_order(
    site: Site, visit: Visit
) -> None:
    async def echo(request: Message, writer: asyncio.StreamWriter) -> None:
        target = request.target
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(target))
        writer.write(target)

    site.script = echo
    async with proxied(site.url) as port:
        reader, writer = await visit(port)
        writer.write(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        bodies = [as_message(await one_answer(reader, bodiless=False)).body]
        for number in range(20):
            writer.write(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            if number % 3 == 0:
                await asyncio.sleep(0)
        answers = [await one_answer(reader, bodiless=False) for _ in range(20)]
        bodies += [as_message(answer).body for answer in answers]

    assert bodies == [b"/first", *(b"/%d" % number for number in range(20))]


async def test_an_answer_in_pieces_goes_on_in_the_slow_path(
    site: Site, visit: Visit
) -> None:
    more = asyncio.Event()

    async def pieces(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await more.wait()
        writer.write(b"world")

    async with proxied(site.url) as port:
        reader, writer = await visit(port)
        writer.write(REQUESTS["plain"])
        await one_answer(reader, bodiless=False)
        site.script = pieces
        writer.write(REQUESTS["plain"])
        assert (await reader.readuntil(b"hello")).endswith(b"hello")
        more.set()
        assert await reader.readexactly(5) == b"world"
        site.script = says(OK)
        writer.write(REQUESTS["plain"])
        assert await one_answer(reader, bodiless=False) == OK

    assert site.connections == 1


async def test_a_visitor_who_leaves_ends_a_fast_request(
    site: Site, visit: Visit
) -> None:
    asked = asyncio.Event()

    async def silent(_: Message, __: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with proxied(site.url) as port:
        reader, writer = await visit(port)
        writer.write(REQUESTS["plain"])
        await one_answer(reader, bodiless=False)
        site.script = silent
        writer.write(REQUESTS["plain"])
        await asyncio.wait_for(asked.wait(), 10)
        await closed(writer)
        # What the site is told is seen by reading, which its script does not do.
        site.script = says(OK)
        reader, writer = await visit(port)
        writer.write(REQUESTS["plain"])
        assert await one_answer(reader, bodiless=False) == OK

    assert site.connections == 2


async def test_a_site_that_stays_silent_in_the_fast_path_is_a_504(
    site: Site, visit: Visit
) -> None:
    async def silent(_: Message, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with proxied(site.url, limits=UpstreamLimits(answer=0.1)) as port:
        reader, writer = await visit(port)
        writer.write(REQUESTS["plain"])
        await one_answer(reader, bodiless=False)
        site.script = silent
        writer.write(REQUESTS["plain"])
        answer = as_message(await asyncio.wait_for(reader.read(), 10))

    assert answer.status == 504


async def test_bytes_that_come_unasked_spoil_a_kept_connection(visit: Visit) -> None:
    unasked = asyncio.Event()

    async def eager(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        if not unasked.is_set():
            await asyncio.sleep(0.05)
            # Half a head: a fresh parser would take the rest for an answer.
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            await writer.drain()
            await asyncio.sleep(0.05)
            unasked.set()

    async with Site(eager).listening() as site, proxied(site.url) as port:
        reader, writer = await visit(port)
        writer.write(REQUESTS["plain"])
        await one_answer(reader, bodiless=False)
        await asyncio.wait_for(unasked.wait(), 10)
        writer.write(REQUESTS["plain"])
        assert await one_answer(reader, bodiless=False) == OK

    assert site.connections == 2


async def test_a_stop_waits_for_a_fast_request(site: Site, visit: Visit) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Message, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go.wait()
        writer.write(OK)

    async with proxied(site.url, grace=10) as port:
        reader, writer = await visit(port)
        writer.write(REQUESTS["plain"])
        await one_answer(reader, bodiless=False)
        site.script = slow
        writer.write(REQUESTS["plain"])
        await asyncio.wait_for(asked.wait(), 10)
        asyncio.get_running_loop().call_later(0.2, go.set)
    assert await reader.read() == OK
