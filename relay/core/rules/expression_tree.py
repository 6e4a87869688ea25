"""What an expression reads, by jmespath's tree of it.

A trail is the names from the top of the document down to what is read:
``response.json.user.id`` reads ``("response", "json", "user", "id")``. Indexes and
projections leave no name. ``()`` is the whole document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

Trail = tuple[str, ...]

ROOTS: Final = ("form", "json", "query", "path", "headers", "cookies", "response")
"""The names at the top of a document."""

# Nodes whose later children see not the document but what the first one found.
_THEN: Final = frozenset(
    {
        "index_expression",
        "pipe",
        "projection",
        "subexpression",
        "value_projection",
    }
)
_SAME: Final = frozenset({"current", "identity", "index", "slice"})

_ANY: Final = frozenset({"or_expression", "not_null"})
"""Nodes and functions that return the first of several things that is there."""


def nodes(node: Any) -> Iterator[Any]:
    """Walk a tree from its top."""
    yield node
    for child in node["children"]:
        # The children of a slice are its numbers.
        if isinstance(child, dict):
            yield from nodes(child)


def trails(node: Any) -> frozenset[Trail]:
    """Return everything that an expression reads of the document."""
    found: set[Trail | None] = set()
    found.add(_trail(node, (), found))
    return frozenset(each for each in found if each is not None)


def _trail(node: Any, here: Trail | None, found: set[Trail | None]) -> Trail | None:
    """Return the trail of a node's result, None where it is computed.

    ``here`` is what the node is applied to. What is read beside goes to ``found``.
    """
    kind = node["type"]
    if kind == "field":
        return None if here is None else (*here, node["value"])
    if kind in _SAME:
        return here
    if kind == "flatten":
        return _trail(node["children"][0], here, found)
    if kind == "filter_projection":
        left, right, condition = node["children"]
        here = _trail(left, here, found)
        found.add(_trail(condition, here, found))
        return _trail(right, here, found)
    if kind in _THEN:
        for child in node["children"]:
            here = _trail(child, here, found)
        return here
    # Inside of an expref "@" is each item of a list, not the document.
    inner = None if kind == "expref" else here
    found.update(_trail(child, inner, found) for child in node["children"])
    return None


def by_request_alone(node: Any) -> bool:
    """Whether a result may come out of the request without the site's response.

    The whole document (``@``) counts as the request.
    """
    if node["type"] in _ANY or (
        node["type"] == "function_expression" and node["value"] in _ANY
    ):
        return any(map(by_request_alone, node["children"]))
    return not any(trail[:1] == ("response",) for trail in trails(node))
