"""Requests that servers read differently, written from RFC 9110 and RFC 9112.

Each goes through the relay to a recording site, byte for byte from a socket,
and through nginx to the same site: what the site saw must be the same, or the
difference stands here with its reason.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay.proxy.exchange import UpstreamLimits
from tests.support.proxy_rig import proxied
from tests.support.recording_site import Site, as_message, closed
from tests.support.servers import program

HOST = b"Host: shop.test\r\n"
END = b"Connection: close\r\n\r\n"
PASSES = 200


@dataclass(frozen=True)
class Vector:
    """A request, and the status that the relay answers."""

    name: str
    raw: bytes
    status: int = 400


def get(line: bytes, *headers: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    return line + b" " + version + b"\r\n" + HOST + b"".join(headers) + END


def post(headers: bytes, body: bytes = b"") -> bytes:
    return b"POST /form HTTP/1.1\r\n" + HOST + headers + END + body


CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST = b"0\r\n\r\n"

FRAMING = (
    # RFC 9112, 6.1 and 6.3: what delimits a body.
    Vector("length and chunks", post(b"Content-Length: 5\r\n" + CHUNKED, LAST)),
    Vector("chunks and length", post(CHUNKED + b"Content-Length: 5\r\n", LAST)),
    Vector(
        "two lengths", post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"abcdef")
    ),
    Vector(
        "a length twice", post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"abcde")
    ),
    Vector("a list of lengths", post(b"Content-Length: 5, 5\r\n", b"abcde")),
    Vector("a signed length", post(b"Content-Length: +5\r\n", b"abcde")),
    Vector("a negative length", post(b"Content-Length: -5\r\n", b"abcde")),
    Vector("a hexadecimal length", post(b"Content-Length: 0x5\r\n", b"abcde")),
    Vector("a length with an underscore", post(b"Content-Length: 1_0\r\n", b"a" * 10)),
    Vector("an empty length", post(b"Content-Length:\r\n")),
    Vector("a length and a word", post(b"Content-Length: 5 x\r\n", b"abcde")),
    Vector(
        "a length beyond 64 bits", post(b"Content-Length: 18446744073709551621\r\n")
    ),
    Vector("leading zeros", post(b"Content-Length: 005\r\n", b"abcde"), PASSES),
    Vector(
        "blanks around a length", post(b"Content-Length: \t 5 \r\n", b"abcde"), PASSES
    ),
    Vector(
        "chunked in capitals", post(b"Transfer-Encoding: CHUNKED\r\n", LAST), PASSES
    ),
    Vector("chunked twice", post(CHUNKED * 2, LAST)),
    Vector("chunked, chunked", post(b"Transfer-Encoding: chunked, chunked\r\n", LAST)),
    Vector("an empty member", post(b"Transfer-Encoding: ,chunked\r\n", LAST)),
    Vector("gzip, chunked", post(b"Transfer-Encoding: gzip, chunked\r\n", LAST)),
    Vector(
        "chunked, identity", post(b"Transfer-Encoding: chunked, identity\r\n", LAST)
    ),
    Vector("identity", post(b"Transfer-Encoding: identity\r\n")),
    Vector("xchunked", post(b"Transfer-Encoding: xchunked\r\n", LAST)),
    Vector("quoted chunked", post(b'Transfer-Encoding: "chunked"\r\n', LAST)),
    Vector(
        "chunked with a parameter", post(b"Transfer-Encoding: chunked;a=b\r\n", LAST)
    ),
    Vector(
        "chunked after a tab line", post(b"Transfer-Encoding: \x0bchunked\r\n", LAST)
    ),
    Vector("an empty coding", post(b"Transfer-Encoding:\r\n", LAST)),
    Vector(
        "chunks in HTTP/1.0", post(CHUNKED, LAST).replace(b"1.1\r\n", b"1.0\r\n", 1)
    ),
    # RFC 9112, 7.1: chunks.
    Vector("chunks", post(CHUNKED, b"5\r\nhello\r\n" + LAST), PASSES),
    Vector("a chunk in capitals", post(CHUNKED, b"A\r\n0123456789\r\n" + LAST), PASSES),
    Vector("a chunk with zeros", post(CHUNKED, b"005\r\nhello\r\n" + LAST), PASSES),
    Vector("an extension", post(CHUNKED, b"5;a=b\r\nhello\r\n" + LAST), PASSES),
    Vector("a trailer", post(CHUNKED, b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"), PASSES),
    Vector("a signed chunk", post(CHUNKED, b"+5\r\nhello\r\n" + LAST)),
    Vector("a prefixed chunk", post(CHUNKED, b"0x5\r\nhello\r\n" + LAST)),
    Vector("a blank before a chunk", post(CHUNKED, b" 5\r\nhello\r\n" + LAST)),
    Vector("an empty chunk size", post(CHUNKED, b"\r\nhello\r\n" + LAST)),
    Vector("a huge chunk", post(CHUNKED, b"fffffffffffffffff\r\nhello\r\n" + LAST)),
    Vector("a chunk that overruns", post(CHUNKED, b"3\r\nhello\r\n" + LAST)),
    Vector("chunks by bare LF", post(CHUNKED, b"5\nhello\n0\n\n")),
    Vector("a bare CR in an extension", post(CHUNKED, b"5;a\rb\r\nhello\r\n" + LAST)),
    Vector("a bare LF in an extension", post(CHUNKED, b"5;a\nb\r\nhello\r\n" + LAST)),
)

LINES = (
    # RFC 9112, 2.2, 3 and 5: lines and fields.
    Vector("a bare LF", b"GET / HTTP/1.1\n" + HOST + END),
    Vector("a bare LF behind a field", get(b"GET /", b"X: 1\n")),
    Vector("a bare CR in a value", get(b"GET /", b"X: a\rb\r\n")),
    Vector("a NUL in a value", get(b"GET /", b"X: a\x00b\r\n")),
    Vector("a control in a value", get(b"GET /", b"X: a\x01b\r\n")),
    Vector("a blank before the colon", get(b"GET /", b"X : 1\r\n")),
    Vector("a tab before the colon", get(b"GET /", b"X\t: 1\r\n")),
    Vector("no colon", get(b"GET /", b"X\r\n")),
    Vector("no name", get(b"GET /", b": 1\r\n")),
    Vector("a name that is no token", get(b"GET /", b"X(y): 1\r\n")),
    Vector("a folded line", get(b"GET /", b"X: 1\r\n folded\r\n")),
    Vector("a blank before the first field", b"GET / HTTP/1.1\r\n " + HOST + END),
    Vector("an underscore", get(b"GET /", b"X_Y: 1\r\n"), PASSES),
    Vector("an empty value", get(b"GET /", b"X:\r\n"), PASSES),
    Vector("HTTP/0.9", b"GET /\r\n\r\n", 505),
    Vector("HTTP/1.2", get(b"GET /", version=b"HTTP/1.2")),
    Vector("HTTP/1.10", get(b"GET /", version=b"HTTP/1.10")),
    Vector("HTTP/2.0", get(b"GET /", version=b"HTTP/2.0"), 505),
    Vector("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Vector("a name in small letters", get(b"GET /", version=b"http/1.1")),
    Vector("a method in small letters", get(b"get /")),
    Vector("a method that is no token", get(b"G@T /")),
    Vector("two blanks", get(b"GET  /"), PASSES),
    Vector("a tab between", get(b"GET\t/")),
)

TARGETS = (
    # RFC 9112, 3.2 and RFC 9110, 7.2: whom a request is for.
    Vector("another host", get(b"GET http://evil.test/x")),
    Vector("this host", get(b"GET http://shop.test/x"), PASSES),
    Vector("a host that begins like this", get(b"GET http://shop.test.evil.test/x")),
    Vector("a user in the target", get(b"GET http://shop.test@evil.test/x")),
    Vector("an ftp target", get(b"GET ftp://shop.test/x")),
    Vector("two slashes", get(b"GET //evil.test/x")),
    Vector("no slash", get(b"GET x")),
    Vector("an at sign", get(b"GET @evil.test/x")),
    Vector("a fragment", get(b"GET /x#f")),
    Vector("an escaped NUL", get(b"GET /x%00")),
    Vector("a blank in the target", get(b"GET /x y")),
    Vector("a byte above ASCII", get(b"GET /\xff")),
    Vector("an asterisk", get(b"GET *")),
    Vector("dot segments", get(b"GET /a/../b/./c"), PASSES),
    Vector("escaped dots", get(b"GET /a/%2e%2e/%2Fb"), PASSES),
    Vector("doubled slashes further on", get(b"GET /a//b"), PASSES),
    Vector("a backslash", get(b"GET /a\\b"), PASSES),
    Vector("no host", b"GET / HTTP/1.1\r\n" + END),
    Vector("two hosts", get(b"GET /", b"Host: evil.test\r\n")),
    Vector("an empty host", b"GET / HTTP/1.1\r\nHost:\r\n" + END),
    Vector("a host with a blank", b"GET / HTTP/1.1\r\nHost: a b\r\n" + END),
    Vector("a host with a user", b"GET / HTTP/1.1\r\nHost: a@evil\r\n" + END),
    Vector("a host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n" + END),
    Vector("a host in a list", b"GET / HTTP/1.1\r\nHost: a, b\r\n" + END),
    Vector("a wrong port", b"GET / HTTP/1.1\r\nHost: a:b\r\n" + END),
    Vector("CONNECT", b"CONNECT shop.test:80 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
)

BODIES = (
    # RFC 9110, 9.3: bodies where none is expected are framed anew, not dropped.
    Vector("GET with a body", get(b"GET /", b"Content-Length: 2\r\n") + b"hi", PASSES),
    Vector(
        "DELETE in chunks", get(b"DELETE /", CHUNKED) + b"2\r\nhi\r\n" + LAST, PASSES
    ),
    Vector("h2c", get(b"GET /", b"Upgrade: h2c\r\n"), PASSES),
    Vector(
        "a WebSocket with a body",
        b"GET / HTTP/1.1\r\n"
        + HOST
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi",
    ),
    Vector(
        "a request hidden in a body",
        post(
            b"Content-Length: 36\r\n", b"GET /hidden HTTP/1.1\r\nHost: a.test\r\n\r\n"
        ),
        PASSES,
    ),
)

VECTORS = (*FRAMING, *LINES, *TARGETS, *BODIES)


LINE_ENDS = "nginx takes a bare LF for a line's end, as RFC 9112, 2.2 allows"
DROPS = "nginx drops the line and passes the rest; RFC 9112, 5 has no such line"
HOSTS = "nginx lets the target's host win or passes it on; the relay serves one site"

DIFFERENCES = {
    "blanks around a length": "nginx refuses a tab there; RFC 9110, 5.5 allows it",
    "chunks by bare LF": LINE_ENDS,
    "a bare LF": LINE_ENDS,
    "a bare LF behind a field": LINE_ENDS,
    "a control in a value": "nginx passes it; RFC 9110, 5.5 calls it dangerous",
    "no colon": DROPS,
    "a name that is no token": DROPS,
    "HTTP/0.9": "nginx makes HTTP/1.0 of it; nobody speaks it any more",
    "HTTP/1.2": "nginx takes any minor version; there is none above 1",
    "HTTP/1.10": "nginx takes two digits; RFC 9112, 2.3 has one",
    "another host": HOSTS,
    "a host that begins like this": HOSTS,
    "an ftp target": HOSTS,
    "two slashes": "a site's URL parser may take the first part for a host",
    "a fragment": "no target has one (RFC 9112, 3.2); sites cut it or keep it",
    "a byte above ASCII": "no URI has one (RFC 3986, 2); sites decode it differently",
    "a host with a user": "no Host has one (RFC 9110, 7.2)",
    "a wrong port": "a port is digits (RFC 3986, 3.2.3)",
    "a WebSocket with a body": "its bytes could be read as frames, or as a request",
}
"""Where the site sees something else through nginx, and why."""


async def answer_of(port: int, raw: bytes) -> bytes:
    """Send bytes; give what came within two seconds, or until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        writer.write(raw)
        async with asyncio.timeout(2):
            while piece := await reader.read(2**16):
                got += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        await closed(writer)
    return got


