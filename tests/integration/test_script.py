"""The snippet is served under all of Dub's names, small, cacheable and checkable."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp
import brotli  # type: ignore[import-untyped]  # ships no types
import pytest

from relay.capture.snippet import (
    EXTRAS,
    NAMES,
    TOKEN,
    BrokenSnippetError,
    Snippet,
)
from tests.support.harness import RelayProcess
from tests.support.pages_rig import Pages
from tests.support.recording_site import ask, request, talk

HASHED = re.compile(r"(script(?:\.[a-z-]+)*)\.([0-9a-f]{16})\.js")


def text_of(name: str) -> str:
    """A stand-in for a built file, long enough to be worth compressing."""
    return f"(D=>{{/*{name}*/{'document.cookie;' * 50}}})({TOKEN});\n"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(text_of(name), encoding="utf-8")
    (folder / EXTRAS).write_text("/* extras */\n", encoding="utf-8")
    return folder


@pytest.fixture
def snippet(built: Path) -> Snippet:
    return Snippet(folder=built)


@asynccontextmanager
async def visiting(
    pages: Pages, snippet: Snippet
) -> AsyncIterator[aiohttp.ClientSession]:
    endpoints = [
        (method, name, snippet.handle)
        for method in ("GET", "HEAD")
        for name in [*snippet.names, "script.0123456789abcdef.js", "x.js"]
    ]
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{await pages(endpoints)}/_dub/",
        auto_decompress=False,
        skip_auto_headers=["Accept-Encoding"],
    ) as session:
        yield session


@pytest.fixture
async def visitor(
    pages: Pages, snippet: Snippet
) -> AsyncIterator[aiohttp.ClientSession]:
    async with visiting(pages, snippet) as session:
        yield session


def hashed(snippet: Snippet, name: str = "script.js") -> str:
    """The unchanging name, as the tag has it."""
    found = re.search(r'src="/_dub/([^"]+)"', snippet.tag(name))
    assert found is not None
    return found[1]


def integrity(snippet: Snippet, name: str = "script.js") -> str:
    found = re.search(r'integrity="([^"]+)"', snippet.tag(name))
    assert found is not None
    return found[1]


# Names and texts.


def test_the_names_are_dubs_with_the_extensions_in_their_fixed_order() -> None:
    assert set(NAMES) == {
        "script.js",
        "script.site-visit.js",
        "script.outbound-domains.js",
        "script.conversion-tracking.js",
        "script.site-visit.outbound-domains.js",
        "script.site-visit.conversion-tracking.js",
        "script.outbound-domains.conversion-tracking.js",
        "script.site-visit.outbound-domains.conversion-tracking.js",
    }
    assert len(NAMES) == 8


@pytest.mark.parametrize("name", NAMES)
async def test_every_name_is_served_with_the_relays_settings_in_it(
    visitor: aiohttp.ClientSession, name: str
) -> None:
    defaults = '["",90,"last-click","/_dub",{}]'

    async with visitor.get(name) as answer:
        assert answer.status == 200
        assert await answer.text() == text_of(name).replace(TOKEN, defaults)


def test_the_settings_become_the_scripts_defaults(built: Path) -> None:
    (built / "script.js").write_text(TOKEN, encoding="utf-8")
    snippet = Snippet(
        prefix="/_proxy/dub",
        cookie_domain=".acme.test",
        cookie_days=30,
        attribution="first-click",
        fixed={"consent": "required"},
        folder=built,
    )

    text = b'[".acme.test",30,"first-click","/_proxy/dub",{"consent":"required"}]'
    assert integrity_of(text) == re.search(r'integrity="([^"]+)"', snippet.tag())[1]  # type: ignore[index]
    assert 'src="/_proxy/dub/script.' in snippet.tag()


def integrity_of(text: bytes) -> str:
    return f"sha384-{base64.b64encode(hashlib.sha384(text).digest()).decode()}"


@pytest.mark.parametrize("broken", ["", f"{TOKEN} {TOKEN}"])
def test_a_build_without_one_place_for_the_settings_is_refused(
    built: Path, broken: str
) -> None:
    (built / "script.site-visit.js").write_text(broken, encoding="utf-8")

    with pytest.raises(BrokenSnippetError, match=r"script\.site-visit\.js must hold"):
        Snippet(folder=built)


@pytest.mark.parametrize("name", ["script.js", EXTRAS])
def test_a_file_that_is_missing_is_named(built: Path, name: str) -> None:
    (built / name).unlink()

    with pytest.raises(BrokenSnippetError, match=rf"{name} cannot be read"):
        Snippet(folder=built)


async def test_what_the_script_fetches_itself_is_served_beside_it(
    visitor: aiohttp.ClientSession,
) -> None:
    async with visitor.get(EXTRAS) as answer:
        assert (answer.status, await answer.text()) == (200, "/* extras */\n")
        # A page of another host fetches it as a module, which needs CORS.
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert answer.headers["Cache-Control"] == "public, max-age=3600"


# Headers.


async def test_the_stable_name_may_be_kept_for_an_hour(
    visitor: aiohttp.ClientSession, snippet: Snippet
) -> None:
    async with visitor.get("script.js") as answer:
        headers = dict(answer.headers)

    assert (
        headers
        | {
            "Content-Type": "text/javascript; charset=utf-8",
            "Cache-Control": "public, max-age=3600",
            "Vary": "Accept-Encoding",
            "Access-Control-Allow-Origin": "*",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "X-Content-Type-Options": "nosniff",
            "Content-Location": hashed(snippet),
        }
        == headers
    )
    assert parsedate_to_datetime(headers["Date"]).tzname() == "UTC"
    assert "Set-Cookie" not in headers


@pytest.mark.parametrize("name", NAMES)
async def test_the_hashed_name_holds_the_same_text_for_ever(
    visitor: aiohttp.ClientSession, snippet: Snippet, name: str
) -> None:
    address = hashed(snippet, name)
    async with visitor.get(name) as stable, visitor.get(address) as answer:
        text = await answer.read()
        assert text == await stable.read()
        assert answer.headers["ETag"] == stable.headers["ETag"]
        assert "Content-Location" not in answer.headers

    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    found = HASHED.fullmatch(address)
    assert found is not None
    assert f"{found[1]}.js" == name
    assert hashlib.sha384(text).hexdigest().startswith(found[2])
    assert integrity(snippet, name) == integrity_of(text)


async def test_a_hash_that_is_not_this_texts_is_not_found(
    visitor: aiohttp.ClientSession, snippet: Snippet
) -> None:
    """A page of an older release must not get a text that its tag refuses."""
    for name in ("script.0123456789abcdef.js", "x.js"):
        async with visitor.get(name) as answer:
            assert answer.status == 404
            assert answer.headers["Cache-Control"] == "no-store"


def test_other_settings_have_another_address(built: Path, snippet: Snippet) -> None:
    other = Snippet(folder=built, cookie_days=30)

    assert set(snippet.names) & set(other.names) == {*NAMES, EXTRAS}


def test_two_relays_with_the_same_settings_serve_the_same(
    built: Path, snippet: Snippet
) -> None:
    assert Snippet(folder=built).names == snippet.names


# Codings.


@pytest.mark.parametrize("which", ["stable", "hashed"])
async def test_the_script_is_compressed_as_the_browser_accepts(
    visitor: aiohttp.ClientSession, snippet: Snippet, which: str
) -> None:
    name = "script.js" if which == "stable" else hashed(snippet)
    got = {}
    for accepted in ("identity", "gzip", "gzip, deflate, br, zstd"):
        headers = {"Accept-Encoding": accepted}
        async with visitor.get(name, headers=headers) as answer:
            coding = answer.headers.get("Content-Encoding")
            assert answer.headers["Vary"] == "Accept-Encoding"
            got[coding] = (await answer.read(), answer.headers["ETag"])

    plain, _ = got[None]
    assert gzip.decompress(got["gzip"][0]) == plain
    assert brotli.decompress(got["br"][0]) == plain
    assert len({etag for _, etag in got.values()}) == 3
    assert len(got["br"][0]) < len(got["gzip"][0]) < len(plain)


# Asking again.


async def test_a_known_script_is_not_sent_again(visitor: aiohttp.ClientSession) -> None:
    async with visitor.get("script.js", headers={"Accept-Encoding": "br"}) as first:
        etag = first.headers["ETag"]
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        headers = {"Accept-Encoding": "br", "If-None-Match": known}
        async with visitor.get("script.js", headers=headers) as again:
            assert (again.status, await again.read()) == (304, b"")
            kept = ("ETag", "Vary", "Cache-Control", "Access-Control-Allow-Origin")
            for name in kept:
                assert again.headers[name] == first.headers[name]
    for other in ('"other"', etag.strip('"')):
        headers = {"Accept-Encoding": "br", "If-None-Match": other}
        async with visitor.get("script.js", headers=headers) as changed:
            assert changed.status == 200
    # Another coding is another text.
    async with visitor.get("script.js", headers={"If-None-Match": etag}) as plain:
        assert plain.status == 200
    assert not etag.startswith("W/")


async def test_head_tells_what_get_would(visitor: aiohttp.ClientSession) -> None:
    async with visitor.get("script.js") as got, visitor.head("script.js") as head:
        assert head.headers["ETag"] == got.headers["ETag"]
        assert head.headers["Content-Length"] == got.headers["Content-Length"]
        assert await head.read() == b""


async def test_a_connection_serves_many_requests_until_one_ends_it(
    pages: Pages,
    snippet: Snippet,
) -> None:
    endpoints = [("GET", name, snippet.handle) for name in NAMES]
    port = await pages(endpoints)
    more = b"GET /_dub/script.js HTTP/1.1\r\nHost: shop.test\r\n\r\n"
    # Reads until the connection ends.
    raw = await talk(port, more * 2 + request("GET /_dub/script.js"))
    old = await ask(port, b"GET /_dub/script.js HTTP/1.0\r\n\r\n")

    assert raw.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert raw.count(b"Connection: close\r\n") == 1
    assert old.status == 200
    assert old.one("Connection") == b"close"


# The whole relay.


@pytest.mark.process
async def test_the_relay_serves_its_build_and_check_prints_the_tag(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    relay = RelayProcess(
        tmp_path, {"RELAY_PREFIX": "/_proxy/dub", "RELAY_COOKIE_DAYS": "30"}
    )
    _, out, _ = await relay.run("check")
    await relay.start()
    try:
        tag = re.search(
            r'snippet +<script defer src="(/_proxy/dub/script\.[0-9a-f]{16}\.js)" '
            r'integrity="(.+?)" crossorigin="anonymous"></script>',
            out,
        )
        assert tag is not None
        async with session.get(relay.url + tag[1]) as answer:
            text = await answer.read()
        assert integrity_of(text) == tag[2]
        for name in NAMES:
            async with session.get(f"{relay.url}/_proxy/dub/{name}") as answer:
                assert answer.status == 200
                fixed = '["",30,"last-click","/_proxy/dub",{}]'
                assert fixed in await answer.text()
        async with session.head(f"{relay.url}/_proxy/dub/script.js") as answer:
            assert answer.status == 200
        async with session.post(f"{relay.url}/_proxy/dub/script.js") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
        gone = f"{relay.url}/_proxy/dub/script.0123456789abcdef.js"
        async with session.get(gone) as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "not_found"
    finally:
        assert await relay.stop() == 0
