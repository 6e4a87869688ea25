"""What a server action returned, out of React's Flight format (``text/x-component``).

Rows follow each other, ``1:{"ok":true}`` and a line's end, or ``2:T5,hello`` with a
length in bytes. Next.js writes the action's result into the row that row 0 names: as
``{"a":"$@1",…}``, before version 14.2 as ``["$@1",…]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

FLIGHT: Final = "text/x-component"

_MAX_ROWS: Final = 1000
"""Rows that are looked at; a result without a page has few."""

_DEEPEST: Final = 8
_MOST: Final = 500
"""Values of a result in which references are followed."""

_ROW: Final = re.compile(rb"\s*([0-9a-f]{1,8}):")
_SIZED: Final = re.compile(rb"[A-Za-z]([0-9a-f]{1,8}),")
_REFERENCE: Final = re.compile(r"\$[@Q]?([0-9a-f]{1,8})")


Parse = Callable[[bytes], Any]
"""Reads JSON; None where it is none."""


def action_result(body: bytes, parse: Parse) -> Any:
    """Return the result of an action; None where there is none, or none to be read."""
    rows = _rows(body)
    head = parse(rows.get("0", b""))
    named = head[:1] if isinstance(head, list) else None
    if isinstance(head, dict):
        named = [head.get("a")]
    match named:
        case [str(name)] if name.startswith("$@") and name[2:] in rows:
            return _Result(rows, parse).row(name[2:], _DEEPEST)
    return None


def _rows(body: bytes) -> dict[str, bytes]:
    """Return what each row holds; text with its length before it."""
    found: dict[str, bytes] = {}
    at = 0
    while len(found) < _MAX_ROWS and (start := _ROW.match(body, at)):
        at = start.end()
        if sized := _SIZED.match(body, at):
            end = after = sized.end() + int(sized[1], 16)
        else:
            found_end = body.find(b"\n", at)
            end = found_end if found_end >= 0 else len(body)
            after = end + 1
        found[start[1].decode()] = body[at:end]
        at = after
    return found


class _Result:
    """A result whose values may stand in rows of their own."""

    def __init__(self, rows: dict[str, bytes], parse: Parse) -> None:
        self._rows = rows
        self._parse = parse
        self._read: dict[str, Any] = {}
        self._left = _MOST

    def row(self, name: str, depth: int) -> Any:
        """Return a row's value: of text, of JSON, or that it is an error."""
        raw = self._rows.get(name, b"")
        if name not in self._read:
            sized = _SIZED.match(raw) if raw[:1] == b"T" else None
            text = raw[sized.end() :].decode("utf-8", "replace") if sized else None
            self._read[name] = self._parse(raw) if text is None else text
        if raw[:1] == b"T":
            return self._read[name]
        return (
            {"error": True} if raw[:1] == b"E" else self._value(self._read[name], depth)
        )

    def _value(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if depth == 0 or self._left < 0:
            return None
        match value:
            case str(text) if text.startswith("$"):
                return self._special(text, depth - 1)
            case dict(made):
                return {key: self._value(each, depth - 1) for key, each in made.items()}
            case list(items):
                return [self._value(each, depth - 1) for each in items[:_MOST]]
        return value

    def _special(self, text: str, depth: int) -> Any:
        """Return what a text that begins with "$" stands for."""
        if text.startswith("$$"):
            return text[1:]
        if (found := _REFERENCE.fullmatch(text)) and found[1] in self._rows:
            return self.row(found[1], depth)
        # A date, or a large integer; else undefined, NaN, a function.
        return text[2:] if text[:2] in {"$D", "$n"} else None
