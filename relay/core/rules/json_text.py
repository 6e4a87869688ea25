"""JSON as the world sends it, read leniently and in bounds.

Read are a byte order mark (gone by then), what guards JSON against being run as a
script, JSONP, several values behind each other (JSON lines, RFC 7464), NaN.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from functools import partial
from typing import Any, Final

MAX_VALUES: Final = 50_000
"""Commas and brackets, and values one behind the other: more than 50 for each field of
the largest form. Reading many small values takes a hundred times as long as reading a
text of that size."""

_LONGEST_INT: Final = 100
"""Digits; nobody has such a number for an id, and int() refuses 4300."""

_GUARD: Final = re.compile(
    r"""\s*(?:
        \)\]\}'?,?                              # Angular, Google
      | (?:while\s*\(\s*(?:1|true)\s*\)|for\s*\(\s*;\s*;\s*\))\s*;?
      | \]\)\}while\(1\);</x>                   # Medium
      | throw\s*(?:1|0|'')\s*;?\s*(?:<[^>\n]{0,40}>)?   # Google, DWR
      | \{\}\s*&&                               # Spring, Dojo
      | &&&START&&&                             # Xiaomi
      | /\*[^*\n]{0,80}\*/                      # Facebook, Rails
    )\s*""",
    re.VERBOSE,
)
"""What keeps a page of another site from running the JSON as a script."""

_JSONP: Final = re.compile(
    r"\s*(?:typeof\s+[\w$.]{1,100}\s*===\s*'function'\s*&&\s*)?"
    r"[A-Za-z_$][\w$.\[\]\"']{0,100}\(\s*(?=[\[{])"
)
_JSONP_END: Final = re.compile(r"\s*\)\s*;?\s*")

_BETWEEN: Final = re.compile(r"[\s\x1e]*")
_WHOLE: Final = re.compile(r"(-?[0-9]+)\.0+")


class JsonError(ValueError):
    """No JSON; the message says why, and holds none of it."""


def looks_like_json(text: str) -> bool:
    """Whether a text begins as JSON objects and lists do, or what guards them.

    A text that ends with its guard may go on so.
    """
    at = _lead_in(text)
    return text[at : at + 1] in {"", "{", "["}


def read_json(
    text: str, repeated: set[str] | None = None, *, lines: bool = False
) -> Any:
    """Return the value of a JSON text; the list of them where there are several.

    ``lines`` makes it a list even for one. NaN, infinities and numbers beyond a
    double are None; ``42.0`` is 42. Names that an object has twice are added to
    ``repeated``. Raises JsonError.
    """
    start = _lead_in(text)
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise _too_many()
    try:
        found = _values(text, start, _decoder(repeated))
    except RecursionError:
        raise JsonError("JSON nested too deep") from None
    except ValueError:
        raise JsonError("malformed JSON") from None
    if len(found) > MAX_VALUES:
        raise _too_many()
    return found if lines or len(found) > 1 else found[0]


def _too_many() -> JsonError:
    return JsonError(f"over {MAX_VALUES} values, or nested too deep")


def _lead_in(text: str) -> int:
    """Return where the JSON begins, behind what stands before it."""
    start = _BETWEEN.match(text, 1 if text.startswith("\ufeff") else 0)
    at = start.end() if start else 0
    for each in (_GUARD, _JSONP):
        found = each.match(text, at)
        at = found.end() if found else at
    return at


def _values(text: str, at: int, decoder: json.JSONDecoder) -> list[Any]:
    found: list[Any] = []
    while (at < len(text) or not found) and len(found) <= MAX_VALUES:
        value, at = decoder.raw_decode(text, at)
        found.append(value)
        if at < len(text) and text[at] == ")" and (end := _JSONP_END.match(text, at)):
            at = end.end()
        at = ((between := _BETWEEN.match(text, at)) and between.end()) or at
    return found


def _decoder(repeated: set[str] | None) -> json.JSONDecoder:
    if repeated is None:
        return _PLAIN
    hook = partial(_object, repeated)
    return json.JSONDecoder(object_pairs_hook=hook, **_NUMBERS)


def _object(repeated: set[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; note the names that it has twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        counted = Counter(name for name, _ in pairs)
        repeated.update(name for name, times in counted.items() if times > 1)
    return made


def _float(text: str) -> float | int | None:
    if (whole := _WHOLE.fullmatch(text)) is not None:
        return _int(whole[1])
    number = float(text)
    if not math.isfinite(number):
        return None
    # Above 2**53 a double does not hold every integer.
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _int(text: str) -> int | None:
    return int(text) if len(text) <= _LONGEST_INT else None


def _nothing(_: str) -> None:
    """Read a number that cannot be sent on as JSON."""


_NUMBERS: Final[dict[str, Any]] = {
    "parse_float": _float,
    "parse_int": _int,
    "parse_constant": _nothing,
}
_PLAIN: Final = json.JSONDecoder(**_NUMBERS)
