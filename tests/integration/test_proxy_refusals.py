"""Which sign-ups make a lead: by the default test, by path, and what is reported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.observability.metrics import Metrics
from relay.outbox.backends import open_outbox
from relay.outbox.contract import CANDIDATE, UNDECIDED, Outbox, Sighting
from relay.proxy.sightings import MAX_SERIES, Sightings
from tests.support import proxy_rig
from tests.support.proxy_rig import NOW, Remembering, landing, proxied
from tests.support.recording_site import Site, ask, request, says

CLICK = "hQWlM2kPzX9aBcDe"
COOKIE = f"Cookie: dub_id={CLICK}"
TYPE = "Content-Type: application/x-www-form-urlencoded"
FORM = b"email=ada%40example.com&name=Ada&password=secret"
RULE: Mapping[str, Any] = {
    "path": "/signup",
    "customer_external_id": "form.email",
}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site(
        says(response("303 See Other", "Location: /welcome"))
    ).listening() as listening:
        yield listening


@pytest.fixture(autouse=True, params=["fast", "slow"])
def path_taken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send everything here through both paths."""
    monkeypatch.setattr(proxy_rig, "FAST_PATH", request.param == "fast")


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    opened = open_outbox(f"sqlite:///{tmp_path}/relay.db")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def sightings(outbox: Outbox, metrics: Metrics) -> Sightings:
    return Sightings(outbox, landing(), metrics, lambda: NOW)


def response(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    head = f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def signing_up(path: str = "/signup", *headers: str, body: bytes = FORM) -> bytes:
    return request(f"POST {path}", TYPE, COOKIE, *headers, body=body)


async def known(outbox: Outbox, seen: Sightings, kind: str) -> list[Sighting]:
    """What is kept of a kind once all is written."""
    await seen.flush()
    return [*await outbox.sightings(kind)]


def files(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.iterdir()]


def as_json(value: object) -> bytes:
    kind = "Content-Type: application/json"
    return response("200 OK", kind, body=json.dumps(value).encode())


REFUSALS = {
    "back to the form": response("302 Found", "Location: /signup"),
    "back to the page": response("303 See Other", "Location: http://127.0.0.1/pricing"),
    "the form again": response("200 OK", "Content-Type: text/html", body=b"<form>"),
    "success": as_json({"success": False}),
    "ok": as_json({"ok": False}),
    "error": as_json({"error": "taken"}),
    "errors": as_json({"errors": ["taken"], "data": None}),
    "sveltekit": as_json({"type": "failure", "status": 400}),
    "supabase": as_json({"id": "u_1", "identities": []}),
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refused_sign_up_makes_no_lead_and_its_cookie_stays(
    site: Site, refusal: str
) -> None:
    signups = Remembering()
    site.script = says(REFUSALS[refusal])
    async with proxied(site.url, [RULE], signups) as port:
        answer = await ask(
            port, signing_up("/signup", "Referer: http://127.0.0.1/pricing")
        )

    assert [name for name, _ in signups.calls] == ["hold", "drop"]
    assert answer.all("Set-Cookie") == []
    assert answer.raw_body == REFUSALS[refusal].partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("text", "counts"), [(b"welcome", True), (b"E-mail already taken", False)]
)
async def test_a_short_text_counts_by_its_words(
    site: Site, text: bytes, *, counts: bool
) -> None:
    signups = Remembering()
    site.script = says(response("200 OK", "Content-Type: text/plain", body=text))
    async with proxied(site.url, [RULE], signups) as port:
        answer = await ask(port, signing_up())

    assert bool(signups.named("take")) is counts
    assert answer.body == text


async def test_the_try_after_a_refused_one_makes_the_lead(site: Site) -> None:
    signups = Remembering()
    answers = iter([REFUSALS["error"], as_json({"user": {"id": "u_1"}})])

    async def script(message: Any, writer: asyncio.StreamWriter) -> None:
        await says(next(answers))(message, writer)

    site.script = script
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, signing_up())
        answer = await ask(port, signing_up())

    assert len(signups.named("take")) == 1
    assert any(b"dub_id=;" in line for line in answer.all("Set-Cookie"))


