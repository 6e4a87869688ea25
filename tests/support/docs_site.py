"""The docs, built as a site."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def build(top: Path, to: Path) -> subprocess.CompletedProcess[str]:
    """Build the docs below ``top``, as ``make site`` does."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(to)],
        cwd=top,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
