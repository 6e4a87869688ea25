"""`cookie`: the site's own pages get their click from the server, nobody else does."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from relay.capture.click_cookie import Landing, StoringTerms
from relay.capture.page_endpoints import CookieEndpoint
from relay.core.http import cookies
from relay.core.http.consent import parse_consent
from relay.core.http.cookies import Storing
from relay.http.callers import Trusted
from tests.support.pages_rig import Endpoint, Pages, application, on_socket
from tests.support.proxy_rig import NOW, SECRETS, landing
from tests.support.recording_site import Message, as_message, ask, closed, request

CLICK = "hQWlM2kPzX9aBcDe"
OTHER = "anotherClick1234"
HOST = "www.shop.test"
OWN = ("Origin: http://www.shop.test", "Sec-Fetch-Site: same-origin")
JSON = "Content-Type: application/json"
LOCAL_PROXY = Trusted((ip_network("127.0.0.1"),))


def endpoints(
    landings: Landing | None = None, trusted: Trusted | None = None
) -> list[Endpoint]:
    endpoint = CookieEndpoint(landings or landing(), trusted or Trusted())
    return [("POST", "cookie", endpoint.keep), ("DELETE", "cookie", endpoint.forget)]


@pytest.fixture
async def port(pages: Pages) -> int:
    return await pages(endpoints())


async def post(
    port: int,
    body: Any,
    *headers: str,
    host: str = HOST,
    own: tuple[str, ...] = OWN,
    kind: str = JSON,
) -> Message:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = (*own, *headers, *([kind] if kind else []))
    return await ask(port, request("POST /_dub/cookie", *lines, body=raw, host=host))


async def delete(port: int, *headers: str, own: tuple[str, ...] = OWN) -> Message:
    return await ask(port, request("DELETE /_dub/cookie", *own, *headers, host=HOST))


def written(answer: Message) -> dict[str, str]:
    """The cookies that an answer leaves, by name: the whole value."""
    lines = [value.decode() for value in answer.all("Set-Cookie")]
    lines = [line for line in lines if "Max-Age=0;" not in line]
    found = {line.partition("=")[0]: line for line in lines}
    assert len(found) == len(lines)
    return found


def click_of(answer: Message) -> str:
    return written(answer)["dub_id"].partition("=")[2].partition(";")[0]


def signed_cookie_of(answer: Message) -> cookies.SignedCookie | None:
    value = written(answer)["dub_relay"].partition("=")[2].partition(";")[0]
    return cookies.unseal(value, SECRETS, NOW, 60)


def signed_cookie(
    click_id: str = CLICK, *, used: bool = False, secret: str = SECRETS[0]
) -> str:
    made = cookies.SignedCookie(click_id, 1, 1, "/pricing", used=used)
    return f"dub_relay={cookies.seal(made, (secret,), NOW)}"


def refused(answer: Message, status: int, code: str) -> None:
    """Check that an answer refuses, gives nothing away and plants nothing."""
    assert answer.status == status
    assert json.loads(answer.raw_body)["error"]["code"] == code
    names = {name.lower() for name, _ in answer.headers}
    assert b"set-cookie" not in names
    assert not any(name.startswith(b"access-control-") for name in names)


# What the site's own pages get.


async def test_a_click_is_written_by_the_server_just_as_the_script_does(
    port: int,
) -> None:
    answer = await post(port, {"dub_id": CLICK}, f"Referer: http://{HOST}/pricing?a=1")

    assert (answer.status, answer.raw_body) == (204, b"")
    assert answer.one("Cache-Control") == b"no-store"
    assert written(answer)["dub_id"] == (
        f"dub_id={CLICK}; Domain=.shop.test; Path=/; "
        "Expires=Thu, 15 Apr 2027 08:00:00 GMT; Max-Age=7776000; SameSite=Lax"
    )
    sealed = written(answer)["dub_relay"]
    assert "HttpOnly" in sealed
    assert "Domain=.shop.test;" in sealed
    assert "Secure" not in sealed
    assert signed_cookie_of(answer) == cookies.SignedCookie(CLICK, NOW, NOW, "/pricing")


async def test_the_answer_has_no_cors_headers(port: int) -> None:
    answer = await post(port, {"dub_id": CLICK})

    assert not [name for name, _ in answer.headers if b"access-control" in name.lower()]


async def test_the_same_click_again_keeps_its_first_sight(port: int) -> None:
    answer = await post(
        port, {"dub_id": CLICK}, f"Cookie: dub_id={CLICK}; {signed_cookie()}"
    )

    assert signed_cookie_of(answer) == cookies.SignedCookie(CLICK, 1, NOW, "/pricing")


async def test_a_lost_click_is_restored(port: int) -> None:
    answer = await post(port, {}, f"Cookie: sid=1; {signed_cookie()}")

    assert answer.status == 204
    assert click_of(answer) == CLICK


@pytest.mark.parametrize(
    "cookie",
    [
        "sid=1",
        f"dub_id={OTHER}; {signed_cookie()}",
        signed_cookie(used=True),
        signed_cookie(secret="another-secret-than-ours"),
        "dub_relay=e30.AAAA.forged",
        signed_cookie()[:-1],
    ],
    ids=["none", "not lost", "used by a sign-up", "foreign", "forged", "cut"],
)
async def test_nothing_is_restored(port: int, cookie: str) -> None:
    answer = await post(port, {}, f"Cookie: {cookie}")

    assert (answer.status, written(answer)) == (204, {})


@pytest.mark.parametrize(
    ("attribution", "cookie", "expected"),
    [
        ("last-click", f"dub_id={OTHER}; {signed_cookie(OTHER)}", CLICK),
        ("first-click", "sid=1", CLICK),
        ("first-click", f"dub_id={CLICK}", CLICK),
        ("first-click", f"dub_id={OTHER}", OTHER),
        ("first-click", signed_cookie(OTHER), OTHER),
        # The script has written its own cookie before it calls.
        ("first-click", f"dub_id={CLICK}; {signed_cookie(OTHER)}", OTHER),
        ("first-click", signed_cookie(OTHER, used=True), CLICK),
    ],
)
async def test_the_attribution_decides_between_two_clicks(
    pages: Pages, attribution: cookies.Attribution, cookie: str, expected: str
) -> None:
    port = await pages(endpoints(landing(attribution)))
    answer = await post(port, {"dub_id": CLICK}, f"Cookie: {cookie}")

    assert click_of(answer) == expected


async def test_a_click_that_a_sign_up_has_used_stays_used(port: int) -> None:
    answer = await post(port, {"dub_id": CLICK}, f"Cookie: {signed_cookie(used=True)}")

    found = signed_cookie_of(answer)
    assert found is not None
    assert found.used
    assert "dub_id" not in written(answer)
    # The script wrote it from the address: Back, history or a bookmark.
    assert b"dub_id=; Domain=.shop.test;" in b"".join(answer.all("Set-Cookie"))


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("www.shop.test:8080", ".shop.test"),
        ("app.shop.test", ".app.shop.test"),
        ("localhost:3000", None),
        ("127.0.0.1:3000", None),
        ("[::1]:3000", None),
    ],
)
async def test_the_domain_is_that_of_dubs_script(
    port: int, host: str, domain: str | None
) -> None:
    own = (f"Origin: http://{host}",)
    answer = await post(port, {"dub_id": CLICK}, host=host, own=own)

    for line in written(answer).values():
        found = [part for part in line.split("; ") if part.startswith("Domain=")]
        assert found == ([f"Domain={domain}"] if domain else [])


async def test_the_domain_may_be_configured(pages: Pages) -> None:
    port = await pages(endpoints(landing(domain=".shop.test")))
    own = ("Origin: http://app.shop.test",)
    answer = await post(port, {"dub_id": CLICK}, host="app.shop.test", own=own)

    assert "Domain=.shop.test;" in written(answer)["dub_id"]


@pytest.mark.parametrize("when", ["consent", "never"])
async def test_a_click_handed_over_is_kept_where_a_landing_is_not(
    pages: Pages, when: Storing
) -> None:
    """The page's script has heard the yes, which no cookie need show."""
    terms = StoringTerms(when, parse_consent("cookiebot"))
    port = await pages(endpoints(landing(storing=terms)))
    answer = await post(port, {"dub_id": CLICK})

    assert click_of(answer) == CLICK
    kept = signed_cookie_of(answer)
    assert kept is not None
    assert kept.click_id == CLICK


