"""Results of forms' actions, as frameworks of pages write them into JSON.

SvelteKit and Remix flatten a result into a list whose values refer to each other by
number; Livewire puts the state of a component into a text. :func:`unwrapped` returns
what they say in plain JSON, for the default test to judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from relay.core.rules.json_text import JsonError, read_json

_DEEPEST: Final = 6
_MOST: Final = 500
"""Values put together of one result; nobody's form has more."""

_KEY: Final = re.compile(r"_[0-9]{1,6}")

_ERRORS: Final = {"ErrorResponse", "SanitizedError", "Error", "EvalError", "TypeError"}

REDIRECT: Final = "redirect"
"""The ``type`` of what stands for a redirect, as SvelteKit has it."""


def unwrapped(value: Any) -> Any:
    """Return a response's JSON without what its framework wrapped around the result."""
    match value:
        case {"type": str(), "data": str(data)}:  # SvelteKit's ActionResult
            return {**value, "data": _flat(_parsed(data))}
        case [[str(kind), int()], *_] if kind.startswith("SingleFetch"):
            return _flat(value)
        case [dict(first), *_] if first and all(map(_KEY.fullmatch, first)):
            return _flat(value)  # Remix and React Router (turbo-stream)
        case {"components": [{"snapshot": str(state), "effects": dict(effects)}, *_]}:
            memo = _parsed(state)
            return _livewire(memo.get("memo") if isinstance(memo, dict) else 0, effects)
        case {"serverMemo": dict(memo), "effects": dict(effects)}:
            return _livewire(memo, effects)  # Livewire 2
    return value


def _parsed(text: str) -> Any:
    try:
        return read_json(text)
    except JsonError:
        return None


def _livewire(memo: Any, effects: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an update of a component says: most draw it anew, and no more."""
    if isinstance(effects.get("redirect"), str):
        return {"type": REDIRECT, "location": effects["redirect"]}
    errors = memo.get("errors") if isinstance(memo, dict) else None
    return {"errors": errors, "html": ""}


def _flat(values: Any) -> Any:
    return _Flat(values).value(0) if isinstance(values, list) else values


class _Flat:
    """A list of values that refer to each other: devalue's, or turbo-stream's."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values
        self._left = _MOST

    def value(self, number: Any, depth: int = _DEEPEST) -> Any:
        """Put a value together; negative numbers stand for undefined, NaN and such."""
        self._left -= 1
        if not _is_index(number, self._values) or depth == 0 or self._left < 0:
            return None
        match self._values[number]:
            case dict(made):
                return self._redirect_or(
                    {
                        self._name(key): self.value(each, depth - 1)
                        for key, each in made.items()
                    }
                )
            case [str(kind), *items]:
                return self._of_class(kind, items, depth)
            case list(items):
                return [self.value(each, depth - 1) for each in items[:_MOST]]
            case plain:
                return plain

    def _of_class(self, kind: str, items: list[Any], depth: int) -> Any:
        """Return an error for what is one, else what is inside: of a Date, a Set."""
        if kind in _ERRORS:
            return {"error": kind}
        return self.value(items[0], depth - 1) if items else None

    def _redirect_or(self, made: dict[str, Any]) -> dict[str, Any]:
        """Return a redirect of Remix as SvelteKit writes it; anything else as it is."""
        if made.keys() >= {"redirect", "revalidate"}:
            return {"type": REDIRECT, "location": made["redirect"]}
        return made

    def _name(self, key: str) -> str:
        number = int(key[1:]) if _KEY.fullmatch(key) else -1
        name = self._values[number] if _is_index(number, self._values) else key
        return name if isinstance(name, str) else key


def _is_index(number: Any, values: list[Any]) -> bool:
    return type(number) is int and 0 <= number < len(values)
