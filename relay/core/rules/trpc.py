"""tRPC's batches: several calls in one request, of which a rule means one.

``/api/trpc/cart,signup?batch=1`` calls two procedures. The request's JSON has their
inputs by number, the response's their results in a list, or as lines of which each is
a part that came later (tRPC 11, ``httpBatchStreamLink``). What a rule for
``/api/trpc/signup`` sees is what it would see of that call alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay.core.rules.paths import plain_segment

MAX_CALLS: Final = 50
"""Calls of one request that are looked at."""

_FULFILLED: Final = 0
_DEEPEST: Final = 30


def calls(path: str, query: str) -> list[str]:
    """Return the paths of a batch's calls, in their order; none of another request."""
    if "batch=1" not in query or "batch=1" not in query.split("&"):
        return []
    base, slash, last = path.rpartition("/")
    names = (plain_segment(last) or "").split(",", MAX_CALLS)
    return [f"{base}{slash}{name}" for name in names[:MAX_CALLS]]


def narrowed(values: Mapping[str, Any], call: int) -> dict[str, Any]:
    """Return a document's values as they are for one call alone."""
    response = values["response"]
    said = _result(response["json"], call)
    asked = values["json"]
    if isinstance(asked, dict):
        asked = asked.get(str(call))
    return {**values, "json": asked, "response": {**response, "json": said}}


def _result(said: Any, call: int) -> Any:
    if not isinstance(said, list):
        # One error for all: of a batch that was refused as a whole.
        return said
    head = _bare(said[0]) if said else None
    if isinstance(head, dict) and isinstance(head.get(str(call)), list):
        return _Lines(said[1:]).value(head[str(call)])
    return said[call] if call < len(said) else None


def _bare(line: Any) -> Any:
    """Return a line without the wrapper of superjson."""
    wrapped = isinstance(line, dict) and "json" in line and not line.keys() - _WRAPPER
    return line["json"] if wrapped else line


_WRAPPER: Final = {"json", "meta"}


class _Lines:
    """The parts of a streamed response: ``[number, status, value]`` each."""

    def __init__(self, lines: list[Any]) -> None:
        self._parts: dict[int, tuple[object, Any]] = {}
        for line in map(_bare, lines):
            match line:
                case [int(number), status, value]:
                    self._parts.setdefault(number, (status, value))

    def value(self, encoded: Any, depth: int = _DEEPEST) -> Any:
        """Put a value together: its data, and where in it the later parts belong."""
        match encoded:
            case [[*data], *places] if depth:
                made = data[0] if data else None
            case _:
                return None
        for place in places:
            match place:
                case [None, 0, int(number)]:
                    return self._part(number, depth)
                case [str(key), 0, int(number)] if isinstance(made, dict):
                    made = {**made, key: self._part(number, depth)}
                case [int(key), 0, int(number)] if isinstance(made, list):
                    made = [*made[:key], self._part(number, depth), *made[key + 1 :]]
        return made

    def _part(self, number: int, depth: int) -> Any:
        """Return a part, once: a response that refers in circles ends."""
        status, value = self._parts.pop(number, (_FULFILLED, None))
        if status != _FULFILLED:
            return {"error": value}
        return self.value(value, depth - 1)
