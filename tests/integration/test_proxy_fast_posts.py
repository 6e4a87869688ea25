"""Posts and sign-ups in the fast path: nobody can tell, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiohttp import web

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

FORM = b"id=u_1&name=Ada&email=ada%40example.com"
TYPE = b"Content-Type: application/x-www-form-urlencoded\r\n"
COOKIE = b"Cookie: sid=1; dub_id=hQWlM2kPzX9aBcDe\r\n"
RULE: Mapping[str, Any] = {
    "path": "/signup",
    "customer_external_id": "form.id",
    "customer_name": "form.name",
    "customer_email": "form.email",
}
WELCOME = b"HTTP/1.1 303 See Other\r\nLocation: /welcome\r\nContent-Length: 0\r\n\r\n"


def post(target: bytes, *headers: bytes, body: bytes = FORM) -> bytes:
    lines = b"".join((b"Host: shop.test\r\n", TYPE, COOKIE, *headers))
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST %s HTTP/1.1\r\n%s%s\r\n%s" % (target, lines, length, body)


REQUESTS = {
    "sign-up": post(b"/signup?a=1"),
    "other": post(b"/login"),
    "no click": post(b"/signup").replace(COOKIE, b""),
    "empty": post(b"/signup", body=b""),
    "large": post(b"/signup", body=b"x" * 2**17),
    "JSON": post(b"/signup", body=b'{"id": 1}').replace(
        b"x-www-form-urlencoded", b"json"
    ),
    "hearsay": post(b"/signup", b"X-Forwarded-For: 6.6.6.6\r\nX_A: 1\r\n"),
    "closing": post(b"/signup", b"Connection: close\r\n"),
    "named": post(b"/signup", b"Connection: X-Mine\r\nX-Mine: 1\r\n"),
    "zeros": post(b"/signup").replace(b"Length: ", b"Length: 00"),
    "put": post(b"/signup").replace(b"POST", b"PUT", 1),
    "no length": b"POST /signup HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    "old": post(b"/signup").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
}

ANSWERS = {
    "redirect": WELCOME,
    "page": OK,
    "cookies": (
        b"HTTP/1.1 201 Caf\xe9\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"Keep-Alive: 5\r\nCONTENT-length: 2\r\n\r\nok"
    ),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"
    ),
    "no content": b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
    "refused": b"HTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\nno",
    "interim": b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK,
    "ambiguous": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"
    ),
    "switching": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
    "no HTTP": b"nonsense\r\n\r\n",
}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site(says(WELCOME)).listening() as listening:
        yield listening


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with visits() as opened:
        yield opened


async def one_answer(reader: asyncio.StreamReader) -> bytes:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    message = as_message(head)
    if message.status == 204:
        return head
    if message.all("Transfer-Encoding"):
        return head + await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
    return head + await reader.readexactly(int(message.one("Content-Length")))


async def exchanged(
    site: Site, raw: bytes, answer: Script, *, fast: bool
) -> tuple[bytes, list[Message], list[tuple[str, Any]]]:
    """The answer, what the site saw, and what became of the sign-up."""
    signups = Remembering()
    async with (
        proxied(site.url, [RULE], signups, fast=fast) as port,
        visits() as visit,
    ):
        reader, writer = await visit(port)
        site.script = says(OK)
        writer.write(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        await one_answer(reader)
        site.seen.clear()
        site.script = answer
        writer.write(raw)
        got = await one_answer(reader)
    return got, list(site.seen), signups.calls


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_paths_send_the_site_the_same_bytes(site: Site, name: str) -> None:
    got = [
        await exchanged(site, REQUESTS[name], says(WELCOME), fast=fast)
        for fast in (True, False)
    ]

    assert got[0] == got[1]


@pytest.mark.parametrize("target", [b"/signup", b"/login"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_both_paths_give_the_visitor_the_same_bytes(
    site: Site, name: str, target: bytes
) -> None:
    got = [
        await exchanged(site, post(target), says(ANSWERS[name]), fast=fast)
        for fast in (True, False)
    ]

    assert got[0] == got[1]


@pytest.mark.parametrize("target", [b"/signup", b"/login"])
async def test_a_body_may_come_after_its_head(
    site: Site, visit: Visit, target: bytes
) -> None:
    """As browsers send it; and the next request finds the connection in step."""
    counted: list[int] = []
    raw = post(target)
    async with proxied(site.url, [RULE], fast_requests=counted) as port:
        reader, writer = await visit(port)
        writer.write(post(b"/login"))
        await one_answer(reader)
        for _ in range(3):
            for piece in (raw[: -len(FORM)], FORM[:7], FORM[7:]):
                writer.write(piece)
                await asyncio.sleep(0.02)
            await one_answer(reader)

    assert counted == [3]
    assert [seen.body for seen in site.seen] == [FORM] * 4


async def test_what_is_sent_at_once_is_answered_in_its_order(
    site: Site, visit: Visit
) -> None:
    async def echo(request: Message, writer: asyncio.StreamWriter) -> None:
        body = request.target + b" " + (request.body or b"")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)

    site.script = echo
    async with proxied(site.url, [RULE]) as port:
        reader, writer = await visit(port)
        for number in range(12):
            target = (b"/signup?%d", b"/login?%d")[number % 2] % number
            writer.write(post(target, body=b"id=u_%d" % number))
            if number % 3 == 0:
                await asyncio.sleep(0)
        answers = [as_message(await one_answer(reader)).body for _ in range(12)]

    assert answers == [
        (b"/signup?%d id=u_%d", b"/login?%d id=u_%d")[number % 2] % (number, number)
        for number in range(12)
    ]


async def test_a_post_is_never_sent_twice(site: Site, visit: Visit) -> None:
    counted: list[int] = []

    async def dies(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with proxied(site.url, [RULE], fast_requests=counted) as port:
        reader, writer = await visit(port)
        writer.write(post(b"/login"))
        await one_answer(reader)
        site.script = dies
        writer.write(post(b"/login?2"))
        answer = as_message(await one_answer(reader))

    assert counted == [1]
    assert answer.status == 502
    assert [seen.target for seen in site.seen] == [b"/login", b"/login?2"]


async def test_a_visitor_who_leaves_does_not_lose_the_lead(
    site: Site, visit: Visit
) -> None:
    signups = Remembering()
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(message: Message, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await may_answer.wait()
        await says(OK)(message, writer)

    site.script = slow
    counted: list[int] = []
    async with proxied(site.url, [RULE], signups, fast_requests=counted) as port:
        _, writer = await visit(port)
        writer.write(post(b"/signup"))
        await asked.wait()
        await closed(writer)
        may_answer.set()

    assert counted == [1]
    assert [name for name, _ in signups.calls] == ["hold", "take"]


async def test_a_visitor_who_leaves_before_the_body_is_there_sent_nothing(
    site: Site, visit: Visit
) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        _, writer = await visit(port)
        writer.write(post(b"/signup")[:-3])
        await asyncio.sleep(0.05)
        await closed(writer)

    assert signups.calls == []
    assert site.seen == []
    assert site.connections == 0


async def test_a_sign_ups_answer_in_pieces_goes_on_in_the_slow_path(
    site: Site, visit: Visit
) -> None:
    more = asyncio.Event()

    async def pieces(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await more.wait()
        writer.write(b"world")

    signups = Remembering()
    site.script = pieces
    # By its status alone: a rule without a `when` looks at a short text first.
    rule = {**RULE, "when": "response.status == `200`"}
    async with proxied(site.url, [rule], signups) as port:
        reader, writer = await visit(port)
        writer.write(post(b"/signup"))
        assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK")
        more.set()
        assert await reader.readexactly(5) == b"world"
        site.script = says(OK)
        writer.write(post(b"/signup"))
        assert (await one_answer(reader)).endswith(b"\r\n\r\nok")

    assert [name for name, _ in signups.calls] == ["hold", "take"] * 2


async def test_a_site_that_stays_silent_is_a_504_and_the_lead_stays_held(
    site: Site, visit: Visit
) -> None:
    async def silent(_: Message, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    signups = Remembering()
    site.script = silent
    async with proxied(
        site.url, [RULE], signups, limits=UpstreamLimits(answer=0.1)
    ) as port:
        reader, writer = await visit(port)
        writer.write(post(b"/signup"))
        answer = as_message(await one_answer(reader))

    assert answer.status == 504
    assert signups.named("unanswered") == [("lead_held", "127.0.0.1")]


async def test_a_middleware_sees_every_post(site: Site, visit: Visit) -> None:
    seen = []

    @web.middleware
    async def watching(request: web.Request, handler: Any) -> web.StreamResponse:
        seen.append(request.path)
        answer: web.StreamResponse = await handler(request)
        return answer

    async with proxied(site.url, [RULE], middlewares=[watching]) as port:
        reader, writer = await visit(port)
        for target in (b"/login", b"/signup", b"/login"):
            writer.write(post(target))
            await one_answer(reader)

    assert seen == ["/login", "/signup", "/login"]


async def test_a_stop_waits_for_a_sign_up(site: Site, visit: Visit) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Message, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go.wait()
        writer.write(OK)

    signups = Remembering()
    site.script = slow
    async with proxied(site.url, [RULE], signups, grace=10) as port:
        reader, writer = await visit(port)
        writer.write(post(b"/signup"))
        await asyncio.wait_for(asked.wait(), 10)
        asyncio.get_running_loop().call_later(0.2, go.set)
    assert (await reader.read()).endswith(b"ok")
    assert [name for name, _ in signups.calls] == ["hold", "take"]
