"""`track/click` and its siblings reach Dub as if the browser had called it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp import web

from relay.capture.pass_through import (
    CORS,
    MAX_ANSWER,
    MAX_BODY,
    PATHS,
    Passthrough,
)
from relay.http.callers import Trusted
from relay.http.request_body import read_small
from relay.http.responses import (
    Handler,
    speaking_json,
)
from relay.sandbox.app import PUBLISHABLE_KEY
from tests.support.harness import API_KEY, SandboxDub
from tests.support.pages_rig import Pages
from tests.support.recording_site import Message, Site, ask, request, says, visits

BROWSER = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36"
)
PAGE = "https://www.shop.test/pricing"
CLICK = {"domain": "acme.link", "key": "partner-ada", "url": PAGE, "referrer": ""}
SECRET_KEY = f"Bearer {API_KEY}"
PUBLISHABLE = f"Bearer {PUBLISHABLE_KEY}"


def http(
    body: bytes,
    *headers: str,
    status: str = "200 OK",
    kind: str = "application/json",
    length: int | None = None,
) -> bytes:
    """An answer of Dub's, byte for byte."""
    size = len(body) if length is None else length
    lines = [f"Content-Type: {kind}", f"Content-Length: {size}", *headers]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


OK = says(http(b'{"clickId":"hQWlM2kPzX9aBcDe"}'))


Passing = Callable[..., Awaitable[int]]


@pytest.fixture
def passing(pages: Pages) -> Passing:
    """What passes calls on to a Dub; it returns its port."""

    async def serve(api_url: str, rate: int = 1000, **how: Any) -> int:
        trusted = how.pop("trusted", Trusted())
        passthrough = Passthrough(api_url, trusted, rate=rate, **how)
        endpoints: list[tuple[str, str, Handler]] = [
            *(("POST", path, partial(passthrough.handle, path)) for path in PATHS),
            *(("OPTIONS", path, passthrough.preflight) for path in PATHS),
        ]
        return await pages(endpoints, passthrough.running)

    return serve


@pytest.fixture
async def port(dub: SandboxDub, passing: Passing) -> int:
    return await passing(dub.url)


@pytest.fixture
async def recording() -> AsyncIterator[Site]:
    """A Dub that records bytes."""
    async with Site(OK).listening() as site:
        yield site


async def post(
    port: int,
    path: str,
    body: Any,
    *headers: str,
    agent: str | None = BROWSER,
) -> Message:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [*headers, *([f"User-Agent: {agent}"] if agent else [])]
    return await ask(port, request(f"POST /_dub/{path}", *lines, body=raw))


def told(answer: Message) -> Any:
    return json.loads(answer.body or b"null")


def error(answer: Message) -> tuple[int, str]:
    detail = told(answer)["error"]
    assert set(detail) == {"code", "message", "doc_url"}
    assert_cors(answer)
    return answer.status, detail["code"]


def assert_cors(answer: Message) -> None:
    for name, value in CORS.items():
        assert answer.one(name) == value.encode()


# As with Dub itself.


async def test_a_click_is_recorded_with_the_visitors_browser_and_page(
    dub: SandboxDub, port: int
) -> None:
    body = CLICK | {"referrer": "https://news.test/"}
    answer = await post(port, "track/click", body, f"Referer: {PAGE}")

    assert answer.status == 200
    assert_cors(answer)
    assert answer.one("Cache-Control") == b"no-store"
    [click] = dub.dub.clicks.values()
    assert told(answer)["clickId"] == click.id
    assert told(answer)["partner"]["name"] == "Ada"
    assert (await dub.state("clicks"))[0]["id"] == click.id


@pytest.mark.parametrize("agent", ["Python/3.11 aiohttp/3.14.5", "curl/8.0", None])
async def test_a_program_is_no_visitor_and_is_not_made_one(
    dub: SandboxDub, port: int, agent: str | None
) -> None:
    """Dub answers with an id that it does not know."""
    answer = await post(port, "track/click", CLICK, agent=agent)

    assert answer.status == 200
    known = told(answer)["clickId"] in dub.dub.clicks
    assert known is (agent is None)


