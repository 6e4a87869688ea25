"""What one visitor may take of a relay: a real process, and raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.proxy.signup_leads import BEHIND, UNANSWERED_PER_HOUR
from tests.support.harness import RelayProcess
from tests.support.recording_site import OK, Message, Site, as_message, says, talk

pytestmark = pytest.mark.process

HEAD = b"GET / HTTP/1.1\r\nHost: shop.test\r\n"
SIGN_UP = (
    b"POST /signup HTTP/1.1\r\nHost: shop.test\r\nCookie: dub_id=hQWlM2kPzX9aBcDe\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 8\r\n\r\n"
    b"id=u_one"
)
HOOK = (
    b"POST /_dub/hooks/signup HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)
RULES = """
[[signup]]
path = "/signup"
customer_external_id = "form.id"
when = "response.status == `200`"
"""


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().listening() as listening:
        yield listening


@pytest.fixture
async def relay(site: Site, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    settings = {"RELAY_UPSTREAM": site.url, "RELAY_LIMITS_VISITOR_STALL": "1s"}
    process = RelayProcess(tmp_path, settings, config=RULES)
    await process.start()
    yield process
    assert await process.stop() == 0


def port_of(relay: RelayProcess) -> int:
    return int(relay.url.rpartition(":")[2])


async def half_closed(relay: RelayProcess, raw: bytes) -> bytes:
    """Send a request and the end at once, as ``printf … | nc -N`` does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(relay))
    try:
        writer.write(raw)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def resident(relay: RelayProcess) -> int:
    """Return the bytes of memory that a relay has."""
    assert relay.process is not None
    status = Path(f"/proc/{relay.process.pid}/statm").read_text("ascii")
    return int(status.split()[1]) * 4096


# --- Heads. ---


@pytest.mark.parametrize(
    "fields",
    [
        b"".join(b"X-%d: %s\r\n" % (n, b"a" * 8000) for n in range(9)),
        b"".join(b"Cookie: a=%s\r\n" % (b"b" * 30_000) for _ in range(3)),
        b"".join(b"X-%d-%s: a\r\n" % (n, b"n" * 900) for n in range(100)),
    ],
    ids=["fields", "cookies", "names"],
)
@pytest.mark.parametrize("ended", [True, False], ids=["whole", "endless"])
async def test_a_whole_head_has_a_limit(
    site: Site, relay: RelayProcess, fields: bytes, *, ended: bool
) -> None:
    end = b"\r\n" if ended else b""
    with contextlib.suppress(ConnectionResetError):
        answer = await talk(port_of(relay), HEAD + fields + end)
        assert as_message(answer).status == 431

    assert site.seen == []


async def test_a_head_of_many_pieces_below_the_limit_passes(
    site: Site, relay: RelayProcess
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(relay))
    for number in range(15):
        post = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n" % number
        writer.write(post)
        await writer.drain()
        writer.write(b"X-Long: %s\r\n\r\n%s" % (b"a" * 20_000, b"b" * 9000))
        assert await asyncio.wait_for(reader.readexactly(len(OK)), 10) == OK
    writer.close()

    assert len(site.seen) == 15


async def test_requests_behind_an_unread_answer_are_not_parsed_ahead(
    site: Site, relay: RelayProcess
) -> None:
    waiting = asyncio.Event()

    async def later(_: Message, writer: asyncio.StreamWriter) -> None:
        await waiting.wait()
        writer.write(OK)

    site.script = later
    before = resident(relay)
    fields = b"".join(b"X-%d: %s\r\n" % (n, b"a" * 500) for n in range(110))
    pipelined = (HEAD + fields + b"\r\n") * 60
    opened = []
    for _ in range(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(relay))
        opened.append((reader, writer))
        writer.write(pipelined)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.2)

    assert resident(relay) - before < 30 * 2**20
    waiting.set()
    for reader, writer in opened:
        got = await asyncio.wait_for(reader.readexactly(60 * len(OK)), 30)
        assert got == OK * 60
        writer.close()


# --- A visitor who does not read, and one who has ended his side. ---


@pytest.mark.parametrize("size", [50_000_000, 6_000_000])
async def test_a_visitor_who_never_reads_is_cut(
    site: Site, relay: RelayProcess, size: int
) -> None:
    site.script = says(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size
    )
    quiet = socket.socket()
    quiet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with quiet:
        quiet.connect(("127.0.0.1", port_of(relay)))
        quiet.sendall(HEAD + b"\r\n")
        await asyncio.wait_for(site.left.wait(), 20)


async def test_a_visitor_who_reads_slowly_is_not_cut(
    site: Site, relay: RelayProcess
) -> None:
    size = 8_000_000
    site.script = says(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size
    )
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port_of(relay), limit=2**12
    )
    writer.write(HEAD + b"\r\n")
    await reader.readuntil(b"\r\n\r\n")
    got = 0
    for _ in range(30):
        await asyncio.sleep(0.1)
        got += len(await reader.readexactly(100_000))
    rest = await asyncio.wait_for(reader.readexactly(size - got), 20)
    writer.close()

    assert len(rest) == 5_000_000


