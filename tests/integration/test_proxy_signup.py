"""Sign-ups through the proxy: written down before, taken before the answer goes."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import brotli  # type: ignore[import-untyped]  # ships no types
import pytest

from relay.capture.click_cookie import StoringTerms
from relay.core.clock import iso
from relay.core.dub.track_lead import InvalidFieldError, sanitise
from relay.core.http import cookies
from relay.core.http.consent import parse_consent
from relay.core.http.cookies import Storing
from relay.proxy import signup_exchange as signup
from relay.proxy.signup_leads import Held
from tests.support import proxy_rig
from tests.support.proxy_rig import NOW, SECRETS, Remembering, landing, proxied
from tests.support.recording_site import Message, Site, ask, closed, request, says

CLICK = "hQWlM2kPzX9aBcDe"
COOKIE = f"Cookie: sid=1; dub_id={CLICK}; theme=dark"
FORM = b"id=u_1&name=Ada+Lovelace&email=ada%40example.com&plan=pro"
TYPE = "Content-Type: application/x-www-form-urlencoded"

RULE: Mapping[str, Any] = {
    "path": "/teams/{team}/signup",
    "customer_external_id": "form.id",
    "customer_name": "form.name",
    "customer_email": "form.email",
    "metadata": {"plan": "form.plan", "team": "path.team"},
}
BY_ANSWER: Mapping[str, Any] = {
    "path": "/api/signup",
    "customer_external_id": "response.json.user.id",
    "when": "response.status == `201`",
}
CREATED = b"HTTP/1.1 303 See Other\r\nLocation: /welcome\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site(says(CREATED)).listening() as listening:
        yield listening


@pytest.fixture(autouse=True, params=["fast", "slow"])
def path_taken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send everything here through both paths."""
    monkeypatch.setattr(proxy_rig, "FAST_PATH", request.param == "fast")


def signing_up(*headers: str, body: bytes = FORM) -> bytes:
    return request("POST /teams/a%20b/signup", TYPE, *headers, body=body)


def signed_cookie(click_id: str = CLICK, *, used: bool = False) -> str:
    made = cookies.SignedCookie(click_id, NOW, NOW, "/pricing", used=used)
    return f"Cookie: dub_relay={cookies.seal(made, SECRETS, NOW)}"


def json_answer(document: object, status: str = "201 Created", head: str = "") -> bytes:
    body = json.dumps(document).encode()
    lines = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{head}"
    return f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def test_a_form_becomes_a_lead_with_the_cookies_click(site: Site) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        answer = await ask(port, signing_up(COOKIE))

    assert answer.status == 303
    assert site.seen[0].body == FORM
    (lead,) = signups.named("take")
    assert lead["click_id"] == CLICK
    assert lead["fields"] == {
        "eventName": "Sign Up",
        "mode": "async",
        "customerExternalId": "u_1",
        "customerName": "Ada Lovelace",
        "customerEmail": "ada@example.com",
        "metadata": {"plan": "pro", "team": "a b"},
    }
    assert lead["origin"] == {"click": "cookie", "rule": "POST /teams/{team}/signup"}
    assert (lead["held"], lead["problem"]) == ("lead_held", None)


@pytest.mark.parametrize("when", ["consent", "never"])
async def test_where_landings_wait_for_consent_a_kept_click_makes_a_lead(
    site: Site, when: Storing
) -> None:
    signups = Remembering()
    kept = landing(storing=StoringTerms(when, parse_consent("cookiebot")))
    async with proxied(site.url, [RULE], signups, landings=kept) as port:
        await ask(port, signing_up(COOKIE))

    (lead,) = signups.named("take")
    assert lead["click_id"] == CLICK


async def test_a_sign_up_is_held_before_the_site_sees_it(site: Site) -> None:
    signups = Remembering()
    at_the_site = []

    async def script(message: Message, writer: asyncio.StreamWriter) -> None:
        at_the_site.extend(signups.calls)
        await says(CREATED)(message, writer)

    site.script = script
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, signing_up(COOKIE))

    ((name, held),) = at_the_site
    assert (name, held["click_id"]) == ("hold", CLICK)
    assert held["fields"]["customerExternalId"] == "u_1"


