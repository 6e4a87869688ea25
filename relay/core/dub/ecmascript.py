"""Text and JSON as Dub's server measures them: in JavaScript's terms.

Dub checks lengths on JavaScript strings and on ``JSON.stringify``. Python's own
``len``, ``strip`` and ``json.dumps`` differ from these in small ways, and each
difference would either lose a lead (a 422) or leave out a field for nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

WHITESPACE: Final = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""ECMA-262 WhiteSpace and LineTerminator. Python strips U+0085, but not U+FEFF."""

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""Integers above it are not exact in JavaScript, where numbers are doubles."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SHORT_ESCAPE: Final = re.compile('["\\\\\b\f\n\r\t]')
_LONG_ESCAPE: Final = re.compile("[\x00-\x07\x0b\x0e-\x1f\ud800-\udfff]")


def utf16_len(text: str) -> int:
    """Count UTF-16 code units, as JavaScript's ``length`` does."""
    if text.isascii():
        return len(text)
    return len(text) + sum(char > "\uffff" for char in text)


def js_trim(text: str) -> str:
    """Strip what JavaScript's ``trim`` strips."""
    return text.strip(WHITESPACE)


def as_double(number: float) -> float:
    """Give the double that ``JSON.parse`` makes of a number, infinity included."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def metadata_length(value: object) -> int:
    """Give the length of ``JSON.stringify(value)`` in UTF-16 code units.

    Value is what ``json.loads`` gives; nesting may be of any depth. Raises
    TypeError for anything that JSON does not have.
    """
    total = 0
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            total += sum(_string_length(key) + len(":") for key in item)
        children = _children(item)
        if children is None:
            total += _scalar_length(item)
        else:
            total += len("{}") + max(len(children) - 1, 0)
            pending.extend(children)
    return total


def json_depth(value: object) -> int:
    """Count how deep objects and arrays are nested; 0 for a plain value."""
    depth = 0
    level = [value]
    while level := [child for item in level if (child := _children(item)) is not None]:
        depth += 1
        level = [item for children in level for item in children]
    return depth


def _children(value: object) -> list[object] | None:
    """List the members of an object or array; None for a plain value."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else None


def _scalar_length(value: object) -> int:
    """Measure what holds no other values."""
    if isinstance(value, str):
        return _string_length(value)
    if value is False:
        return len("false")
    if value is None or value is True:
        return len("null")
    if isinstance(value, int | float):
        return _number_length(value)
    raise TypeError(f"JSON has no {type(value).__name__}")


def _string_length(text: str) -> int:
    """Measure a quoted string; lone surrogates are escaped (ES2019)."""
    if _SURROGATE.search(text):
        # A pair written as two escapes is one character to JavaScript.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    short = len(_SHORT_ESCAPE.findall(text))
    long = len(_LONG_ESCAPE.findall(text))
    return len('""') + utf16_len(text) + short + len("u0000") * long


def _number_length(number: float) -> int:
    """Measure a number as ECMA-262 ``Number::toString`` writes it in base 10."""
    double = as_double(number)
    if not math.isfinite(double):
        return len("null")
    if double == 0:
        return len("0")
    # Both languages pick the shortest digits that give the same double again;
    # they only place the point and the exponent by different rules.
    _, digits, exponent = Decimal(repr(double)).normalize().as_tuple()
    count = len(digits)
    point = count + int(exponent)
    return (double < 0) + _decimal_length(count, point)


def _decimal_length(count: int, point: int) -> int:
    """Measure ``count`` digits whose decimal point stands after digit ``point``."""
    if count <= point <= 21:
        return point
    if 0 < point <= 21:
        return count + len(".")
    if -6 < point <= 0:
        return len("0.") - point + count
    mantissa = count + (len(".") if count > 1 else 0)
    return mantissa + len("e+") + len(str(abs(point - 1)))
