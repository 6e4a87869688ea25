"""Forms: urlencoded and multipart, in whatever charset their page had."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import multipart  # type: ignore[import-untyped]  # ships no types

from relay.core.http.charsets import Text, charset_of, decode, read_text
from relay.core.http.urlencoded import MAX_FIELDS, TooManyError, pairs, single

MULTIPART: Final = "multipart/form-data"

Values = dict[str, str | list[str]]
"""Fields by name: a text, or the list of them where a name is repeated."""

_CHARSET_FIELD: Final = b"_charset_"
_UTF8: Final = "utf-8"
_JSON_TYPE: Final = re.compile(r"[^/\s]+/(?:json|[^/\s]+\+json)")
_MALFORMED: Final = "malformed multipart/form-data"
_FILE_NAME: Final = re.compile(r";\s*filename\*?\s*=", re.IGNORECASE)
FIRST_PART: Final = re.compile(
    rb"--[^\r\n]{1,200}\r\ncontent-(?:disposition|type):", re.IGNORECASE
)
"""How a multipart form begins, whatever it is called."""

_FIRST_LINE: Final = re.compile(rb"\s*--([^\r\n]{1,200})\r?\n")


class UnreadableError(Exception):
    """Something cannot be read; the message says what is the matter."""


@dataclass(frozen=True, slots=True)
class Form:
    """A form's fields in bytes: names, values, and the charset that a part names.

    ``label`` is the charset that the whole body is said to have.
    """

    pairs: Sequence[tuple[bytes, bytes, str | None]] = field(default=(), repr=False)
    label: str | None = None

    def read(self, answered: str | None = None) -> tuple[Values, str | None]:
        """Return the fields as text, and the charset where that is worth a note.

        In UTF-8 where they are valid, else in the charset that the body names, else
        in that of the field ``_charset_`` (HTML, 4.10.21.7), else in ``answered``:
        the response's, for sites have one charset; else in windows-1252.
        """
        text = self._sample(answered)
        noted = (
            None if text.charset in {_UTF8, charset_of(self.label)} else text.charset
        )
        found: dict[str, list[str]] = {}
        for name, value, own in self.pairs:
            given = _text(value, charset_of(own) or text.charset, text.charset)
            found.setdefault(_text(name, text.charset), []).append(given)
        return single(found), noted

    def _sample(self, answered: str | None) -> Text:
        """Find the charset by all fields together."""
        named = (value for name, value, _ in self.pairs if name == _CHARSET_FIELD)
        said = next(named, b"").decode("ascii", "replace")
        parts = [
            b""
        ]  # a line's end before each: no part is taken for a byte order mark
        for name, value, own in self.pairs:
            parts += [name] if own else [name, value]
        return read_text(b"\n".join(parts), (self.label, said, answered))


def _text(value: bytes, *charsets: str) -> str:
    found = (text for each in charsets if (text := decode(value, each)) is not None)
    return next(found, None) or value.decode(_UTF8, "replace")


def urlencoded(body: bytes, label: str | None = None) -> Form:
    """Read a form or a query; raise UnreadableError where it has too much."""
    try:
        return Form([(*pair, None) for pair in pairs(body)], label)
    except TooManyError as error:
        raise UnreadableError(str(error)) from None


class MultipartReader:
    """Reads ``multipart/form-data`` (RFC 7578) as it passes; skips files' contents.

    A part with a file's name is a file, unless it is JSON: scripts send JSON parts
    as a ``Blob``, which gets the name "blob".
    """

    def __init__(self, boundary: str, label: str | None, bound: int) -> None:
        """Keep ``bound`` bytes of fields at most."""
        self._label = label
        self._left = bound
        self._bound = bound
        self._pairs: list[tuple[bytes, bytes, str | None]] = []
        self._segment: multipart.MultipartSegment | None = None
        self._chunks: list[bytes] = []
        self._problem: str | None = None
        self._parser: multipart.PushMultipartParser | None = None
        self._boundary = boundary

    def feed(self, data: bytes) -> None:
        """Read the next bytes; what is the matter with them, :meth:`form` says."""
        if self._problem is not None or not data:
            return
        try:
            for event in self._started(data).parse(data):
                self._take(event)
        except multipart.ParserLimitReached:
            self._problem = f"over {MAX_FIELDS} parts, or a long header"
        except ValueError:  # every other error of the parser, and of a bad boundary
            self._problem = _MALFORMED
        except UnreadableError as error:
            self._problem = str(error)

    def _started(self, data: bytes) -> multipart.PushMultipartParser:
        if self._parser is None:
            # Scripts that set the type by hand forget the boundary.
            found = None if self._boundary else _FIRST_LINE.match(data)
            self._parser = multipart.PushMultipartParser(
                found[1].rstrip() if found else self._boundary,
                max_segment_count=MAX_FIELDS,
                header_charset="latin-1",
            )
        return self._parser

    def form(self, *, is_whole: bool = True) -> Form:
        """Return what was read; raise UnreadableError if that is not all.

        ``is_whole`` is False where no more than the beginning was to be read.
        """
        try:
            if self._problem is None and is_whole:
                self._started(b"").close()
        except ValueError:  # it is cut off
            self._problem = _MALFORMED
        if self._problem is not None:
            raise UnreadableError(self._problem)
        return Form(self._pairs, self._label)

    def _take(self, event: object) -> None:
        if isinstance(event, multipart.MultipartSegment):
            self._segment, self._chunks = event, []
        elif event is not None and self._is_kept:
            chunk = bytes(event)  # type: ignore[call-overload]  # the parser's bytes
            self._left -= len(chunk)
            if self._left < 0:
                raise UnreadableError(f"over {self._bound} bytes")
            self._chunks.append(chunk)
        elif event is None and self._is_kept and self._segment is not None:
            name = self._segment.name.encode("latin-1", "replace")
            self._pairs.append((name, b"".join(self._chunks), self._segment.charset))

    @property
    def _is_kept(self) -> bool:
        one = self._segment
        if one is None or (one.content_type or "").startswith("multipart/"):
            return False
        is_file = _FILE_NAME.search(one.header("Content-Disposition", ""))
        return not is_file or is_json(one.content_type)


def is_json(kind: str | None) -> bool:
    """Whether a media type is JSON's, or one with its suffix (RFC 6839, 3.1)."""
    return kind is not None and _JSON_TYPE.fullmatch(kind) is not None


@lru_cache(256)
def content_type(text: str) -> tuple[str, Mapping[str, str]]:
    """Return a media type in lower case and its parameters."""
    kind, options = multipart.parse_options_header(text[:1000])
    return kind, options