def seen_by(site: Site) -> list[tuple[bytes, bytes | None]]:
    return [(each.first.rpartition(b" ")[0], each.body) for each in site.seen]


CONFIGURATION = """
user {user}; daemon off; worker_processes 1;
pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://unix:{folder}/site; proxy_http_version 1.1;
      proxy_set_header Host $host; }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """nginx on a port, in front of whatever listens on a socket."""

    port: int
    socket: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nginx")


@pytest.fixture(scope="module")
def nginx(folder: Path, unused_tcp_port_factory: Callable[[], int]) -> Iterator[Nginx]:
    nginx = program("nginx")
    port = unused_tcp_port_factory()
    configuration = folder / "nginx.conf"
    # Its worker would be nobody, who may not enter the folder.
    user = pwd.getpwuid(os.geteuid()).pw_name
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port, user=user))
    process = subprocess.Popen([nginx, "-c", str(configuration)], cwd=folder)
    try:
        deadline = time.monotonic() + 10
        while not _listens(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield Nginx(port, str(folder / "site"))
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
async def site(folder: Path) -> AsyncIterator[Site]:
    path = folder / "site"
    path.unlink(missing_ok=True)
    async with Site().listening(unix=str(path)) as listening:
        yield listening


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
async def test_the_relay_decides_each_vector(site: Site, vector: Vector) -> None:
    async with proxied(site.url, limits=UpstreamLimits(visitor=0.3)) as port:
        answer = as_message(await answer_of(port, vector.raw))

    assert answer.status == vector.status
    # Exactly one answer: what follows a refused request is never read as another.
    assert b"HTTP/1.1 " not in answer.raw_body
    assert len(site.seen) == (1 if vector.status == PASSES else 0)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
async def test_the_fast_path_decides_each_vector_alike(
    site: Site, vector: Vector
) -> None:
    """With a connection kept for it, whatever looks ordinary would go there."""
    async with proxied(site.url, limits=UpstreamLimits(visitor=0.3)) as port:
        assert as_message(await answer_of(port, get(b"GET /warm"))).status == 200
        site.seen.clear()
        answer = as_message(await answer_of(port, vector.raw))
    by_fast_path = seen_by(site)
    site.seen.clear()
    async with proxied(
        site.url, limits=UpstreamLimits(visitor=0.3), fast=False
    ) as port:
        await answer_of(port, vector.raw)

    assert answer.status == vector.status
    assert by_fast_path == seen_by(site)


@pytest.mark.process
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
async def test_a_site_sees_what_it_would_see_behind_nginx(
    site: Site, vector: Vector, nginx: Nginx
) -> None:
    async with proxied(site.url, limits=UpstreamLimits(visitor=0.3)) as port:
        await answer_of(port, vector.raw)
    through_relay = seen_by(site)
    site.seen.clear()

    await answer_of(nginx.port, vector.raw)

    if vector.name in DIFFERENCES:
        assert seen_by(site) != through_relay, "the reason given is out of date"
    else:
        assert seen_by(site) == through_relay
