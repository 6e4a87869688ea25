"""What a visitor may take of a relay: a real process, and sockets that drip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.harness import RelayProcess
from tests.support.recording_site import (
    OK,
    Site,
    Visit,
    as_message,
    ask,
    dripped,
    request,
    visits,
)

pytestmark = pytest.mark.process

LIMITS = {
    "RELAY_LIMITS_HEADER_TIMEOUT": "500ms",
    "RELAY_LIMITS_BODY_RATE": "1000",
    "RELAY_LIMITS_BODY_SPAN": "500ms",
    "RELAY_LIMITS_IDLE": "1s",
    "RELAY_LIMITS_LINE": "2000",
    "RELAY_LIMITS_HEADER": "3000",
    "RELAY_LIMITS_HEADERS": "20",
}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().listening() as listening:
        yield listening


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with visits() as opened:
        yield opened


@pytest.fixture
async def relay(site: Site, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    process = RelayProcess(tmp_path, {"RELAY_UPSTREAM": site.url} | LIMITS)
    await process.start()
    yield process
    assert await process.stop() == 0


def port_of(relay: RelayProcess) -> int:
    return int(relay.url.rpartition(":")[2])


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: a\r\nX-A: "])
async def test_a_head_that_drips_is_cut(
    site: Site, relay: RelayProcess, visit: Visit, start: bytes
) -> None:
    reader, writer = await visit(port_of(relay))
    writer.write(start)

    answer = as_message(await dripped(reader, writer, b"x"))

    assert answer.status == 408
    assert site.seen == []


async def test_a_second_head_that_drips_is_cut_as_well(
    relay: RelayProcess, visit: Visit
) -> None:
    reader, writer = await visit(port_of(relay))
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await reader.readexactly(len(OK)) == OK
    writer.write(b"GET / HTTP/1.1\r\nX: ")

    assert as_message(await dripped(reader, writer, b"x")).status == 408


@pytest.mark.parametrize("length", [100_000, 1_000])
@pytest.mark.parametrize("path", ["/form", "/_dub/hooks/signup"])
async def test_a_body_that_drips_is_cut(
    site: Site, relay: RelayProcess, visit: Visit, path: str, length: int
) -> None:
    reader, writer = await visit(port_of(relay))
    writer.write(request(f"POST {path}", f"Content-Length: {length}"))

    answer = as_message(await dripped(reader, writer, b"x"))

    assert answer.status == 408
    assert site.seen == []


async def test_a_form_that_comes_slowly_but_fast_enough_passes(
    site: Site, relay: RelayProcess, visit: Visit
) -> None:
    """Too slow for the fast path, in the middle of its body."""
    reader, writer = await visit(port_of(relay))
    writer.write(request("POST /form", "Content-Length: 4000"))
    for _ in range(8):
        writer.write(b"x" * 500)
        await asyncio.sleep(0.15)

    assert as_message(await asyncio.wait_for(reader.read(), 20)).status == 200
    assert site.seen[0].body == b"x" * 4000


async def test_a_body_in_chunks_that_drips_is_cut(
    site: Site, relay: RelayProcess, visit: Visit
) -> None:
    reader, writer = await visit(port_of(relay))
    writer.write(request("POST /", "Transfer-Encoding: chunked"))

    assert as_message(await dripped(reader, writer, b"1\r\nx\r\n")).status == 408
    assert site.seen == []


async def test_a_body_that_waits_for_a_slow_site_is_not_cut(
    site: Site, relay: RelayProcess, visit: Visit
) -> None:
    size = 2**24
    site.reading.clear()
    reader, writer = await visit(port_of(relay))
    writer.write(request("POST /", f"Content-Length: {size}") + b"x" * size)
    asyncio.get_running_loop().call_later(2, site.reading.set)

    assert as_message(await asyncio.wait_for(reader.read(), 20)).status == 200
    assert len(site.seen[0].raw_body) == size


async def test_an_idle_connection_is_closed(relay: RelayProcess, visit: Visit) -> None:
    reader, writer = await visit(port_of(relay))
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readexactly(len(OK))

    assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_long_lines_and_many_headers_are_refused(
    site: Site, relay: RelayProcess
) -> None:
    for raw in (
        request("GET /" + "x" * 3000),
        request("GET /", "X-A: " + "x" * 4000),
        request("GET /", *(f"X-{n}: 1" for n in range(40))),
    ):
        assert (await ask(port_of(relay), raw)).status == 400

    assert site.seen == []


async def test_one_address_holds_only_so_many_connections(
    site: Site, tmp_path: Path, visit: Visit
) -> None:
    settings = {"RELAY_UPSTREAM": site.url, "RELAY_LIMITS_CONNECTIONS": "3"}
    relay = await RelayProcess(tmp_path, settings).start()
    try:
        port = port_of(relay)
        held = [await visit(port) for _ in range(3)]
        for reader, writer in held:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await reader.readexactly(len(OK)) == OK
        reader, writer = await visit(port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        held[0][1].close()
        await held[0][1].wait_closed()
        answers = [(await ask_or_nothing(port)) for _ in range(50)]
        assert OK.partition(b"\r\n")[0] in answers
    finally:
        assert await relay.stop() == 0


async def ask_or_nothing(port: int) -> bytes:
    """The first line of an answer, b"" if the connection was closed instead."""
    try:
        return (await ask(port, request("GET /"))).first
    except (ConnectionError, ValueError):
        return b""


async def test_a_trusted_proxy_holds_as_many_as_it_likes(
    site: Site, tmp_path: Path, visit: Visit
) -> None:
    settings = {
        "RELAY_UPSTREAM": site.url,
        "RELAY_LIMITS_CONNECTIONS": "1",
        "RELAY_TRUSTED_PROXIES": "127.0.0.1",
    }
    relay = await RelayProcess(tmp_path, settings).start()
    try:
        for _ in range(5):
            reader, writer = await visit(port_of(relay))
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await reader.readexactly(len(OK)) == OK
    finally:
        assert await relay.stop() == 0


async def test_malformed_requests_leave_no_traceback_in_the_log(
    relay: RelayProcess,
) -> None:
    for _ in range(5):
        answer = await ask(port_of(relay), b"GET / HTTP/1.1\r\nX : y\r\n\r\n")
        assert answer.status == 400
        # Nor does the answer tell what runs here, or repeat what was sent.
        assert b"aiohttp" not in b"".join(answer.all("Server"))
        assert b"X :" not in answer.raw_body

    assert [each for each in relay.events if each["event"] == "text"] == []
    assert [each for each in relay.events if "failed" in each["event"]] == []
