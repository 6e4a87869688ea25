"""Puts the script tag into HTML pages on their way to the visitor.

Off unless set. A page streams on as it comes; only a tag that is not whole yet
is held back. Compressed documents are decoded, and encoded again in
the same coding. What is not HTML, not whole, or not to be changed passes as it
is (RFC 9110, 7.7: ``no-transform``).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Final

from relay.core.http import codings
from relay.core.http.headers import Headers, Line
from relay.http.request_guard import every
from relay.proxy.exchange import UpstreamError
from relay.proxy.head_end import UNREADABLE_CHARSET, HeadEnd

LOOKED_AT: Final = 2**18
"""Bytes of a page in which ``</head>`` is looked for; heads are far smaller."""

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
        and _is_readable(codings.named(_coding(headers)))
    )


def _is_readable(names: list[str]) -> bool:
    return not names or (len(names) == 1 and names[0] in codings.ENCODERS)


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


def _coding(headers: Headers) -> str:
    return b",".join(every(headers, b"content-encoding")).decode("latin-1")


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
    """One page on its way: bytes in, bytes out, the tag once among them.

    Until it has shown that it is a document it is held back. What is none goes on as
    the very bytes that came: decoded and encoded again, they would be others.
    """

    def __init__(self, source: str, headers: Headers) -> None:
        """Read ``headers`` for the coding and the nonce; ``source`` is the URL."""
        self._tag = tag(source, headers)
        self._place = HeadEnd(source.encode())
        names = codings.named(_coding(headers))
        self._decoder = codings.DECODERS[names[0]]() if names else None
        self._encoder = codings.ENCODERS[names[0]]() if names else None
        self._seen = 0
        self._raw = b""
        self._held = b""
        self.is_document: bool | None = None
        """Whether it is a document, which may be changed; None: not known yet."""

    @property
    def passes(self) -> bool:
        """Whether it goes on as it came: it is no document."""
        return self.is_document is False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return what can go on of the page; raise UpstreamError if it is broken."""
        if self.passes:
            yield data
        else:
            yield from self._fed(data)

    def _fed(self, data: bytes) -> Iterator[bytes]:
        self._raw += data if self.is_document is None else b""
        try:
            for piece in self._decoded(data):
                out = self._changed(piece)
                if self.passes:
                    break
                if self.is_document is None:
                    self._held += out
                elif out := self._taken_held() + out:
                    yield self._encoded(out)
        except codings.CodingError as error:
            if self.is_document:
                raise UpstreamError(f"the site's page has {error}") from error
            self.is_document = False
        if self.passes:
            yield self._as_it_came()

    def end(self) -> bytes:
        """Return the rest of a page that has ended."""
        if not self.is_document:
            self.is_document = False
            return self._as_it_came()
        if self._decoder is not None and not self._decoder.ended:
            raise UpstreamError("the site's page is cut off inside its coding")
        rest = self._encoded(self._taken_held() + self._place.rest())
        return rest + (self._encoder.end() if self._encoder else b"")

    def _decoded(self, data: bytes) -> Iterator[bytes]:
        return self._decoder.feed(data) if self._decoder else iter((data,))

    def _encoded(self, data: bytes) -> bytes:
        return self._encoder.encode(data) if data and self._encoder else data

    def _as_it_came(self) -> bytes:
        raw, self._raw, self._held = self._raw, b"", b""
        return raw

    def _taken_held(self) -> bytes:
        held, self._held, self._raw = self._held, b"", b""
        return held

    def _changed(self, data: bytes) -> bytes:
        """Put the tag into decoded bytes, if its place is among them."""
        place = self._place
        if place.over:
            return data
        self._seen += len(data)
        out = place.feed(data)
        if place.found:
            out += self._tag
        place.over |= self._seen > LOOKED_AT
        if self.is_document is None and (place.is_document or place.over):
            self.is_document = place.is_document
        return out + place.rest() if place.over else out