async def test_the_answer_waits_until_the_lead_is_taken(site: Site) -> None:
    class Waiting(Remembering):
        async def take(self, *arguments: Any, **named: Any) -> bool:
            taking.set()
            await may_commit.wait()
            return await super().take(*arguments, **named)

    taking, may_commit = asyncio.Event(), asyncio.Event()
    async with proxied(site.url, [RULE], Waiting()) as port:
        answer = asyncio.create_task(ask(port, signing_up(COOKIE)))
        await taking.wait()
        done, _ = await asyncio.wait({answer}, timeout=0.05)
        assert not done
        may_commit.set()
        assert (await answer).status == 303


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Oh No"])
async def test_a_refused_sign_up_is_dropped(site: Site, status: str) -> None:
    signups = Remembering()
    site.script = says(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, signing_up(COOKIE))

    assert [name for name, _ in signups.calls] == ["hold", "drop"]


async def test_another_request_is_no_sign_up(site: Site) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, request("GET /teams/a/signup", COOKIE))
        await ask(port, request("POST /teams/a/b/signup", COOKIE, body=FORM))

    assert signups.calls == []


async def test_a_sign_up_without_a_click_is_only_counted(site: Site) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        answer = await ask(port, signing_up("Cookie: dub_id=test"))

    ((name, lead),) = signups.calls
    assert (name, lead["click_id"], lead["held"]) == ("take", None, None)
    assert answer.all("Set-Cookie") == []


async def test_a_known_customer_needs_no_cookie(site: Site) -> None:
    signups = Remembering()
    rule = {**RULE, "known_customer": True}
    async with proxied(site.url, [rule], signups) as port:
        answer = await ask(port, signing_up())

    assert [what["click_id"] for _, what in signups.calls] == ["", ""]
    assert answer.all("Set-Cookie") == []


async def test_the_signed_cookie_stands_in_for_a_lost_cookie(site: Site) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, signing_up(signed_cookie()))

    (lead,) = signups.named("take")
    assert (lead["click_id"], lead["origin"]["click"]) == (CLICK, "companion")
    assert lead["origin"]["landed"] == iso(NOW)


@pytest.mark.parametrize(
    ("of", "landed"), [(CLICK, iso(NOW)), ("AnotherClick0001", None)]
)
async def test_a_cookies_landing_is_told_if_the_relay_saw_it(
    site: Site, of: str, landed: str | None
) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, signing_up(f"{COOKIE}\r\n{signed_cookie(of)}"))

    (lead,) = signups.named("take")
    assert lead["click_id"] == CLICK
    assert lead["origin"].get("landed") == landed


@pytest.mark.parametrize(
    "cookie",
    [
        signed_cookie(used=True),
        signed_cookie()[:-2] + "xx",
        "Cookie: dub_relay=nonsense",
    ],
)
async def test_a_signed_cookie_that_is_used_or_forged_is_no_click(
    site: Site, cookie: str
) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, signing_up(cookie))

    assert signups.named("take")[0]["click_id"] is None


@pytest.mark.parametrize(
    ("proof", "expected"),
    [
        ((), "anotherClick1234"),
        # What a neighbour's subdomain planted later is not signed.
        ((signed_cookie(),), CLICK),
    ],
    ids=["nothing proven", "the older one signed"],
)
async def test_the_newest_proven_click_counts_and_is_noted(
    site: Site, proof: tuple[str, ...], expected: str
) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, signing_up(COOKIE, "Cookie: dub_id=anotherClick1234", *proof))

    (lead,) = signups.named("take")
    assert lead["click_id"] == expected
    assert "several different dub_id cookies" in lead["notes"][0]


async def test_a_click_that_was_used_makes_no_second_lead(site: Site) -> None:
    """The script may write it again from the address, until the server has answered."""
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, signing_up(COOKIE, signed_cookie(used=True)))

    assert [lead["click_id"] for lead in signups.named("take")] == [None]


@pytest.mark.parametrize("text", ["undefined", "%5Bobject%20Object%5D", "%7Bid%7D"])
async def test_a_placeholder_is_no_customer(site: Site, text: str) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, signing_up(COOKIE, body=f"id={text}".encode()))

    (lead,) = signups.named("take")
    with pytest.raises(InvalidFieldError, match="placeholder"):
        sanitise(lead["fields"])


# -- the answer's part


async def test_fields_may_come_from_the_answer(site: Site) -> None:
    signups = Remembering()
    answer = json_answer({"user": {"id": "u_42"}})
    site.script = says(answer)
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        got = await ask(port, request("POST /api/signup", COOKIE, body=b"{}"))

    assert signups.named("take")[0]["fields"]["customerExternalId"] == "u_42"
    assert got.body == answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("framing", ["counted", "chunked"])
