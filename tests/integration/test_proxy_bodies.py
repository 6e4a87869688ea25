"""Sign-ups' bodies through the proxy: large forms, wrong labels, streamed answers."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from backports import zstd

from relay.core.http import cookies
from relay.proxy.exchange import UpstreamLimits
from relay.proxy.signup_leads import Held
from tests.support import proxy_rig
from tests.support.proxy_rig import Remembering, proxied
from tests.support.recording_site import Message, Site, ask, closed, request, says

CLICK = "hQWlM2kPzX9aBcDe"
COOKIE = f"Cookie: dub_id={CLICK}"
BY_FORM: Mapping[str, Any] = {
    "path": "/signup",
    "customer_external_id": "form.id",
    "when": "response.status == `303`",
}
BY_ANSWER: Mapping[str, Any] = {
    "path": "/signup",
    "customer_external_id": "response.json.user.id",
}
CREATED = b"HTTP/1.1 303 See Other\r\nLocation: /welcome\r\nContent-Length: 0\r\n\r\n"
USER = b'{"user": {"id": "u_42"}}'
MULTIPART = "Content-Type: multipart/form-data; boundary=XX"
PHOTO = (
    b'--XX\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n'
    b"Content-Type: image/jpeg\r\n\r\n" + b"\xff\xd8\r\n--X" * 500_000 + b"\r\n"
)
FIELD = b'--XX\r\nContent-Disposition: form-data; name="id"\r\n\r\nu_7\r\n'
END = b"--XX--\r\n"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site(says(CREATED)).listening() as listening:
        yield listening


@pytest.fixture(autouse=True, params=["fast", "slow"])
def path_taken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send everything here through both paths."""
    monkeypatch.setattr(proxy_rig, "FAST_PATH", request.param == "fast")


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in pieces)


def customers(signups: Remembering) -> list[object]:
    taken = signups.named("take")
    return [lead["fields"].get("customerExternalId") for lead in taken]