async def test_undecided_responses_are_counted_with_what_would_decide(
    site: Site, outbox: Outbox, sightings: Sightings
) -> None:
    site.script = says(REFUSALS["the form again"])
    async with proxied(site.url, [RULE], sightings=sightings) as port:
        for _ in range(3):
            await ask(port, signing_up())

    (one,) = await known(outbox, sightings, UNDECIDED)
    assert one.times == 3
    assert one.seen == {
        "rule": "POST /signup",
        "reason": "an HTML page: it may be the form again",
        "when": "response.status == `302` || response.status == `303`",
    }


async def test_a_clear_refusal_is_not_undecided(
    site: Site, outbox: Outbox, sightings: Sightings
) -> None:
    site.script = says(REFUSALS["success"])
    async with proxied(site.url, [RULE], sightings=sightings) as port:
        await ask(port, signing_up())

    assert await known(outbox, sightings, UNDECIDED) == []


async def test_of_two_rules_the_first_whose_when_holds_makes_the_lead(
    site: Site,
) -> None:
    signups = Remembering()
    trial = {
        **RULE,
        "event": "Trial",
        "when": "form.plan == 'trial'",
        "clear_cookie": False,
    }
    async with proxied(site.url, [trial, RULE], signups) as port:
        first = await ask(port, signing_up(body=b"email=a&plan=trial"))
        second = await ask(port, signing_up(body=b"email=b&plan=pro"))

    events = [lead["fields"]["eventName"] for lead in signups.named("take")]
    assert events == ["Trial", "Sign Up"]
    assert (first.all("Set-Cookie"), bool(second.all("Set-Cookie"))) == ([], True)


async def test_a_known_customer_may_be_the_second_rules(site: Site) -> None:
    signups = Remembering()
    both = [{**RULE, "when": "form.new"}, {**RULE, "known_customer": True}]
    async with proxied(site.url, both, signups) as port:
        await ask(port, request("POST /signup", TYPE, body=FORM))

    (lead,) = signups.named("take")
    assert (lead["click_id"], lead["origin"]["click"]) == ("", "customer")


@pytest.mark.parametrize(
    "path",
    ["/signup/", "/signup;jsessionid=1", "/sign%75p", "/SignUp", "/signup/;a=b?x=1"],
)
async def test_spellings_of_one_path_are_one(site: Site, path: str) -> None:
    signups = Remembering()
    rule = {**RULE, "ignore_case": True}
    async with proxied(site.url, [rule], signups) as port:
        await ask(port, signing_up(path))

    assert len(signups.named("take")) == 1


@pytest.mark.parametrize("path", ["/./signup", "/x/../signup", "/SignUp"])
async def test_other_spellings_are_reported(
    site: Site, outbox: Outbox, sightings: Sightings, path: str
) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups, sightings=sightings) as port:
        await ask(port, signing_up(path))

    (one,) = await known(outbox, sightings, CANDIDATE)
    assert (signups.calls, one.name) == ([], f"POST {path}")


async def test_an_ambiguous_id_is_rejected_with_the_reason(site: Site) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, signing_up(body=b"email=victim&+email=attacker"))

    (lead,) = signups.named("take")
    assert "more than once" in lead["problem"]


# -- candidates


async def test_a_post_with_a_click_and_no_rule_is_a_candidate(
    site: Site, outbox: Outbox, sightings: Sightings
) -> None:
    site.script = says(as_json({"user": {"id": "u_1"}, "token": "t"}))
    async with proxied(site.url, sightings=sightings) as port:
        for number in (1, 2):
            await ask(port, signing_up(f"/teams/{number}00/join?ref=x"))

    (one,) = await known(outbox, sightings, CANDIDATE)
    assert (one.name, one.times) == ("POST /teams/{id}/join", 2)
    assert one.seen == {
        "fields": ["form.email", "form.name", "form.password", "query.ref"],
        "answers": ["response.json.token", "response.json.user.id"],
        "types": ["application/x-www-form-urlencoded"],
        "statuses": ["200"],
        "pages": False,
    }


