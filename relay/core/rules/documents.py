"""The document that sign-up rules search: one request and the site's answer.

Everything here comes from strangers. Nothing raises on any bytes: what cannot
be read is left out and a note says so, in words that hold none of it.

Names given once in a form or a query are text; repeated ones are a list of
texts. Invalid bytes of a charset are replaced (U+FFFD).
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import brotli  # type: ignore[import-untyped]  # ships no types
import multipart  # type: ignore[import-untyped]  # ships no types

from relay.core.http import cookies
from relay.core.http.headers import Headers

T = TypeVar("T")

MAX_BODY: Final = 1 << 20
"""Bytes of a decoded body: as many as are copied of an encoded one. A small
compressed body can hold gigabytes."""

MAX_FIELDS: Final = 1000
"""Fields of a form or a query; far above any form that a person fills in."""

ROOTS: Final = ("form", "json", "query", "path", "headers", "cookies", "response")
"""The names at the top of a document."""

# Each coding may blow its input up to MAX_BODY, so a chain must be short.
_MAX_CODINGS: Final = 2

# An allow-list, because the name comes from outside and Python's codec table
# also holds codecs that are no charsets, or slow, or that warn.
_CHARSETS: Final = frozenset(
    {"utf-8", "utf8", "us-ascii", "ascii", "shift_jis", "euc-jp", "iso-2022-jp"}
    | {"gbk", "gb2312", "gb18030", "big5", "euc-kr", "koi8-r", "koi8-u"}
    | {f"windows-125{digit}" for digit in range(9)}
    | {f"iso-8859-{part}" for part in (*range(1, 12), *range(13, 17))}
)

_JSON_TYPE: Final = re.compile(r"[^/\s]+/(?:json|[^/\s]+\+json)")


@dataclass(frozen=True, slots=True)
class Copy:
    """A body as it passed by, still encoded; None where it was too big to copy."""

    content_type: str | None
    body: bytes | None = field(repr=False)
    content_encoding: str | None = None

    @classmethod
    def of(cls, headers: Headers, body: bytes | None) -> Copy:
        """A copy that is described by the headers it came with."""
        kind, coding = b"content-type", b"content-encoding"
        said = _fields([line for line in headers if line[0].lower() in (kind, coding)])
        return cls(said.get("content-type"), body, said.get("content-encoding"))


@dataclass(frozen=True, slots=True)
class Document:
    """What JMESPath searches, and notes on what could not be read."""

    values: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()
    repeated: frozenset[str] = field(default=frozenset(), repr=False)
    """Names that an object of the request's JSON has twice: parsers differ in which
    they take (RFC 8259, 4). Here the last one counts."""


class _UnreadableError(Exception):
    """Something cannot be read; the message says what is the matter."""


def document(
    *,
    query: str,
    path_params: Mapping[str, str],
    headers: Headers,
    request: Copy,
    response_status: int | None,
    response_headers: Headers,
    response: Copy | None,
) -> Document:
    """Put a request and the site's answer together.

    ``query`` is raw, without "?"; ``path_params`` are decoded; ``headers`` and
    ``response_headers`` are raw lines. ``response`` is None while the answer is
    not known. Header names become lower case; repeated lines are joined.
    """
    asked = asked_document(
        query=query, path_params=path_params, headers=headers, request=request
    )
    return answered(asked, response_status, response_headers, response)


def asked_document(
    *,
    query: str,
    path_params: Mapping[str, str],
    headers: Headers,
    request: Copy,
    roots: Container[str] = ROOTS,
) -> Document:
    """Put a request alone together, its answer still unknown.

    Headers and cookies are left empty where ``roots`` says that nobody looks.
    """
    notes: list[str] = []
    body = _read("the request's body", lambda: _parse_body(request), notes)
    given = _read("the query", lambda: _urlencoded(query, "utf-8"), notes)
    lines = headers if "cookies" in roots else ()
    cookie_lines = [_text(value) for name, value in lines if name.lower() == b"cookie"]
    values = {
        "form": body.get("form", {}),
        "json": body.get("json"),
        "query": given,
        "path": dict(path_params),
        "headers": _fields(headers if "headers" in roots else ()),
        "cookies": _first_of_each(cookies.pairs(cookie_lines)),
        "response": _answer(None, (), None),
    }
    return Document(values, tuple(notes), body.get("repeated", frozenset()))


def answered(
    asked: Document, status: int | None, headers: Headers, body: Copy | None
) -> Document:
    """Put the site's answer into the document of its request."""
    notes: list[str] = []
    said = _read("the answer's body", lambda: _parse_body(body), notes)
    values = {**asked.values, "response": _answer(status, headers, said.get("json"))}
    return replace(asked, values=values, notes=(*asked.notes, *notes))


