"""The samples of docs/python.md, README.md and the client's own docstring, run."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import relay.client
from relay.client import Client
from tests.support.harness import HOOK_SECRET, RelayProcess
from tests.support.servers import TOP

CLICK = "hQWlM0a9Zk3xY7bT"
REQUEST = {"REQUEST_METHOD": "POST", "HTTP_COOKIE": f"dub_id={CLICK}"}
USER = SimpleNamespace(id=7, name="Ada", email="ada@example.com")


def sample(text: str, *, having: str) -> str:
    """The one Python block of a text with something in it."""
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [block] = [block for block in blocks if having in block]
    return str(block)


async def test_the_sample_of_the_docs_tells_the_relay(
    delivering: RelayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_HOOK_SECRET", HOOK_SECRET)
    code = sample((TOP / "docs" / "python.md").read_text(), having="import Client")
    for old, new in (
        ("https://www.example.com/_dub", f"{delivering.url}/_dub"),
        ("/var/lib/mysite/dub-relay.spool", str(tmp_path / "spool")),
    ):
        assert old in code
        code = code.replace(old, new)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own

    await asyncio.to_thread(names["after_registration"], REQUEST, USER)
    await asyncio.to_thread(names["relay"].flush)

    [lead] = await delivering.leads()
    assert (lead["clickId"], lead["customerExternalId"]) == (CLICK, "7")


@pytest.mark.parametrize("place", ["README", "docstring"])
async def test_the_one_line_is_one_that_works(
    place: str, delivering: RelayProcess, tmp_path: Path
) -> None:
    client = Client(f"{delivering.url}/_dub", HOOK_SECRET, spool=tmp_path / "spool")
    text = (TOP / "README.md").read_text()
    if place == "docstring":
        text = f"```python\n{relay.client.__doc__}```"
    [line] = re.findall(
        r"^ *(relay\.signup\(.*\))$", sample(text, having="relay."), re.MULTILINE
    )

    names = {"relay": client, "request": REQUEST, "user": USER}
    result = await asyncio.to_thread(eval, line, names)

    assert result.safe
    await asyncio.to_thread(client.flush)
    assert [lead["clickId"] for lead in await delivering.leads()] == [CLICK]