class BeforeTheSite(Remembering):
    """Remembers whether the site had the whole request when the lead was held."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.early: list[bool] = []

    async def hold(self, held: Held) -> None:
        await asyncio.sleep(0)
        self.early.append(not self.site.seen)
        await super().hold(held)


@pytest.mark.parametrize("body", [FIELD + PHOTO + END, PHOTO + FIELD + END])
@pytest.mark.parametrize("framing", ["counted", "chunked"])
async def test_a_form_with_a_large_photo_is_read_as_it_passes(
    site: Site, body: bytes, framing: str
) -> None:
    signups = BeforeTheSite(site)
    more = ["Transfer-Encoding: chunked"] if framing == "chunked" else []
    sent = chunked(body[:900_000], body[900_000:]) + b"0\r\n\r\n" if more else body
    async with proxied(site.url, [BY_FORM], signups) as port:
        answer = await ask(
            port, request("POST /signup", MULTIPART, COOKIE, *more, body=sent)
        )

    assert answer.status == 303
    assert site.seen[0].body == body
    assert customers(signups) == ["u_7"]
    assert signups.early == [True]
    assert signups.named("take")[0]["notes"] == ()


async def test_a_photo_that_passes_takes_no_memory(site: Site) -> None:
    signups = Remembering()
    site.reading.set()
    body = PHOTO * 3 + FIELD + END
    sent = request("POST /signup", MULTIPART, COOKIE, body=body)
    async with proxied(site.url, [BY_FORM], signups) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        tracemalloc.start()
        try:
            writer.transport.set_write_buffer_limits(high=2**16)
            for at in range(0, len(sent), 2**16):
                writer.write(sent[at : at + 2**16])
                await writer.drain()
            assert b"303" in await reader.readuntil(b"\r\n")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        await closed(writer)

    # The site of the test holds all of it once, and once more while it joins it.
    assert peak < 2.5 * len(body)
    assert customers(signups) == ["u_7"]


async def test_fields_above_the_bound_are_reported(site: Site) -> None:
    signups = Remembering()
    body = FIELD.replace(b"u_7", b"u" * 5000) + PHOTO + END
    async with proxied(
        site.url, [BY_FORM], signups, limits=UpstreamLimits(copy=4096)
    ) as port:
        await ask(port, request("POST /signup", MULTIPART, COOKIE, body=body))

    (lead,) = signups.named("take")
    assert site.seen[0].body == body
    assert lead["problem"] is not None
    assert any("over 4096 bytes" in note for note in lead["notes"])


async def test_a_site_that_answers_before_it_has_the_form_gets_no_lead(
    site: Site,
) -> None:
    async def refuses(reader: asyncio.StreamReader, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        await writer.drain()
        await reader.read()
        writer.close()

    signups = Remembering()
    server = await asyncio.start_server(refuses, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    sent = request("POST /signup", MULTIPART, COOKIE, body=FIELD + PHOTO + END)
    async with server, proxied(url, [BY_FORM], signups) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent[:1_500_000])
        assert b"413" in await reader.readuntil(b"\r\n")
        await closed(writer)

    assert signups.named("take") == []


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: text/html; charset=utf-8\r\n",
        b"Content-Type: text/plain\r\n",
        b"Content-Type: application/javascript\r\n",
        b"",
    ],
)
@pytest.mark.parametrize("framing", ["counted", "chunked"])
@pytest.mark.parametrize("coding", ["", "gzip", "zstd"])
async def test_json_under_any_label(
    site: Site, head: bytes, framing: str, coding: str
) -> None:
    signups = Remembering()
    packed = {
        "": USER,
        "gzip": gzip.compress(USER),
        "zstd": zstd.compress(USER),
    }[coding]
    head = b"HTTP/1.1 200 OK\r\n" + head
    if coding:
        head += f"Content-Encoding: {coding}\r\n".encode()
    if framing == "counted":
        site.script = says(head + b"Content-Length: %d\r\n\r\n" % len(packed) + packed)
    else:
        end = b"Transfer-Encoding: chunked\r\n\r\n" + chunked(packed) + b"0\r\n\r\n"
        site.script = says(head + end)
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        got = await ask(port, request("POST /signup", COOKIE, body=b"{}"))

    assert got.body == packed
    assert customers(signups) == ["u_42"]
    assert got.all("Set-Cookie")


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_compressed_json_without_a_label_may_come_in_small_pieces(
    site: Site, coding: str
) -> None:
    signups = Remembering()
    noise = "".join(map(str, range(3000)))
    said = json.dumps({"user": {"id": "u_42"}, "noise": noise}).encode()
    packed = gzip.compress(said) if coding == "gzip" else zstd.compress(said)
    sizes = [1, 2, 700, 1400, 2800]
    cuts = [*sizes, len(packed)]
    pieces = [packed[start:end] for start, end in zip([0, *sizes], cuts, strict=True)]
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n"
    site.script = says(
        head.encode()
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + chunked(*pieces)
        + b"0\r\n\r\n"
    )
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        got = await ask(port, request("POST /signup", COOKIE, body=b"{}"))

    assert got.body == packed
    assert customers(signups) == ["u_42"]


async def test_a_page_passes_as_it_comes(site: Site) -> None:
    """Only its beginning is looked at."""

    async def endless(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"<!doctype html>")
        )
        await asyncio.Event().wait()

    site.script = endless
    signups = Remembering()
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("POST /signup", COOKIE, body=b"{}"))
        assert await asyncio.wait_for(reader.readuntil(b"html>"), 10)
        await closed(writer)


class Streaming:
    """A site that sends a line, and the rest when it may."""

    def __init__(self, kind: str, first: bytes, rest: bytes) -> None:
        self.head = f"HTTP/1.1 200 OK\r\n{kind}Transfer-Encoding: chunked\r\n\r\n"
        self.first, self.rest = first, rest
        self.go = asyncio.Event()

    async def script(self, _: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(self.head.encode() + chunked(self.first))
        await self.go.wait()
        writer.write(chunked(self.rest) + b"0\r\n\r\n")


class Committing(Remembering):
    """Commits when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Event()
        self.go = asyncio.Event()

    async def take(self, *args: Any, **more: Any) -> bool:
        self.began.set()
        await self.go.wait()
        return await super().take(*args, **more)


@pytest.mark.parametrize(
    ("kind", "first", "rest", "where"),
    [
        ("application/x-ndjson", b'{"a": 1}\n', USER + b"\n", "[1].user.id"),
        ("application/jsonl", b'{"a": 1}\n', USER, "[1].user.id"),
        ("application/stream+json", b'{"a": 1}\n', USER, "[-1].user.id"),
        ("application/json", b'{"user": ', b'{"id": "u_42"}}', ".user.id"),
        ("text/plain", b'{"user": ', b'{"id": "u_42"}}', ".user.id"),
    ],
)
async def test_of_an_answer_that_streams_only_the_end_waits(
    site: Site, kind: str, first: bytes, rest: bytes, where: str
) -> None:
    stream = Streaming(f"Content-Type: {kind}\r\n", first, rest)
    site.script = stream.script
    signups = Committing()
    rule = {**BY_ANSWER, "customer_external_id": f"response.json{where}"}
    async with proxied(site.url, [rule], signups) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("POST /signup", COOKIE, body=b"{}"))
        # Neither the rest nor the commit has come.
        assert first in await asyncio.wait_for(reader.readuntil(first), 10)
        stream.go.set()
        assert rest in await asyncio.wait_for(reader.readuntil(rest), 10)
        await asyncio.wait_for(signups.began.wait(), 10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 0.05)
        signups.go.set()
        assert await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
        await closed(writer)

    assert customers(signups) == ["u_42"]


