"""Links, frames and forms that lead to the site's other domains carry the click."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page

from tests.support.snippet_rig import (
    CLICK,
    OTHER,
    TRACKED,
    Site,
    a_while,
    clicked,
    given,
    watched,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

OLD = "/old/script.js"
NEW = "/_dub/script.outbound-domains.js"
LISTED = ["example.test", "www.other.test", "*.wild.test", "acme.test", "sub.deep.test"]
DOMAINS = {"data-domains": json.dumps({"outbound": LISTED, "refer": "go.acme.test"})}
ADDED = f"dub_id={CLICK}"

HREF = "name => document.getElementById(name).getAttribute('href')"


def decorated(address: str, click: str = CLICK) -> str:
    return f"{address}{'&' if '?' in address else '?'}dub_id={click}"


async def href_is(page: Page, name: str, expected: str | None) -> None:
    """Wait for a link's address."""
    await page.wait_for_function(
        "([name, expected]) =>"
        " document.getElementById(name).getAttribute('href') === expected",
        arg=[name, expected],
    )


async def landed(site: Site, page: Page, body: str, script: str = NEW) -> None:
    site.carries(DOMAINS, script=script)
    site.body = body
    await page.goto(site.url(f"/?dub_id={CLICK}"))


GET_IT = [
    "https://example.test/",
    "https://www.example.test/a",
    "https://other.test/?foo=bar",
    "https://example.test:8443/",
    "https://api.wild.test/",
    "https://www.api.wild.test/",
    "https://deep.nested.wild.test/",
    "https://www.sub.deep.test/",
]

DO_NOT = [
    "https://sub.example.test/",
    "https://wild.test/",
    "https://www.wild.test/",
    "https://notwild.test/",
    "https://example.test.evil.test/",
    "https://unrelated.test/?u=https://example.test/",
    "https://www.acme.test/other",
    "/page",
    "mailto:a@example.test",
    "javascript:void 0",
    "#top",
    "https://",
]


@pytest.mark.parametrize("outbound", [LISTED, " , ".join(LISTED)])
async def test_listed_hosts_get_the_click_and_no_others(
    site: Site, visitor: Page, outbound: object
) -> None:
    """The list may be an array, or one text."""
    site.carries({"data-domains": json.dumps({"outbound": outbound})}, script=NEW)
    site.body = "".join(f'<a href="{address}">It</a>' for address in GET_IT + DO_NOT)
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))

    hrefs = "[...document.links].map(it => it.getAttribute('href'))"
    assert await visitor.evaluate(hrefs) == [*map(decorated, GET_IT), *DO_NOT]


async def test_the_rest_of_an_address_stays_as_it_was_written(
    site: Site, visitor: Page
) -> None:
    own = [f"https://example.test/?dub_id={OTHER}", "https://example.test/?dub_id="]
    links = [
        "https://example.test/?e&f=%20+x",
        "https://example.test/a?b=1#top?c",
        *own,
    ]
    await landed(site, visitor, "".join(f'<a href="{it}">It</a>' for it in links))

    hrefs = "[...document.links].map(it => it.getAttribute('href'))"
    assert await visitor.evaluate(hrefs) == [
        f"https://example.test/?e&f=%20+x&{ADDED}",
        f"https://example.test/a?b=1&{ADDED}#top?c",
        *own,
    ]


async def test_frames_get_it_those_within_a_srcdoc_too(
    site: Site, visitor: Page
) -> None:
    """As booking widgets embed themselves."""
    inner = (
        "<iframe src='https://example.test/booking'></iframe>"
        "<a href='https://other.test/'>It</a>"
    )
    await landed(
        site,
        visitor,
        f'<iframe src="https://example.test/embed"></iframe><iframe srcdoc="{inner}">',
    )
    sources = (
        "[...document.querySelectorAll('iframe[src]'),"
        " ...document.querySelector('[srcdoc]').contentDocument"
        ".querySelectorAll('[src],[href]')].map(it => it.src || it.href)"
    )
    expected = ["https://example.test/embed", "https://example.test/booking"]
    wanted = [*map(decorated, expected), decorated("https://other.test/")]
    await visitor.wait_for_function(f"{sources}.join() === {','.join(wanted)!r}")

    await visitor.evaluate(
        "const added = document.createElement('iframe');"
        "added.src = 'https://example.test/late';"
        "document.querySelector('[srcdoc]').contentDocument.body.append(added);"
    )
    wanted.insert(2, decorated("https://example.test/late"))
    await visitor.wait_for_function(
        f"{sources}.sort().join() === {sorted(wanted)!r}.join()"
    )


LINK = '<main><a id="it" href="https://example.test/">It</a></main>'

CHANGES = {
    "pointed elsewhere": "it.href = 'https://other.test/x'",
    "its attribute set": "it.setAttribute('href', 'https://other.test/x')",
    "rendered anew": "document.querySelector('main').innerHTML ="
    ' \'<p><a id="it" href="https://other.test/x">It</a></p>\'',
}


async def test_a_link_that_changes_is_decorated_again(
    site: Site, visitor: Page
) -> None:
    await visitor.clock.install()
    await landed(site, visitor, LINK, OLD)
    await visitor.evaluate(CHANGES["pointed elsewhere"])
    # Dub's looks every two seconds, and passes over what it has done.
    await a_while(visitor, 2200)
    assert await visitor.evaluate(HREF, "it") == "https://other.test/x"

    for change in CHANGES.values():
        await landed(site, visitor, LINK)
        await visitor.evaluate(change)
        await href_is(visitor, "it", decorated("https://other.test/x"))