@pytest.mark.parametrize("withdraw", ["delete", "null"])
async def test_withdrawn_consent_leaves_nothing_behind(
    port: int, withdraw: str
) -> None:
    cookie = f"Cookie: dub_id={CLICK}; {signed_cookie()}"
    if withdraw == "delete":
        answer = await delete(port, cookie)
    else:
        answer = await post(port, {"dub_id": None}, cookie)

    assert answer.status == 204
    lines = [value.decode() for value in answer.all("Set-Cookie")]
    gone = "Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; SameSite=Lax"
    assert lines == [
        f"{name}=; {domain}Path=/; {gone}"
        for name in ("dub_id", "dub_relay")
        for domain in ("Domain=.shop.test; ", "Domain=.www.shop.test; ", "")
    ]


# Behind proxies.


@pytest.mark.parametrize(
    ("trusted", "peer_is_believed"),
    [(LOCAL_PROXY, True), (Trusted(), False)],
    ids=["trusted", "not trusted"],
)
async def test_scheme_and_host_are_believed_of_a_trusted_proxy_only(
    pages: Pages, *, trusted: Trusted, peer_is_believed: bool
) -> None:
    seen = (
        "Origin: https://www.shop.test",
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: www.shop.test",
    )
    port = await pages(endpoints(trusted=trusted))
    answer = await post(port, {"dub_id": CLICK}, own=seen, host="10.0.0.5:8080")

    if peer_is_believed:
        assert "; Secure" in written(answer)["dub_relay"]
        assert "Domain=.shop.test;" in written(answer)["dub_id"]
    else:
        refused(answer, 403, "forbidden")


