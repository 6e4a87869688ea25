"""``application/x-www-form-urlencoded`` (URL Standard, 5.1) in bytes, in bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

MAX_FIELDS: Final = 1000
"""Fields of a form or a query; far above any form that a person fills in."""

MAX_ESCAPES: Final = 30_000
"""Runs of %XX in a form: a text of that many accents, a photo of 1 MB in base64."""

_RUN: Final = re.compile(rb"(?:%[0-9A-Fa-f]{2})+")


class TooManyError(ValueError):
    """More fields or escapes than are read; the message says of what."""


def pairs(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return names and values. Raises TooManyError above the bounds."""
    if body.count(b"&") >= MAX_FIELDS:
        raise TooManyError(f"over {MAX_FIELDS} fields")
    left = MAX_ESCAPES
    made: list[tuple[bytes, bytes]] = []
    for each in body.replace(b"+", b" ").split(b"&"):
        if not each:
            continue
        name, _, value = each.partition(b"=")
        for_name, used = unquoted(name, left)
        for_value, more = unquoted(value, left - used)
        left -= used + more
        made.append((for_name, for_value))
    return made


def single(found: Mapping[str, list[str]]) -> dict[str, str | list[str]]:
    """Return each name with its value, a repeated one with the list of them."""
    return {name: all_[0] if len(all_) == 1 else all_ for name, all_ in found.items()}


def unquoted(text: bytes, limit: int = MAX_ESCAPES) -> tuple[bytes, int]:
    """Decode escapes; return the text and how many runs of them it had.

    Raises TooManyError for more than ``limit``.
    """
    if b"%" not in text:
        return text, 0
    out, runs = _RUN.subn(_unescaped, text, count=limit + 1)
    if runs > limit:
        raise TooManyError(f"over {MAX_ESCAPES} escapes")
    return out, runs


def _unescaped(run: re.Match[bytes]) -> bytes:
    return bytes.fromhex(run[0].replace(b"%", b"").decode("ascii"))
