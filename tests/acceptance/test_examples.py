"""The examples, run by their own servers, with a real relay and a sandbox Dub."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.example_sites import COMMANDS, EXAMPLES, line, node_example, site
from tests.support.harness import RelayProcess, SandboxDub
from tests.support.servers import DEPLOY, FETCHED

PYTHON = sorted(COMMANDS)
PARTNER = '{"clickId":"x","partner":{"name":"A, B \\"C\\"","id":"p"}}'

every_framework = pytest.mark.parametrize("name", PYTHON)


def cookie_with(click: str) -> str:
    """What a browser sends where Dub's script has been at work."""
    return (
        f'sid="1"; dub_partner_data={PARTNER}; dub_id=elsewhere1; dub_id={click}; z=2'
    )


def spooled(folder: Path) -> int:
    """How many messages wait in a site's spool."""
    path = folder / "dub-relay.spool"
    return path.read_bytes().count(b'"id"') if path.exists() else 0


async def emptied(folder: Path) -> None:
    async with asyncio.timeout(60):
        while True:
            if not spooled(folder):
                return
            await asyncio.sleep(0.05)


@every_framework
async def test_a_registration_becomes_a_lead_of_the_visitors_click(
    name: str,
    tmp_path: Path,
    dub: SandboxDub,
    delivering: RelayProcess,
    session: aiohttp.ClientSession,
) -> None:
    click = await dub.click()
    async with site(name, tmp_path / "site", delivering.url) as running:
        user = await running.sign_up(session, cookie_with(click))
        await running.sign_up(session, "sid=1; dub_id=test", "Nobody")
        await running.sign_up(session, None, "Nobody")

    [lead] = await delivering.settled(1)
    assert (lead["status"], lead["source"]) == ("delivered", "hook")
    assert (lead["clickId"], lead["customerExternalId"]) == (click, user)
    [recorded] = await dub.state("leads")
    assert recorded["clickId"] == click
    [customer] = await dub.state("customers")
    assert customer["email"] == "ada@example.com"


@every_framework
async def test_a_relay_in_trouble_costs_no_registration_and_no_lead(
    name: str,
    tmp_path: Path,
    dub: SandboxDub,
    delivering: RelayProcess,
    session: aiohttp.ClientSession,
) -> None:
    folder = tmp_path / "site"
    cookie = cookie_with(await dub.click())
    async with line(delivering.url) as way, site(name, folder, way.url) as running:
        way.state = "hang"
        # The relay never answers: that the site does is the proof.
        users = [await running.sign_up(session, cookie, "Hang")]
        way.state = "torn"
        users.append(await running.sign_up(session, cookie, "Torn"))
        assert spooled(folder) == 2
        assert (folder / "dub-relay.spool").stat().st_mode & 0o777 == 0o600
        way.state = "pass"
        await emptied(folder)

    leads = await delivering.settled(2)
    assert [lead["customerExternalId"] for lead in reversed(leads)] == users
    assert {lead["status"] for lead in leads} == {"delivered"}
    assert len(await dub.state("leads")) == 2


@every_framework
async def test_a_lost_answer_does_not_double_a_lead(
    name: str,
    tmp_path: Path,
    dub: SandboxDub,
    delivering: RelayProcess,
    session: aiohttp.ClientSession,
) -> None:
    folder = tmp_path / "site"
    async with line(delivering.url) as way, site(name, folder, way.url) as running:
        way.state = "lose"
        user = await running.sign_up(session, cookie_with(await dub.click()))
        assert spooled(folder) == 1
        way.state = "pass"
        await emptied(folder)
        assert len(way.carried) >= 2

    [lead] = await delivering.settled(1)
    assert (lead["status"], lead["customerExternalId"]) == ("delivered", user)
    assert len(await dub.state("leads")) == 1


@every_framework
async def test_a_site_killed_after_spooling_sends_at_its_next_start(
    name: str,
    tmp_path: Path,
    dub: SandboxDub,
    delivering: RelayProcess,
    session: aiohttp.ClientSession,
) -> None:
    folder = tmp_path / "site"
    async with line(delivering.url) as way:
        async with site(name, folder, way.url) as running:
            way.state = "torn"
            user = await running.sign_up(session, cookie_with(await dub.click()))
            await running.stop(signal.SIGKILL)
        assert spooled(folder) == 1
        way.state = "pass"
        async with site(name, folder, way.url):
            await emptied(folder)

    [lead] = await delivering.settled(1)
    assert (lead["status"], lead["customerExternalId"]) == ("delivered", user)


# Node


@pytest.fixture
def below_the_packages() -> Iterator[Path]:
    """A folder from which Node.js finds what .ci/servers fetched."""
    FETCHED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FETCHED) as name:
        yield Path(name)


async def test_a_registration_with_express_becomes_a_lead(
    below_the_packages: Path,
    dub: SandboxDub,
    delivering: RelayProcess,
    session: aiohttp.ClientSession,
) -> None:
    folder = node_example("express", below_the_packages)
    click = await dub.click()
    async with site("express", folder, delivering.url) as running:
        await running.sign_up(session, "sid=1; dub_id=test", "Nobody")
        user = await running.sign_up(session, cookie_with(click))
        # The example does not wait for the relay; neither must its process end.
        [lead] = await delivering.settled(1)

    assert (lead["status"], lead["customerExternalId"]) == ("delivered", user)
    assert lead["clickId"] == click


async def test_express_answers_while_the_relay_hangs_and_tries_again(
    below_the_packages: Path,
    dub: SandboxDub,
    delivering: RelayProcess,
    session: aiohttp.ClientSession,
) -> None:
    folder = node_example("express", below_the_packages)
    async with line(delivering.url) as way, site("express", folder, way.url) as site_:
        way.state = "lose"
        user = await site_.sign_up(session, cookie_with(await dub.click()))
        while not way.carried:  # noqa: ASYNC110 - the line tells nobody
            await asyncio.sleep(0.02)
        way.state = "pass"
        async with asyncio.timeout(30):
            while len(way.carried) < 2:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        [lead] = await delivering.settled(1)

    assert (lead["status"], lead["customerExternalId"]) == ("delivered", user)


@pytest.mark.slow
async def test_next_serves_the_relay_on_its_own_origin_and_tells_it_of_registrations(
    below_the_packages: Path,
    dub: SandboxDub,
    delivering: RelayProcess,
    session: aiohttp.ClientSession,
) -> None:
    folder = node_example("nextjs", below_the_packages)
    click = await dub.click()
    async with site("nextjs", folder, delivering.url) as running:
        async with session.get(running.url) as answer:
            assert '<script src="/_dub/script.js" defer' in await answer.text()
        async with session.get(f"{running.url}/_dub/script.js") as answer:
            assert "dub_id" in await answer.text()
        async with session.get(f"{running.url}/_dub/metrics") as answer:
            assert answer.status == 404
        user = await running.sign_up(session, cookie_with(click))
        [lead] = await delivering.settled(1)

    assert (lead["status"], lead["customerExternalId"]) == ("delivered", user)


def test_both_node_examples_tell_the_relay_alike() -> None:
    one, other = (EXAMPLES / name / "relay.js" for name in ("express", "nextjs"))

    assert one.read_text() == other.read_text()


def test_the_next_example_has_the_recipes_rewrites() -> None:
    name = "nextjs/next.config.mjs"

    assert (EXAMPLES / name).read_text() == (DEPLOY / name).read_text()
