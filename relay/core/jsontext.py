"""JSON in and out: the fast library where it can, the standard one where not.

orjson is several times as fast, and ingest lives on it. It refuses what UTF-8
cannot hold (a lone surrogate, which JSON can escape) and integers of more than
64 bits; those few go to the standard library.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

import orjson

# Made once: json.dumps with options makes an encoder for every call.
_SLOW: Final = json.JSONEncoder(separators=(",", ":")).encode


def encode(value: object) -> bytes:
    """Write compact JSON as UTF-8; raises TypeError for what JSON does not have."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return _SLOW(value).encode("ascii")


def decode(data: bytes | str) -> Any:
    """Parse strict JSON, in UTF-8 if bytes, without NaN and infinity.

    Raises ValueError for anything else, nesting too deep to read included.
    """
    try:
        return orjson.loads(data)
    except ValueError:
        pass
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
