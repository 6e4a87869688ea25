"""Kinds of sites, WebSockets, and what must never reach a site."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from tests.support.proxy_rig import proxied
from tests.support.recording_site import (
    Site,
    Visit,
    ask,
    request,
    says,
    visits,
)


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


# -- upstreams


async def test_a_site_may_listen_on_a_unix_socket(tmp_path: Path) -> None:
    async with (
        Site().listening(unix=str(tmp_path / "s")) as site,
        proxied(site.url) as port,
    ):
        assert (await ask(port, request("GET /"))).body == b"ok"


@pytest.mark.process
async def test_a_tls_site_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = _certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with Site().listening(tls=context) as site:
        async with proxied(site.url) as port:
            stranger = await ask(port, request("GET /"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with proxied(site.url) as port:
            known = await ask(port, request("GET /"))

    assert (stranger.status, known.status) == (502, 200)


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        f" -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
        f" -keyout {key} -out {certificate}"
    )
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed: no certificate to test with")
    return certificate, key


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "unix:relative", "http://x/path", "http://u@x"]
)
async def test_an_upstream_that_is_no_site_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="upstream"):
        async with proxied(url):
            pass


# -- WebSocket


@pytest.fixture
async def socket_site(aiohttp_server: AiohttpServer) -> str:
    async def talkative(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("v2.chat",))
        if not socket.can_prepare(request).ok:
            return web.Response(text="no socket")
        await socket.prepare(request)
        async for message in socket:
            if message.data == "bye":
                await socket.close(code=4321, message=b"so long")
            elif message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data[::-1])
            else:
                await socket.send_str(f"{request.raw_path} {message.data}")
        return socket

    app = web.Application()
    app.router.add_get("/{path:.*}", talkative)
    server = await aiohttp_server(app, access_log=None, shutdown_timeout=0.1)
    return f"http://127.0.0.1:{server.port}"


async def test_a_websocket_passes_with_its_subprotocol_and_close_code(
    socket_site: str,
) -> None:
    async with (
        proxied(socket_site) as port,
        aiohttp.ClientSession() as visitor,
        visitor.ws_connect(
            f"http://127.0.0.1:{port}/chat?a=1", protocols=("v1.chat", "v2.chat")
        ) as socket,
    ):
        assert socket.protocol == "v2.chat"
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=10) == "/chat?a=1 hello"
        await socket.send_bytes(bytes(range(256)) * 4096)
        echo = await socket.receive_bytes(timeout=10)
        assert echo == (bytes(range(256)) * 4096)[::-1]
        await socket.ping()
        await socket.send_str("bye")
        closing = await socket.receive(timeout=10)
        assert (closing.type, closing.data) == (aiohttp.WSMsgType.CLOSE, 4321)
        assert closing.extra == "so long"


async def test_pings_and_close_codes_pass_both_ways(
    aiohttp_server: AiohttpServer,
) -> None:
    """The frames are the two ends' own: the relay answers no ping for the site."""
    pings: asyncio.Queue[bytes] = asyncio.Queue()
    ends: asyncio.Queue[int | None] = asyncio.Queue()

    async def quiet(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        async for message in socket:
            pings.put_nowait(message.data)
            await socket.pong(b"pong of the site's")
        ends.put_nowait(socket.close_code)
        return socket

    app = web.Application()
    app.router.add_get("/", quiet)
    server = await aiohttp_server(app, access_log=None, shutdown_timeout=0.1)
    async with (
        proxied(f"http://127.0.0.1:{server.port}") as port,
        aiohttp.ClientSession() as visitor,
        visitor.ws_connect(f"http://127.0.0.1:{port}/", autoping=False) as socket,
    ):
        await socket.ping(b"are you there")
        pong = await socket.receive(timeout=10)
        await socket.close(code=4001)
        assert (pong.type, pong.data) == (aiohttp.WSMsgType.PONG, b"pong of the site's")
        assert await asyncio.wait_for(pings.get(), 10) == b"are you there"
        assert await asyncio.wait_for(ends.get(), 10) == 4001


async def test_a_declined_websocket_is_an_ordinary_answer(
    site: Site, visit: Visit
) -> None:
    site.script = says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    raw = (
        b"GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )
    async with proxied(site.url) as port:
        reader, writer = await visit(port)
        for _ in range(2):
            writer.write(raw)
            assert (await reader.readuntil(b"no")).startswith(b"HTTP/1.1 403")

    assert site.seen[1].one("Upgrade") == b"websocket"
    assert site.seen[1].one("Connection") == b"Upgrade"


async def test_a_stop_ends_open_websockets(socket_site: str) -> None:
    async with aiohttp.ClientSession() as visitor:
        # Without being ended they would take up the whole grace.
        async with asyncio.timeout(20), proxied(socket_site, grace=60) as port:
            socket = await visitor.ws_connect(f"http://127.0.0.1:{port}/")
            await socket.send_str("hello")
            await socket.receive_str(timeout=10)
        end = await socket.receive(timeout=10)

    assert end.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE}


# -- refused

HOST = b"Host: shop.test\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"GET //evil.test/x HTTP/1.1\r\n" + HOST,
        b"GET /x%00 HTTP/1.1\r\n" + HOST,
        b"GET /x#f HTTP/1.1\r\n" + HOST,
        b"GET http://evil.test/x HTTP/1.1\r\n" + HOST,
        b"GET http://shop.test.evil.test/x HTTP/1.1\r\n" + HOST,
        b"GET http://shop.test@evil.test/x HTTP/1.1\r\n" + HOST,
        b"GET / HTTP/1.1\r\nHost: a b\r\n",
        b"GET / HTTP/1.1\r\nHost: a@evil\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        b"GET / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: ,chunked\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n",
        b"POST / HTTP/1.1\r\n"
        + HOST
        + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"POST / HTTP/1.1\r\n"
        + HOST
        + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X : 1\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n folded\r\n",
        b"POST /chat HTTP/1.1\r\n"
        + HOST
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n",
        b"GET /chat HTTP/1.1\r\n"
        + HOST
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n",
    ],
)
async def test_what_servers_might_read_differently_never_reaches_the_site(
    site: Site, port: int, raw: bytes
) -> None:
    # A wrong byte behind it would be refused by itself and hide what is tested.
    body = b"0\r\n\r\n" if b"chunked" in raw else b""
    if length := re.search(rb"Content-Length: \+?(\d)", raw):
        body = body or b"hello"[: int(length[1])]
    answer = await ask(port, raw + b"Connection: close, Upgrade\r\n\r\n" + body)

    assert answer.status == 400
    assert site.seen == []


async def test_connect_is_refused_and_what_follows_is_not_read(
    site: Site, port: int
) -> None:
    raw = b"CONNECT shop.test:80 HTTP/1.1\r\n" + HOST + b"\r\n"

    answer = await ask(port, raw + request("GET /smuggled"))

    assert answer.status == 405
    assert b"HTTP/1.1" not in answer.raw_body
    assert site.seen == []
