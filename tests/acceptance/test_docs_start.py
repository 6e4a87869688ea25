"""The three guides of docs/start, gone through as a reader does, on free ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import BrowserContext

from tests.support.browsers import launched
from tests.support.harness import clean_environment
from tests.support.samples import TOP, Sample, blocks
from tests.support.servers import free_port, running

BIN = Path(sys.executable).parent
SANDBOX = "8787"
STARTED = {
    "script.md": {"sandbox": SANDBOX, "serve": "8081", "shop.py": "8080"},
    "proxy.md": {"sandbox": SANDBOX, "shop.py": "3000", "serve": "8080"},
    "hook.md": {"sandbox": SANDBOX, "serve": "8080"},
}
"""What each guide runs in terminals of their own (the last word), and on which port."""

AS_A_PERSON = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


@dataclass
class Guide:
    """One guide's samples, with ports and paths of this test in them."""

    page: str
    folder: Path
    ports: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for port in ("8080", *STARTED[self.page].values()):
            self.ports[port] = str(free_port())

    def samples(self) -> Iterator[tuple[Sample, str]]:
        text = (TOP / "docs" / "start" / self.page).read_text()
        for sample in blocks(text, self.page):
            yield sample, self.here(sample.text.strip())

    def here(self, text: str) -> str:
        for port, ours in self.ports.items():
            text = re.sub(rf"\b{port}\b", ours, text)
        return text.replace(".venv/bin/", f"{BIN}/")

    def write(self) -> None:
        for sample, text in self.samples():
            if sample.file:
                (self.folder / sample.file).write_text(text)

    @property
    def sandbox(self) -> str:
        return f"http://127.0.0.1:{self.ports[SANDBOX]}"

    def commands(self) -> list[str]:
        """All that the reader types; what `pip install` makes is there already."""
        typed = (text for sample, text in self.samples() if sample.language == "sh")
        return [it for it in typed if "pip install" not in it]

    def to_run(self) -> str:
        """What the reader types, but for what is started or shown."""
        lines = (it for it in self.commands() if self.port_of(it) is None)
        return "\n".join(it for it in lines if "leads" not in it)

    def signing_up(self) -> str:
        """What the reader types to click and to sign up."""
        return next(it for it in self.commands() if "partner-ada" in it)

    def port_of(self, command: str) -> int | None:
        """The port on which a command listens; None: it ends by itself."""
        theirs = STARTED[self.page].get(command.rsplit(maxsplit=1)[-1])
        return None if theirs is None else int(self.ports[theirs])

    async def run(self, command: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-ec", command),
            cwd=self.folder,
            env=clean_environment() | {"PATH": f"{BIN}:/usr/bin:/bin"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, out.decode()
        return out.decode()

    async def delivered(self) -> dict[str, Any]:
        """The one lead, once it has arrived."""
        shown = next(it for it in self.commands() if it.endswith("leads list"))
        async with asyncio.timeout(30):
            while True:
                leads = (await self.run(f"{shown} --json")).splitlines()
                if leads and json.loads(leads[0])["status"] == "delivered":
                    [lead] = map(json.loads, leads)
                    story = shown.replace("list", f"show {lead['id']}")
                    assert "Dub took the lead" in await self.run(story)
                    return dict(lead)
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def followed(
    page: str, folder: Path, before: Guide | None = None
) -> AsyncIterator[Guide]:
    """Do what the guide says up to its first click; or start again what ran before."""
    guide = before or Guide(page, folder)
    if before is None:
        guide.write()
    async with contextlib.AsyncExitStack() as stack:
        for command in guide.commands():
            port = guide.port_of(command)
            if port is None:
                continue
            words = command.split()
            if "sandbox" in words:
                words += ["--listen", f"127.0.0.1:{port}"]
            # Where the guide says nothing, the relay listens at its usual port.
            listen = {"RELAY_LISTEN": f"127.0.0.1:{port}"} if "serve" in words else {}
            server = running(*words, port=port, folder=folder, **listen)
            await stack.enter_async_context(server)
        await to_our_port(guide)
        yield guide


async def to_our_port(guide: Guide) -> None:
    """Let the sandbox's links lead where this test has the site."""
    link = {"key": "ada", "url": f"http://localhost:{guide.ports['8080']}/"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{guide.sandbox}/sandbox/links", json=link) as answer,
    ):
        assert answer.status == 200


async def test_the_guide_to_the_proxy_ends_with_a_lead(tmp_path: Path) -> None:
    async with followed("proxy.md", tmp_path) as guide:
        shown = next(it for it in guide.commands() if it.endswith("leads list"))
        assert '{"user": {"id": "u_1"}}' in await guide.run(guide.to_run())
        assert await guide.run(f"{shown} --json") == ""
        rules = await guide.run("cat relay.toml")

    suggested = next(text for it, text in guide.samples() if "# It sends" in it.text)
    assert rules.endswith(f"{suggested}\n")
    async with followed("proxy.md", tmp_path, guide) as again:
        # The shop has begun anew.
        assert '{"user": {"id": "u_1"}}' in await again.run(guide.signing_up())

        lead = await again.delivered()

    assert (lead["source"], lead["customerExternalId"]) == ("proxy", "u_1")


async def test_the_guide_to_the_hook_ends_with_a_lead(tmp_path: Path) -> None:
    async with followed("hook.md", tmp_path) as guide:
        assert '"status":"queued"' in await guide.run(guide.to_run())

        lead = await guide.delivered()

    assert (lead["source"], lead["customerExternalId"]) == ("hook", "u_1")


@pytest.mark.slow
@pytest.mark.browser
async def test_the_guide_to_the_script_ends_with_a_lead(tmp_path: Path) -> None:
    async with followed("script.md", tmp_path) as guide, person() as context:
        page = await context.new_page()
        await page.goto(f"{guide.sandbox}/partner-ada")
        await page.wait_for_function("document.cookie.includes('dub_id=')")
        await page.fill("input[name=email]", "ada@example.com")
        await page.click("button")
        await page.get_by_text("Welcome, u_1 (queued)").wait_for()

        lead = await guide.delivered()

    assert (lead["source"], lead["customerExternalId"]) == ("hook", "u_1")


@contextlib.asynccontextmanager
async def person() -> AsyncIterator[BrowserContext]:
    """A browser that does not say that nobody looks: Dub counts no bots."""
    async with launched() as browser:
        yield await browser.new_context(user_agent=AS_A_PERSON)
