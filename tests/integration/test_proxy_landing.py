"""Landings through the proxy: the click cookie comes from the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import pytest

from relay.capture.click_cookie import StoringTerms
from relay.core.http import cookies
from relay.core.http.consent import parse_consent
from relay.observability.metrics import Metrics
from tests.support.proxy_rig import NOW, SECRETS, landing, proxied
from tests.support.recording_site import Message, Site, ask, request, says

CLICK = "hQWlM2kPzX9aBcDe"
OTHER = "anotherClick1234"
DOCUMENT = "Sec-Fetch-Dest: document"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().listening() as listening:
        yield listening


@pytest.fixture
async def port(site: Site) -> AsyncIterator[int]:
    async with proxied(site.url) as number:
        yield number


def cookies_of(answer: Message) -> dict[str, str]:
    """The cookies that an answer sets, by name: the whole value."""
    lines = [value.decode() for value in answer.all("Set-Cookie")]
    return {line.partition("=")[0]: line for line in lines}


def signed_cookie_of(answer: Message) -> cookies.SignedCookie | None:
    value = cookies_of(answer)["dub_relay"].partition("=")[2].partition(";")[0]
    return cookies.unseal(value, SECRETS, NOW, 60)


def signed_cookie(
    click_id: str = CLICK, *, used: bool = False, last_seen: int = 1
) -> str:
    made = cookies.SignedCookie(click_id, 1, last_seen, "/pricing", used=used)
    return f"Cookie: dub_relay={cookies.seal(made, SECRETS, NOW)}"


async def test_a_landing_sets_the_cookie_as_dubs_script_does(
    site: Site, port: int
) -> None:
    answer = await ask(
        port, request(f"GET /pricing?a=1&dub_id={CLICK}", host="www.shop.test:8080")
    )

    assert site.seen[0].target == f"/pricing?a=1&dub_id={CLICK}".encode()
    written = cookies_of(answer)
    assert written["dub_id"] == (
        f"dub_id={CLICK}; Domain=.shop.test; Path=/; "
        "Expires=Thu, 15 Apr 2027 08:00:00 GMT; Max-Age=7776000; SameSite=Lax"
    )
    assert "HttpOnly" in written["dub_relay"]
    assert signed_cookie_of(answer) == cookies.SignedCookie(CLICK, NOW, NOW, "/pricing")


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:8080", "127.0.0.1", "[::1]:8080"),
        *("www.gov.uk", "WWW.GOV.UK:443", "www.github.io", "www.xn--55qx5d.cn"),
    ],
)
async def test_the_cookie_is_host_only_where_a_browser_takes_no_other(
    port: int, host: str
) -> None:
    answer = await ask(port, request(f"GET /?dub_id={CLICK}", host=host))

    assert "Domain" not in cookies_of(answer)["dub_id"]
    assert "Domain" not in cookies_of(answer)["dub_relay"]


async def test_the_domain_may_be_configured(site: Site) -> None:
    async with proxied(site.url, landings=landing(domain=".acme.test")) as port:
        answer = await ask(port, request(f"GET /?dub_id={CLICK}", host="app.acme.test"))

    assert "Domain=.acme.test;" in cookies_of(answer)["dub_id"]


async def test_an_answer_with_somebodys_click_is_kept_out_of_caches(
    site: Site, port: int
) -> None:
    site.script = says(
        b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=600\r\nX-A: 1\r\n"
        b"Expires: Thu, 01 Jan 2099 00:00:00 GMT\r\nSurrogate-Control: max-age=600\r\n"
        b"CDN-Cache-Control: max-age=600\r\nContent-Length: 0\r\n\r\n"
    )

    landed = await ask(port, request(f"GET /?dub_id={CLICK}"))
    usual = await ask(port, request("GET /"))

    names = [name for name, _ in landed.headers]
    assert landed.all("Cache-Control") == [b"private, no-store"]
    assert b"X-A" in names
    assert not {b"Expires", b"Surrogate-Control", b"CDN-Cache-Control"} & set(names)
    assert usual.all("Cache-Control") == [b"public, max-age=600"]


@pytest.mark.parametrize(
    "query",
    [
        "dub_id=test",
        "dub_id=",
        "dub_id=has%20space12",
        "dub_id=abcdefgh%3Bmax-age=0",
        "dub_id=abcdefgh%0d%0aX:1",
        f"DUB_ID={CLICK}",
        f"x=dub_id={CLICK}",
        "dub_id=" + "a" * 65,
    ],
)
async def test_an_id_that_is_none_sets_nothing(port: int, query: str) -> None:
    answer = await ask(port, request(f"GET /?{query}"))

    assert answer.all("Set-Cookie") == []


@pytest.mark.parametrize(
    "query",
    [
        f"dub_id=test&dub_id={CLICK}&dub_id={OTHER}",
        "dub_id=%68QWlM2kPzX9aBcDe",
        f"d%75b_id={CLICK}&dub_id=test",
    ],
)
async def test_the_first_valid_id_counts_decoded(port: int, query: str) -> None:
    answer = await ask(port, request(f"GET /?{query}"))

    assert cookies_of(answer)["dub_id"].startswith(f"dub_id={CLICK};")


@pytest.mark.parametrize(
    "header",
    [
        "Sec-Fetch-Dest: image",
        "Sec-Fetch-Dest: iframe",
        "Sec-Fetch-Dest: empty",
        "Sec-Fetch-Dest: script",
        # No browser sends Sec-Fetch-Dest on plain http, and old ones never do.
        "Accept: image/avif,image/webp,image/*,*/*;q=0.8",
    ],
)
async def test_what_is_no_navigation_plants_no_click(port: int, header: str) -> None:
    answer = await ask(port, request(f"GET /?dub_id={CLICK}", header))

    assert answer.all("Set-Cookie") == []


FRAME = "Sec-Fetch-Dest: iframe"


@pytest.mark.parametrize(
    "headers",
    [
        # A service worker's fetch() in place of the navigation.
        ("Sec-Fetch-Dest: empty", "Sec-Fetch-Mode: navigate"),
        (FRAME, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: same-site"),
        (FRAME, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: same-origin"),
        ("Sec-Fetch-Dest: frame", "Sec-Fetch-Site: same-origin"),
    ],
)
async def test_a_service_workers_navigation_and_an_own_frame_land(
    port: int, headers: tuple[str, ...]
) -> None:
    answer = await ask(port, request(f"GET /?dub_id={CLICK}", *headers))

    assert cookies_of(answer)["dub_id"].startswith(f"dub_id={CLICK};")


@pytest.mark.parametrize(
    "headers",
    [
        (FRAME, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"),
        (FRAME, "Sec-Fetch-Site: none"),
        (FRAME, "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"),
        ("Sec-Fetch-Dest: empty", "Sec-Fetch-Mode: cors"),
        ("Sec-Fetch-Dest: image", "Sec-Fetch-Site: same-origin"),
        ("Sec-Fetch-Dest: embed", "Sec-Fetch-Site: same-origin"),
        (DOCUMENT, "Sec-Purpose: prefetch"),
        (DOCUMENT, "Sec-Purpose: prefetch;prerender"),
        (DOCUMENT, "Sec-Purpose: prefetch;anonymous-client-ip"),
        (DOCUMENT, "Purpose: prefetch"),
        (DOCUMENT, "X-Moz: prefetch"),
        ("Accept: text/html", "X-Purpose: preview"),
    ],
)
async def test_what_nobody_has_gone_to_plants_no_click(
    port: int, headers: tuple[str, ...]
) -> None:
    landed = await ask(port, request(f"GET /?dub_id={CLICK}", *headers))
    later = await ask(port, request("GET /later", signed_cookie(), *headers))

    assert landed.all("Set-Cookie") == []
    assert later.all("Set-Cookie") == []


@pytest.mark.parametrize(
    ("target", "purpose", "status"),
    [
        (f"/?dub_id={CLICK}", "prefetch", 503),
        (f"/?dub_id={CLICK}", "prefetch;prerender", 503),
        ("/", "prefetch", 200),
        ("/?dub_id=", "prefetch", 200),
    ],
)
async def test_a_landing_is_not_fetched_ahead_of_its_visit(
    port: int, target: str, purpose: str, status: int
) -> None:
    """A browser shows what it has fetched without asking, and no click was stored."""
    line = request(f"GET {target}", f"Sec-Purpose: {purpose}")
    assert (await ask(port, line)).status == status


@pytest.mark.parametrize("held", ["", f"; dub_id={CLICK}"])
async def test_a_used_click_is_not_set_again_by_its_address(
    port: int, held: str
) -> None:
    """Back, history and a bookmark open the landing address once more."""
    line = request(f"GET /?dub_id={CLICK}", signed_cookie(used=True) + held, DOCUMENT)
    again = await ask(port, line)
    other = await ask(
        port, request(f"GET /?dub_id={OTHER}", signed_cookie(used=True), DOCUMENT)
    )

    gone = [value.partition(b";")[0] for value in again.all("Set-Cookie")]
    assert set(gone) == ({b"dub_id="} if held else set())
    assert cookies_of(other)["dub_id"].startswith(f"dub_id={OTHER};")


async def test_a_landing_leaves_no_older_click_under_another_domain(port: int) -> None:
    answer = await ask(
        port,
        request(
            f"GET /?dub_id={OTHER}", f"Cookie: dub_id={CLICK}", host="a.b.shop.test"
        ),
    )

    lines = [value.decode() for value in answer.all("Set-Cookie")]
    cleared = [line.partition(" Path")[0] for line in lines if "Max-Age=0;" in line]
    assert cleared == [
        "dub_id=; Domain=.b.shop.test;",
        "dub_id=; Domain=.shop.test;",
        "dub_id=;",
    ]
    assert cookies_of(answer)["dub_id"].startswith(
        f"dub_id={OTHER}; Domain=.a.b.shop.test;"
    )


async def test_of_two_clicks_that_a_browser_holds_the_proven_one_is_left(
    port: int,
) -> None:
    held = f"; dub_id={CLICK}; dub_id={OTHER}"
    answer = await ask(port, request("GET /later", signed_cookie() + held, DOCUMENT))

    assert cookies_of(answer)["dub_id"].startswith(f"dub_id={CLICK};")
    assert b"dub_id=; Path=/;" in b"\n".join(answer.all("Set-Cookie"))


async def test_of_two_signed_cookies_the_newest_counts(port: int) -> None:
    """An older setting of the domain has left one."""
    sealed = [signed_cookie(last_seen=5), signed_cookie(OTHER, last_seen=9)]
    for order in (sealed, sealed[::-1]):
        answer = await ask(port, request("GET /later", *order, DOCUMENT))
        assert cookies_of(answer)["dub_id"].startswith(f"dub_id={OTHER};")


async def test_many_signed_cookies_cost_a_few(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    genuine = cookies.unseal

    def counting(value: str, *rest: Any) -> cookies.SignedCookie | None:
        tried.append(value)
        return genuine(value, *rest)

    monkeypatch.setattr(cookies, "unseal", counting)
    junk = "Cookie: " + "; ".join(f"dub_relay=x.y.{number}" for number in range(900))
    async with proxied(site.url) as port:
        answer = await ask(port, request(f"GET /?dub_id={CLICK}", junk, DOCUMENT))

    assert cookies_of(answer)["dub_id"].startswith(f"dub_id={CLICK};")
    assert 0 < len(tried) <= cookies.MAX_TRIED


@pytest.mark.parametrize(
    "header",
    [
        DOCUMENT,
        "Accept: text/html,application/xhtml+xml,image/avif,*/*;q=0.8",
        "Accept: */*",
        "X: 1",
    ],
)
async def test_every_kind_of_browser_lands(port: int, header: str) -> None:
    answer = await ask(port, request(f"GET /?dub_id={CLICK}", header))

    assert cookies_of(answer)["dub_id"].startswith(f"dub_id={CLICK};")


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT"])
async def test_only_a_get_lands(port: int, method: str) -> None:
    answer = await ask(port, request(f"{method} /?dub_id={CLICK}"))

    assert answer.all("Set-Cookie") == []


async def test_the_last_click_counts_unless_the_first_shall(site: Site) -> None:
    line = request(f"GET /?dub_id={OTHER}", f"Cookie: dub_id={CLICK}", DOCUMENT)
    async with proxied(site.url) as port:
        last = await ask(port, line)
    async with proxied(site.url, landings=landing("first-click")) as port:
        first = await ask(port, line)
        planted = await ask(
            port, request(f"GET /?dub_id={OTHER}", "Cookie: dub_id=test")
        )

    assert cookies_of(last)["dub_id"].startswith(f"dub_id={OTHER};")
    assert first.all("Set-Cookie") == []
    assert cookies_of(planted)["dub_id"].startswith(f"dub_id={OTHER};")


async def test_a_lost_first_click_is_restored_rather_than_replaced(
    site: Site,
) -> None:
    async with proxied(site.url, landings=landing("first-click")) as port:
        answer = await ask(
            port, request(f"GET /?dub_id={OTHER}", signed_cookie(), DOCUMENT)
        )

    assert cookies_of(answer)["dub_id"].startswith(f"dub_id={CLICK};")


async def test_the_same_click_again_is_written_again(port: int) -> None:
    """Safari ends a script's cookie after a week; the server's it keeps."""
    answer = await ask(
        port,
        request(f"GET /?dub_id={CLICK}", f"Cookie: dub_id={CLICK}", signed_cookie()),
    )

    again = signed_cookie_of(answer)
    assert cookies_of(answer)["dub_id"].startswith(f"dub_id={CLICK};")
    assert again is not None
    assert (again.first_seen, again.last_seen) == (1, NOW)


@pytest.mark.parametrize("header", [DOCUMENT, "Accept: text/html,*/*"])
async def test_a_lost_cookie_is_restored_from_the_signed_cookie(
    port: int, header: str
) -> None:
    answer = await ask(port, request("GET /later", signed_cookie(), header))

    assert cookies_of(answer)["dub_id"].startswith(f"dub_id={CLICK};")
    assert answer.all("Cache-Control") == [b"private, no-store"]


@pytest.mark.parametrize(
    "headers",
    [
        [signed_cookie(used=True), DOCUMENT],
        [signed_cookie()[:-2] + "xx", DOCUMENT],
        [signed_cookie(), f"Cookie: dub_id={OTHER}", DOCUMENT],
        [signed_cookie(), "Sec-Fetch-Dest: image"],
        [signed_cookie(), "Accept: application/json"],
    ],
)
async def test_nothing_is_restored_where_nothing_is_lost(
    port: int, headers: list[str]
) -> None:
    answer = await ask(port, request("GET /later", *headers))

    assert answer.all("Set-Cookie") == []


async def test_the_signed_cookie_is_secure_where_the_visitor_came_by_https(
    site: Site,
) -> None:
    line = request(f"GET /?dub_id={CLICK}", "X-Forwarded-Proto: https")
    async with proxied(site.url) as port:
        stranger = await ask(port, line)
    async with proxied(site.url, trusted=[ip_network("127.0.0.1")]) as port:
        trusted = await ask(port, line)

    assert "Secure" not in cookies_of(stranger)["dub_relay"]
    assert "Secure" in cookies_of(trusted)["dub_relay"]
    assert "Secure" not in cookies_of(trusted)["dub_id"]


# --- Only with consent. ---

BY_COOKIE = StoringTerms("consent", parse_consent("cookiebot"))
YES = "Cookie: CookieConsent={necessary:true%2Cmarketing:true}"
NO = "Cookie: CookieConsent={necessary:true%2Cmarketing:false}"


async def landed(site: Site, storing: StoringTerms, *headers: str) -> dict[str, str]:
    """The cookies that a landing sets."""
    async with proxied(site.url, landings=landing(storing=storing)) as port:
        answer = await ask(port, request(f"GET /?dub_id={CLICK}", DOCUMENT, *headers))
    assert answer.status == 200
    return cookies_of(answer)


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ([], False),
        ([NO], False),
        (["Cookie: CookieConsent=what"], False),
        ([YES], True),
    ],
)
async def test_with_consent_a_landing_is_kept_once_the_cookie_says_yes(
    site: Site, headers: list[str], kept: bool
) -> None:
    assert ("dub_id" in await landed(site, BY_COOKIE, *headers)) is kept


@pytest.mark.parametrize(
    ("target", "header", "counted"),
    [
        (f"/?dub_id={CLICK}", "Cookie: CookieConsent=what", 1),
        (f"/?dub_id={CLICK}", "Cookie: CookieConsent={stamp:1}", 1),
        (f"/?dub_id={CLICK}", NO, 0),
        (f"/?dub_id={CLICK}", YES, 0),
        (f"/?dub_id={CLICK}", "Cookie: other=what", 0),
        ("/pricing", "Cookie: CookieConsent=what", 0),
    ],
)
async def test_a_landing_whose_consent_cannot_be_read_is_counted(
    site: Site, target: str, header: str, counted: int
) -> None:
    metrics = Metrics()
    watched = landing(storing=BY_COOKIE, metrics=metrics)
    async with proxied(site.url, landings=watched) as port:
        await ask(port, request(f"GET {target}", DOCUMENT, header))

    text = metrics.render().decode()
    assert f"dub_relay_consent_unreadable_total {float(counted)}" in text


async def test_a_no_removes_what_is_kept(site: Site) -> None:
    kept = f"{NO}; dub_id={CLICK}; {signed_cookie().removeprefix('Cookie: ')}"
    async with proxied(site.url, landings=landing(storing=BY_COOKIE)) as port:
        answer = await ask(port, request("GET /pricing", DOCUMENT, kept))
    written = cookies_of(answer)
    assert "Max-Age=0" in written["dub_id"]
    assert "Max-Age=0" in written["dub_relay"]


async def test_before_an_answer_nothing_is_restored_and_nothing_removed(
    site: Site,
) -> None:
    async with proxied(site.url, landings=landing(storing=BY_COOKIE)) as port:
        answer = await ask(port, request("GET /pricing", DOCUMENT, signed_cookie()))
    assert cookies_of(answer) == {}


async def test_never_keeps_no_landing(site: Site) -> None:
    assert await landed(site, StoringTerms("never"), YES) == {}


@pytest.mark.parametrize(
    ("gpc", "header", "kept"),
    [
        (True, "Sec-GPC: 1", False),
        (True, "Sec-GPC: 0", True),
        (False, "Sec-GPC: 1", True),
    ],
)
async def test_global_privacy_control_is_honoured_where_it_is_asked_for(
    site: Site, gpc: bool, header: str, kept: bool
) -> None:
    assert ("dub_id" in await landed(site, StoringTerms(gpc=gpc), header)) is kept
