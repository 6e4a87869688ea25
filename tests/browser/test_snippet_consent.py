"""Nothing is stored before consent, and nothing is left when it is withdrawn.

The base fetches ``script.extras.js`` for this, the other variants have it in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from tests.support.snippet_nothing import PATIENCE
from tests.support.snippet_rig import (
    ALL,
    CLICK,
    OTHER,
    STUB,
    TRACKED,
    WITH_PARTNER,
    Site,
    a_while,
    click_of,
    clicked,
    cookies_of,
    kept,
    settled,
    watched,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

BASE = "script.js"
both = pytest.mark.parametrize("script", [BASE, ALL])

REQUIRED = {
    "data-consent": "required",
    "data-domains": '{"refer": "go.acme.test"}',
    "data-publishable-key": "dub_pk_x",
}

GTAG = "window.dataLayer = []; function gtag() { dataLayer.push(arguments); }"

TCF = """
window.tcf = {listeners: []};
tcf.tell = data => tcf.listeners.forEach(listener => listener(data, true));
window.__tcfapi = (command, version, listener) => {
  if (command === 'addEventListener' && version === 2) tcf.listeners.push(listener);
};
"""


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def clock(visitor: Page) -> None:
    await visitor.clock.install()


async def asks(
    site: Site,
    page: Page,
    path: str = f"/?dub_id={CLICK}",
    *,
    script: str = BASE,
    before: str = "",
    more: Mapping[str, str] | None = None,
) -> None:
    """Open a page whose tag requires consent, and wait until it looks for some."""
    site.carries(
        {**REQUIRED, **(more or {})}, script=f"/_dub/{script}", before=STUB + before
    )
    if script != BASE:
        await page.goto(site.url(path))
        return
    async with page.expect_response("**/script.extras.js"):
        await page.goto(site.url(path))


async def stored(page: Page) -> list[Any]:
    """All that is kept of a visitor, wherever."""
    sizes = "[localStorage.length, sessionStorage.length]"
    return [*await kept(page.context), *filter(None, await page.evaluate(sizes))]


async def gone(page: Page) -> None:
    """Wait until no cookie of ours is left, the server's neither."""
    await clicked(page, None)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE.seconds):
            while await kept(page.context):
                await page.wait_for_timeout(10)
    assert await kept(page.context) == []


@both
async def test_nothing_is_stored_or_sent_before(
    site: Site, visitor: Page, script: str
) -> None:
    await asks(site, visitor, f"/?dub_id={CLICK}&via=derek", script=script)
    await a_while(visitor)
    await settled(visitor)  # ready does not wait for consent

    assert await stored(visitor) == []
    assert site.calls == []
    await visitor.evaluate("dubAnalytics('consent', 'granted')")
    await clicked(visitor, TRACKED)


@both
@pytest.mark.parametrize("queued", [True, False])
async def test_the_page_says_granted(
    site: Site, visitor: Page, script: str, queued: bool
) -> None:
    granted = "dubAnalytics('consent', 'granted');"
    await asks(site, visitor, script=script, before=granted if queued else "")
    if not queued:
        await visitor.evaluate(granted)

    await clicked(visitor, CLICK)


async def test_the_landing_is_remembered_until_then(site: Site, visitor: Page) -> None:
    await asks(site, visitor, "/?via=derek")
    await visitor.evaluate("history.pushState({}, '', '/signup')")
    await visitor.evaluate("dubAnalytics('consent', 'granted')")

    await clicked(visitor, TRACKED)
    assert site.posted("click")[0]["key"] == "derek"


async def test_what_the_page_tracks_waits_for_it(site: Site, visitor: Page) -> None:
    track = (
        "dubAnalytics.trackClick({domain: 'd.test', key: 'a'});"
        "dubAnalytics.trackLead({eventName: 'Sign Up'});"
    )
    await asks(site, visitor, "/", script=ALL, before=track)
    await a_while(visitor)
    assert site.calls == []
    await visitor.evaluate("dubAnalytics('consent', 'granted')")

    await clicked(visitor, TRACKED)
    assert (await site.called("lead/client"))[0]["clickId"] == TRACKED