async def test_a_response_in_pieces_does_not_hide_the_fields(
    site: Site, outbox: Outbox, sightings: Sightings
) -> None:
    async def script(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n")
        await writer.drain()
        writer.write(b"2\r\nok\r\n0\r\n\r\n")

    async with proxied(site.url, sightings=sightings) as port:
        await ask(port, request("GET /"))  # so that a connection is kept
        site.script = script
        await ask(port, signing_up("/join"))

    (one,) = await known(outbox, sightings, CANDIDATE)
    assert one.seen["fields"] == ["form.email", "form.name", "form.password"]
    assert one.seen["statuses"] == ["201"]


async def test_values_are_nowhere_in_it(
    site: Site, outbox: Outbox, sightings: Sightings, tmp_path: Path
) -> None:
    body = b"email=hidden%40ada.test&hidden%40ada.test=x"
    async with proxied(site.url, sightings=sightings) as port:
        await ask(port, signing_up("/join?q=hidden", body=body))
        await ask(port, signing_up("/u/hidden@ada.test/join", body=b"hidden"))

    assert len(await known(outbox, sightings, CANDIDATE)) == 2
    await outbox.close()
    assert not any(b"hidden" in file for file in files(tmp_path))


@pytest.mark.parametrize(
    ("line", "headers", "counted"),
    [
        ("POST /join", [TYPE, COOKIE], True),
        ("PUT /join", [TYPE, COOKIE], True),
        ("PATCH /join", [TYPE, COOKIE], True),
        ("POST /join", [TYPE], False),
        ("POST /join", [TYPE, "Cookie: dub_id=test"], False),
        ("DELETE /join", [COOKIE], False),
        ("GET /join", [COOKIE], False),
        ("GET /auth/callback?code=x&state=y", [COOKIE], True),
        ("GET /auth/callback?code=x", [COOKIE], False),
    ],
)
async def test_only_what_carries_a_click_and_may_be_a_sign_up_counts(
    site: Site,
    outbox: Outbox,
    sightings: Sightings,
    line: str,
    headers: list[str],
    *,
    counted: bool,
) -> None:
    body = b"" if line.startswith("GET") else FORM
    async with proxied(site.url, sightings=sightings) as port:
        await ask(port, request(line, *headers, body=body))

    assert bool(await known(outbox, sightings, CANDIDATE)) is counted


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed"])
async def test_what_the_site_does_not_have_is_no_candidate(
    site: Site, outbox: Outbox, sightings: Sightings, status: str
) -> None:
    site.script = says(response(status))
    async with proxied(site.url, sightings=sightings) as port:
        await ask(port, signing_up("/join"))

    assert await known(outbox, sightings, CANDIDATE) == []


async def test_what_a_rule_matches_is_no_candidate(
    site: Site, outbox: Outbox, sightings: Sightings
) -> None:
    async with proxied(site.url, [RULE], sightings=sightings) as port:
        await ask(port, signing_up())

    assert await known(outbox, sightings, CANDIDATE) == []


async def test_a_big_body_passes_whole_and_is_counted(
    site: Site, outbox: Outbox, sightings: Sightings
) -> None:
    big = b"email=a&x=" + b"y" * 3_000_000
    async with proxied(site.url, sightings=sightings) as port:
        await ask(port, signing_up("/join", body=big))

    assert site.seen[0].body == big
    (one,) = await known(outbox, sightings, CANDIDATE)
    assert one.times == 1


async def test_candidates_are_bounded_whatever_strangers_send(
    site: Site, outbox: Outbox, sightings: Sightings, metrics: Metrics
) -> None:
    names = [f"/{chr(97 + n % 26)}x{chr(97 + n // 26)}" for n in range(250)]
    async with proxied(site.url, sightings=sightings) as port:
        for name in names:
            await ask(port, signing_up(name))

    assert len(await known(outbox, sightings, CANDIDATE)) <= 200
    lines = [
        line
        for line in metrics.render().decode().splitlines()
        if line.startswith("dub_relay_signup_candidates_total{")
    ]
    assert len(lines) == MAX_SERIES + 1
    assert 'path="(others)"' in "".join(lines)


async def test_a_relay_goes_on_from_what_is_known(
    site: Site, outbox: Outbox, sightings: Sightings
) -> None:
    async with proxied(site.url, sightings=sightings) as port:
        await ask(port, signing_up("/join", body=b"email=a"))
    await sightings.flush()

    later = Sightings(outbox, landing(), Metrics(), lambda: NOW + 5)
    await later.recall()
    async with proxied(site.url, sightings=later) as port:
        await ask(port, signing_up("/join", body=b"name=b"))

    (one,) = await known(outbox, later, CANDIDATE)
    assert (one.times, one.first_at, one.last_at) == (2, NOW, NOW + 5)
    assert one.seen["fields"] == ["form.email", "form.name"]
