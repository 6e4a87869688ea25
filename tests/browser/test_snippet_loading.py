"""However the snippet gets into a page, it runs there once, and under any policy."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Page, Route

from relay.capture.snippet import Snippet
from tests.support.snippet_rig import (
    ALL,
    AS_DUB_DOES,
    CLICK,
    OTHER,
    REFER,
    STUB,
    TRACKED,
    Site,
    a_while,
    click_of,
    clicked,
    settled,
    snippet,
    watched,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

OLD = "/old/script.js"
NEW = "/_dub/script.js"

INSERTED = """
const script = document.createElement('script');
script.src = %r;
script.dataset.apiHost = '/api';
script.setAttribute('data-domains', '{"refer": "go.acme.test"}');
document.head.append(script);
"""


async def test_a_second_load_does_nothing(site: Site, visitor: Page) -> None:
    """Dub's posts the click once for each tag."""
    await visitor.clock.install()
    for script, clicks in ((OLD, 2), (NEW, 1)):
        site.calls.clear()
        site.carries(REFER, script=script, before=STUB)
        site.head += site.head
        await visitor.goto(site.url("/?via=derek"))
        await clicked(visitor, TRACKED)
        await a_while(visitor)
        assert len(site.posted("click")) == clicks


async def test_a_second_load_of_another_variant_leaves_the_first_alone(
    site: Site, visitor: Page
) -> None:
    await visitor.goto(site.url())
    await visitor.evaluate("window.first = dubAnalytics")
    await visitor.add_script_tag(url=f"/_dub/{ALL}")

    assert await visitor.evaluate("first === dubAnalytics")


async def test_as_a_module_it_finds_its_tag_by_the_files_name(
    site: Site, visitor: Page
) -> None:
    errors = watched(visitor)
    site.carries(REFER, script=OLD, extra="type=module")
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    assert errors
    assert await click_of(visitor) is None

    errors.clear()
    site.carries(REFER, script=NEW, extra="type=module")
    # The site's own script has the same file's name, and is no module.
    site.head = f'<script src="/own/script.js"></script>{site.head}'
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)
    assert [error for error in errors if "own" not in error and "<" not in error] == []


AS_A_MODULE = INSERTED.replace("script.src", "script.type = 'module'; script.src")


@pytest.mark.parametrize(
    ("how", "olds"),
    [
        (INSERTED, TRACKED),
        (
            f"document.addEventListener('DOMContentLoaded', () => {{{INSERTED}}})",
            TRACKED,
        ),
        (f"setTimeout(() => {{{INSERTED}}}, 50)", TRACKED),
        (AS_A_MODULE, None),
    ],
    ids=["at once", "when ready", "later", "as a module"],
)
async def test_inserted_by_a_script_as_tag_managers_do(
    site: Site, visitor: Page, how: str, olds: str | None
) -> None:
    """Dub's can be inserted, too, but for a module, which is not told its tag."""
    site.head = f"<script>{STUB}{how % OLD}</script>"
    if olds is None:
        async with visitor.expect_event("pageerror"):
            await visitor.goto(site.url("/?via=derek"))
    else:
        await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, olds)
    assert len(site.posted("click")) == (olds is not None)

    site.calls.clear()
    await visitor.context.clear_cookies()
    site.head = f"<script>{STUB}{how % NEW}</script>"
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)
    assert (await site.called("click"))[0]["domain"] == "go.acme.test"


SEALED = {"Content-Security-Policy": "sandbox allow-scripts"}


async def test_where_nothing_can_be_stored_the_page_goes_on(
    site: Site, visitor: Page
) -> None:
    """A sandboxed frame: to ask for cookies or a session's storage is an error."""
    errors = watched(visitor)
    site.headers = SEALED
    # Nor has such a page an origin of its own.
    api = {**REFER, "data-api-host": site.url("", "api.test")}
    wishes = {**api, "data-publishable-key": "dub_pk_x", "data-clean-url": ""}
    site.carries(api, script=OLD, before=STUB)
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    assert errors

    errors.clear()
    for script in (NEW, f"/_dub/{ALL}"):
        site.calls.clear()
        site.carries(wishes, script=script)
        await visitor.goto(site.url(f"/?dub_id={CLICK}&via=derek"))
        await settled(visitor)
        assert len(site.posted("click")) == 1
        await visitor.evaluate("dubAnalytics('trackLead', {eventName: 'A'})")
        await visitor.evaluate("dubAnalytics('consent', 'denied')")
    assert [lead["clickId"] for lead in site.posted("lead/client")] == [""]
    assert errors == []


async def test_imported_without_a_tag_it_keeps_the_click(
    site: Site, visitor: Page
) -> None:
    errors = watched(visitor)
    site.head = f'<script type="module">import "{NEW}";</script>'
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))

    await clicked(visitor, CLICK)
    assert errors == []


NONCE = "'nonce-r4nd0m'"
TRUSTED = f"{NONCE} 'strict-dynamic'; require-trusted-types-for 'script'"


