"""What a body holds: a form or JSON. Its content decides, a label only hints.

Nothing here raises on any bytes but :class:`UnreadableError`, which says in words of
ours what is the matter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from relay.core.http import codings
from relay.core.http.charsets import Text, charset_of, read_text
from relay.core.http.codings import MAX_BODY
from relay.core.http.headers import Headers
from relay.core.rules.flight import FLIGHT, action_result
from relay.core.rules.forms import (
    FIRST_PART,
    MULTIPART,
    Form,
    MultipartReader,
    UnreadableError,
    content_type,
    is_json,
    urlencoded,
)
from relay.core.rules.json_text import JsonError, looks_like_json, read_json

URLENCODED: Final = "application/x-www-form-urlencoded"

_START: Final = 2048
"""Bytes of a response's beginning that are kept for the default test."""

_UNSAID: Final = frozenset({"", "text/plain", "application/octet-stream"})
"""Media types that say nothing: what ``fetch`` writes for a text, or none."""

_FORM: Final = re.compile(
    rb"[\w.$%+\[\]-]{1,200}=[^\s&<>{}\"]*(?:&[\w.$%+\[\]-]{1,200}=[^\s&<>{}\"]*)*\s*"
)
"""An urlencoded form that nothing calls one."""

_LINES: Final = re.compile(r".*(?:ndjson|jsonl|json-?lines|json-seq|stream\+json)")
"""Media types of several JSON values, one behind the other."""

OPAQUE: Final = re.compile(r"(?:image|audio|video|font)/.*|text/event-stream")
"""Media types in which no rule finds anything, whatever their bytes look like."""

_MARKS: Final = b"\xef\xbb\xbf\xff\xfe\x00"
"""Bytes of byte order marks, and the zero bytes of UTF-16 and UTF-32."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A body as it passed by, still encoded; None where it was too big to copy.

    ``fields`` reads it where it is a multipart form of which only the fields were
    kept. ``is_whole`` is False where no more than a beginning was copied: of a
    response, since there is nothing in it that rules could look at.
    """

    content_type: str | None
    body: bytes | None = field(repr=False)
    content_encoding: str | None = None
    fields: MultipartReader | None = field(default=None, repr=False, compare=False)
    is_whole: bool = True

    @classmethod
    def of(
        cls,
        headers: Headers,
        body: bytes | None,
        fields: MultipartReader | None = None,
        *,
        is_whole: bool = True,
    ) -> Copy:
        """A copy that is described by the headers it came with."""
        kind, coding = _joined(headers, b"content-type", b"content-encoding")
        return cls(kind, body, coding, fields, is_whole)