async def test_a_newer_click_replaces_the_one_that_was_added(
    site: Site, visitor: Page
) -> None:
    written = '<a id="own" href="https://example.test/?dub_id=writtenByThePage">It</a>'
    frame = '<iframe id="frame" src="https://example.test/embed"></iframe>'
    await landed(site, visitor, LINK + written + frame)
    await visitor.evaluate(f"history.pushState({{}}, '', '/?dub_id={OTHER}')")

    await href_is(visitor, "it", decorated("https://example.test/", OTHER))
    own = await visitor.evaluate(HREF, "own")
    assert own == "https://example.test/?dub_id=writtenByThePage"
    # A frame would load anew, and what was typed into it be lost.
    source = await visitor.evaluate("frame.src")
    assert source == decorated("https://example.test/embed")


async def test_links_wait_for_the_click_and_get_it_at_once(
    site: Site, visitor: Page
) -> None:
    site.carries(DOMAINS, script=NEW)
    site.body = LINK
    await visitor.goto(site.url("/?via=derek"))

    await href_is(visitor, "it", decorated("https://example.test/", TRACKED))


async def test_without_a_click_nothing_is_touched(site: Site, visitor: Page) -> None:
    errors = watched(visitor)
    site.carries(DOMAINS, script=NEW)
    site.body = LINK
    await visitor.goto(site.url())
    await visitor.evaluate(
        "it.addEventListener('click', event => event.preventDefault())"
    )
    await visitor.click("#it")

    assert await visitor.evaluate(HREF, "it") == "https://example.test/"
    assert errors == []

    await visitor.evaluate(f"history.pushState({{}}, '', '/?{ADDED}')")
    await href_is(visitor, "it", decorated("https://example.test/"))


async def test_a_link_in_a_shadow_root_gets_it_when_it_is_used(
    site: Site, visitor: Page
) -> None:
    in_shadow = """
      <x-card></x-card>
      <script>
        const root = document.querySelector('x-card').attachShadow({mode: 'open'});
        root.innerHTML = '<a href="https://example.test/"><b>Go</b></a>';
        const link = root.querySelector('a');
        window.went = new Promise(done => link.addEventListener('click', event => {
          event.preventDefault();
          done(link.href);
        }));
      </script>"""
    went = {}
    for script in (OLD, NEW):
        await landed(site, visitor, in_shadow, script)
        await visitor.click("x-card b")
        went[script] = await given(visitor, "went")

    assert went == {
        OLD: "https://example.test/",
        NEW: decorated("https://example.test/"),
    }


async def test_an_area_of_an_image_map_and_a_link_in_a_drawing_get_it(
    site: Site, visitor: Page
) -> None:
    body = (
        '<map name="m"><area id="area" href="https://example.test/"></map>'
        '<svg><a id="drawn" href="https://example.test/"><text>It</text></a></svg>'
    )
    await landed(site, visitor, body, OLD)
    assert await visitor.evaluate(HREF, "area") == "https://example.test/"

    await landed(site, visitor, body)
    for name in ("area", "drawn"):
        await href_is(visitor, name, decorated("https://example.test/"))


@pytest.mark.parametrize(
    ("form", "query"),
    [
        ("<form action='{}?lost=1' method=GET>", ADDED),
        (
            "<form action='{}'><input type=hidden name=dub_id value=own>",
            "dub_id=own",
        ),
        ("<form action='{}' method=post><input name=q value=1>", ""),
    ],
)
async def test_a_form_is_left_its_own_fields_and_method(
    site: Site, visitor: Page, form: str, query: str
) -> None:
    target = site.url("/signup", "example.test")
    written = form.format(target) + "<button>Go</button></form>"
    await landed(site, visitor, LINK + written)
    await href_is(visitor, "it", decorated("https://example.test/"))
    await visitor.click("button")
    await visitor.wait_for_url(lambda url: "/signup" in url)

    assert urlsplit(visitor.url).query == query


async def test_a_get_form_to_a_listed_host_sends_it(site: Site, visitor: Page) -> None:
    target = site.url("/signup", "example.test")
    form = f"<form action='{target}'><input name=q value=1><button>Go</button></form>"
    for script, query in ((OLD, "q=1"), (NEW, f"q=1&{ADDED}")):
        await landed(site, visitor, form, script)
        await visitor.click("button")
        await visitor.wait_for_url(lambda url: "/signup" in url)
        assert urlsplit(visitor.url).query == query


async def test_a_form_to_the_site_itself_does_not(site: Site, visitor: Page) -> None:
    form = "<form action=/search><button>Go</button></form>"
    await landed(site, visitor, LINK + form)
    await href_is(visitor, "it", decorated("https://example.test/"))
    await visitor.click("button")
    await visitor.wait_for_url(site.url("/search?"))


async def test_the_click_arrives_on_the_other_domain(site: Site, visitor: Page) -> None:
    target = site.url("/welcome", "app.wild.test")
    await landed(site, visitor, f'<a id="it" href="{target}">It</a>')
    await visitor.click("#it")
    await visitor.wait_for_url(lambda url: "/welcome" in url)

    await clicked(visitor, CLICK)


async def test_consent_withdrawn_takes_it_off_the_links(
    site: Site, visitor: Page
) -> None:
    await landed(site, visitor, LINK)
    await visitor.evaluate("dubAnalytics('consent', 'denied')")

    await href_is(visitor, "it", "https://example.test/")

    await visitor.evaluate("dubAnalytics('consent', 'granted')")
    await href_is(visitor, "it", decorated("https://example.test/"))