def _answer(status: int | None, headers: Headers, json_value: Any) -> dict[str, Any]:
    return {
        "status": status,
        "headers": _fields(headers),
        "cookies": _set_cookies(headers),
        "json": json_value,
    }


def _read(
    what: str, parse: Callable[[], dict[str, T]], notes: list[str]
) -> dict[str, T]:
    try:
        return parse()
    except _UnreadableError as error:
        notes.append(f"{what} could not be read: {error}")
        return {}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _fields(headers: Headers) -> dict[str, str]:
    """Header fields by lower-case name; repeated lines joined as RFC 9110, 5.3."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(_text(name).lower(), []).append(_text(value))
    # A comma is part of a cookie's value (RFC 6265, 5.4).
    return {k: ("; " if k == "cookie" else ", ").join(v) for k, v in found.items()}


def _first_of_each(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


def _set_cookies(headers: Headers) -> dict[str, str]:
    """Names and values that an answer sets; of a repeated name the last, as browsers.

    Not those that it clears: an empty value sets nothing to look at.
    """
    lines = (_text(value) for name, value in headers if name.lower() == b"set-cookie")
    pairs = (line.partition(";")[0].partition("=") for line in lines)
    return {
        name.strip(): value.strip().strip('"')
        for name, equals, value in pairs
        if equals and value.strip()
    }


def _collected(pairs: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """A name given once with its value, a repeated one with the list of them."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: all_[0] if len(all_) == 1 else all_ for name, all_ in found.items()}


def _parse_body(copy: Copy | None) -> dict[str, Any]:
    """{"form": ...} or {"json": ...} or {}, by what the body says it is."""
    if copy is None or copy.content_type is None:
        return {}
    kind, options = _content_type(copy.content_type)
    if kind == "application/x-www-form-urlencoded":
        charset = _charset(options)
        text = _decoded(copy).decode(charset, "replace")
        return {"form": _urlencoded(text, charset)}
    if kind == "multipart/form-data":
        return {"form": _multipart(_decoded(copy), options.get("boundary", ""))}
    if _JSON_TYPE.fullmatch(kind):
        return _json(_decoded(copy), _charset(options))
    return {}


@lru_cache(256)
def _content_type(text: str) -> tuple[str, Mapping[str, str]]:
    kind, options = multipart.parse_options_header(text)
    return kind, options


def _charset(options: Mapping[str, str]) -> str:
    """The charset that a type names; UTF-8 if it names none that is known."""
    name = options.get("charset", "").strip().lower()
    return name if name in _CHARSETS else "utf-8"


def _urlencoded(text: str, charset: str) -> dict[str, str | list[str]]:
    try:
        return _collected(
            parse_qsl(
                text,
                keep_blank_values=True,
                encoding=charset,
                errors="replace",
                max_num_fields=MAX_FIELDS,
            )
        )
    except ValueError:
        raise _UnreadableError(f"over {MAX_FIELDS} fields") from None


