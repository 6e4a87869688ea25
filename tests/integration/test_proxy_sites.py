"""Several instances of a site, which are killed; and TLS in front."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from relay.proxy.exchange import UpstreamLimits
from tests.support.certificates import certificate
from tests.support.harness import RelayProcess
from tests.support.proxy_rig import proxied
from tests.support.recording_site import (
    OK,
    Message,
    Site,
    Visit,
    ask,
    request,
    says,
    visits,
)

pytestmark = pytest.mark.process

INSTANCE = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        name = sys.argv[2].encode()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(name)))
        self.end_headers()
        self.wfile.write(name)
    do_POST = do_GET
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("up", flush=True)
server.serve_forever()
"""


class Instance:
    """One instance of a site, a process of its own."""

    def __init__(self, port: int, name: str) -> None:
        self.port = port
        self.name = name

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", INSTANCE, str(self.port), self.name),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert await self.process.stdout.readline() == b"up\n"

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@pytest.fixture
async def pair(
    unused_tcp_port_factory: Callable[[], int],
) -> AsyncIterator[tuple[Instance, Instance]]:
    first, second = (
        Instance(unused_tcp_port_factory(), name) for name in ("first", "second")
    )
    await first.start()
    await second.start()
    yield first, second
    await first.kill()
    await second.kill()


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with visits() as opened:
        yield opened


def urls(pair: tuple[Instance, Instance]) -> list[str]:
    return [f"http://127.0.0.1:{each.port}" for each in pair]


async def answers(port: int, count: int, line: str = "GET /") -> list[bytes]:
    got = [await ask(port, request(line)) for _ in range(count)]
    assert {answer.status for answer in got} == {200}
    return [answer.raw_body for answer in got]


async def test_instances_take_turns(pair: tuple[Instance, Instance]) -> None:
    async with proxied(urls(pair)) as port:
        got = await answers(port, 10)

    assert sorted(set(got)) == [b"first", b"second"]
    assert got.count(b"first") == 5


@pytest.mark.parametrize("line", ["GET /", "POST /"])
async def test_a_killed_instance_is_not_noticed_by_visitors(
    pair: tuple[Instance, Instance], line: str
) -> None:
    async with proxied(urls(pair)) as port:
        await answers(port, 2, line)
        await pair[0].kill()
        # Longer than a connection is kept for what may not be sent again.
        await asyncio.sleep(0.6)
        got = await answers(port, 10, line)

    assert set(got) == {b"second"}


async def test_an_instance_that_comes_back_gets_work_again(
    pair: tuple[Instance, Instance],
) -> None:
    async with proxied(urls(pair)) as port:
        await pair[0].kill()
        assert set(await answers(port, 4)) == {b"second"}
        await pair[0].start()
        async with asyncio.timeout(20):
            while b"first" not in await answers(port, 4):
                pass


async def test_with_every_instance_killed_the_visitor_is_told(
    pair: tuple[Instance, Instance],
) -> None:
    async with proxied(urls(pair)) as port:
        await pair[0].kill()
        await pair[1].kill()
        answer = await ask(port, request("GET /"))

    assert answer.status == 502


async def test_the_least_busy_instance_is_asked(visit: Visit) -> None:
    busy = asyncio.Event()

    async def silent(_: Message, __: asyncio.StreamWriter) -> None:
        busy.set()
        await asyncio.Event().wait()

    async with (
        Site(silent).listening() as slow,
        Site().listening() as quick,
        proxied([slow.url, quick.url]) as port,
    ):
        writers = []
        while not busy.is_set():
            _, writer = await visit(port)
            writer.write(request("GET /slow"))
            writers.append(writer)
            await asyncio.sleep(0.05)
        before = len(slow.seen)
        for _ in range(6):
            assert (await ask(port, request("GET /"))).status == 200

    assert len(slow.seen) == before


async def test_a_post_that_may_have_arrived_goes_to_no_other_instance() -> None:
    async def dies(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with (
        Site(dies).listening() as one,
        Site(dies).listening() as other,
        proxied([one.url, other.url], limits=UpstreamLimits(answer=5)) as port,
    ):
        answer = await ask(port, request("POST /", body=b"x=1"))

    assert answer.status == 502
    assert len(one.seen) + len(other.seen) == 1


# -- TLS in front


async def served(port: int, trusted: Path, name: str) -> bytes:
    """Ask over TLS by a name that the certificate must bear."""
    context = ssl.create_default_context(cafile=str(trusted))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name
    )
    writer.write(request("GET /", host=name))
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return answer


async def test_a_certificate_is_served_and_its_successor_too(tmp_path: Path) -> None:
    async with Site(says(OK)).listening() as site:
        cert, key = certificate(tmp_path, "old.test")
        relay = await RelayProcess(
            tmp_path,
            {
                "RELAY_UPSTREAM": site.url,
                "RELAY_TLS_CERT": str(cert),
                "RELAY_TLS_KEY": str(key),
            },
        ).start()
        try:
            assert relay.url.startswith("https://")
            port = int(relay.url.rpartition(":")[2])
            assert (await served(port, cert, "old.test")).startswith(b"HTTP/1.1 200")
            certificate(tmp_path, "new.test")
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(ssl.SSLError):
                        await served(port, cert, "new.test")
                        break
                    await asyncio.sleep(0.1)
        finally:
            assert await relay.stop() == 0

    assert site.seen[0].one("X-Forwarded-Proto") == b"https"


async def test_a_certificate_that_is_none_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nonsense")
    relay = RelayProcess(tmp_path, {"RELAY_TLS_CERT": str(tmp_path / "cert.pem")})

    code, _, err = await relay.run("serve")

    assert code == 1
    assert [line for line in err.splitlines() if "RELAY_TLS_CERT" in line]
