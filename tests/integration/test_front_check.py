"""`dub-relay check --front`: visits a real front server, and has it go around."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support.front_rig import KINDS, SHAPES, Site, fronted, relay, site
from tests.support.harness import RelayProcess, SandboxDub

pytestmark = [pytest.mark.process, pytest.mark.slow]

__all__ = ["relay", "site"]  # fixtures

ASKABLE = {"nginx", "caddy", "envoy"}
"""Those that learn of each request whether the relay takes it."""


async def check(relay: RelayProcess, url: str) -> tuple[str, str]:
    """What the line of the front server says."""
    _, out, err = await relay.run("check", "--front", url, "--json")
    found = {one["name"]: one for one in json.loads(out)["checks"]}
    assert err == ""
    return found["front"]["result"], found["front"]["detail"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_front_server_is_seen_to_go_around(
    kind: str,
    shape: str,
    tmp_path: Path,
    relay: RelayProcess,
    site: Site,
    dub: SandboxDub,
) -> None:
    async with fronted(kind, tmp_path, relay, dub, shape) as front:
        before = site.seen["HEAD"]
        result, said = await check(relay, front.url)
        around = site.seen["HEAD"] - before

        await relay.stop(signal.SIGKILL)
        await front.until(through=False)
        gone = await check(relay, front.url)

    if kind in ASKABLE:
        assert (result, around) == ("ok", 2), said
        assert said.endswith("and around it when it declines")
    else:
        assert (result, around) == ("note", 0), said
        assert "cannot be asked of this server" in said
    assert gone[0] == "fail"
    assert "does not come to a relay with this secret (HTTP 200)" in gone[1]


async def test_a_server_that_goes_around_to_nobody_is_found(
    tmp_path: Path, relay: RelayProcess, site: Site, dub: SandboxDub
) -> None:
    async with fronted("nginx", tmp_path, relay, dub) as front:
        site.broken = True
        result, said = await check(relay, front.url)

    assert (result, "to an HTTP 503" in said) == ("fail", True)


async def test_a_server_that_knows_another_rule_is_found(
    tmp_path: Path, relay: RelayProcess, site: Site, dub: SandboxDub
) -> None:
    """Its configuration was written before the rule."""
    async with fronted("nginx", tmp_path, relay, dub) as front:
        relay.config = f"{relay.config}\n{RULE}"
        result, said = await check(relay, front.url)

    assert (result, said[:10]) == ("fail", "/join/x do")


RULE = """
[[signup]]
path = "/join/{team}"
customer_external_id = "form.email"
"""


async def test_nobody_but_the_relay_can_have_a_request_declined(
    tmp_path: Path, relay: RelayProcess, site: Site, dub: SandboxDub
) -> None:
    async with fronted("nginx", tmp_path, relay, dub) as front:
        front.session.headers["Dub-Relay-Probe"] = "ImFyb3VuZCI.aUB4AA.c2lnbmF0dXJl"
        assert await front.lands()
        assert await front.sign_up("stranger@example.com") == 303
        async with front.session.head(f"{front.url}/?dub_id={front.click}") as answer:
            assert "Dub-Relay" not in answer.headers
    assert len(await relay.settled(1)) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://example.com", "not a URL"),
        ("https://example.com/path", "not an address without a path"),
    ],
)
async def test_what_is_no_front_server_is_refused(
    url: str, said: str, relay: RelayProcess
) -> None:
    code, _, err = await relay.run("check", "--front", url)

    assert (code, said in err) == (2, True)


async def test_a_front_server_that_is_not_there_is_named(relay: RelayProcess) -> None:
    assert (await check(relay, "http://127.0.0.1:9"))[0] == "fail"