async def test_a_page_that_waits_for_a_lead_does_not_wait_for_consent(
    site: Site, visitor: Page
) -> None:
    lead = "dubAnalytics.trackLead({eventName: 'Sign Up'})"
    await asks(site, visitor, script=ALL)
    assert await visitor.evaluate(lead) is None
    assert site.calls == []

    await visitor.evaluate("dubAnalytics('consent', 'granted')")
    assert (await site.called("lead/client"))[0]["clickId"] == CLICK

    await visitor.evaluate("dubAnalytics('consent', 'denied')")
    await gone(visitor)
    assert await visitor.evaluate(lead) is None
    assert len(site.posted("lead/client")) == 1


GPC = """
Object.defineProperty(navigator, 'globalPrivacyControl',
  {value: true, configurable: true});
"""

REFUSED = {
    "nothing": "",
    "the page": "dubAnalytics('consent', 'denied');",
    "consent cookie": "document.cookie = 'consent=denied';",
    "Google Consent Mode": GTAG
    + "gtag('consent', 'default', {ad_storage: 'denied'});"
    + "gtag('consent', 'update', {ad_storage: 'denied'});",
    "IAB TCF": TCF
    + "addEventListener('load', () => tcf.tell("
    + "{gdprApplies: true, purpose: {consents: {1: false}}}));",
    "Global Privacy Control": GPC,
}


@pytest.mark.parametrize("before", REFUSED.values(), ids=list(REFUSED))
async def test_dubs_stores_whatever_is_said(
    site: Site, visitor: Page, before: str
) -> None:
    wishes = {**REQUIRED, "data-consent-cookie": "consent", "data-gpc": "honour"}
    site.carries(wishes, script="/old/script.js", before=STUB + before)
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    assert await click_of(visitor) == CLICK

    await visitor.evaluate("dubAnalytics('consent', 'denied')")
    await a_while(visitor)
    assert await click_of(visitor) == CLICK


@both
@pytest.mark.parametrize("written", ["data-consent", "data-consent=any", "data-gpc"])
async def test_an_attribute_counts_when_it_is_there(
    site: Site, visitor: Page, script: str, written: str
) -> None:
    signal = "{value: true, configurable: true}"
    site.carries(
        script=f"/_dub/{script}",
        extra=written,
        before=f"Object.defineProperty(navigator, 'globalPrivacyControl', {signal})",
    )
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await a_while(visitor)
    assert await stored(visitor) == []
    await visitor.evaluate("dubAnalytics('consent', 'granted')")
    await clicked(visitor, CLICK)


@both
async def test_and_not_if_it_says_false(site: Site, visitor: Page, script: str) -> None:
    site.carries({"data-consent": "false"}, script=f"/_dub/{script}")
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await clicked(visitor, CLICK)


@pytest.mark.parametrize(
    ("attribute", "refusals", "consent"),
    [
        (
            "consent",
            ["consent=denied", "consent=no", "consent=", "consent=0", "my_consent=1"],
            "consent=granted",
        ),
        ("consent=all", ["consent=none", "consent=all-but-ads"], "consent=all"),
        ("cmp[ads]=a=b", ["cmp[ads]=a", "cmpa=a=b"], "cmp[ads]=a=b"),
    ],
)
@both
async def test_a_consent_cookie_says_so(
    site: Site,
    visitor: Page,
    script: str,
    attribute: str,
    refusals: list[str],
    consent: str,
) -> None:
    await asks(site, visitor, script=script, more={"data-consent-cookie": attribute})
    # As a banner does it, on the same page.
    banner = "cookie => { document.cookie = cookie; }"
    for cookie in refusals:
        await visitor.evaluate(banner, cookie)
        await a_while(visitor)
        assert await click_of(visitor) is None, cookie

    await visitor.evaluate(banner, consent)
    await clicked(visitor, CLICK)


