"""The plainest JMESPath expressions as Python functions.

Nearly every rule says ``form.email`` or ``response.status < `400```. jmespath
walks its tree anew for each search, at some 5 µs a node; these are functions
made once. What is not as plain stays with jmespath, and a test compares both.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

Search = Callable[[Any], Any]
"""Gives what an expression finds in a document."""

_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "lt": operator.lt,
    "gt": operator.gt,
    "lte": operator.le,
    "gte": operator.ge,
}

_COMPARABLE: Final = frozenset({int, float, str})


def direct(node: Mapping[str, Any]) -> Search | None:
    """Make the function for a node of jmespath's tree; None if it is not plain."""
    make = _MAKERS.get(node["type"])
    if make is None:
        return None
    parts = [direct(child) for child in node["children"]]
    plain = [part for part in parts if part is not None]
    return make(node, plain) if len(plain) == len(parts) else None


def _field(node: Mapping[str, Any], _: list[Search]) -> Search:
    name = node["value"]
    return lambda value: value.get(name) if type(value) is dict else None


def _literal(node: Mapping[str, Any], _: list[Search]) -> Search:
    value = node["value"]
    return lambda _: value


def _subexpression(_: Mapping[str, Any], parts: list[Search]) -> Search:
    if len(parts) == 2:
        first, second = parts
        return lambda value: second(first(value))

    def search(value: Any) -> Any:
        for part in parts:
            value = part(value)
        return value

    return search


def _or(_: Mapping[str, Any], parts: list[Search]) -> Search:
    first, second = parts

    def search(value: Any) -> Any:
        found = first(value)
        return second(value) if _is_false(found) else found

    return search


def _and(_: Mapping[str, Any], parts: list[Search]) -> Search:
    first, second = parts

    def search(value: Any) -> Any:
        found = first(value)
        return found if _is_false(found) else second(value)

    return search


def _is_false(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _comparator(node: Mapping[str, Any], parts: list[Search]) -> Search | None:
    left, right = parts
    compare = _ORDERS.get(node["value"])
    if compare is None:
        return _equality(left, right, wanted=node["value"] == "eq")

    def ordered(value: Any) -> Any:
        one, other = left(value), right(value)
        if type(one) not in _COMPARABLE or type(other) not in _COMPARABLE:
            return None
        return compare(one, other)

    return ordered


def _equality(left: Search, right: Search, *, wanted: bool) -> Search:
    def equal(value: Any) -> bool:
        one, other = left(value), right(value)
        # In JMESPath true is not 1, as it is in Python.
        same = isinstance(one, bool) is isinstance(other, bool) and one == other
        return same is wanted

    return equal


_MAKERS: Final[
    Mapping[str, Callable[[Mapping[str, Any], list[Search]], Search | None]]
] = {
    "field": _field,
    "literal": _literal,
    "subexpression": _subexpression,
    "or_expression": _or,
    "and_expression": _and,
    "comparator": _comparator,
}