async def test_a_visit_and_an_open_reach_dub_too(dub: SandboxDub, port: int) -> None:
    page = {"domain": "acme.link", "url": "https://shop.test/partner-ada"}
    visit = await post(port, "track/visit", page)
    opened = await post(
        port, "track/open", {"deepLink": "https://acme.link/partner-ada"}
    )

    assert told(visit)["clickId"] in dub.dub.clicks
    assert told(opened)["clickId"] in dub.dub.clicks
    assert_cors(opened)


async def test_a_lead_and_a_sale_are_recorded_with_the_publishable_key(
    dub: SandboxDub, port: int
) -> None:
    click = told(await post(port, "track/click", CLICK))["clickId"]
    lead = {"clickId": click, "eventName": "Sign Up", "customerExternalId": "u_1"}
    sale = {"customerExternalId": "u_1", "amount": 1900, "invoiceId": "in_1"}

    key = f"Authorization: {PUBLISHABLE}"
    answers = [
        await post(port, "track/lead/client", lead, key),
        await post(port, "track/sale/client", sale, key),
    ]

    assert [answer.status for answer in answers] == [200, 200]
    assert [each["eventName"] for each in await dub.state("leads")] == ["Sign Up"]
    assert told(answers[1])["sale"]["amount"] == 1900


async def test_dubs_errors_pass_back_with_its_rate_headers(
    dub: SandboxDub, port: int
) -> None:
    key = f"Authorization: {PUBLISHABLE}"
    unknown = await post(port, "track/click", CLICK | {"key": "nobody"})
    no_key = await post(port, "track/lead/client", {})
    no_lead = await post(port, "track/lead/client", {}, key)
    no_json = await post(port, "track/click", b"{")

    assert error(unknown) == (404, "not_found")
    assert error(no_key) == (401, "unauthorized")
    assert error(no_lead) == (422, "unprocessable_entity")
    assert error(no_json) == (400, "bad_request")
    assert no_lead.one("X-RateLimit-Limit") == b"600"
    assert int(no_lead.one("X-RateLimit-Remaining")) < 600
    assert no_lead.one("Retry-After") == no_lead.one("X-RateLimit-Reset")


@pytest.mark.parametrize("path", PATHS)
async def test_a_preflight_is_answered_as_dub_answers_it(
    dub: SandboxDub, port: int, path: str
) -> None:
    asked = request(f"OPTIONS /_dub/{path}", "Origin: https://shop.test")
    answer = await ask(port, asked)
    async with dub.session.options(f"{dub.url}/{path}") as dubs:
        expected = {name: dubs.headers[name].encode() for name in CORS}

    assert (answer.status, answer.raw_body) == (204, b"")
    assert {name: answer.one(name) for name in CORS} == expected


# What Dub gets to see.


async def test_only_what_dub_needs_of_the_visitor_passes(
    passing: Passing, recording: Site
) -> None:
    port = await passing(recording.url)
    await post(
        port,
        "track/click?dub-no-track=1&a=%20b",
        b'{"key": "Z\xc3\xb6e" }',
        f"Referer: {PAGE}",
        "Origin: https://www.shop.test",
        "Content-Type: application/json",
        "Dub-No-Track: 1",
        "Cookie: sid=secret; dub_id=x",
        f"Authorization: {SECRET_KEY}",
        "X-Forwarded-For: 203.0.113.7",
        "Accept-Language: de",
        "X-Anything: 1",
    )

    [seen] = recording.seen
    assert seen.first == b"POST /track/click?dub-no-track=1&a=%20b HTTP/1.1"
    assert dict(seen.headers) == {
        b"Host": recording.url.removeprefix("http://").encode(),
        b"User-Agent": BROWSER.encode(),
        b"Referer": PAGE.encode(),
        b"Origin": b"https://www.shop.test",
        b"Content-Type": b"application/json",
        b"Dub-No-Track": b"1",
        b"Content-Length": b"16",
    }
    assert seen.body == b'{"key": "Z\xc3\xb6e" }'