async def test_a_consent_cookie_of_an_earlier_visit_counts_at_once(
    site: Site, visitor: Page
) -> None:
    await visitor.context.add_cookies(
        [{"name": "consent", "value": "1", "url": site.url()}]
    )
    await asks(site, visitor, more={"data-consent-cookie": "consent"})
    await clicked(visitor, CLICK)

    await visitor.context.clear_cookies(name="consent")
    await clicked(visitor, None)


@both
async def test_googles_consent_mode_says_so(
    site: Site, visitor: Page, script: str
) -> None:
    default = "gtag('consent', 'default', {ad_storage: 'denied'});"
    await asks(site, visitor, script=script, before=GTAG + default)
    update = "state => gtag('consent', 'update', {ad_storage: state})"
    await visitor.evaluate("gtag('js', new Date()); dataLayer.push({event: 'x'}, null)")
    other = "gtag('consent', 'update', {analytics_storage: 'granted'})"
    await visitor.evaluate(other)
    await a_while(visitor)
    assert await stored(visitor) == []

    await visitor.evaluate(update, "granted")
    await clicked(visitor, CLICK)
    await visitor.evaluate(update, "denied")
    await gone(visitor)


async def test_googles_default_granted_is_enough(site: Site, visitor: Page) -> None:
    default = "gtag('consent', 'default', {ad_storage: 'granted'});"
    await asks(site, visitor, before=GTAG + default)

    await clicked(visitor, CLICK)


async def test_googles_default_takes_nothing_from_who_has_consented_before(
    site: Site, visitor: Page
) -> None:
    """A platform says "denied" first, and a moment later what it has on record."""
    default = "gtag('consent', 'default', {ad_storage: 'denied'});"
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)
    await asks(site, visitor, "/", before=GTAG + default)
    await a_while(visitor)
    assert await click_of(visitor) == CLICK

    # But a refusal that is on record does, though it was made elsewhere.
    refused = default + "gtag('consent', 'update', {ad_storage: 'denied'});"
    await asks(site, visitor, "/", before=GTAG + refused)
    await gone(visitor)


@pytest.mark.parametrize(
    "consent",
    [
        {"gdprApplies": True, "purpose": {"consents": {"1": True}}},
        {"gdprApplies": False, "purpose": {"consents": {}}},
    ],
)
async def test_a_platform_that_speaks_tcf_says_so(
    site: Site, visitor: Page, consent: object
) -> None:
    await asks(site, visitor, before=TCF)
    for refusal in (
        {"gdprApplies": True, "eventStatus": "cmpuishown"},
        {"gdprApplies": True, "purpose": {}},
        {"gdprApplies": True, "purpose": {"consents": {}}},
        {"gdprApplies": True, "purpose": {"consents": {"1": False, "2": True}}},
    ):
        await visitor.evaluate("data => tcf.tell(data)", refusal)
        await a_while(visitor)
        assert await stored(visitor) == [], refusal

    await visitor.evaluate("data => tcf.tell(data)", consent)
    await clicked(visitor, CLICK)


@both
async def test_a_platform_may_come_late_and_change_its_mind(
    site: Site, visitor: Page, script: str
) -> None:
    await asks(site, visitor, script=script)
    await visitor.evaluate(TCF)
    await visitor.wait_for_function("tcf.listeners.length === 1")
    tell = "yes => tcf.tell({gdprApplies: true, purpose: {consents: {1: yes}}})"
    await visitor.evaluate(tell, arg=True)
    await clicked(visitor, CLICK)

    await visitor.evaluate(tell, arg=False)
    await gone(visitor)
    await visitor.evaluate(tell, arg=True)
    await clicked(visitor, CLICK)
    assert await visitor.evaluate("tcf.listeners.length") == 1


