"""JMESPath as sign-up rules have it: its functions, the relay's own, and a bound.

The documents come from strangers: a filter over a large one must not hold up others.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any, Final

import jmespath
from jmespath import functions
from jmespath.parser import ParsedResult
from jmespath.visitor import TreeInterpreter

from relay.core.http.charsets import read_text
from relay.core.http.urlencoded import TooManyError, pairs, single, unquoted
from relay.core.rules.json_text import JsonError, read_json

MAX_STEPS: Final = 10_000
"""Nodes of an expression that are computed for one document, each item of a list anew:
some 20 ms."""

MAX_PIECES: Final = 1000
"""Pieces that ``split`` makes."""

# RFC 3986, appendix B: it fits any text.
_URL: Final = re.compile(
    r"(?:[^:/?#]+:)?(?://[^/?#]*)?([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL
)

_TEXT: Final[Any] = {"types": ["string", "null"]}


class FunctionError(Exception):
    """A function cannot work on what it was given; the message holds none of it."""


class StepsError(Exception):
    """An expression takes too many steps on this document."""


class RuleFunctions(functions.Functions):
    """The functions of JMESPath, and the relay's own. All take null, and return it."""

    @functions.signature(_TEXT)
    def _func_sha256(self, text: str | None) -> str | None:
        return None if text is None else hashlib.sha256(text.encode()).hexdigest()

    @functions.signature(_TEXT)
    def _func_lower(self, text: str | None) -> str | None:
        return None if text is None else text.lower()

    @functions.signature(_TEXT)
    def _func_parse_json(self, text: str | None) -> Any:
        """Read JSON that stands in a text."""
        try:
            return None if text is None else read_json(text)
        except JsonError as error:
            raise FunctionError(f"parse_json() was given {error}") from None

    @functions.signature(_TEXT, {"types": ["string"]})
    def _func_split(self, text: str | None, separator: str) -> list[str] | None:
        if not separator:
            raise FunctionError("split() needs a separator that is not empty")
        if text is None:
            return None
        pieces = text.split(separator, MAX_PIECES)
        if len(pieces) > MAX_PIECES:
            raise FunctionError(f"split() would make over {MAX_PIECES} pieces")
        return pieces

    @functions.signature({"types": ["array", "null"]})
    def _func_last(self, items: list[Any] | None) -> Any:
        """Return the last item, null of none."""
        return items[-1] if items else None

    @functions.signature(_TEXT)
    def _func_url_path(self, url: str | None) -> str | None:
        """Return the path of a URL, absolute or not, its escapes decoded."""
        return None if url is None else _decoded(_part(url, 1))

    @functions.signature(_TEXT)
    def _func_url_query(self, url: str | None) -> Any:
        """Return the fields of a URL's query, as ``query`` has them."""
        return None if url is None else _fields(_part(url, 2))

    @functions.signature(_TEXT)
    def _func_jwt_claims(self, token: str | None) -> Any:
        """Return what a JWT says (RFC 7519). Its signature is not verified."""
        return None if token is None else _claims(token)


def _part(url: str, number: int) -> str:
    found = _URL.fullmatch(url.strip())
    return (found[number] or "") if found else ""


def _fields(query: str) -> dict[str, str | list[str]]:
    found: dict[str, list[str]] = {}
    try:
        for name, value in pairs(query.encode("utf-8", "replace")):
            found.setdefault(read_text(name).value, []).append(read_text(value).value)
    except TooManyError as error:
        raise FunctionError(f"url_query() was given {error}") from None
    return single(found)


def _decoded(text: str) -> str:
    try:
        raw, _ = unquoted(text.encode("utf-8", "replace"))
    except TooManyError as error:
        raise FunctionError(f"url_path() was given {error}") from None
    return read_text(raw).value


def _claims(token: str) -> dict[str, Any]:
    scheme, _, rest = token.strip().partition(" ")
    parts = (rest.strip() if scheme.lower() == "bearer" else token.strip()).split(
        ".", 5
    )
    if len(parts) == 5:
        raise FunctionError("jwt_claims() was given an encrypted token")
    if len(parts) != 3:
        raise FunctionError("jwt_claims() was given what is no JWT")
    try:
        payload = parts[1].rstrip("=")
        raw = base64.b64decode(
            payload + "=" * (-len(payload) % 4), b"-_", validate=True
        )
        claims = read_json(raw.decode("utf-8"))
    except (binascii.Error, ValueError):
        claims = None
    if not isinstance(claims, dict):
        raise FunctionError("jwt_claims() was given what is no JWT")
    return claims


_OPTIONS: Final = jmespath.Options(custom_functions=RuleFunctions())


class _Interpreter(TreeInterpreter):
    """JMESPath's interpreter, for MAX_STEPS steps."""

    def __init__(self) -> None:
        super().__init__(_OPTIONS)
        self._left = MAX_STEPS

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise StepsError
        return super().visit(node, *args, **kwargs)


def interpret(parsed: ParsedResult, document: Any) -> Any:
    """Return what an expression finds in a document.

    Raises StepsError, FunctionError, and whatever jmespath lets through.
    """
    return _Interpreter().visit(parsed.parsed, document)
