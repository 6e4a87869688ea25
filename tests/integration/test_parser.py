"""Without aiohttp's C parser the relay does not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.harness import RelayProcess

pytestmark = pytest.mark.process


async def test_a_relay_does_not_start_on_the_lenient_parser(tmp_path: Path) -> None:
    relay = RelayProcess(tmp_path, {"AIOHTTP_NO_EXTENSIONS": "1"})

    code, out, err = await relay.run("serve")

    assert (code, out) == (1, "")
    assert "C parser" in err
    assert err.count("\n") == 1