@pytest.mark.parametrize(
    ("scheme", "host"),
    [
        ("https", "www.shop.test:443"),
        ("http", "www.shop.test:80"),
        ("http", "WWW.shop.test"),
    ],
)
async def test_an_origin_is_the_same_however_the_proxy_writes_the_host(
    pages: Pages, scheme: str, host: str
) -> None:
    own = (f"Origin: {scheme}://www.shop.test", f"X-Forwarded-Proto: {scheme}")
    port = await pages(endpoints(trusted=LOCAL_PROXY))
    answer = await post(port, {"dub_id": CLICK}, own=own, host=host)

    assert "Domain=.shop.test;" in written(answer)["dub_id"]


async def test_a_host_that_is_none_gets_no_cookie(port: int) -> None:
    host = "shop.test;x"
    answer = await post(
        port, {"dub_id": CLICK}, own=(f"Origin: http://{host}",), host=host
    )

    refused(answer, 403, "forbidden")


async def test_the_server_in_front_of_a_unix_socket_is_believed(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "relay.sock")
    own = ("Origin: https://www.shop.test", "X-Forwarded-Proto: https", JSON)
    raw = request("POST /_dub/cookie", *own, body=b"{}", host=HOST)
    async with on_socket(path, application(endpoints(trusted=Trusted(unix=True)))):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(raw)
        answer = as_message(await reader.read())
        await closed(writer)

    assert answer.status == 204


