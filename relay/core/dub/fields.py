"""The fields of ``POST /track/lead``, one strict reader each.

A reader gives the field's value or raises the issue that zod 4, in Dub's server,
would raise first: same code, same words. Nothing is ever converted. Lengths are
UTF-16 code units, as Dub counts them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from relay.core.dub.errors import (
    CODES,
    UNPROCESSABLE,
)
from relay.core.leads import Mode

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
    """Return the double that ``JSON.parse`` makes of a number, infinity included."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def metadata_length(value: object, most: float = math.inf) -> int:
    """Return the length of ``JSON.stringify(value)`` in UTF-16 code units.

    Value is what ``json.loads`` gives; nesting may be of any depth. What is longer
    than ``most`` is not measured to its end: the length is then any that is. Raises
    TypeError for anything that JSON does not have.
    """
    total = 0
    pending = [value]
    while pending and total <= most:
        item = pending.pop()
        children = _children(item)
        if children is None:
            total += _scalar_length(item)
            continue
        total += len("{}") + max(len(children) - 1, 0)
        if total <= most:
            if isinstance(item, Mapping):
                total += sum(_string_length(key) + len(":") for key in item)
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


# Dub's limits.
MAX_EVENT_NAME: Final = 255
MAX_NAME: Final = 100
MAX_EMAIL: Final = 100
MAX_METADATA: Final = 10_000
MAX_QUANTITY: Final = 100

MISSING: Final = object()
"""Stands for a key that is not there: "undefined" in zod's words."""

Body = Mapping[str, object]
"""A parsed JSON object."""

_MODES: Final = {mode.value: mode for mode in Mode}

_LOCAL_PART: Final = re.compile(r"(?:[\w'+-]+\.)*[\w'+-]*[\w+-]", re.ASCII)
_DOMAIN: Final = re.compile(
    r"(?:[a-z\d][a-z\d-]*\.)+[a-z]{2,}", re.ASCII | re.IGNORECASE
)

_JS_TYPES: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (type(None), "null"),
    (bool, "boolean"),
    ((int, float), "number"),
    (str, "string"),
    ((list, tuple), "array"),
    (Mapping, "object"),
)


@dataclass(frozen=True, slots=True)
class FieldIssue:
    """What is wrong with one field. It never quotes the value.

    ``code`` and ``message`` are zod's; ``error_code`` is Dub's, in the envelope.
    """

    field: str
    code: str
    message: str
    error_code: str = UNPROCESSABLE

    @property
    def text(self) -> str:
        """The message as Dub sends it: with zod's code and the field on a 422."""
        if self.error_code == UNPROCESSABLE:
            return f"{self.code}: {self.field}: {self.message}"
        return self.message

    @property
    def status(self) -> int:
        """The HTTP status that goes with it: 422, or 400 for a missing id."""
        return CODES[self.error_code]


class InvalidFieldError(Exception):
    """A field that Dub, or the relay, refuses; ``issue`` names it."""

    def __init__(self, issue: FieldIssue) -> None:
        super().__init__(issue.text)
        self.issue = issue


def is_email(text: str) -> bool:
    """Return whether Dub takes this address: zod 4's rule, which is ASCII only."""
    local, at, domain = text.rpartition("@")
    return bool(at and _LOCAL_PART.fullmatch(local) and _DOMAIN.fullmatch(domain))


def read_text(body: Body, name: str) -> str | None:
    """Read a string that may be absent or null."""
    value = body.get(name)
    if value is None or isinstance(value, str):
        return value
    raise wrong_type(name, "string", value)


def read_trimmed(body: Body, name: str) -> str | None:
    """Read an optional string as zod's ``trim`` leaves it."""
    value = read_text(body, name)
    return None if value is None else js_trim(value)


def read_event_name(body: Body) -> str:
    """Read the one field that must be there."""
    name = read_trimmed(body, "eventName")
    if name is None:
        raise wrong_type("eventName", "string", body.get("eventName", MISSING))
    if not name:
        raise refused("eventName", "too_small", "eventName is required")
    return limited("eventName", name, MAX_EVENT_NAME)


def read_name(body: Body) -> str | None:
    """Read the person's name; Dub does not trim it."""
    name = read_text(body, "customerName")
    return None if name is None else limited("customerName", name, MAX_NAME)


def read_email(body: Body) -> str | None:
    """Read the person's address; Dub does not trim it."""
    email = read_text(body, "customerEmail")
    if email is None:
        return None
    if not is_email(email):
        raise refused("customerEmail", "invalid_format", "Invalid email address")
    return limited("customerEmail", email, MAX_EMAIL)