async def test_after_an_answer_that_streamed_the_next_clears_the_click(
    site: Site,
) -> None:
    first, rest = b'{"user": ', b'{"id": "u_42"}}'
    stream = Streaming("Content-Type: application/json\r\n", first, rest)
    site.script = stream.script
    mine, colleague = (
        f"{COOKIE}; dub_relay="
        + cookies.seal(
            cookies.SignedCookie(CLICK, seen, seen, "/"), proxy_rig.SECRETS, 1000
        )
        for seen in (1, 2)
    )
    page = "Accept: text/html"
    async with proxied(site.url, [BY_ANSWER], Remembering(), now=1000) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("POST /signup", mine, body=b"{}"))
        head = await asyncio.wait_for(reader.readuntil(first), 10)
        assert b"Set-Cookie" not in head
        stream.go.set()
        await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
        await closed(writer)
        site.script = says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        kept = await ask(port, request("GET /", colleague, page))
        cleared = await ask(port, request("GET /", mine, page))

    assert kept.all("Set-Cookie") == []
    lines = cleared.all("Set-Cookie")
    assert any(line.startswith(b"dub_id=; ") for line in lines)
    (sealed,) = (line for line in lines if line.startswith(b"dub_relay="))
    value = sealed.decode().partition("=")[2].partition(";")[0]
    signed = cookies.unseal(value, proxy_rig.SECRETS, 1000, 60)
    assert signed is not None
    assert signed.used


async def test_a_stream_whose_visitor_leaves_still_makes_its_lead(site: Site) -> None:
    first, rest = b'{"user": ', b'{"id": "u_42"}}'
    stream = Streaming("Content-Type: application/json\r\n", first, rest)
    site.script = stream.script
    signups = Committing()
    signups.go.set()
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("POST /signup", COOKIE, body=b"{}"))
        await asyncio.wait_for(reader.readuntil(first), 10)
        writer.transport.abort()
        stream.go.set()
        await asyncio.wait_for(signups.began.wait(), 10)

    assert customers(signups) == ["u_42"]


async def test_a_stream_that_is_cut_is_cut_and_kept_as_unread(site: Site) -> None:
    async def cut(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b'{"user": ')
        )
        await going.wait()
        writer.close()

    going = asyncio.Event()
    site.script = cut
    signups = Remembering()
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("POST /signup", COOKIE, body=b"{}"))
        await asyncio.wait_for(reader.readuntil(b"user"), 10)
        going.set()
        rest = await asyncio.wait_for(reader.read(), 10)
        await closed(writer)

    assert not rest.endswith(b"0\r\n\r\n")
    (lead,) = signups.named("take")
    assert lead["problem"] is not None


async def test_server_sent_events_wait_for_nothing(site: Site) -> None:
    stream = Streaming("Content-Type: text/event-stream\r\n", b"", b"data: 1\n\n")
    site.script = stream.script
    async with proxied(site.url, [BY_ANSWER], Remembering()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("POST /signup", COOKIE, body=b"{}"))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        await closed(writer)

    assert b"200 OK" in head


async def test_a_form_in_the_responses_charset(site: Site) -> None:
    signups = Remembering()
    site.script = says(
        CREATED.replace(b"Loc", b"Content-Type: text/html; charset=Shift_JIS\r\nLoc")
    )
    body = b"id=" + "山田".encode("cp932")
    kind = "Content-Type: application/x-www-form-urlencoded"
    async with proxied(site.url, [BY_FORM], signups) as port:
        await ask(port, request("POST /signup", kind, COOKIE, body=body))

    (lead,) = signups.named("take")
    assert lead["fields"]["customerExternalId"] == "山田"
    assert lead["notes"] == ("the form was read as shift_jis: it is not UTF-8",)
    assert json.dumps(lead["fields"])


async def test_a_batch_of_trpc_by_its_procedure(site: Site) -> None:
    signups = Remembering()
    said = [{"result": {"data": 1}}, {"result": {"data": json.loads(USER)["user"]}}]
    body = json.dumps(said).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    site.script = says(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    rule = {
        "path": "/api/trpc/signup",
        "customer_external_id": "response.json.result.data.id",
        "customer_email": "json.email",
    }
    asked = b'{"0": {"email": "x@b.test"}, "1": {"email": "a@b.test"}}'
    async with proxied(site.url, [rule], signups) as port:
        await ask(port, request("POST /api/trpc/a,signup?batch=1", COOKIE, body=asked))
        await ask(port, request("POST /api/trpc/a,other?batch=1", COOKIE, body=asked))

    (lead,) = signups.named("take")
    assert lead["fields"]["customerExternalId"] == "u_42"
    assert lead["fields"]["customerEmail"] == "a@b.test"


@pytest.mark.parametrize("first", [b"f", b" ", b"w", b"\xef\xbb", b")"])
async def test_json_whose_guard_comes_in_pieces(site: Site, first: bytes) -> None:
    guards = [b"for(;;);", b" \n", b"while(1);", b"\xef\xbb\xbf", b")]}'\n"]
    guard = next(each for each in guards if each.startswith(first))
    rest = guard.removeprefix(first) + USER
    stream = Streaming("Content-Type: text/html\r\n", first, rest)
    site.script = stream.script
    signups = Remembering()
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        asking = asyncio.create_task(
            ask(port, request("POST /signup", COOKIE, body=b"{}"))
        )
        await asyncio.sleep(0)
        stream.go.set()
        got = await asking

    assert got.body == guard + USER
    assert customers(signups) == ["u_42"]