def _multipart(body: bytes, boundary: str) -> dict[str, str | list[str]]:
    """The fields of a multipart form; files are left out."""
    pairs: list[tuple[str, str]] = []
    try:
        with multipart.PushMultipartParser(
            boundary, max_segment_count=MAX_FIELDS
        ) as parser:
            for event in parser.parse(body):
                if isinstance(event, multipart.MultipartSegment):
                    segment, chunks = event, []
                elif event is not None:
                    chunks.append(event)
                elif segment.filename is None:
                    charset = _charset({"charset": segment.charset or ""})
                    value = b"".join(chunks).decode(charset, "replace")
                    pairs.append((segment.name, value))
    except multipart.ParserLimitReached:
        raise _UnreadableError(f"over {MAX_FIELDS} parts, or a long header") from None
    except ValueError:  # every other error of the parser, and of a bad boundary
        raise _UnreadableError("malformed multipart/form-data") from None
    return _collected(pairs)


def _json(body: bytes, charset: str) -> dict[str, Any]:
    """A JSON value, and what is ``repeated`` in it.

    None for an empty body, as an answer to HEAD has.
    """
    if not body:
        return {"json": None}
    text = body.decode(
        "utf-8-sig" if charset in {"utf-8", "utf8"} else charset, "replace"
    )
    repeated: set[str] = set()
    try:
        value = json.loads(
            text,
            parse_constant=_finite,
            parse_float=_finite,
            object_pairs_hook=partial(_object, repeated),
        )
    except RecursionError:
        raise _UnreadableError("JSON nested too deep") from None
    except ValueError:
        raise _UnreadableError("malformed JSON") from None
    return {"json": value, "repeated": frozenset(repeated)}


def _object(repeated: set[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; note the names that it has twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        counted = Counter(name for name, _ in pairs)
        repeated.update(name for name, times in counted.items() if times > 1)
    return made


def _finite(text: str) -> float:
    """A number; not NaN, Infinity or 1e999, which cannot be sent on as JSON."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _decoded(copy: Copy) -> bytes:
    """The body without its content codings (RFC 9110, 8.4), at most MAX_BODY."""
    body = copy.body
    names = (copy.content_encoding or "").lower().split(",")
    codings = [name for each in names if (name := each.strip()) not in {"", "identity"}]
    if len(codings) > _MAX_CODINGS:
        raise _UnreadableError(f"over {_MAX_CODINGS} content codings")
    if body is None:
        raise _UnreadableError(f"over {MAX_BODY} bytes")
    for name in reversed(codings):
        if name not in _DECODERS:
            raise _UnreadableError("a content coding that is not supported")
        body = _DECODERS[name](body)
    if len(body) > MAX_BODY:
        raise _UnreadableError(f"over {MAX_BODY} bytes")
    return body


def _inflated(body: bytes, window: int) -> bytes:
    """Decompress gzip, zlib or bare deflate; stops one byte above MAX_BODY.

    Of a gzip file with several members only the first counts: nobody sends such
    bodies, and walking through thousands of empty members would cost seconds.
    """
    decoder = zlib.decompressobj(window)
    try:
        out = decoder.decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise _UnreadableError("malformed compressed data") from None
    if not decoder.eof and len(out) <= MAX_BODY:
        raise _UnreadableError("compressed data that ends too early")
    return out


def _gunzip(body: bytes) -> bytes:
    return _inflated(body, 16 + zlib.MAX_WBITS)


def _deflate(body: bytes) -> bytes:
    """Deflate in zlib's wrapper, or bare as some send it (RFC 9110, 8.4.1.2)."""
    try:
        return _inflated(body, zlib.MAX_WBITS)
    except _UnreadableError:
        return _inflated(body, -zlib.MAX_WBITS)


def _unbrotli(body: bytes) -> bytes:
    """Decompress brotli; stops soon above MAX_BODY (brotli's buffer doubles)."""
    decoder = brotli.Decompressor()
    out, chunk = b"", body
    try:
        while not decoder.is_finished() and len(out) <= MAX_BODY:
            more = decoder.process(chunk, output_buffer_limit=MAX_BODY + 1)
            if not more and not decoder.is_finished():
                raise _UnreadableError("compressed data that ends too early")
            out, chunk = out + more, b""
    except brotli.error:
        raise _UnreadableError("malformed compressed data") from None
    return out


_DECODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,  # RFC 9110, 8.4.1.3
    "deflate": _deflate,
    "br": _unbrotli,
}