@pytest.mark.parametrize(
    ("sources", "extra"),
    [("'self'", ""), (NONCE, "nonce=r4nd0m"), (TRUSTED, "nonce=r4nd0m")],
    ids=["self", "nonce", "strict-dynamic"],
)
@pytest.mark.parametrize("script", [NEW, f"/_dub/{ALL}"])
async def test_a_strict_policy_is_enough(
    site: Site, visitor: Page, sources: str, extra: str, script: str
) -> None:
    said: list[str] = []
    visitor.on("console", lambda message: said.append(message.text))
    errors = watched(visitor)
    # Firefox asks for an icon, without a window, too.
    policy = f"default-src 'none'; connect-src 'self'; script-src {sources}"
    policy += "; img-src 'self'"
    site.headers["Content-Security-Policy"] = policy
    # These fetch script.extras.js, too.
    wishes = {**REFER, "data-consent": "false", "data-clean-url": ""}
    site.carries(wishes, script=script, extra=extra)
    await visitor.goto(site.url("/?via=derek"))

    await clicked(visitor, TRACKED)
    await visitor.wait_for_url(site.url())
    assert errors == []
    assert [text for text in said if "policy" in text.lower()] == []


async def test_dubs_takes_another_host_which_a_strict_policy_refuses(
    site: Site, visitor: Page
) -> None:
    """Two, in fact: the script's, and, where a site serves a copy, that of the calls.

    Such a copy with a proxy for its calls would do: nobody ships the copy.
    """
    policy = "script-src 'self'; connect-src 'self'"
    site.headers["Content-Security-Policy"] = policy
    site.carries(REFER, script=site.url(OLD, "cdn.test"))
    async with visitor.expect_console_message(lambda it: "script-src" in it.text):
        await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    assert await click_of(visitor) is None

    api = {**REFER, "data-api-host": site.url("", "api.test")}
    site.carries(api, script=OLD)
    async with visitor.expect_event("pageerror"):
        await visitor.goto(site.url("/?via=derek"))
    assert (site.posted("click"), await click_of(visitor)) == ([], None)

    errors = watched(visitor)
    site.carries(REFER, script=NEW)
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)
    assert errors == []


def answering(text: str) -> Callable[[Route], Awaitable[None]]:
    async def answer(route: Route) -> None:
        await route.fulfill(body=text, content_type="text/javascript")

    return answer


async def test_a_pinned_tag_meets_no_other_text_at_its_address(
    site: Site, visitor: Page
) -> None:
    """Dub's has one address, whose next release a pinned integrity refuses.

    A release of ours has an address of its own, and the text at it is the tag's.
    """
    text = AS_DUB_DOES.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha384(text.encode()).digest()).decode()
    kept = []
    site.carries(script=OLD, extra=f'integrity="sha384-{digest}"')
    for release in (text, f"{text}// the next release"):
        await visitor.context.clear_cookies()
        await visitor.unroute_all()
        await visitor.route(f"**{OLD}", answering(release))
        await visitor.goto(site.url(f"/?dub_id={CLICK}"))
        kept.append(await click_of(visitor))
    assert kept == [CLICK, None]

    addresses = set()
    for site.days in (90, 30):
        await visitor.context.clear_cookies()
        site.head = snippet(site.attribution, site.domain, site.days).tag("script.js")
        async with visitor.expect_response("**/script.*.js") as asked:
            await visitor.goto(site.url(f"/?dub_id={CLICK}"))
        addresses.add((await asked.value).url)
        await clicked(visitor, CLICK)
    assert len(addresses) == 2


@pytest.mark.parametrize("name", ["script.js", ALL])
async def test_with_integrity_at_its_unchanging_address(
    site: Site, visitor: Page, name: str
) -> None:
    tag = snippet("last-click", None, 90).tag(name)
    site.head = re.sub(" ", ' data-clean-url="" ', tag, count=1)
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await visitor.wait_for_url(site.url())
    await settled(visitor)
    assert await click_of(visitor) == CLICK
    assert [call.path for call in site.calls] == ["/_dub/cookie"]

    # Another text is refused.
    site.head = tag.replace("sha384-", "sha384-A", 1)
    await visitor.goto(site.url(f"/?dub_id={OTHER}"))
    assert await visitor.evaluate("typeof dubAnalytics") == "undefined"
    assert await click_of(visitor) == CLICK


@pytest.mark.parametrize(("added", "runs"), [("", True), ("A", False)])
async def test_an_import_map_pins_the_part_that_loads_later(
    site: Site, visitor: Page, added: str, runs: bool
) -> None:
    integrity = Snippet().extras_integrity.replace("-", f"-{added}", 1)
    pinned = {"integrity": {"/_dub/script.extras.js": integrity}}
    site.carries({"data-consent": "required", "data-consent-cookie": "yes"})
    site.head = f'<script type="importmap">{json.dumps(pinned)}</script>{site.head}'
    await visitor.clock.install()
    await visitor.goto(site.url("/"))
    await visitor.evaluate("document.cookie = 'yes=1'")
    async with visitor.expect_response("**/script.extras.js"):
        await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    if runs:
        await clicked(visitor, CLICK)
    else:
        await a_while(visitor)
        assert await click_of(visitor) is None
