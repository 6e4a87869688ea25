"""The snippet's calls: promises that wait, last, try again and never throw."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Page

from tests.support.snippet_rig import (
    ALL,
    CLICK,
    STUB,
    TRACKED,
    Site,
    a_while,
    click_of,
    clicked,
    given,
    watched,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

OLD = "/old/script.js"
NEW = f"/_dub/{ALL}"
TAG = {
    "data-domains": '{"refer": "go.acme.test"}',
    "data-publishable-key": "dub_pk_x",
}
LEAD = "dubAnalytics.trackLead({eventName: 'Sign Up', customerExternalId: 'u_1'})"
SALE = "dubAnalytics.trackSale({customerExternalId: 'u_1', amount: 100%s})"


async def test_a_lead_waits_for_the_click_under_way(site: Site, visitor: Page) -> None:
    await visitor.clock.install()
    site.held["click"] = asyncio.Event()
    site.carries(TAG, script=OLD, before=STUB + LEAD)
    await visitor.goto(site.url("/?via=derek"))
    assert (await site.called("lead/client"))[0]["clickId"] == ""

    site.calls.clear()
    await visitor.context.clear_cookies()
    site.carries(TAG, script=NEW, before=STUB + LEAD)
    await visitor.goto(site.url("/?via=derek"))
    await site.called("click")
    await a_while(visitor, 300)
    assert site.posted("lead/client") == []

    site.held["click"].set()
    assert (await site.called("lead/client"))[0]["clickId"] == TRACKED


async def test_a_lead_waits_for_a_click_that_the_page_tracked(
    site: Site, visitor: Page
) -> None:
    site.carries(TAG, script=NEW)
    await visitor.goto(site.url())
    await visitor.evaluate(f"dubAnalytics.trackClick({{key: 'derek'}}); {LEAD}")

    assert site.posted("lead/client")[0]["clickId"] == TRACKED


async def test_the_methods_give_dubs_answers(site: Site, visitor: Page) -> None:
    site.carries(TAG, script=OLD, before=STUB)
    await visitor.goto(site.url())
    assert await visitor.evaluate(f"typeof {LEAD}") == "undefined"

    lead = {"click": {"id": TRACKED}, "link": None, "customer": {"name": "Zoë"}}
    refused = {"error": {"code": "not_found", "message": "Customer not found"}}
    site.answers = {
        "lead/client": [(200, lead)],
        "sale/client": [(404, refused)],
    }
    site.carries(TAG, script=NEW)
    await visitor.goto(site.url())

    assert await visitor.evaluate(LEAD) == lead
    assert await visitor.evaluate("dubAnalytics('trackLead', {})") == lead
    assert await visitor.evaluate(SALE % "") == refused
    answer = await visitor.evaluate("dubAnalytics.trackClick({key: 'a'})")
    assert answer == {"clickId": TRACKED}


async def test_a_passing_fault_loses_no_click(site: Site, visitor: Page) -> None:
    await visitor.clock.install()
    failing = [(429, {"error": {}}), (502, "<html>"), (200, {"clickId": TRACKED})]
    site.answers["click"] = list(failing)
    site.carries(TAG, script=OLD)
    await visitor.goto(site.url("/?via=derek"))
    await site.called("click")
    await a_while(visitor, 2000)
    assert len(site.posted("click")) == 1

    site.answers["click"] = list(failing)
    site.carries(TAG, script=NEW)
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)
    assert len(site.posted("click")) == 1 + 3


async def test_what_dub_refuses_is_not_repeated(site: Site, visitor: Page) -> None:
    site.answers["lead/client"] = [(422, {"error": {"code": "unprocessable_entity"}})]
    site.carries(TAG, script=NEW)
    await visitor.goto(site.url())
    answer = await visitor.evaluate(LEAD)

    assert answer["error"]["code"] == "unprocessable_entity"
    assert len(site.posted("lead/client")) == 1


@pytest.mark.parametrize(
    ("first", "more", "counted"),
    [
        ([(500, {})], {}, False),
        ([(500, {})], {"relay": {"id": "lead_1", "status": "duplicate"}}, True),
        ([], {}, True),
    ],
)
async def test_a_repeat_that_dub_has_swallowed_is_no_success(
    site: Site, visitor: Page, first: Any, more: dict[str, Any], counted: bool
) -> None:
    """Dub claims its dedupe key before it fails; the relay has stored the lead."""
    taken = {"click": {"id": TRACKED}, "link": None, "customer": {}} | more
    site.answers["lead/client"] = [*first, (200, taken)]
    site.carries(TAG, script=NEW)
    await visitor.goto(site.url())
    await visitor.evaluate(
        "document.addEventListener('dub:lead', e => self.seen = e.detail)"
    )

    assert await visitor.evaluate(LEAD) == (taken if counted else None)
    assert await visitor.evaluate("self.seen") == (taken if counted else None)


@pytest.mark.parametrize(("invoice", "tries"), [(", invoiceId: 'in_1'", 2), ("", 1)])
async def test_a_sale_is_repeated_only_if_its_invoice_makes_it_one(
    site: Site, visitor: Page, invoice: str, tries: int
) -> None:
    """Without an invoice's number Dub would count the sale again."""
    site.answers["sale/client"] = [(500, {}), (200, {"sale": {}})]
    site.carries(TAG, script=NEW)
    await visitor.goto(site.url())
    await visitor.evaluate(SALE % invoice)

    assert len(site.posted("sale/client")) == tries


