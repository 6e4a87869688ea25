"""The official SDKs for Go, Ruby and PHP: what they send, byte for byte.

Their package registries are not where this is built, so ``tests/sdks/recorded`` holds
what the released clients sent to a relay; each file tells its version and call. What
they need of an answer stands below, from their response models.
"""

from __future__ import annotations

import asyncio
import json
from http.client import parse_headers
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.support.harness import RelayProcess, SandboxDub

RECORDED = Path(__file__).parents[1] / "sdks" / "recorded"

CLICK = "hQWlMv8sTQaYcUbR"
"""The click of the recorded calls."""

LANGUAGES = ("go", "ruby", "php")

TEXT = (str, type(None))

LEAD = {"click": dict, "link": (dict, type(None)), "customer": dict}
CUSTOMER = dict.fromkeys(("name", "email", "avatar", "externalId"), TEXT)
LINK = dict.fromkeys(("id", "domain", "key", "shortLink", "url"), str) | dict.fromkeys(
    ("partnerId", "programId", "tenantId", "externalId"), TEXT
)
SALE = {"eventName": str, "customer": (dict, type(None)), "sale": dict}
SOLD = {
    "amount": (int, float),
    "currency": str,
    "paymentProcessor": str,
    "invoiceId": TEXT,
    "metadata": (dict, type(None)),
}
ERROR = {"code": str, "message": str, "doc_url": TEXT}
"""What the SDKs' models require; what they do not know they ignore."""


class Answer(NamedTuple):
    status: int
    content_type: str
    body: Any


def recorded(language: str, call: str) -> bytes:
    """Give the bytes of a call, without the comment before them."""
    lines = (RECORDED / f"{language}-{call}.http").read_bytes().splitlines(True)
    return b"".join(line for line in lines if not line.startswith(b"# "))


async def replay(relay: RelayProcess, language: str, call: str) -> Answer:
    """Send a recorded call over a connection; every SDK wants JSON back."""
    address = urlsplit(relay.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(recorded(language, call))
    async with asyncio.timeout(20):
        status = (await reader.readline()).split()[1]
        head = parse_headers(BytesIO(await reader.readuntil(b"\r\n\r\n")))
        body = await reader.readexactly(int(head["Content-Length"]))
    writer.close()
    await writer.wait_closed()
    return Answer(int(status), head.get_content_type(), json.loads(body))


def assert_has(what: dict[str, Any], fields: dict[str, Any]) -> None:
    """Every field is there and of its type: the SDKs refuse an answer without."""
    for name, kind in fields.items():
        assert isinstance(what[name], kind), (name, what)


@pytest.fixture(autouse=True)
def clicked(dub: SandboxDub) -> None:
    dub.dub.click(dub.dub.links["ada"], click_id=CLICK)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_lead_as_documented(
    delivering: RelayProcess, dub: SandboxDub, language: str
) -> None:
    answer = await replay(delivering, language, "lead")
    [taken] = await delivering.settled(1)

    assert answer[:2] == (200, "application/json")
    assert_has(answer.body, LEAD)
    assert answer.body["click"] == {"id": CLICK}
    assert_has(answer.body["customer"], CUSTOMER)
    assert answer.body["customer"]["externalId"] == "u_1"
    assert (taken["status"], taken["eventName"]) == ("delivered", "Sign up")
    [lead] = await dub.state("leads")
    assert (lead["clickId"], lead["customerExternalId"]) == (CLICK, "u_1")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_lead_with_every_field_waits_for_dubs_own_answer(
    delivering: RelayProcess, dub: SandboxDub, language: str
) -> None:
    answer = await replay(delivering, language, "wait")

    assert answer[:2] == (200, "application/json")
    assert_has(answer.body, LEAD)
    assert_has(answer.body["link"], LINK)
    assert_has(answer.body["customer"], CUSTOMER)
    assert answer.body["customer"]["name"] == "Zoë Ångström"
    assert answer.body["customer"]["email"] == "zoe@example.com"
    [lead] = await dub.state("leads")
    assert (lead["eventName"], lead["quantity"]) == ("Trial", 2)
    assert lead["metadata"] == {"plan": "pro"}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_sale_as_documented(
    delivering: RelayProcess, dub: SandboxDub, language: str
) -> None:
    await replay(delivering, language, "lead")
    answer = await replay(delivering, language, "sale")
    await delivering.settled(2)

    assert answer[:2] == (200, "application/json")
    assert_has(answer.body, SALE)
    assert_has(answer.body["sale"], SOLD)
    [sale] = await dub.state("sales")
    assert (sale["amount"], sale["invoiceId"]) == (594903, "in_1")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_refusal_is_one_that_the_sdk_knows(
    delivering: RelayProcess, dub: SandboxDub, language: str
) -> None:
    """A code other than the status's own makes the SDKs fail at reading it."""
    answer = await replay(delivering, language, "refused")

    assert answer[:2] == (422, "application/json")
    assert_has(answer.body["error"], ERROR)
    assert answer.body["error"]["code"] == "unprocessable_entity"
    assert await dub.state("leads") == []
