"""Which methods pass is what docs/proxy.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.proxy_rig import proxied
from tests.support.recording_site import Site, ask, request, says

DOCS = Path(__file__).parents[2] / "docs" / "proxy.md"


def methods(row: str) -> list[str]:
    """Return the methods that a row of the docs' table names."""
    [line] = [each for each in DOCS.read_text().splitlines() if each.startswith(row)]
    return re.findall(r"`([A-Za-z-]+)`", line.removeprefix(row))


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        *((each, True) for each in methods("| methods that pass |")),
        *((each, False) for each in methods("| methods that are refused |")),
    ],
)
async def test_a_method_passes_or_is_refused_as_documented(
    method: str, *, passes: bool
) -> None:
    async with Site().listening() as site, proxied(site.url) as port:
        site.script = says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        answer = await ask(port, request(f"{method} /"))

    assert answer.first.split()[1] == (b"200" if passes else b"400")
    assert len(site.seen) == int(passes)