async def test_a_proxy_that_ends_tls_unbeknown_is_told_to_the_operator_once(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for origin in ("https://elsewhere.test", f"https://{HOST}", f"https://{HOST}"):
        answer = await post(port, {"dub_id": CLICK}, own=(f"Origin: {origin}",))
        refused(answer, 403, "forbidden")

    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told["event"] == "cookie.https_not_known"
    assert "RELAY_TRUSTED_PROXIES" in told["help"]


# What everybody else gets. Each is sent as a browser would send it.

ATTACKS = {
    "fetch from another site": (
        "Origin: https://evil.test",
        "Sec-Fetch-Site: cross-site",
    ),
    "fetch from a sibling subdomain": (
        "Origin: http://evil.shop.test",
        "Sec-Fetch-Site: same-site",
    ),
    "fetch from the apex": ("Origin: http://shop.test", "Sec-Fetch-Site: same-site"),
    "fetch from another port": (
        "Origin: http://www.shop.test:8081",
        "Sec-Fetch-Site: same-site",
    ),
    "a page of the other scheme": (
        "Origin: https://www.shop.test",
        "Sec-Fetch-Site: cross-site",
    ),
    "a sandboxed frame, a data: or file: page": (
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
    ),
    "no origin": ("Sec-Fetch-Site: same-origin",),
    "an empty origin": ("Origin: ", "Sec-Fetch-Site: same-origin"),
    "a right origin that the browser contradicts": (
        "Origin: http://www.shop.test",
        "Sec-Fetch-Site: cross-site",
    ),
    "typed in or restored": (
        "Origin: http://www.shop.test",
        "Sec-Fetch-Site: none",
    ),
    "two origins": ("Origin: http://www.shop.test", "Origin: http://evil.test"),
    "a list of origins": ("Origin: http://www.shop.test http://evil.test",),
    "a host that begins alike": ("Origin: http://www.shop.test.evil.test",),
    "a host that ends alike": ("Origin: http://evilwww.shop.test",),
    "an origin with a path": ("Origin: http://www.shop.test/",),
    "an origin with a user": ("Origin: http://www.shop.test@evil.test",),
    "an old browser without Sec-Fetch-Site": ("Origin: http://evil.test",),
    "claims of an untrusted peer": (
        "Origin: http://evil.test",
        "X-Forwarded-Host: evil.test",
        "Forwarded: host=evil.test",
    ),
}


@pytest.mark.parametrize("own", ATTACKS.values(), ids=ATTACKS)
async def test_another_site_plants_and_removes_nothing(
    port: int, own: tuple[str, ...]
) -> None:
    cookie = f"Cookie: {signed_cookie()}"

    refused(await post(port, {"dub_id": OTHER}, cookie, own=own), 403, "forbidden")
    refused(await post(port, {}, cookie, own=own), 403, "forbidden")
    refused(await delete(port, cookie, own=own), 403, "forbidden")


async def test_a_page_on_http_does_not_reach_into_the_https_site(pages: Pages) -> None:
    seen = ("Origin: http://www.shop.test", "X-Forwarded-Proto: https")
    port = await pages(endpoints(trusted=LOCAL_PROXY))
    answer = await post(port, {"dub_id": CLICK}, own=seen)

    refused(answer, 403, "forbidden")


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "Content-Type: text/plain",
        "Content-Type: text/plain;charset=UTF-8",
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Type: application/json+x",
        "Content-Type: text/plain; application/json",
    ],
)
async def test_what_a_form_can_send_is_refused_even_on_the_own_site(
    port: int, kind: str
) -> None:
    refused(await post(port, {"dub_id": CLICK}, kind=kind), 415, "bad_request")


async def test_json_may_name_its_charset(port: int) -> None:
    kind = "Content-Type: Application/JSON; charset=utf-8"

    assert (await post(port, {"dub_id": CLICK}, kind=kind)).status == 204


async def test_a_preflight_gets_no_leave(port: int) -> None:
    answer = await ask(
        port,
        request(
            "OPTIONS /_dub/cookie",
            "Origin: http://evil.test",
            "Access-Control-Request-Method: DELETE",
            host=HOST,
        ),
    )

    assert answer.status >= 400
    assert not [name for name, _ in answer.headers if b"access-control" in name.lower()]


# Bodies.


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_request"),
        (b"{", 400, "bad_request"),
        (b"\xff{}", 400, "bad_request"),
        (b"[]", 422, "unprocessable_entity"),
        (b"null", 422, "unprocessable_entity"),
        (b'{"dub_id": 12345678}', 422, "unprocessable_entity"),
        (b'{"dub_id": ["hQWlM2kPzX9aBcDe"]}', 422, "unprocessable_entity"),
        (b'{"dub_id": ""}', 422, "unprocessable_entity"),
        (b'{"dub_id": "test"}', 422, "unprocessable_entity"),
        (b'{"dub_id": "test", "used": true}', 422, "unprocessable_entity"),
        (b'{"dub_id": "abcdefgh; Domain=test"}', 422, "unprocessable_entity"),
        (b'{"dub_id": "abcdefgh\\r\\nX: 1"}', 422, "unprocessable_entity"),
        (b'{"dub_id": "' + b"a" * 65 + b'"}', 422, "unprocessable_entity"),
        (b'{"a": "' + b"a" * 1024 + b'"}', 413, "bad_request"),
    ],
)
async def test_a_body_that_is_none_sets_nothing(
    port: int, body: bytes, status: int, code: str
) -> None:
    refused(await post(port, body, f"Cookie: {signed_cookie()}"), status, code)