@pytest.mark.parametrize("attributes", [{}, REQUIRED], ids=["default", "required"])
async def test_withdrawal_removes_the_cookies_in_both_their_forms(
    site: Site, visitor: Page, attributes: dict[str, str]
) -> None:
    site.answers["click"] = [(200, WITH_PARTNER)]
    site.carries(
        {**attributes, "data-domains": REQUIRED["data-domains"]},
        before=STUB + "dubAnalytics('consent', 'granted');",
    )
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)
    await settled(visitor)
    for name in ("dub_id", "dub_partner_data"):
        # As the site's own code may have written it: without a Domain.
        await visitor.evaluate("name => { document.cookie = name + '=x'; }", name)
        assert len(await cookies_of(visitor.context, name)) == 2

    await visitor.evaluate("dubAnalytics('consent', 'denied')")
    assert await visitor.evaluate("document.cookie") == ""
    await gone(visitor)
    assert not await visitor.evaluate("dubAnalytics.trackClick({key: 'x'})")
    assert await click_of(visitor) is None
    assert len(site.posted("click")) == 1


async def test_what_the_server_restores_after_a_refusal_is_removed_again(
    site: Site, visitor: Page
) -> None:
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)
    await visitor.context.clear_cookies(name="dub_id")
    later = await visitor.context.new_page()
    refused = "dubAnalytics('consent', 'denied')"
    site.body = f"<script>{refused}</script>"
    await later.goto(site.url("/signup"))

    await gone(later)
    asked = [call for call in site.calls if call.path.endswith("/cookie")]
    assert len(asked) == 3  # the landing, the restoring, the removal


async def test_a_click_under_way_is_not_stored_after_a_refusal(
    site: Site, visitor: Page
) -> None:
    site.carries({"data-domains": REQUIRED["data-domains"]})
    site.answers["click"] = [(200, WITH_PARTNER)]
    site.held["click"] = asyncio.Event()
    await visitor.goto(site.url())
    await visitor.evaluate("window.it = dubAnalytics.trackClick({key: 'a'}), 0")
    await site.called("click")
    await visitor.evaluate("dubAnalytics('consent', 'denied')")
    site.held["click"].set()
    await visitor.evaluate("it")
    await gone(visitor)

    assert len(site.posted("click")) == 1
    assert await kept(visitor.context) == []


@pytest.mark.parametrize(
    ("attributes", "signal", "stores"),
    [
        ({"data-gpc": "honour"}, True, False),
        ({"data-gpc": "honour"}, False, True),
        ({}, True, True),
        ({**REQUIRED, "data-gpc": "honour"}, True, False),
    ],
)
async def test_global_privacy_control_is_honoured_where_that_is_set(
    site: Site, visitor: Page, attributes: dict[str, str], signal: bool, stores: bool
) -> None:
    given = f"{{value: {str(signal).lower()}, configurable: true}}"
    site.carries(
        attributes,
        before=f"Object.defineProperty(navigator, 'globalPrivacyControl', {given});"
        + GTAG
        + "gtag('consent', 'default', {ad_storage: 'granted'});",
    )
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    if not stores:
        await a_while(visitor)
    await clicked(visitor, CLICK if stores else None)

    # Somebody may still say yes to this very site.
    await visitor.evaluate("dubAnalytics('consent', 'granted')")
    await clicked(visitor, CLICK)


@both
async def test_by_default_it_stores_as_dubs_does(
    site: Site, visitor: Page, script: str
) -> None:
    errors = watched(visitor)
    site.carries({}, script=f"/_dub/{script}")
    await visitor.goto(site.url(f"/?dub_id={OTHER}"))

    assert await click_of(visitor) == OTHER
    assert errors == []


CONSENTS = json.loads(
    (Path(__file__).parents[1] / "support/consents.json").read_text(encoding="utf-8")
)
"""As the server reads them (tests/unit/test_consent.py)."""


