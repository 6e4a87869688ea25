"""The script tag in the site's pages: once, in the right place, or not at all."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable

import aiohttp
import brotli  # type: ignore[import-untyped]  # ships no types
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.proxy.copies import GRACE_S
from relay.proxy.exchange import UpstreamError
from relay.proxy.injection import Page
from tests.support.proxy_rig import proxied
from tests.support.recording_site import (
    Message,
    Site,
    Visit,
    as_message,
    ask,
    request,
    says,
    visits,
)

SOURCE = "/_dub/script.js"
TAG = b'<script src="/_dub/script.js" defer></script>'
PAGE = b"<!doctype html><html><head><title>A</title></head><body>b</body></html>"
WITH_TAG = PAGE.replace(b"</head>", TAG + b"</head>")
ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
DECODE: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "br": brotli.decompress,
    "zstd": zstd.decompress,
}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().listening() as listening:
        yield listening


@pytest.fixture
async def port(site: Site) -> AsyncIterator[int]:
    async with proxied(site.url, script=SOURCE) as number:
        yield number


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with visits() as opened:
        yield opened


def answer(
    body: bytes, *headers: str, kind: str = "text/html", status: int = 200
) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", *headers]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def whole(page: bytes, *, source: str = SOURCE) -> bytes:
    return fed(Page(source, [(b"Content-Type", b"text/html")]), [page])


def fed(page: Page, pieces: list[bytes]) -> bytes:
    out = b"".join(part for piece in pieces for part in page.feed(piece))
    return out + page.end()


async def test_a_page_gets_the_tag_before_its_head_ends(site: Site, port: int) -> None:
    site.script = says(answer(PAGE, 'ETag: "x"', "Accept-Ranges: bytes", "X-Y: 1"))

    got = await ask(port, request("GET /"))

    assert got.body == WITH_TAG
    assert got.one("ETag") == b'W/"x"'
    assert got.one("X-Y") == b"1"
    assert got.all("Content-Length") == got.all("Accept-Ranges") == []


async def test_it_does_so_on_a_kept_connection_too(
    site: Site, port: int, visit: Visit
) -> None:
    site.script = says(answer(PAGE))
    reader, writer = await visit(port)
    for _ in range(3):
        writer.write(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        got = as_message(await reader.readuntil(b"0\r\n\r\n"))
        assert got.body == WITH_TAG


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
async def test_a_compressed_page_stays_compressed(
    site: Site, port: int, coding: str
) -> None:
    site.script = says(answer(ENCODE[coding](PAGE), f"Content-Encoding: {coding}"))

    got = await ask(port, request("GET /", f"Accept-Encoding: {coding}"))

    assert got.one("Content-Encoding") == coding.encode()
    assert DECODE[coding](got.body or b"") == WITH_TAG


@pytest.mark.parametrize(
    "raw",
    [
        answer(PAGE, kind="text/plain"),
        answer(PAGE, kind="application/xhtml+xml"),
        answer(PAGE, kind="text/html; charset=utf-16"),
        answer(PAGE, "Cache-Control: public, No-Transform"),
        answer(PAGE, "Content-Range: bytes 0-70/100", status=206),
        answer(PAGE, "Content-Encoding: exi"),
        answer(PAGE, "Content-Encoding: gzip, br"),
        answer(PAGE, "Content-Encoding: gzip"),  # says so, and is not
        answer(PAGE, "Content-Disposition: attachment; filename=a.html"),
        answer(PAGE, status=404),
        answer(PAGE, kind="text/html; charset=iso-2022-jp"),
        answer(b"{}", kind="application/json"),
    ],
)
async def test_what_is_no_whole_page_passes_as_it_is(
    site: Site, port: int, raw: bytes
) -> None:
    site.script = says(raw)

    got = await ask(port, request("GET /"))

    assert got.raw_body == raw.partition(b"\r\n\r\n")[2]
    assert got.all("Content-Length")


@pytest.mark.parametrize("dest", ["empty", "iframe", "script"])
async def test_what_is_no_navigation_passes_as_it_is(
    site: Site, port: int, dest: str
) -> None:
    site.script = says(answer(PAGE))

    got = await ask(port, request("GET /", f"Sec-Fetch-Dest: {dest}"))
    navigation = await ask(port, request("GET /", "Sec-Fetch-Dest: document"))

    assert got.raw_body == PAGE
    assert navigation.body == WITH_TAG


@pytest.mark.parametrize("coding", ["", "gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize(
    "text",
    [
        b'{"html": "<html><head></head><body></body></html>"}',
        b'[{"page": "<!doctype html><head></head>"}]',
        b')]}\',\n{"html": "<head></head>"}',
        b'"<html><head></head>"',
        b"<p>a fragment</p><head></head>",
        b"<turbo-frame><head></head></turbo-frame>",
        b'0:{"a":"$@1"}\n1:"<html><head></head>"\n',  # React's flight
        b'<?xml version="1.0"?><rss><head></head></rss>',
        b"<!-- no more -->",
        b" ",
        b"",
    ],
)
async def test_what_is_labelled_html_and_is_no_document_passes_byte_for_byte(
    site: Site, port: int, coding: str, text: bytes
) -> None:
    packed = ENCODE[coding](text)
    raw = answer(packed, f"Content-Encoding: {coding}", 'ETag: "x"')
    site.script = says(raw)

    got = await ask(port, request("GET /"))

    assert got.raw_body == packed
    assert got.one("Content-Length") == b"%d" % len(packed)
    assert got.one("ETag") == b'"x"'


async def test_json_that_comes_late_passes_byte_for_byte(site: Site, port: int) -> None:
    packed = gzip.compress(b'{"html": "<html><head></head></html>"}')

    async def slow(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
            b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
        )
        await asyncio.sleep(4 * GRACE_S)  # longer than the relay waits for it
        writer.write(packed)
        writer.close()

    site.script = slow
    got = await ask(port, request("GET /"))

    assert got.body == packed


async def test_a_head_request_tells_no_length_that_would_be_wrong(
    site: Site, port: int
) -> None:
    site.script = says(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 71\r\n\r\n"
    )

    got = await ask(port, request("HEAD /"))

    assert got.all("Content-Length") == []
    assert got.raw_body == b""


@pytest.mark.parametrize(
    ("policy", "nonce"),
    [
        ("script-src 'self' 'nonce-r4nd0m+/=='; object-src 'none'", b"r4nd0m+/=="),
        ("default-src 'nonce-abc'", b"abc"),
        ("default-src 'nonce-abc'; script-src-elem 'nonce-def'", b"def"),
        ("script-src 'self'; default-src 'nonce-abc'", None),
        ("img-src 'nonce-abc'", None),
        ("script-src 'nonce-\"><x>'", None),
    ],
)
async def test_the_tag_bears_the_nonce_of_the_pages_policy(
    site: Site, port: int, policy: str, nonce: bytes | None
) -> None:
    site.script = says(answer(PAGE, f"Content-Security-Policy: {policy}"))

    got = await ask(port, request("GET /"))

    attribute = b' nonce="%s"' % nonce if nonce else b""
    assert b"defer" + attribute + b"></script></head>" in (got.body or b"")


async def test_a_page_streams_on_while_it_is_made(site: Site, port: int) -> None:
    more = asyncio.Event()

    async def slow(_: Message, writer: asyncio.StreamWriter) -> None:
        encoder = zlib.compressobj(wbits=31)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
            b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
        )
        writer.write(encoder.compress(PAGE) + encoder.flush(zlib.Z_SYNC_FLUSH))
        await more.wait()
        writer.write(encoder.compress(b"the end") + encoder.flush())
        writer.close()

    site.script = slow
    async with (
        aiohttp.ClientSession() as visitor,
        visitor.get(f"http://127.0.0.1:{port}/") as got,
    ):
        read = b""
        while not read.endswith(b"</html>"):
            read += await asyncio.wait_for(got.content.readany(), 10)
        more.set()
        read += await got.content.read()

    assert read == WITH_TAG + b"the end"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"<head><!-- </head> --></head>", b"<head><!-- </head> -->TAG</head>"),
        (
            b"<script>let a = '</head>'</script></HEAD >",
            b"<script>let a = '</head>'</script>TAG</HEAD >",
        ),
        (b"<title></head></title></head>", b"<title></head></title>TAG</head>"),
        (b"<p>no head<body class=a>x", b"<p>no head<body class=a>x"),
        (b"</header></head>", b"</header>TAG</head>"),
        (  # else the script would come from there
            b"<head><meta a=1><base href=https://cdn.test/></head>",
            b"<head><meta a=1>TAG<base href=https://cdn.test/></head>",
        ),
        (b"<body></head>", b"TAG<body></head>"),
        (b"nothing at all", b"nothing at all"),
        (b"", b""),
    ],
)
def test_the_head_ends_where_a_browser_sees_it_end(before: bytes, after: bytes) -> None:
    assert whole(before) == after.replace(b"TAG", TAG)


def test_a_page_that_has_the_tag_gets_no_second_one() -> None:
    assert whole(WITH_TAG) == WITH_TAG


def test_a_page_without_an_end_of_its_head_is_not_kept_waiting() -> None:
    page = Page(SOURCE, [])
    out = b"".join(page.feed(b"x" * 2**20))

    assert len(out) >= 2**20 - 16


@settings(deadline=None)
@given(st.data(), st.sampled_from([*ENCODE]))
def test_where_a_page_is_divided_makes_no_difference(
    data: st.DataObject, coding: str
) -> None:
    body = b"<head><!-- </head> --><script>'</head>'</script></head><body>" + b"x" * 40
    raw = ENCODE[coding](body)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    page = Page(SOURCE, [(b"Content-Encoding", coding.encode())])

    assert DECODE[coding](fed(page, pieces)) == body.replace(
        b"</script></head>", b"</script>" + TAG + b"</head>"
    )


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_compressed_page_that_ends_early_is_an_error(coding: str) -> None:
    page = Page(SOURCE, [(b"Content-Encoding", coding.encode())])
    noise = b"".join(hashlib.sha256(b"%d" % at).digest() for at in range(8192))
    body = PAGE + noise

    with pytest.raises(UpstreamError):
        fed(page, [ENCODE[coding](body)[:-9]])