@pytest.mark.parametrize(
    ("raw", "answers"),
    [
        (HEAD + b"\r\n", 1),
        (HEAD + b"\r\n" + HEAD + b"\r\n", 2),
        (HEAD + b"Upgrade: x\r\nConnection: upgrade\r\n\r\n", 1),
        (SIGN_UP, 1),
    ],
    ids=["get", "pipelined", "upgrade", "sign-up"],
)
async def test_a_half_closed_client_is_answered(
    site: Site, relay: RelayProcess, raw: bytes, answers: int
) -> None:
    async def soon(_: Message, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(OK)

    site.script = soon

    got = await half_closed(relay, raw)

    assert got.count(b"HTTP/1.1 200 OK") == answers
    assert len(site.seen) == answers


async def test_half_a_request_and_the_end_reaches_nobody(
    site: Site, relay: RelayProcess
) -> None:
    assert await half_closed(relay, SIGN_UP[:-3]) == b""
    assert await half_closed(relay, HEAD) == b""
    assert [each for each in site.seen if each.raw_body] == []


@pytest.mark.parametrize(
    "asked",
    [
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade,HTTP2-Settings\r\nHTTP2-Settings: A\r\n",
        b"Upgrade: foo\r\nConnection: upgrade\r\n",
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_request_behind_a_declined_upgrade_is_answered(
    relay: RelayProcess, asked: bytes, *, at_once: bool
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(relay))
    second = HEAD.replace(b"GET /", b"GET /second") + b"\r\n"
    writer.write(HEAD + asked + b"\r\n" + (second if at_once else b""))
    if not at_once:
        await asyncio.sleep(0.05)
        writer.write(second)

    assert await asyncio.wait_for(reader.readexactly(2 * len(OK)), 10) == OK * 2
    writer.close()


# --- Sign-ups. ---


def sign_up(customer: str, sender: str = "198.51.100.1") -> bytes:
    body = f"id={customer}".encode()
    head = SIGN_UP.partition(b"\r\n\r\n")[0].replace(b": 8", b": %d" % len(body))
    return b"%s\r\nX-Forwarded-For: %s\r\nConnection: close\r\n\r\n%s" % (
        head,
        sender.encode(),
        body,
    )


@pytest.fixture
async def behind_a_proxy(site: Site, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    settings = {
        "RELAY_UPSTREAM": site.url,
        "RELAY_TRUSTED_PROXIES": "127.0.0.1/32",
        "RELAY_LIMITS_SIGNUP_RATE": "5",
        "RELAY_METRICS_TOKEN": "a-token-of-a-test",
    }
    process = RelayProcess(tmp_path, settings, config=RULES)
    await process.start()
    yield process
    assert await process.stop() == 0


async def counted(relay: RelayProcess) -> dict[str, int]:
    """Return dub_relay_signups_bounded_total by its label."""
    asked = b"GET /_dub/metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    asked += b"Authorization: Bearer a-token-of-a-test\r\n\r\n"
    text = (await talk(port_of(relay), asked)).decode()
    rows = re.findall(r'signups_bounded_total\{result="(.+?)"\} (\d+)', text)
    return {result: int(number) for result, number in rows}


async def in_state(relay: RelayProcess, status: str, count: int) -> list[str]:
    """Wait until so many leads are in a state; return their customers."""
    async with asyncio.timeout(20):
        while True:
            found = [one for one in await relay.leads() if one["status"] == status]
            if len(found) == count:
                return sorted(one["customerExternalId"] for one in found)
            await asyncio.sleep(0.05)


async def test_unanswered_sign_ups_of_one_address_are_bounded(
    site: Site, behind_a_proxy: RelayProcess
) -> None:
    relay, port = behind_a_proxy, port_of(behind_a_proxy)
    site.script = says(b"", then_close=True)
    for number in range(UNANSWERED_PER_HOUR + 20):
        assert as_message(await talk(port, sign_up(f"u{number}"))).status == 502
    # A repeat is the same sign-up, and somebody else has rows of his own.
    for customer in ("u3", "u3", "u3"):
        await talk(port, sign_up(customer))
    await talk(port, sign_up("other", "198.51.100.2"))

    held = await in_state(relay, "held", UNANSWERED_PER_HOUR + 1)

    assert held.count("u3") == 1
    assert "other" in held
    assert await counted(relay) == {"not_held": 20, "folded": 3}
    assert len(site.seen) == UNANSWERED_PER_HOUR + 24


async def test_leads_of_an_address_with_many_sign_ups_go_last(
    site: Site, behind_a_proxy: RelayProcess
) -> None:
    relay, port = behind_a_proxy, port_of(behind_a_proxy)
    code, _, _ = await relay.run("delivery", "pause")
    assert code == 0
    for number in range(12):
        assert as_message(await talk(port, sign_up(f"u{number}"))).status == 200
    assert as_message(await talk(port, sign_up("one", "198.51.100.2"))).status == 200

    leads = await relay.leads()

    assert len(site.seen) == len(leads) == 13
    late = [one for one in leads if one["nextAttemptAt"] > one["createdAt"]]
    assert {one["customerExternalId"] for one in late} == {
        f"u{number}" for number in range(5, 12)
    }
    assert all(BEHIND in one["notes"] for one in late)
    assert await counted(relay) == {"behind": 7}


# --- The log. ---


async def test_refused_and_slow_clients_do_not_fill_the_log(
    relay: RelayProcess,
) -> None:
    for raw in (
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n",
        HEAD + b"X: %s\r\n\r\n" % (b"a" * 40_000),
        HOOK,
    ):
        for _ in range(30):
            with contextlib.suppress(ConnectionError):
                await talk(port_of(relay), raw)

    loud = [each for each in relay.events if each["level"] in ("warning", "error")]
    assert loud == []


@pytest.mark.parametrize(
    "framed",
    [b"Content-Length: 60000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n20\r\n"],
)
async def test_a_slow_small_body_holds_nobody_at_the_site(
    site: Site, relay: RelayProcess, framed: bytes
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(relay))
    for piece in (b"POST /form HTTP/1.1\r\nHost: a\r\n", framed, b"a=", b"b"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.1)
    answered = await talk(port_of(relay), HEAD + b"Connection: close\r\n\r\n")

    assert answered.startswith(b"HTTP/1.1 200 ")
    assert site.connections == 1
    writer.close()
