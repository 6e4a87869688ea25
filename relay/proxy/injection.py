"""Puts the script tag into HTML pages on their way to the visitor.

Off unless set. A page streams on as it comes; only a tag that is not whole yet
is held back. Compressed pages are decoded, and encoded again in
the same coding. What is not HTML, not whole, or not to be changed passes as it
is (RFC 9110, 7.7: ``no-transform``).
"""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Iterator
from typing import Final, Protocol

import brotli  # type: ignore[import-untyped]  # ships no types

from relay.core.http.headers import Headers, Line
from relay.http.request_guard import every
from relay.proxy.exchange import UpstreamError
from relay.proxy.head_end import UNREADABLE_CHARSET, HeadEnd

LOOKED_AT: Final = 2**18
"""Bytes of a page in which ``</head>`` is looked for; heads are far smaller."""

PIECE: Final = 2**16
"""Bytes decoded at once: a small compressed page can hold gigabytes."""

_CODINGS: Final = frozenset({b"", b"identity", b"gzip", b"x-gzip", b"br"})

_NONCE: Final = re.compile(r"'nonce-([A-Za-z0-9+/_-]{1,200}={0,2})'")
_SCRIPT_SOURCES: Final = ("script-src-elem", "script-src", "default-src")

# Each describes one body: a strong validator, a digest or a part of the old one
# would be wrong for the new.
_OUTDATED: Final = frozenset(
    {b"content-length", b"accept-ranges", b"content-md5", b"digest", b"repr-digest"}
    | {b"content-digest"}
)


def is_html(kind: bytes) -> bool:
    """Whether a Content-Type says that this is an HTML page."""
    return kind.partition(b";")[0].strip().lower() == b"text/html"


def is_page(status: int, headers: Headers) -> bool:
    """Whether an answer is a whole HTML page that may be changed."""
    kinds = every(headers, b"content-type")
    control = b",".join(every(headers, b"cache-control")).lower()
    return (
        len(kinds) == 1
        and is_html(kinds[0])
        and UNREADABLE_CHARSET.search(kinds[0]) is None
        and status == 200
        and not _is_download(headers)
        and b"no-transform" not in control
        and _coding(headers) in _CODINGS
    )


def _is_download(headers: Headers) -> bool:
    dispositions = every(headers, b"content-disposition")
    return any(not one.strip().lower().startswith(b"inline") for one in dispositions)


def is_navigation(headers: Headers) -> bool:
    """Whether a request asks for a document, as far as its browser says (Fetch)."""
    return all(
        value.strip().lower() == b"document"
        for value in every(headers, b"sec-fetch-dest")
    )


def page_headers(headers: Headers) -> list[Line]:
    """Return a changed page's headers: without what was true of the old bytes."""
    return [_weak(line) for line in headers if line[0].lower() not in _OUTDATED]


def _weak(line: Line) -> Line:
    name, value = line
    if name.lower() == b"etag" and value.startswith(b'"'):
        return name, b"W/" + value
    return line


def _coding(headers: Headers) -> bytes:
    return b",".join(every(headers, b"content-encoding")).strip().lower()


def tag(source: str, headers: Headers) -> bytes:
    """Write the script tag, with the nonce that the page's policy asks for."""
    nonce = _nonce(headers)
    attribute = f' nonce="{html.escape(nonce)}"' if nonce else ""
    return f'<script src="{html.escape(source)}" defer{attribute}></script>'.encode()


def _nonce(headers: Headers) -> str | None:
    for value in every(headers, b"content-security-policy"):
        directives: dict[str, str] = {}
        for each in value.decode("latin-1").split(";"):
            name, _, sources = each.strip().partition(" ")
            directives.setdefault(name.lower(), sources)
        named = [directives[name] for name in _SCRIPT_SOURCES if name in directives]
        if named and (found := _NONCE.search(named[0])):
            return found[1]
    return None


class Page:
    """One page on its way: bytes in, bytes out, the tag once among them."""

    def __init__(self, source: str, headers: Headers) -> None:
        """Read ``headers`` for the coding and the nonce; ``source`` is the URL."""
        self._head = _Head(tag(source, headers), source.encode())
        self._coding = _coder(_coding(headers))

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return what can go on of the page; raise UpstreamError if it is broken."""
        for piece in self._coding.decode(data):
            if out := self._coding.encode(self._head.feed(piece)):
                yield out

    def end(self) -> bytes:
        """Return the rest of a page that has ended."""
        return self._coding.encode(self._head.end()) + self._coding.end()


class _Head:
    """Puts the tag into the decoded bytes of a head."""

    def __init__(self, inserted: bytes, source: bytes) -> None:
        self._tag = inserted
        self._place = HeadEnd(source)
        self._seen = 0

    def feed(self, data: bytes) -> bytes:
        if self._place.over:
            return data
        self._seen += len(data)
        out = self._place.feed(data)
        if self._place.found:
            return out + self._tag + self._place.rest()
        if self._seen > LOOKED_AT:
            self._place.over = True
        return out + self._place.rest() if self._place.over else out

    def end(self) -> bytes:
        return self._place.rest()


class _Coder(Protocol):
    """One content coding, both ways."""

    def decode(self, data: bytes) -> Iterator[bytes]: ...

    def encode(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class _Plain:
    def decode(self, data: bytes) -> Iterator[bytes]:
        yield data

    def encode(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        self._in = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._out = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)

    def decode(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                yield self._in.decompress(data, PIECE)
                data = self._in.unconsumed_tail
        except zlib.error as error:
            raise UpstreamError("the site's answer is no valid gzip") from error

    def encode(self, data: bytes) -> bytes:
        # Flushed, or a page that streams would stand still in the encoder.
        if not data:
            return b""
        return self._out.compress(data) + self._out.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        if not self._in.eof:
            raise UpstreamError("the site's answer is cut off inside its gzip")
        return self._out.flush()


class _Brotli:
    QUALITY: Final = 4  # as servers do it on the fly

    def __init__(self) -> None:
        self._in = brotli.Decompressor()
        self._out = brotli.Compressor(quality=self.QUALITY)

    def decode(self, data: bytes) -> Iterator[bytes]:
        try:
            piece = self._in.process(data, output_buffer_limit=PIECE)
            yield piece
            while not self._in.can_accept_more_data():
                yield self._in.process(b"", output_buffer_limit=PIECE)
        except brotli.error as error:
            raise UpstreamError("the site's answer is no valid brotli") from error

    def encode(self, data: bytes) -> bytes:
        if not data:
            return b""
        return bytes(self._out.process(data)) + bytes(self._out.flush())

    def end(self) -> bytes:
        if not self._in.is_finished():
            raise UpstreamError("the site's answer is cut off inside its brotli")
        return bytes(self._out.finish())


def _coder(coding: bytes) -> _Coder:
    if coding in (b"gzip", b"x-gzip"):
        return _Gzip()
    return _Brotli() if coding == b"br" else _Plain()