async def test_a_compressed_answer_is_decoded_in_the_copy_only(
    site: Site, framing: str
) -> None:
    signups = Remembering()
    body = gzip.compress(json.dumps({"user": {"id": "u_42"}}).encode())
    head = b"HTTP/1.1 201 OK\r\nContent-Type: application/json\r\n"
    head += b"Content-Encoding: gzip\r\n"
    if framing == "counted":
        head += b"Content-Length: %d\r\n\r\n" % len(body)
        site.script = says(head + body)
    else:
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        site.script = says(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        got = await ask(port, request("POST /api/signup", COOKIE, body=b"{}"))

    assert signups.named("take")[0]["fields"]["customerExternalId"] == "u_42"
    assert got.body == body


async def test_an_answer_too_big_to_copy_passes_and_the_lead_says_so(
    site: Site,
) -> None:
    signups = Remembering()
    answer = json_answer({"user": {"id": "u_42"}, "padding": "x" * 3_000_000})
    site.script = says(answer)
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        got = await ask(port, request("POST /api/signup", COOKIE, body=b"{}"))

    (lead,) = signups.named("take")
    assert got.body == answer.partition(b"\r\n\r\n")[2]
    assert lead["problem"] is not None
    assert any("the answer's body" in note for note in lead["notes"])


async def test_an_answer_cut_in_the_copy_is_cut_for_the_visitor_too(
    site: Site,
) -> None:
    signups = Remembering()
    answer = json_answer({"user": {"id": "u_42"}})
    site.script = says(answer[:-5], then_close=True)
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        got = await ask(port, request("POST /api/signup", COOKIE, body=b"{}"))

    assert (got.status, got.body) == (201, None)
    assert signups.named("take")[0]["problem"] is not None


async def test_a_stream_that_no_rule_looks_at_is_not_copied(site: Site) -> None:
    async def endless(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
        )
        await asyncio.Event().wait()

    site.script = endless
    rule = {**RULE, "when": "response.status == `200`"}
    async with proxied(site.url, [rule]) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(signing_up(COOKIE))
        assert await asyncio.wait_for(reader.readuntil(b"{}\r\n"), 10)
        await closed(writer)


# -- bodies of all kinds


async def test_a_multipart_form_with_a_file_is_read_and_passes_whole(
    site: Site,
) -> None:
    signups = Remembering()
    body = (
        b'--b\r\nContent-Disposition: form-data; name="id"\r\n\r\nu_7\r\n'
        b'--b\r\nContent-Disposition: form-data; name="cv"; filename="cv.pdf"\r\n'
        b"Content-Type: application/pdf\r\n\r\n" + b"\x00\xff" * 50_000 + b"\r\n--b--"
    )
    kind = "Content-Type: multipart/form-data; boundary=b"
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, request("POST /teams/a/signup", kind, COOKIE, body=body))

    assert site.seen[0].body == body
    assert signups.named("take")[0]["fields"]["customerExternalId"] == "u_7"


@pytest.mark.parametrize("framing", ["counted", "chunked"])
async def test_a_body_too_big_to_copy_reaches_the_site_whole(
    site: Site, framing: str
) -> None:
    signups = Remembering()
    body = FORM + b"&more=" + b"x" * 3_000_000
    headers = [COOKIE]
    sent = body
    if framing == "chunked":
        headers.append("Transfer-Encoding: chunked")
        sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with proxied(site.url, [RULE], signups) as port:
        answer = await ask(port, signing_up(*headers, body=sent))

    (lead,) = signups.named("take")
    assert answer.status == 303
    assert site.seen[0].body == body
    assert lead["problem"] is not None
    assert any("the request's body" in note for note in lead["notes"])


async def test_a_chunked_form_stays_chunked(site: Site) -> None:
    signups = Remembering()
    sent = b"4\r\nid=u\r\n3\r\n_77\r\n0\r\n\r\n"
    async with proxied(site.url, [RULE], signups) as port:
        await ask(port, signing_up(COOKIE, "Transfer-Encoding: chunked", body=sent))

    assert site.seen[0].all("Content-Length") == []
    assert site.seen[0].body == b"id=u_77"
    assert signups.named("take")[0]["fields"]["customerExternalId"] == "u_77"


