"""The proxy changes nothing it need not, in either direction."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from tests.support.proxy_rig import proxied
from tests.support.recording_site import (
    OK,
    Site,
    Visit,
    as_message,
    ask,
    request,
    says,
    talk,
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


# -- faithful, towards the site


async def test_a_target_passes_byte_for_byte(site: Site, port: int) -> None:
    target = "/a/../b/%2e%2e/c//d?x=%41&y=+&&=;%7e'%0a"

    await ask(port, request(f"GET {target}"))

    assert site.seen[0].first == f"GET {target} HTTP/1.1".encode()


async def test_headers_keep_order_case_repeats_and_bytes(site: Site, port: int) -> None:
    raw = (
        b"GET / HTTP/1.1\r\nx-LATIN: caf\xe9\r\nAccept: a\r\nHOST: shop.test\r\n"
        b'X-Utf: caf\xc3\xa9\r\naccept: b\r\nCookie: a=1\r\ncookie: b="2"\r\n'
        b"X-Empty:\r\nConnection: close\r\n\r\n"
    )

    await ask(port, raw)

    assert site.seen[0].headers[:-4] == [
        (b"x-LATIN", b"caf\xe9"),
        (b"Accept", b"a"),
        (b"HOST", b"shop.test"),
        (b"X-Utf", b"caf\xc3\xa9"),
        (b"accept", b"b"),
        (b"Cookie", b"a=1"),
        (b"cookie", b'b="2"'),
        (b"X-Empty", b""),
    ]


async def test_nothing_is_added_but_the_forwarding_headers(
    site: Site, port: int
) -> None:
    await ask(port, request("GET /"))

    assert [name for name, _ in site.seen[0].headers] == [
        b"Host",
        b"X-Forwarded-For",
        b"X-Forwarded-Proto",
        b"X-Forwarded-Host",
        b"Forwarded",
    ]
    assert site.seen[0].one("Host") == b"shop.test"
    assert site.seen[0].one("X-Forwarded-For") == b"127.0.0.1"


async def test_forwarding_headers_of_a_stranger_are_replaced(
    site: Site, port: int
) -> None:
    await ask(port, request("GET /", "X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6"))

    assert site.seen[0].all("X-Forwarded-For") == [b"127.0.0.1"]
    assert site.seen[0].all("X-Real-IP") == []


async def test_forwarding_headers_of_a_trusted_proxy_are_kept(site: Site) -> None:
    async with proxied(site.url, trusted=[ip_network("127.0.0.0/8")]) as port:
        await ask(port, request("GET /", "X-Forwarded-For: 198.51.100.7"))

    assert site.seen[0].one("X-Forwarded-For") == b"198.51.100.7, 127.0.0.1"


async def test_hop_by_hop_headers_stay_on_their_hop_but_cookies_do_not(
    site: Site, port: int
) -> None:
    raw = (
        b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close, X-Mine, Cookie\r\n"
        b"X-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: x\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nCookie: sid=1\r\n\r\n"
    )

    answer = await ask(port, raw)

    assert answer.status == 200
    assert [name for name, _ in site.seen[0].headers][:2] == [b"Host", b"Cookie"]
    assert len(site.seen[0].headers) == 6


async def test_a_header_name_with_an_underscore_is_dropped(
    site: Site, port: int
) -> None:
    await ask(port, request("GET /", "X_Forwarded_For: 7.7.7.7", "X-Fine: 1"))

    assert site.seen[0].all("X_Forwarded_For") == []
    assert site.seen[0].all("X-Fine") == [b"1"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_a_counted_body_stays_counted(site: Site, port: int, method: str) -> None:
    await ask(port, request(f"{method} /", body=b"hello"))

    assert site.seen[0].all("Content-Length") == [b"5"]
    assert site.seen[0].all("Transfer-Encoding") == []
    assert site.seen[0].body == b"hello"


async def test_a_chunked_body_stays_chunked(site: Site, port: int) -> None:
    body = b"5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: 1\r\n\r\n"

    await ask(port, request("POST /", "Transfer-Encoding: Chunked", body=body))

    assert site.seen[0].all("Content-Length") == []
    assert site.seen[0].all("Transfer-Encoding") == [b"chunked"]
    assert site.seen[0].body == b"hello!"
    assert b"Trailer" not in site.seen[0].raw_body


async def test_a_length_is_written_as_one_plain_number(site: Site, port: int) -> None:
    raw = request("POST /", "Content-Length: 005") + b"hello"

    await ask(port, raw)

    assert site.seen[0].all("Content-Length") == [b"5"]


async def test_a_post_without_a_body_says_so(site: Site, port: int) -> None:
    await ask(port, request("POST /", "Content-Length: 0"))

    assert site.seen[0].all("Content-Length") == [b"0"]


async def test_a_compressed_request_body_is_not_touched(site: Site, port: int) -> None:
    body = gzip.compress(b"hello" * 100)

    await ask(port, request("POST /", "Content-Encoding: gzip", body=body))

    assert site.seen[0].body == body


async def test_a_visitor_may_wait_for_100_continue(
    site: Site, port: int, visit: Visit
) -> None:
    reader, writer = await visit(port)
    writer.write(request("POST /", "Expect: 100-continue", "Content-Length: 5"))

    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hello")
    assert as_message(await reader.read()).status == 200

    assert site.seen[0].body == b"hello"
    assert site.seen[0].all("Expect") == []


async def test_an_old_visitor_without_a_host_gets_the_sites(site: Site) -> None:
    async with proxied(site.url) as port:
        answer = await ask(port, b"GET /old HTTP/1.0\r\n\r\n")

    assert answer.first == b"HTTP/1.0 200 OK"
    assert site.seen[0].one("Host") == site.url.removeprefix("http://").encode()


async def test_an_absolute_target_for_this_host_becomes_a_path(
    site: Site, port: int
) -> None:
    await ask(port, request("GET http://shop.test/x?y=%41"))
    await ask(port, request("GET http://SHOP.test?y"))
    await ask(port, request("OPTIONS *"))

    assert [seen.target for seen in site.seen] == [b"/x?y=%41", b"/?y", b"*"]


# -- faithful, towards the visitor


async def test_an_answer_keeps_order_case_repeats_and_bytes(
    site: Site, port: int
) -> None:
    site.script = says(
        b"HTTP/1.1 418 Caf\xe9\r\nx-B: 1\r\nset-cookie: a=1\r\nX-Latin: \xe9\r\n"
        b"Set-Cookie: b=2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n"
        b"CONTENT-length: 2\r\nSet-Cookie: a=1\r\n\r\nok"
    )

    answer = await talk(port, request("GET /"))

    assert answer == (
        b"HTTP/1.1 418 Caf\xe9\r\nx-B: 1\r\nset-cookie: a=1\r\nX-Latin: \xe9\r\n"
        b"Set-Cookie: b=2\r\nCONTENT-length: 2\r\nSet-Cookie: a=1\r\n"
        b"Connection: close\r\n\r\nok"
    )


async def test_a_kept_connection_adds_nothing_to_an_answer(
    site: Site, port: int, visit: Visit
) -> None:
    reader, writer = await visit(port)
    for _ in range(3):
        writer.write(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        assert await reader.readexactly(len(OK)) == OK

    assert len(site.seen) == 3
    assert site.connections == 1


async def test_a_head_answer_keeps_its_length_and_has_no_body(
    site: Site, port: int, visit: Visit
) -> None:
    site.script = says(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")
    reader, writer = await visit(port)
    for _ in range(2):
        writer.write(b"HEAD / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        answer = as_message(await reader.readuntil(b"\r\n\r\n"))
        assert answer.one("Content-Length") == b"1234"

    assert site.connections == 1


@pytest.mark.parametrize(
    ("answer", "length"),
    [
        (b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n", []),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", []),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", [b"99"]),
    ],
)
async def test_an_answer_without_a_body_leaves_the_connection_in_step(
    site: Site, port: int, answer: bytes, length: list[bytes], visit: Visit
) -> None:
    site.script = says(answer)
    reader, writer = await visit(port)
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        got = as_message(await reader.readuntil(b"\r\n\r\n"))
        assert got.first == answer.split(b"\r\n")[0]
        assert got.all("Content-Length") == length
        assert got.all("Transfer-Encoding") == []


async def test_interim_answers_end_at_the_proxy(site: Site, port: int) -> None:
    site.script = says(
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" + OK
    )

    answer = await ask(port, request("GET /"))

    assert (answer.status, answer.body) == (200, b"ok")


async def test_a_compressed_answer_passes_as_it_is(site: Site, port: int) -> None:
    body = gzip.compress(b"hello" * 100)
    head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n"
    site.script = says(head.format(len(body)).encode() + body)

    answer = await ask(port, request("GET /", "Accept-Encoding: gzip"))

    assert answer.one("Content-Encoding") == b"gzip"
    assert answer.body == body


async def test_a_redirect_is_the_visitors_to_follow(site: Site, port: int) -> None:
    site.script = says(
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    )

    answer = await ask(port, request("GET /"))

    assert answer.one("Location") == b"/elsewhere"
    assert len(site.seen) == 1


async def test_one_visitors_cookies_never_reach_another(site: Site, port: int) -> None:
    site.script = says(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=a; Path=/\r\nContent-Length: 0\r\n\r\n"
    )

    await ask(port, request("GET /"))
    await ask(port, request("GET /"))

    assert site.seen[1].all("Cookie") == []


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello!",
        b"HTTP/1.0 200 OK\r\n\r\nhello!",
    ],
)
async def test_an_answer_of_unknown_length_is_chunked_for_a_new_visitor(
    site: Site, port: int, answer: bytes
) -> None:
    site.script = says(answer, then_close=b"chunked" not in answer)

    got = await ask(port, request("GET /"))
    old = await ask(port, b"GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n")

    assert (got.all("Transfer-Encoding"), got.body) == ([b"chunked"], b"hello!")
    assert (old.all("Transfer-Encoding"), old.body) == ([], b"hello!")