async def test_without_a_user_agent_none_is_made_up(
    passing: Passing, recording: Site
) -> None:
    port = await passing(recording.url)
    await post(port, "track/click", CLICK, agent=None)

    assert {name.lower() for name, _ in recording.seen[0].headers} == {
        b"host",
        b"content-length",
    }


@pytest.mark.parametrize(
    ("path", "key", "passes"),
    [
        ("track/lead/client", PUBLISHABLE, True),
        ("track/sale/client", PUBLISHABLE, True),
        ("track/click", PUBLISHABLE, False),
        ("track/open", PUBLISHABLE, False),
        ("track/lead/client", SECRET_KEY, False),
        ("track/sale/client", "Bearer dub_pk_x, Bearer dub_secret", False),
        ("track/lead/client", "Basic dXNlcjpwYXNz", False),
    ],
)
async def test_only_a_publishable_key_passes_and_only_where_it_counts(
    passing: Passing, recording: Site, path: str, key: str, *, passes: bool
) -> None:
    port = await passing(recording.url)
    await post(port, path, {}, f"Authorization: {key}")

    assert recording.seen[0].all("Authorization") == ([key.encode()] if passes else [])


async def test_a_user_agent_that_is_no_utf8_does_no_harm(
    passing: Passing, recording: Site
) -> None:
    port = await passing(recording.url)
    answer = await post(port, "track/click", CLICK, agent="Br\xf6wser")

    assert answer.status == 200
    assert recording.seen[0].one("User-Agent") == b"Br?wser"


# What comes back.


async def test_nothing_but_the_answer_comes_back(
    passing: Passing, recording: Site
) -> None:
    headers = (
        "Set-Cookie: tracker=1",
        "X-Vercel-Id: fra1::x",
        "Access-Control-Allow-Origin: https://one.test",
    )
    json_utf8 = "application/json; charset=utf-8"
    recording.script = says(http(b"{}", *headers, kind=json_utf8))
    # No client keeps cookies for an address.
    port = await passing(recording.url.replace("127.0.0.1", "localhost"))
    await post(port, "track/click", CLICK)
    answer = await post(port, "track/click", CLICK)

    assert [message.all("Cookie") for message in recording.seen] == [[], []]
    assert answer.body == b"{}"
    assert_cors(answer)
    assert answer.one("Content-Type") == json_utf8.encode()
    assert answer.one("X-Content-Type-Options") == b"nosniff"
    for name in ("Set-Cookie", "X-Vercel-Id"):
        assert answer.all(name) == []


