"""A reason phrase of the site's reaches the visitor without control characters."""

from __future__ import annotations

import pytest

from tests.support.proxy_rig import proxied
from tests.support.recording_site import Site, ask, request, says


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        (b"Not \x1b[31mFound", b"Not [31mFound"),
        (b"O\x08K\x7f", b"OK"),
        (b"O\xc2\x9bK\x9b", b"OK"),
        ("Schön".encode(), "Schön".encode()),
        (b"Sch\xf6n", b"Sch\xf6n"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_control_characters_are_dropped(
    method: str, sent: bytes, got: bytes
) -> None:
    async with Site().listening() as site, proxied(site.url) as port:
        site.script = says(b"HTTP/1.1 200 " + sent + b"\r\nContent-Length: 0\r\n\r\n")

        answer = await ask(port, request(f"{method} /"))

    assert answer.first == b"HTTP/1.1 200 " + got