def _joined(headers: Headers, *names: bytes) -> list[str | None]:
    """Return fields as text, repeated lines joined (RFC 9110, 5.3); None for none."""
    found: dict[bytes, list[str]] = {name: [] for name in names}
    for name, value in headers:
        if (lower := name.lower()) in found:
            found[lower].append(value.decode("utf-8", "replace"))
    return [", ".join(found[name]) if found[name] else None for name in names]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a body holds.

    ``json`` is None without JSON; ``repeated`` has the names that one of its objects
    has twice. ``charset`` is the one that it was read in, where nothing named it.
    ``start`` is the decoded beginning, None where there is no copy.
    """

    form: Form | None = None
    json: Any = field(default=None, repr=False)
    repeated: frozenset[str] = field(default=frozenset(), repr=False)
    charset: str | None = None
    start: bytes | None = field(default=None, repr=False)


def read_body(copy: Copy | None, *, asked: bool) -> Contents:
    """Read a request's body (``asked``) or a response's, in which no form is.

    Raises UnreadableError where it is said to be a form or JSON, and is not, or is
    too big; a body of another kind that is neither is no error.
    """
    if copy is None:
        return Contents()
    kind, options = content_type(copy.content_type or "")
    label = options.get("charset")
    if copy.fields is not None or OPAQUE.fullmatch(kind):
        return Contents(copy.fields.form() if copy.fields else None)
    if not (copy.is_whole or asked):
        return Contents(start=codings.beginning(copy.body or b"", None, _START))
    plain = copy.body if not codings.named(copy.content_encoding) else None
    # A form with files may have any size: they are not counted.
    large = asked and plain is not None and is_multipart(kind, plain)
    body = plain if large and plain is not None else _decoded(copy)
    if asked and is_multipart(kind, body):
        return Contents(_parts(body, options, is_whole=copy.is_whole))
    return _read(body, kind, label, asked=asked)


def is_multipart(kind: str, start: bytes) -> bool:
    """Whether a body is a multipart form, by its first bytes, else by its type."""
    if kind == MULTIPART:
        return not (start and may_be_json(start))
    return start.startswith(b"--") and FIRST_PART.match(start) is not None


def _parts(body: bytes, options: Mapping[str, str], *, is_whole: bool) -> Form:
    reader = MultipartReader(
        options.get("boundary", ""), options.get("charset"), MAX_BODY
    )
    reader.feed(body)
    return reader.form(is_whole=is_whole)


def _decoded(copy: Copy) -> bytes:
    if copy.body is None:
        raise UnreadableError(f"over {MAX_BODY} bytes")
    try:
        body = codings.decoded(copy.body, copy.content_encoding, MAX_BODY)
    except codings.CodingError as error:
        raise UnreadableError(str(error)) from None
    if len(body) > MAX_BODY:
        raise UnreadableError(f"over {MAX_BODY} bytes")
    return body


def _read(body: bytes, kind: str, label: str | None, *, asked: bool) -> Contents:
    is_labelled = is_labelled_json(kind)
    start = body[:_START]
    if not body:
        return Contents(start=start)
    if kind == FLIGHT and not asked:
        return Contents(json=action_result(body, _row), start=start)
    try:
        if is_labelled or may_be_json(body):
            return _json(body, kind, label, is_labelled=is_labelled)
    except JsonError as error:
        if is_labelled and not (asked and _FORM.fullmatch(body)):
            raise UnreadableError(str(error)) from None
    is_form = asked and (kind == URLENCODED or _may_be_form(kind, body))
    return Contents(urlencoded(body, label) if is_form else None, start=start)


def _may_be_form(kind: str, body: bytes) -> bool:
    """Whether what is not called a form is one: scripts forget the type of a text."""
    plain = kind in _UNSAID or is_labelled_json(kind)
    return plain and _FORM.fullmatch(body) is not None


def _json(body: bytes, kind: str, label: str | None, *, is_labelled: bool) -> Contents:
    text = read_text(body, (label,))
    wide = json.detect_encoding(body)
    if not wide.startswith("utf-8"):
        # Its mark or its zero bytes show it (RFC 4627, 3).
        text = Text(body.decode(wide, "replace"), wide)
    if not is_labelled and not looks_like_json(text.value):
        raise JsonError("no JSON")
    repeated: set[str] = set()
    lines = _LINES.fullmatch(kind) is not None
    value = read_json(text.value, repeated, lines=lines)
    noted = None if text.charset.startswith("utf-") else text.charset
    if noted == charset_of(label):
        noted = None
    return Contents(
        json=value, repeated=frozenset(repeated), charset=noted, start=body[:_START]
    )


def is_labelled_json(kind: str) -> bool:
    """Whether a media type says that a body is JSON, or lines of it."""
    return is_json(kind) or _LINES.fullmatch(kind) is not None


def _row(text: bytes) -> Any:
    try:
        return read_json(text.decode("utf-8", "replace"))
    except JsonError:
        return None


def may_hold_json(kind: str) -> bool:
    """Whether a media type says that there may be JSON in a response."""
    return is_labelled_json(kind) or kind == FLIGHT


def may_be_json(start: bytes) -> bool:
    """Whether a body that begins so may be JSON, guarded or not, in any charset."""
    bare = start[:_START].translate(None, _MARKS)
    return looks_like_json(bare.decode("latin-1"))


def charset_said(headers: Mapping[str, str]) -> str | None:
    """Return the charset that a message's type names."""
    _, options = content_type(headers.get("content-type", ""))
    return options.get("charset")
