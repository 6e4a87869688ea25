"""JMESPath, as sign-up rules use it: checked early, and failing in one way.

The expressions are the operator's own; the document that they search comes
from strangers. So a mistake in an expression is found at start, and whatever a
document does to it ends in a JSON value or in :class:`EvaluationError`, whose
text never holds a value of the document.
"""

from __future__ import annotations

import difflib
import math
import operator
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jmespath
from jmespath.exceptions import (
    JMESPathTypeError,
    LexerError,
    ParseError,
)
from jmespath.parser import ParsedResult

from relay.core.rules.expression_tree import Trail, by_request_alone, nodes, trails
from relay.core.rules.functions import (
    MAX_STEPS,
    FunctionError,
    RuleFunctions,
    StepsError,
    interpret,
)

Search = Callable[[Any], Any]
"""Returns what an expression finds in a document."""

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


MAX_DEPTH: Final = 32
"""Nesting of a result. The stack that later writes it as JSON is not known here,
and no lead needs more."""

# What jmespath lets through from Python beside its own JMESPathError, which is a
# ValueError: "a" in 1, ceil(inf), an operator between types, a deep document.
_FAULTS: Final = (
    ValueError,
    TypeError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
)


class ExpressionError(ValueError):
    """An expression that cannot work; the message is one line and says why."""


class EvaluationError(Exception):
    """An expression failed on this document; the message holds none of it."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression and its source text.

    ``reads`` is what it looks at in the document, ``by_request`` whether its result
    may come out of the request alone.
    """

    text: str
    reads: frozenset[Trail] = field(repr=False, compare=False)
    by_request: bool = field(repr=False, compare=False)
    _search: Search = field(repr=False, compare=False)

    def search(self, document: Mapping[str, Any]) -> Any:
        """The JSON value that the document has for it, or EvaluationError."""
        try:
            found = self._search(document)
            plain = type(found) is str or is_plain(found)
        except JMESPathTypeError as error:
            raise EvaluationError(
                f"{error.function_name}() cannot take a value of type "
                f"{error.actual_type}"
            ) from None
        except FunctionError as error:
            raise EvaluationError(str(error)) from None
        except StepsError:
            why = f"it takes over {MAX_STEPS} steps on this document: {self.text}"
            raise EvaluationError(why) from None
        except _FAULTS as error:
            raise EvaluationError(f"it failed with {type(error).__name__}") from None
        if not plain:
            raise EvaluationError("its result is not a JSON value")
        return found


def is_plain(value: object, depth: int = MAX_DEPTH) -> bool:
    """Whether this is JSON that can be stored and sent: finite, and not too deep."""
    if isinstance(value, list):
        return depth > 0 and all(is_plain(each, depth - 1) for each in value)
    if isinstance(value, dict):
        return depth > 0 and all(is_plain(each, depth - 1) for each in value.values())
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def is_empty(value: object) -> bool:
    """Whether a result counts as nothing: null, "", blank text, [] or {}."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value in ([], {})


def is_true(value: object) -> bool:
    """JMESPath's truth: everything but null, false, "", [] and {}; 0 is true."""
    return not (value is None or value is False or value in ("", [], {}))


def compile_expression(text: str, roots: Collection[str]) -> Expression:
    """Compile an expression over a document that has these names at its top.

    Raises ExpressionError if it is not JMESPath, calls a function that does not
    exist or with a wrong number of arguments, or starts at an unknown name.
    """
    try:
        with warnings.catch_warnings():
            # `text` for '"text"' is old style, but in wide use.
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            parsed = jmespath.compile(text)
        tree = parsed.parsed
        reads = _check(tree, roots)
        search = direct(tree) or _interpreted(parsed)
        return Expression(text, reads, by_request_alone(tree), search)
    except ExpressionError:
        raise
    except _FAULTS as error:
        raise ExpressionError(f"not JMESPath: {_reason(error)}") from None


def _interpreted(parsed: ParsedResult) -> Search:
    return lambda document: interpret(parsed, document)


def _check(tree: Any, roots: Collection[str]) -> frozenset[Trail]:
    """Refuse what cannot work; return what the expression reads."""
    for node in nodes(tree):
        if node["type"] == "function_expression":
            _check_call(node)
        elif node["type"] in _STEPS:
            _check_step(node)
    reads = trails(tree)
    for name in sorted({trail[0] for trail in reads if trail}):
        if name not in roots:
            near = did_you_mean(name, roots)
            raise ExpressionError(f'the document has no "{name}"{near}')
    return reads


def did_you_mean(name: str, known: Collection[str]) -> str:
    """``; did you mean X?`` for the nearest known name, or "" if none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def _reason(error: Exception) -> str:
    """One line out of jmespath's errors, whose text has several."""
    match error:
        case LexerError():
            return f"{error.message} at column {error.lexer_position + 1}"
        case ParseError() if not error.token_value:
            return "it ends too early"
        case ParseError():
            return (
                f"unexpected {error.token_value!r} at column {error.lex_position + 1}"
            )
    return str(error).partition("\n")[0] or type(error).__name__


_STEPS: Final = frozenset(
    {
        *("filter_projection", "flatten", "index_expression"),
        *("projection", "subexpression", "value_projection"),
    }
)


def _check_step(node: Any) -> None:
    # "!" binds tighter than ".": !a.b is (!a).b, which never finds anything.
    if node["children"][0]["type"] == "not_expression":
        raise ExpressionError('"!" needs parentheses, as in !(form.a)')


def _check_call(node: Any) -> None:
    table = RuleFunctions.FUNCTION_TABLE
    name = node["value"]
    if name not in table:
        raise ExpressionError(f"there is no {name}(){did_you_mean(name, table)}")
    takes = table[name]["signature"]
    given = len(node["children"])
    variadic = bool(takes) and takes[-1].get("variadic", False)
    if given < len(takes) or (given > len(takes) and not variadic):
        raise ExpressionError(f"{name}() takes {len(takes)} arguments, not {given}")
