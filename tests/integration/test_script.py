"""The snippet is served under all of Dub's names, small and cacheable."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import brotli  # type: ignore[import-untyped]  # ships no types
import pytest
from aiohttp import web

from relay.capture.script import EXTENSIONS, NAMES, Snippet, preferred_coding


@pytest.fixture
async def visitor() -> AsyncIterator[aiohttp.ClientSession]:
    snippet = Snippet()
    app = web.Application()
    app.router.add_get("/_dub/{name}", snippet.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}/_dub/"
    async with aiohttp.ClientSession(
        base, auto_decompress=False, skip_auto_headers=["Accept-Encoding"]
    ) as session:
        yield session
    await runner.cleanup()


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
async def test_every_name_is_served(visitor: aiohttp.ClientSession, name: str) -> None:
    async with visitor.get(name) as answer:
        body = await answer.text()

    assert answer.status == 200
    assert "dub_id" in body
    assert dict(answer.headers) | {
        "Content-Type": "text/javascript; charset=utf-8",
        "Cache-Control": "public, max-age=3600",
        "Vary": "Accept-Encoding",
        "Access-Control-Allow-Origin": "*",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
    } == dict(answer.headers)
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "name", ["script.conversion-tracking.site-visit.js", "script.min.js", "x.js"]
)
async def test_another_name_is_not_found(
    visitor: aiohttp.ClientSession, name: str
) -> None:
    async with visitor.get(name) as answer:
        assert answer.status == 404


async def test_the_script_is_compressed_as_the_browser_accepts(
    visitor: aiohttp.ClientSession,
) -> None:
    got = {}
    for accepted in ("identity", "gzip", "gzip, deflate, br"):
        headers = {"Accept-Encoding": accepted}
        async with visitor.get("script.js", headers=headers) as answer:
            coding = answer.headers.get("Content-Encoding")
            got[coding] = (await answer.read(), answer.headers["ETag"])

    plain, _ = got[None]
    assert gzip.decompress(got["gzip"][0]) == plain
    assert brotli.decompress(got["br"][0]) == plain
    assert len({etag for _, etag in got.values()}) == 3
    # Dub's own base script has 1,463 bytes in brotli.
    assert len(got["br"][0]) < 1463


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", None),
        ("br", "br"),
        ("gzip", "gzip"),
        ("deflate", None),
        ("br;q=0, gzip", "gzip"),
        ("br;q=0.5, gzip;q=0.8", "gzip"),
        ("*", "br"),
        ("*;q=0", None),
        ("GZIP , Br", "br"),
        ("br;q=nonsense", None),
        ("br;q=0, *", "gzip"),
    ],
)
def test_the_coding_follows_accept_encoding(accepted: str, coding: str | None) -> None:
    assert preferred_coding(accepted) == coding


async def test_a_known_script_is_not_sent_again(visitor: aiohttp.ClientSession) -> None:
    async with visitor.get("script.js", headers={"Accept-Encoding": "br"}) as first:
        etag = first.headers["ETag"]
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        headers = {"Accept-Encoding": "br", "If-None-Match": known}
        async with visitor.get("script.js", headers=headers) as again:
            assert (again.status, await again.read()) == (304, b"")
            assert again.headers["ETag"] == etag
            assert again.headers["Vary"] == "Accept-Encoding"
    for other in ('"other"', etag.strip('"')):
        headers = {"Accept-Encoding": "br", "If-None-Match": other}
        async with visitor.get("script.js", headers=headers) as changed:
            assert changed.status == 200
    assert not etag.startswith("W/")


async def test_head_tells_what_get_would(visitor: aiohttp.ClientSession) -> None:
    async with visitor.get("script.js") as got, visitor.head("script.js") as head:
        assert head.headers["ETag"] == got.headers["ETag"]
        assert head.headers["Content-Length"] == got.headers["Content-Length"]
        assert await head.read() == b""


async def test_a_variant_holds_the_extensions_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "base.js").write_text("/* a comment */ let base = 1;\n")
    for name in EXTENSIONS:
        (tmp_path / f"{name}.js").write_text(f"use('{name}');\n")
    snippet = Snippet(cookie_domain=".acme.test", cookie_days=30, folder=tmp_path)
    app = web.Application()
    app.router.add_get("/{name}", snippet.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    async with aiohttp.ClientSession(base) as session:
        texts = {}
        for name in NAMES:
            async with session.get(name) as answer:
                texts[name] = await answer.text()
    await runner.cleanup()

    for name, text in texts.items():
        wanted = [each for each in EXTENSIONS if f".{each}." in name]
        assert re.findall(r"use\('([a-z-]+)'\)", text) == wanted
        assert "comment" not in text
        defaults = re.search(r"defaults=(\{.*?\})", text)
        assert defaults is not None
        assert json.loads(defaults[1]) == {
            "domain": ".acme.test",
            "days": 30,
            "attribution": "last-click",
        }