def read_mode(body: Body) -> Mode:
    """Read the mode; absent is the default, null is an error."""
    value = body.get("mode", Mode.ASYNC.value)
    if isinstance(value, str) and value in _MODES:
        return _MODES[value]
    options = "|".join(f'"{mode}"' for mode in _MODES)
    message = f"Invalid option: expected one of {options}"
    raise refused("mode", "invalid_value", message)


def read_quantity(body: Body) -> int | None:
    """Read a whole number from 1 to 100; JavaScript takes 3.0 for 3."""
    value = body.get("eventQuantity")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type("eventQuantity", "number", value)
    double = as_double(value)
    if not math.isfinite(double):
        raise wrong_type("eventQuantity", "number", value)
    if not double.is_integer():
        raise wrong_type("eventQuantity", "int", value)
    return _in_range(int(double))


def _in_range(quantity: int) -> int:
    """Pass a quantity that Dub takes; zod checks safe integers first."""
    limits = (
        (quantity > MAX_SAFE_INTEGER, f"int to be <={MAX_SAFE_INTEGER}"),
        (quantity < -MAX_SAFE_INTEGER, f"int to be >=-{MAX_SAFE_INTEGER}"),
        (quantity <= 0, "number to be >0"),
        (quantity > MAX_QUANTITY, f"number to be <={MAX_QUANTITY}"),
    )
    for broken, expected in limits:
        if broken:
            size = "big" if quantity > 0 else "small"
            message = f"Too {size}: expected {expected}"
            raise refused("eventQuantity", f"too_{size}", message)
    return quantity


def read_metadata(body: Body) -> Mapping[str, Any] | None:
    """Read an object whose compact JSON is short enough."""
    value = body.get("metadata")
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise wrong_type("metadata", "record", value)
    if metadata_length(value, MAX_METADATA) > MAX_METADATA:
        message = "Metadata must be less than 10,000 characters when stringified"
        raise refused("metadata", "custom", message)
    return value


def limited(name: str, text: str, limit: int) -> str:
    """Pass a text of at most so many UTF-16 units."""
    # A character is two units at most.
    if 2 * len(text) > limit and utf16_len(text) > limit:
        message = f"Too big: expected string to have <={limit} characters"
        raise refused(name, "too_big", message)
    return text


def wrong_type(name: str, expected: str, value: object) -> InvalidFieldError:
    """Make zod's issue for a value of another type; it names JavaScript's types."""
    named = (name for kinds, name in _JS_TYPES if isinstance(value, kinds))
    received = next(named, "undefined")
    message = f"Invalid input: expected {expected}, received {received}"
    return refused(name, "invalid_type", message)


def refused(name: str, code: str, message: str) -> InvalidFieldError:
    """Make the error for a field."""
    return InvalidFieldError(FieldIssue(name, code, message))


# --- What a program writes where it has no value. ---

PLACEHOLDER: Final = (
    "This is a placeholder, not a customer's id: a variable was empty, or a template"
    " was not filled in. Send the id that your database gave the customer"
)

_BETWEEN: Final = "[-_:./ ]"

_EMPTY: Final = (
    # Of a variable without a value.
    (
        r"-?(?:(?:undefined|null|nil|none|nan|infinity|true|false|test"
        rf"|\(null\)|\(not set\)){_BETWEEN}?)+"
    ),
    rf"{_BETWEEN}*(?:0{_BETWEEN}*)+",  # zeros, a UUID's as well
    r"[\s\S]*\[object \w+\][\s\S]*",  # of JavaScript
    r"(?:\$|%24|#)?(?:\{|%7b)[\s\S]*(?:\}|%7d)",  # {id}, {{id}}, ${id}, %7Bid%7D
    r"<[\s\S]*>|%\w+%|__\w+__",  # <id>, <%= id %>, %ID%, __ID__
    r"(?:[a-z]+_)*(?:id_here|your_[a-z_]*id|placeholder)",
)

PLACEHOLDERS: Final = rf"^\s*(?:{'|'.join(_EMPTY)})\s*$"
"""What programs write for no value, in whatever case; also a pattern of ECMAScript."""

_PLACEHOLDER: Final = re.compile(PLACEHOLDERS, re.IGNORECASE | re.ASCII)


def is_placeholder(text: str) -> bool:
    """Whether a text is what programs write for no value: ``undefined``, ``{id}``."""
    return _PLACEHOLDER.match(text.strip()) is not None