@pytest.mark.parametrize("asked", sorted({asked for asked, _, _ in CONSENTS}))
async def test_a_consent_cookie_is_read_as_the_server_does(
    site: Site, visitor: Page, asked: str
) -> None:
    await asks(site, visitor, more={"data-consent-cookie": asked})
    write = "cookie => { document.cookie = cookie; }"
    for _, cookie, yes in [each for each in CONSENTS if each[0] == asked]:
        name = cookie.partition("=")[0]
        await visitor.evaluate(write, f"{name}=; max-age=0")
        await clicked(visitor, None)
        await visitor.evaluate(write, cookie)
        if yes:
            await clicked(visitor, CLICK)
        else:
            await a_while(visitor)
            assert await click_of(visitor) is None, cookie


async def test_of_several_consent_cookies_all_must_say_yes(
    site: Site, visitor: Page
) -> None:
    await asks(site, visitor, more={"data-consent-cookie": "site_consent"})
    write = "cookie => { document.cookie = cookie; }"
    await visitor.evaluate(write, "site_consent=no; domain=.acme.test")
    await visitor.evaluate(write, "site_consent=yes")
    await a_while(visitor)
    assert await click_of(visitor) is None

    await visitor.evaluate(write, "site_consent=yes; domain=.acme.test")
    await clicked(visitor, CLICK)


# --- What is fixed by the relay, or stands in the script's address. ---


@both
async def test_what_the_relay_fixes_no_tag_changes(
    site: Site, visitor: Page, script: str
) -> None:
    site.fixed = {"consent": "required", "consentCookie": "site_consent"}
    wishes = {"data-consent": "false", "data-consent-cookie": "other"}
    site.carries(wishes, script=f"/_dub/{script}")
    await visitor.context.add_cookies(
        [{"name": "other", "value": "yes", "url": site.url()}]
    )
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await a_while(visitor)
    assert await click_of(visitor) is None

    await visitor.evaluate("() => { document.cookie = 'site_consent=yes'; }")
    await clicked(visitor, CLICK)


INJECTED = {
    "a tag manager": "const it = document.createElement('script'); it.src = '{src}';"
    "document.head.append(it);",
    "a loader": "fetch('{src}').then(it => it.text()).then(text => "
    "document.head.append(Object.assign(document.createElement('script'), "
    "{{text}})));",
    "import": "import('{src}');",
}


@pytest.mark.parametrize("inject", INJECTED.values(), ids=list(INJECTED))
@both
async def test_consent_is_required_however_the_script_is_run(
    site: Site, visitor: Page, script: str, inject: str
) -> None:
    """Attributes are lost on each of these ways; what is fixed is not."""
    site.fixed = {"consent": "required", "consentCookie": "site_consent"}
    src = f"/_dub/{script}"
    site.head = f"<script>{STUB}{inject.format(src=src)}</script>"
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await visitor.wait_for_function("self._dubAnalytics")
    await a_while(visitor)
    assert await stored(visitor) == []

    await visitor.evaluate("() => { document.cookie = 'site_consent=yes'; }")
    await clicked(visitor, CLICK)


@pytest.mark.parametrize("inject", ["a tag manager", "import"])
@pytest.mark.parametrize(
    "options",
    [
        "consent=required&consentCookie=site_consent",
        "data-consent=required&data-consent-cookie=site_consent",
    ],
)
@both
async def test_options_may_stand_in_the_scripts_address(
    site: Site, visitor: Page, script: str, options: str, inject: str
) -> None:
    src = f"/_dub/{script}?{options}"
    site.head = f"<script>{STUB}{INJECTED[inject].format(src=src)}</script>"
    await visitor.goto(site.url(f"/?dub_id={CLICK}&consent=false"))
    await visitor.wait_for_function("self._dubAnalytics")
    await a_while(visitor)
    assert await stored(visitor) == []

    await visitor.evaluate("() => { document.cookie = 'site_consent=yes'; }")
    await clicked(visitor, CLICK)