async def test_a_rule_may_be_about_a_get_callback(site: Site) -> None:
    signups = Remembering()
    rule = {
        "method": "GET",
        "path": "/auth/callback",
        "when": "response.headers.\"x-new-user\" == 'yes'",
        "customer_external_id": "query.uid",
    }
    site.script = says(
        b"HTTP/1.1 302 Found\r\nX-New-User: yes\r\nCache-Control: max-age=60\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    async with proxied(site.url, [rule], signups) as port:
        answer = await ask(port, request("GET /auth/callback?uid=u_9", COOKIE))

    assert signups.named("take")[0]["fields"]["customerExternalId"] == "u_9"
    # It clears a cookie: a cache must not do that to the next visitor.
    assert answer.all("Cache-Control") == [b"private, no-store"]


# -- clearing


async def test_the_click_is_cleared_in_both_forms_once_the_lead_is_safe(
    site: Site,
) -> None:
    both = f"{COOKIE}; {signed_cookie().removeprefix('Cookie: ')}"
    async with proxied(site.url, [RULE]) as port:
        answer = await ask(port, signing_up(both))

    with_domain, host_only, sealed = [
        value.decode() for value in answer.all("Set-Cookie")
    ]
    assert with_domain.startswith("dub_id=; Domain=.shop.test; Path=/; Expires=Thu, 01")
    assert host_only.startswith("dub_id=; Path=/; Expires=Thu, 01")
    value = sealed.removeprefix("dub_relay=").partition(";")[0]
    kept = cookies.unseal(value, SECRETS, NOW, 60)
    assert kept is not None
    assert kept.used


@pytest.mark.parametrize("reason", ["not safe", "not wanted"])
async def test_the_click_is_kept_if_the_lead_is_not_safe_or_the_rule_says_so(
    site: Site, reason: str
) -> None:
    signups = Remembering(safe=reason != "not safe")
    rule = {**RULE, "clear_cookie": reason != "not wanted"}
    async with proxied(site.url, [rule], signups) as port:
        answer = await ask(port, signing_up(COOKIE))

    assert answer.all("Set-Cookie") == []


# -- trouble


class Failing(Remembering):
    """A store whose every call fails in a way that nobody foresaw."""

    async def hold(self, held: Held) -> None:
        raise KeyError(held.lead_id)

    async def take(self, *_: Any, **__: Any) -> bool:
        raise KeyError("take")

    async def drop(self, held: Held) -> None:
        raise KeyError(held.lead_id)


class Hanging(Remembering):
    """A store that never comes back."""

    async def hold(self, held: Held) -> None:  # noqa: ARG002 - the protocol's
        await asyncio.Event().wait()
        raise AssertionError

    async def take(self, *_: Any, **__: Any) -> bool:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_failing_store_is_counted_and_the_sign_up_passes(site: Site) -> None:
    signups = Failing()
    async with proxied(site.url, [RULE], signups) as port:
        answer = await ask(port, signing_up(COOKIE))

    assert answer.first == b"HTTP/1.1 303 See Other"
    assert answer.all("Set-Cookie") == []
    assert signups.reasons == ["the relay failed: KeyError"]


async def test_a_hanging_store_does_not_hang_the_sign_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signup, "STORE_WAIT_S", 0.05)
    monkeypatch.setattr("relay.proxy.forward.FINISH_S", 0.05)
    async with proxied(site.url, [RULE], Hanging()) as port:
        answer = await ask(port, signing_up(COOKIE))

    assert answer.status == 303


async def test_a_visitor_who_leaves_does_not_lose_the_lead(site: Site) -> None:
    signups = Remembering()
    at_the_site, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(message: Message, writer: asyncio.StreamWriter) -> None:
        at_the_site.set()
        await may_answer.wait()
        await says(CREATED)(message, writer)

    site.script = slow
    async with proxied(site.url, [RULE], signups) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(signing_up(COOKIE))
        await at_the_site.wait()
        writer.transport.abort()
        await closed(writer)
        may_answer.set()

    assert [name for name, _ in signups.calls] == ["hold", "take"]


async def test_a_sign_up_that_never_reached_the_site_is_dropped(
    unused_tcp_port: int,
) -> None:
    signups = Remembering()
    async with proxied(f"http://127.0.0.1:{unused_tcp_port}", [RULE], signups) as port:
        answer = await ask(port, signing_up(COOKIE))

    assert answer.status == 502
    assert [name for name, _ in signups.calls] == ["hold", "drop"]


async def test_a_sign_up_without_an_answer_stays_held(site: Site) -> None:
    """The site may have taken it: a person decides."""
    signups = Remembering()
    site.script = says(b"", then_close=True)
    async with proxied(site.url, [RULE], signups) as port:
        answer = await ask(port, signing_up(COOKIE))

    assert answer.status == 502
    assert [name for name, _ in signups.calls] == ["hold", "unanswered"]
    assert signups.named("unanswered") == [("lead_held", "127.0.0.1")]


