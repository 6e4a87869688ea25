"""Finds the served files and the pages, in a clone and in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parent.parent


class MissingResourceError(Exception):
    """A folder that every copy of the relay has is not there."""


def static_dir() -> Path:
    """Return the folder of scripts, styles and images that are served as they are."""
    return _folder("static")


def templates_dir() -> Path:
    """Return the folder of Jinja templates."""
    return _folder("templates")


def _folder(name: str) -> Path:
    """Look inside the package (a wheel), then beside it (a clone)."""
    for place in (_PACKAGE / name, _PACKAGE.parent / name):
        if place.is_dir():
            return place
    raise MissingResourceError(f"the folder {name}/ is missing from this installation")
