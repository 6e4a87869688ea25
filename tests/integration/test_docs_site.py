"""The docs as a site: strictly built, and loading nothing from anywhere else."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from playwright.async_api import Page
from pytest_aiohttp import AiohttpServer

from tests.support.docs_site import build

pytestmark = pytest.mark.process

TOP = Path(__file__).parents[2]
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "srcset"}
NOT_LOADED = {"canonical", "next", "prev", "alternate"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("site")
    built = build(TOP, to)
    assert built.returncode == 0, built.stderr
    return to


def test_every_link_and_anchor_of_the_docs_leads_somewhere(site: Path) -> None:
    assert (site / "index.html").is_file()
    assert (site / "search" / "search_index.json").is_file()


def test_files_outside_of_the_docs_are_pages(site: Path) -> None:
    recipes = (site / "recipes.html").read_text()
    [sample] = set(re.findall(r'href="(repository/[^"]*beside\.conf[^"]*)"', recipes))

    assert "proxy_pass" in (site / sample).read_text()
    assert "0001-two-calls-a-lead" in (site / "decisions" / "index.html").read_text()


FILES = [
    *("CHANGELOG.md", "CONTRIBUTING.md", "README.md"),
    *("mkdocs.yml", "relay.example.toml"),
]
BROKEN = ["nowhere.md", "proxy.md#nowhere", "../nowhere.toml"]


@pytest.fixture(scope="module")
def broken(
    tmp_path_factory: pytest.TempPathFactory,
) -> subprocess.CompletedProcess[str]:
    """Build the docs with these links, once for all of them."""
    top = tmp_path_factory.mktemp("broken")
    for name in ("docs", "bench", "deploy", "examples", "relay"):
        shutil.copytree(
            TOP / name,
            top / name,
            ignore=shutil.ignore_patterns("node_modules", "__pycache__"),
        )
    for name in FILES:
        shutil.copy(TOP / name, top)
    page = top / "docs" / "alerts.md"
    links = "\n".join(f"[x]({target})" for target in BROKEN)
    page.write_text(f"{page.read_text()}\n{links}\n")
    return build(top, top / "site")


@pytest.mark.parametrize("target", BROKEN)
def test_a_link_that_leads_nowhere_ends_the_build(
    broken: subprocess.CompletedProcess[str], target: str
) -> None:
    assert broken.returncode != 0
    # Each is one of the warnings that end it, and there are no others.
    assert f"Aborted with {len(BROKEN)} warnings" in broken.stdout + broken.stderr, (
        broken
    )
    assert re.search(rf"WARNING.*alerts\.md.*{re.escape(target)}", broken.stderr), (
        broken.stderr
    )


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    foreign = {
        address
        for page in site.rglob("*.html")
        for address in loaded(page)
        if urlsplit(address).netloc
    }
    styles = {
        found
        for sheet in site.rglob("*.css")
        for found in re.findall(r"(?:url\(|@import )[\"']?https?:", sheet.read_text())
    }

    assert foreign | styles == set()


@pytest.mark.browser
async def test_the_search_finds_a_page_and_nobody_else_is_asked(
    site: Path, page: Page, aiohttp_server: AiohttpServer
) -> None:
    app = web.Application()
    app.router.add_static("/", site)
    server = await aiohttp_server(app, shutdown_timeout=0.2)
    url = f"http://127.0.0.1:{server.port}"
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    # What is typed before the index has come is not searched.
    async with page.expect_response(lambda answer: "search_index" in answer.url):
        await page.goto(f"{url}/index.html")
    box = page.get_by_role("textbox", name="Search")
    await box.click()
    await box.press_sequentially("key is revoked", delay=20)
    # Not the first: results are listed anew while more of the index is read.
    await page.locator('.md-search-result__link[href*="runbook.html"]').first.click()
    await page.wait_for_url("**/runbook.html**")

    assert [it for it in asked if not it.startswith((url, "data:", "blob:"))] == []


def test_the_readme_links_to_files_that_are_there() -> None:
    links = re.findall(r"\]\(([^)#\s]+)", (TOP / "README.md").read_text())

    assert links
    assert [it for it in links if "://" not in it and not (TOP / it).exists()] == []


def loaded(page: Path) -> Iterator[str]:
    """Give the addresses that a browser loads for a page by itself."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(
            self, tag: str, attributes: list[tuple[str, str | None]]
        ) -> None:
            has = dict(attributes)
            if tag == "link" and has.get("rel") not in NOT_LOADED:
                found.append(has.get("href") or "")
            elif tag in LOADING:
                found.append(has.get(LOADING[tag]) or "")

    Reader().feed(page.read_text())
    return iter(found)
