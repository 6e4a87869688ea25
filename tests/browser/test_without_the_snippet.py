"""The tests of the snippet, once more against a stub of nothing: each must fail."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from playwright.async_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

HERE = Path(__file__).parent

LIFE = 900
"""Seconds for all of them; an idle machine takes less than two minutes."""


async def test_no_test_of_the_snippet_passes_without_one(
    shared_browser: Browser,
) -> None:
    """``snippet_nothing`` tells what is expected of each."""
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "--tb=line"),
        *("-p", "no:cacheprovider", str(HERE)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"SNIPPET": "nothing"},
    )
    try:
        async with asyncio.timeout(LIFE):
            out, _ = await run.communicate()
    finally:
        if run.returncode is None:
            run.kill()
    assert run.returncode == 0, out.decode()[-4000:]
    assert b"xfailed" in out
