"""The OpenAPI document: complete, cached, and true of the running relay."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from relay.app import Relay
from relay.capture import openapi
from relay.capture.snippet import NAMES
from relay.config import settings
from tests.support.harness import (
    HOOK_SECRET,
    RelayProcess,
    SandboxDub,
    clean_environment,
)
from tests.support.servers import TOP

DUB_SECRET = "whsec_of_dubs_webhook"
METHODS = {"get", "post", "put", "patch", "delete", "options"}
PAGES_FOR_PEOPLE = ("/dashboard",)
"""What is no API: paths that start so are not in the document."""

BY_HASH = re.compile(r"/(script[a-z.-]*)\.[0-9a-f]{16}\.js")


def routes(app: web.Application, prefix: str) -> set[tuple[str, str]]:
    """Every method and path below the prefix that an application has."""
    found = set()
    for route in app.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        own = path.startswith(f"{prefix}/") and route.method not in {"*", "HEAD"}
        below = path.removeprefix(prefix)
        if own and not below.startswith(PAGES_FOR_PEOPLE):
            below = BY_HASH.sub("/{variant}.{hash}.js", below)
            found.add((route.method.lower(), below))
    return found


async def test_every_route_is_described_and_nothing_else(tmp_path: Path) -> None:
    environ = {
        "DUB_API_KEY": "dub_test_key",
        "RELAY_SECRET": "a-secret-for-tests-only",
        "RELAY_DATABASE": f"sqlite:///{tmp_path}/relay.db",
    }
    relay = Relay(settings.load(None, environ))
    described = {
        (method, path)
        for path, item in openapi.document("/_dub")["paths"].items()
        for method in item.keys() & METHODS
    }

    assert routes(relay.application(), "/_dub") == described


def references(value: Any) -> set[str]:
    """Every $ref in a piece of the document."""
    if isinstance(value, dict):
        here = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return here.union(*(references(each) for each in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(references(each) for each in value))
    return set()


def test_what_the_document_names_is_in_it() -> None:
    document = openapi.document("/_dub")
    components = document["components"]

    for reference in references(document["paths"]):
        _, _, kind, name = reference.split("/")
        assert name in components[kind]
    for item in document["paths"].values():
        for operation in item.values():
            for scheme in operation.get("security", []):
                assert scheme.keys() <= components["securitySchemes"].keys()
    assert len(NAMES) == 8


@pytest.fixture
async def relay(dub: SandboxDub, tmp_path: Path) -> Any:
    process = RelayProcess(
        tmp_path,
        {
            "DUB_API_URL": dub.url,
            "DUB_WEBHOOK_SECRET": DUB_SECRET,
            "RELAY_BROWSER_RATE": "1000000",
        },
    )
    await process.start()
    yield process
    assert await process.stop() == 0


async def test_the_document_is_served_and_kept_by_its_etag(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    url = f"{relay.url}/_dub/openapi.json"
    async with session.get(url) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        etag = answer.headers["ETag"]
        document = await answer.json()
    async with session.get(url, headers={"If-None-Match": etag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    async with session.head(url) as answer:
        assert (answer.status, answer.headers["ETag"]) == (200, etag)

    assert document["openapi"].startswith("3.1")
    assert document["servers"] == [{"url": "/_dub"}]


@pytest.mark.slow
async def test_the_running_relay_does_what_the_document_says(
    relay: RelayProcess, tmp_path: Path
) -> None:
    """Schemathesis calls every operation with right and with wrong data.

    The seed is fixed: what fails once fails again. Its checks are all on: no
    5xx, only documented statuses, types, headers and schemas, wrong data and
    missing signatures refused, other methods answered by 405.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(TOP / "tests" / "schemathesis.toml"), "run"),
        f"{relay.url}/_dub/openapi.json",
        *("--phases", "coverage,fuzzing", "--mode", "all"),
        *("--max-examples", "5", "--seed", "1", "--warnings", "off"),
        cwd=tmp_path,
        env=clean_environment()
        | {
            "SCHEMATHESIS_HOOKS": "tests.support.signing_hooks",
            "PYTHONPATH": str(TOP),
            "RELAY_HOOK_SECRET": HOOK_SECRET,
            "DUB_WEBHOOK_SECRET": DUB_SECRET,
            "RELAY_ORIGIN": relay.url,
            "COLUMNS": "200",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()
    # All but the document itself, which is where it was loaded from.
    assert f"Tested: {operations() - 1}\n" in out.decode()
    events = [event["event"] for event in relay.events]
    assert "lead.queued" in events  # the signatures were right
    assert "request.failed" not in events


def operations() -> int:
    items = openapi.document("/_dub")["paths"].values()
    return sum(len(item.keys() & METHODS) for item in items)
