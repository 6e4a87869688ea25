"""What docs/snippet.md says of the snippet is so; its samples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page

from relay.capture.snippet import (
    NAMES,
    Snippet,
)
from tests.support.snippet_rig import (
    ALL,
    CLICK,
    Site,
    click_of,
    settled,
    watched,
)

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "snippet.md").read_text(encoding="utf-8")
SOURCES = sorted((ROOT / "static" / "snippet" / "src").glob("*.js"))


def sample(language: str, holding: str) -> str:
    """The code block of a language that holds this."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)
    (found,) = [block for block in blocks if holding in block]
    return str(found)


def test_the_page_shows_this_builds_tag_with_its_integrity() -> None:
    """If not, put what the assertion shows into docs/snippet.md."""
    shown = " ".join(sample("html", "crossorigin").split())

    assert shown == Snippet().tag()
    assert Snippet().extras_integrity in sample("html", "importmap")


def test_the_page_knows_every_attribute_and_no_other() -> None:
    """Of the table's rows, against what the sources take from ``dataset``."""
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    used = set(re.findall(r"\bdata\.(\w+)", code))
    used |= set(
        re.findall(r"\w+", code.partition("const extras = (")[2].partition(")")[0])
    )
    rows = re.findall(r"^\| `data-[^|]*\|", DOCS, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"data-([a-z-]+)", row)}
    as_keys = {re.sub(r"-(\w)", lambda it: it[1].upper(), name) for name in told}

    # Set by the npm package, and tolerated.
    assert as_keys - used == {"sdkn", "sdkv"}
    assert used - as_keys == set()


def test_the_page_names_the_parts_in_their_order() -> None:
    longest = max(NAMES, key=len).removeprefix("script.").removesuffix(".js")
    parts = re.findall(r"\[\.([a-z-]+)\]", DOCS)

    assert ".".join(parts) == longest


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
async def test_the_samples_run_under_the_policy_of_the_page(
    site: Site, visitor: Page
) -> None:
    said: list[str] = []
    visitor.on("console", lambda message: said.append(message.text))
    errors = watched(visitor)
    policy = sample("text", "script-src").strip()
    tag = sample("html", '"/_dub/script.js"').strip()
    attributes = 'data-api-host="/_dub" data-publishable-key="dub_pk_x"'
    site.head = tag.replace("script.js", ALL).replace("defer", f"defer {attributes}")
    site.headers["Content-Security-Policy"] = policy
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)
    await visitor.evaluate(f"(async () => {{ {sample('js', 'trackLead')} }})()")

    assert {call.path for call in site.calls} == {
        "/_dub/cookie",
        "/_dub/track/click",
        "/_dub/track/lead/client",
        "/_dub/track/sale/client",
    }
    assert await click_of(visitor) is not None
    assert errors == []
    assert [text for text in said if "policy" in text.lower()] == []