@pytest.mark.parametrize("answer", [(204, ""), (404, "<html>")])
async def test_nothing_is_thrown_at_the_page(
    site: Site, visitor: Page, answer: tuple[int, str]
) -> None:
    errors = watched(visitor)
    await visitor.clock.install()
    site.answers = {"click": [answer], "lead/client": [answer]}
    site.carries(TAG, script=OLD, before=STUB + LEAD)
    await visitor.goto(site.url("/?via=derek"))
    await site.called("lead/client")
    await a_while(visitor)
    assert errors

    errors.clear()
    site.carries(TAG, script=NEW)
    await visitor.goto(site.url("/?via=derek"))
    assert await visitor.evaluate(LEAD) is None
    assert await visitor.evaluate(SALE % "") is not None
    assert errors == []


async def test_nor_when_dub_cannot_be_reached(site: Site, visitor: Page) -> None:
    errors = watched(visitor)
    failed: list[str] = []
    visitor.on("requestfailed", lambda request: failed.append(request.url))
    site.carries({**TAG, "data-api-host": "http://127.0.0.1:9"}, script=NEW)
    await visitor.goto(site.url())

    assert await visitor.evaluate(SALE % "") is None
    await visitor.evaluate("void dubAnalytics.trackClick()")
    await visitor.evaluate("void dubAnalytics.trackClick(null)")
    assert await visitor.evaluate("dubAnalytics.trackSale()") is None
    assert "http://127.0.0.1:9/track/sale/client" in failed
    assert errors == []


SPIED = """
const fetched = fetch;
window.kept = new Promise(done => {
  fetch = (url, init) => {
    if (url.endsWith('lead/client')) done(!!init.keepalive);
    return fetched(url, init);
  };
});
"""


async def test_a_lead_that_is_tracked_as_the_page_is_left_arrives(
    site: Site, visitor: Page
) -> None:
    site.carries(TAG, script=NEW)
    await visitor.goto(site.url())
    await visitor.evaluate(f"{LEAD}; location.href = '/welcome';")

    await visitor.wait_for_url(site.url("/welcome"))
    assert len(await site.called("lead/client")) == 1


async def test_a_call_outlives_its_page(site: Site, visitor: Page) -> None:
    """Dub's is aborted when the page that follows a form comes."""
    for script, kept in ((OLD, False), (NEW, True)):
        site.carries(TAG, script=script, before=SPIED + STUB + LEAD)
        await visitor.goto(site.url())
        assert await given(visitor, "kept") is kept


async def test_without_a_key_nothing_is_sent_and_the_page_goes_on(
    site: Site, visitor: Page
) -> None:
    errors = watched(visitor)
    site.carries(script=NEW)
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))

    assert await visitor.evaluate(LEAD) is None
    assert await click_of(visitor) == CLICK
    assert site.posted("lead/client") == []
    assert errors == []