async def test_a_body_that_breaks_off_is_no_sign_up(site: Site) -> None:
    signups = Remembering()
    async with proxied(site.url, [RULE], signups) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(signing_up(COOKIE, "Content-Length: 3000000", body=b"")[:-2])
        writer.write(b"\r\n" + FORM)
        await site.came.wait()
        await closed(writer)
        await asyncio.wait_for(site.left.wait(), 10)

    assert site.seen == []
    assert [name for name, _ in signups.calls] == ["hold", "drop"]


# -- sign-ins by OAuth: a GET, and only the answer knows whether somebody is new

CALLBACK: Mapping[str, Any] = {
    "method": "GET",
    "path": "/auth/callback",
    "event": "Sign Up",
    "when": "response.cookies.new_user == '1'",
    "customer_external_id": 'response.headers."x-user-id"',
}


@pytest.mark.parametrize(
    ("when", "head"),
    [
        ("response.cookies.new_user == '1'", "Set-Cookie: new_user=1; Path=/\r\n"),
        ("response.headers.\"x-new-user\" == 'yes'", "X-New-User: yes\r\n"),
        ("starts_with(response.headers.location || '', '/welcome')", ""),
    ],
)
async def test_an_oauth_callback_makes_a_lead_of_a_new_user_only(
    site: Site, when: str, head: str
) -> None:
    signups = Remembering()
    answer = "HTTP/1.1 302 Found\r\nX-User-Id: u_7\r\n{}Content-Length: 0\r\n\r\n"
    new = head or "Location: /welcome/ada\r\n"
    async with proxied(site.url, [{**CALLBACK, "when": when}], signups) as port:
        asking = request("GET /auth/callback?code=x&state=y", COOKIE)
        site.script = says(answer.format("Location: /home\r\n").encode())
        known_user = await ask(port, asking)
        site.script = says(answer.format(new).encode())
        new_user = await ask(port, asking)

    assert (known_user.status, new_user.status) == (302, 302)
    (taken,) = signups.named("take")
    assert taken["fields"]["customerExternalId"] == "u_7"
    assert taken["problem"] is None
    assert len(signups.named("drop")) == 1


async def test_a_callback_is_seen_on_a_kept_connection_too(site: Site) -> None:
    signups = Remembering()
    site.script = says(
        b"HTTP/1.1 302 Found\r\nX-User-Id: u_7\r\nSet-Cookie: new_user=1\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    async with proxied(site.url, [CALLBACK], signups) as port:
        for _ in range(3):
            await ask(port, request("GET /auth/callback?code=x", COOKIE))

    assert len(signups.named("take")) == 3


async def test_a_sign_up_by_fetch_with_credentials_keeps_its_cors_answer(
    site: Site,
) -> None:
    signups = Remembering()
    site.script = says(
        json_answer(
            {"user": {"id": 7}},
            head="Access-Control-Allow-Origin: https://app.test\r\n"
            "Access-Control-Allow-Credentials: true\r\n",
        )
    )
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        asked = request(
            "POST /api/signup",
            "Content-Type: application/json",
            "Origin: https://app.test",
            "Sec-Fetch-Mode: cors",
            COOKIE,
            body=b'{"email": "ada@example.com"}',
        )
        answer = await ask(port, asked)

    assert answer.one("Access-Control-Allow-Credentials") == b"true"
    assert signups.named("take")[0]["fields"]["customerExternalId"] == "7"
    assert any(b"dub_id=" in value for value in answer.all("Set-Cookie"))


async def test_a_form_in_another_charset_with_repeated_and_absent_fields(
    site: Site,
) -> None:
    signups = Remembering()
    rule = {
        **RULE,
        "customer_name": "form.name[1]",
        "metadata": {"none": "form.nothing", "all": "form.name"},
    }
    async with proxied(site.url, [rule], signups) as port:
        raw = request(
            "POST /teams/a/signup",
            f"{TYPE}; charset=windows-1252",
            COOKIE,
            body=b"id=u_1&name=Ada&name=%C9mile",
        )
        await ask(port, raw)

    fields = signups.named("take")[0]["fields"]
    assert fields["customerName"] == "Émile"
    assert fields["metadata"] == {"all": ["Ada", "Émile"]}


async def test_a_brotli_answer_is_decoded_in_the_copy_only(site: Site) -> None:
    signups = Remembering()
    body = brotli.compress(json.dumps({"user": {"id": "u_9"}}).encode())
    site.script = says(
        b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n"
        b"Content-Encoding: br\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    async with proxied(site.url, [BY_ANSWER], signups) as port:
        answer = await ask(port, request("POST /api/signup", COOKIE, body=b"x"))

    assert answer.raw_body == body
    assert signups.named("take")[0]["fields"]["customerExternalId"] == "u_9"