async def test_a_long_body_is_refused_also_where_it_does_not_say_its_length(
    port: int,
) -> None:
    chunk = b"200\r\n" + b" " * 512 + b"\r\n"
    body = chunk * 3 + b"0\r\n\r\n"

    refused(await post(port, body, "Transfer-Encoding: chunked"), 413, "bad_request")


async def test_a_chunked_body_is_read_like_any_other(port: int) -> None:
    body = b'20\r\n{"dub_id":   "hQWlM2kPzX9aBcDe"}\r\n0\r\n\r\n'

    assert (await post(port, body, "Transfer-Encoding: chunked")).status == 204


# --- What the script's tag says otherwise than the settings. ---


async def test_a_tags_first_click_is_put_back(pages: Pages) -> None:
    said: list[str] = []
    endpoint = CookieEndpoint(landing(), Trusted(), said.append)
    port = await pages([("POST", "cookie", endpoint.keep)])
    first = cookies.SignedCookie(CLICK, 1, 1, "/pricing")
    replaced = cookies.landed(first, OTHER, NOW, "/")
    held = f"Cookie: dub_id={OTHER}; dub_relay={cookies.seal(replaced, SECRETS, NOW)}"

    answer = await post(port, {"dub_id": OTHER, "model": "first-click"}, held)

    assert click_of(answer) == CLICK
    assert said == ["data-attribution-model=first-click"]


async def test_a_first_click_that_a_sign_up_has_used_is_not_put_back(
    pages: Pages,
) -> None:
    used = cookies.SignedCookie(CLICK, 1, 1, "/pricing", used=True)
    replaced = cookies.landed(used, OTHER, NOW, "/")
    held = f"Cookie: dub_id={OTHER}; dub_relay={cookies.seal(replaced, SECRETS, NOW)}"
    port = await pages(endpoints())

    answer = await post(port, {"dub_id": OTHER, "model": "first-click"}, held)

    assert click_of(answer) == OTHER


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"dub_id": CLICK, "model": "last-click"}, []),
        (
            {"dub_id": CLICK, "model": "first-click"},
            ["data-attribution-model=first-click"],
        ),
        ({"dub_id": CLICK, "model": "<script>"}, []),
        ({"dub_id": CLICK, "model": None}, []),
        ({"options": 1}, ["data-cookie-options"]),
    ],
)
async def test_a_tag_that_says_other_than_the_settings_is_reported(
    pages: Pages, body: dict[str, Any], said: list[str]
) -> None:
    heard: list[str] = []
    endpoint = CookieEndpoint(landing(), Trusted(), heard.append)
    port = await pages([("POST", "cookie", endpoint.keep)])

    answer = await post(port, body)

    assert answer.status == 204
    assert heard == said
    assert ("dub_id" in body) is bool(written(answer))


async def test_a_page_says_that_its_click_was_used(port: int) -> None:
    answer = await post(
        port, {"used": True}, f"Cookie: dub_id={CLICK}; {signed_cookie()}"
    )
    signed = signed_cookie_of(answer)

    assert set(written(answer)) == {"dub_relay"}
    assert any(line.startswith(b"dub_id=;") for line in answer.all("Set-Cookie"))
    assert signed is not None
    assert signed.used


async def test_a_used_click_goes_although_the_tag_has_cookie_options(port: int) -> None:
    for used in (True, False):
        held = f"Cookie: dub_id={CLICK}; {signed_cookie(used=used)}"
        answer = await post(port, {"options": 1}, held)
        assert bool(answer.all("Set-Cookie")) is used
        assert written(answer) == {}