@pytest.mark.parametrize(
    "raw",
    [
        http(b"<script>evil</script>", kind="text/html"),
        http(b"<p>Blocked", kind="text/html", status="403 Forbidden"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<p>a",
        http(b"{", length=9),
        http(b" " * (MAX_ANSWER + 1)),
        b"no HTTP at all\r\n\r\n",
        b"",
    ],
    ids=["page", "blocked", "untyped", "cut", "too long", "noise", "gone"],
)
async def test_an_answer_that_is_not_dubs_is_not_shown_on_the_sites_origin(
    passing: Passing, recording: Site, raw: bytes
) -> None:
    recording.script = says(raw, then_close=True)
    port = await passing(recording.url)
    answer = await post(port, "track/click", CLICK)

    assert error(answer) == (502, "internal_server_error")
    assert len(recording.seen) == 1


async def test_a_redirect_is_not_followed(passing: Passing, recording: Site) -> None:
    recording.script = says(http(b"", "Location: /elsewhere", status="307 Moved"))
    port = await passing(recording.url)
    answer = await post(port, "track/click", CLICK)

    assert error(answer) == (502, "internal_server_error")
    assert len(recording.seen) == 1


async def test_dub_that_is_not_there_is_a_bad_gateway(passing: Passing) -> None:
    port = await passing("http://127.0.0.1:9")
    answer = await post(port, "track/click", CLICK)

    assert error(answer) == (502, "internal_server_error")
    assert told(answer)["error"]["message"] == "Dub cannot be reached."


async def test_dub_that_takes_too_long_is_given_up(
    passing: Passing, dub: SandboxDub
) -> None:
    await dub.fault(hang=30)
    port = await passing(dub.url, timeout=0.2)
    answer = await post(port, "track/click", CLICK)

    assert error(answer) == (504, "internal_server_error")


async def test_a_path_in_the_apis_address_is_kept(
    passing: Passing, recording: Site
) -> None:
    port = await passing(f"{recording.url}/api/")
    await post(port, "track/click", CLICK)

    assert recording.seen[0].target == b"/api/track/click"


async def test_a_visitor_who_leaves_has_clicked_all_the_same(
    passing: Passing, recording: Site
) -> None:
    came, left = asyncio.Event(), asyncio.Event()
    answered = asyncio.Event()

    async def script(message: Message, writer: asyncio.StreamWriter) -> None:
        came.set()
        await left.wait()
        await OK(message, writer)
        answered.set()

    recording.script = script
    port = await passing(recording.url)
    async with visits() as visit:
        _, writer = await visit(port)
        writer.write(request("POST /_dub/track/click", body=b"{}"))
        await asyncio.wait_for(came.wait(), 10)
        writer.transport.abort()
        left.set()
        await asyncio.wait_for(answered.wait(), 10)
        await post(port, "track/click", CLICK)

    # A call that was given up would have taken its connection with it.
    assert (len(recording.seen), recording.connections) == (2, 1)


# Limits.


async def test_a_body_that_is_too_long_is_refused(
    passing: Passing, recording: Site
) -> None:
    port = await passing(recording.url)
    fits = await post(port, "track/click", b" " * MAX_BODY)
    over = await post(port, "track/click", b" " * (MAX_BODY + 1))

    assert fits.status == 200
    assert error(over) == (413, "bad_request")
    assert len(recording.seen) == 1


async def test_one_visitor_has_so_many_calls_a_minute(
    passing: Passing, recording: Site
) -> None:
    """Told by the proxy in front, whose own address is nobody's."""
    trusted = Trusted((ip_network("127.0.0.1"),))
    now = [0.0]
    port = await passing(recording.url, 2, trusted=trusted, clock=lambda: now[0])

    async def click(address: str) -> Message:
        return await post(port, "track/click", CLICK, f"X-Forwarded-For: {address}")

    first = [(await click("203.0.113.7")).status for _ in range(2)]
    limited = await click("203.0.113.7")
    # Whatever the visitor claims stands further left.
    disguised = await click("198.51.100.1, 203.0.113.7")
    another = await click("203.0.113.8")
    now[0] = 30.0
    later = await click("203.0.113.7")

    assert first == [200, 200]
    assert error(limited) == (429, "rate_limit_exceeded")
    assert limited.one("Retry-After") == b"30"
    assert error(disguised)[0] == 429
    assert (another.status, later.status) == (200, 200)
    assert len(recording.seen) == 4


async def test_preflights_do_not_count_and_are_not_held_back(
    passing: Passing, recording: Site
) -> None:
    port = await passing(recording.url, 1)
    asked = request("OPTIONS /_dub/track/click")
    assert [(await ask(port, asked)).status for _ in range(5)] == [204] * 5
    assert (await post(port, "track/click", CLICK)).status == 200


async def test_a_body_that_does_not_come_is_not_waited_for(pages: Pages) -> None:
    async def read(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await read_small(request, 100, patience=0.2))

    endpoints = [("POST", "body", speaking_json(read))]
    port = await pages(endpoints)
    async with visits() as visit:
        whole = await ask(port, request("POST /_dub/body", body=b"all of it"))
        reader, writer = await visit(port)
        writer.write(request("POST /_dub/body", body=b"all of it")[:-2])
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)

    assert whole.body == b"all of it"
    assert answer.startswith(b"HTTP/1.1 408 ")
