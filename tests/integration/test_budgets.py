"""No request takes the loop for longer than docs/security.md says, whatever is in it.

Measured is the CPU time of the relay's loop, not the time on the clock: that of a
machine with other work says nothing. It is an upper bound of the loop's longest stall.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.harness import RelayProcess
from tests.support.recording_site import Site, talk
from tests.support.worst_inputs import CLERK_SECRET, DUB_SECRET, MAPPED_SECRET, worst

pytestmark = pytest.mark.process

SECURITY: Final = Path(__file__).parents[2] / "docs" / "security.md"
SLACK: Final = 3
"""How much slower a machine may be. What has no bound takes ten times as long."""

TRIES: Final = 3
RULES: Final = """
[[signup]]
path = "/signup"
customer_external_id = "form.id || json.data[?ok].id | [0] || parse_json(form.a).id"
customer_name = "split(form.a, '%') | [1] || url_query(form.a).a || jwt_claims(form.b)"

[[hook]]
path = "mapped"
scheme = "hmac"
header = "X-Signature"
secret_env = "MAPPED_SECRET"
when = "json.eventName == 'Sign Up'"
customer_external_id = "json.customerExternalId"
customer_name = "json.metadata[?id].email_address | [0] || json.customerName"
click = "json.clickId"
"""


def budgets() -> dict[str, float]:
    """Return milliseconds of CPU by entry point, as the table has them."""
    text = SECURITY.read_text("utf-8")
    _, _, section = text.partition("## The budget of each entry point\n")
    rows = re.findall(r"^\| (.+?) \|.*\| (\d+) ms \|$", section, re.MULTILINE)
    return {entry: float(budget) for entry, budget in rows}


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    async with Site().listening() as site:
        settings = {
            "RELAY_UPSTREAM": site.url,
            "RELAY_TRUSTED_PROXIES": "127.0.0.1/32",
            "RELAY_ADMIN_PASSWORD": "a password of the admin",
            "DUB_WEBHOOK_SECRET": DUB_SECRET,
            "MAPPED_SECRET": MAPPED_SECRET,
            "DUB_PUBLISHABLE_KEY": "dub_pk_sandboxsandboxsandbox00",
            "RELAY_HOOKS_CLERK_SECRET": CLERK_SECRET,
        }
        process = RelayProcess(tmp_path, settings, config=RULES)
        await process.start()
        yield process
        assert await process.stop() == 0


def cpu_ms(relay: RelayProcess) -> float:
    """Return the CPU time of the thread that the loop runs in."""
    assert relay.process is not None
    pid = relay.process.pid
    stat = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text("ascii")
    return int(stat.split()[0]) / 1e6


async def taken(relay: RelayProcess, raw: bytes) -> float:
    """Send a request to its answer; return what it took, in ms."""
    before = cpu_ms(relay)
    answer = await talk(int(relay.url.rpartition(":")[2]), raw)
    assert re.match(rb"HTTP/1\.1 [2-5]\d\d ", answer), (raw[:200], answer[:200])
    assert not answer.startswith(b"HTTP/1.1 500"), raw[:200]
    return cpu_ms(relay) - before


@pytest.mark.parametrize("entry", worst())
async def test_the_worst_request_stays_in_its_budget(
    relay: RelayProcess, entry: str
) -> None:
    allowed = SLACK * budgets()[entry]
    for raw in worst()[entry]:
        for left in reversed(range(TRIES)):
            if (took := await taken(relay, raw)) <= allowed:
                break
            assert left, f"{took:.0f} ms for {raw[:300]!r}"


def test_the_table_names_what_is_tried() -> None:
    assert budgets().keys() == worst().keys()
    assert max(budgets().values()) <= 100
