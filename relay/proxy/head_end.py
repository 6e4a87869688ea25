"""Where a script may stand in an HTML document's head, by HTML's own rules.

Follows the tokenizer and the "in head" insertion mode (HTML, 13.2.5 and 13.2.6.4)
as far as a head goes. The text of a page is a visitor's as often as the site's: a
``</head>`` inside an attribute, a comment or a script is none, and markup put there
would break out of its quotes. Bytes are read as ASCII, which every charset but those
of :data:`UNREADABLE_CHARSET` writes alike where markup is concerned.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

UNREADABLE_CHARSET: Final = re.compile(
    rb"charset\s*=\s*[\"']?\s*(?:utf-?(?:16|32|7)|ucs-?[24]|unicode|csunicode"
    rb"|iso-10646|csiso2022|iso-?2022|hz-gb)",
    re.IGNORECASE,
)
"""Charsets in a Content-Type in which ``<`` may be part of another character."""

_SPACE: Final = re.compile(rb"[\t\n\f\r ]*+")
_NAME: Final = re.compile(rb"</?([A-Za-z][^\t\n\f\r />]*+)")
_ATTRIBUTE: Final = re.compile(
    rb"[\t\n\f\r /]++"
    rb"|[^\t\n\f\r />][^\t\n\f\r />=]*+[\t\n\f\r ]*+"
    rb"(?:=[\t\n\f\r ]*+"
    rb"(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|(?![\"'])[^\t\n\f\r >]*+))?+"
)
"""What separates attributes, or one attribute with its value (13.2.5.32 to 39)."""

_COMMENT_END: Final = re.compile(rb"--!?>")
_SHORT_COMMENT: Final = re.compile(rb"-?>")
_DOCTYPE: Final = re.compile(rb"<!doctype[\t\n\f\r ]++html[\t\n\f\r >]", re.IGNORECASE)
_LETTER: Final = re.compile(rb"[A-Za-z]")

_IN_HEAD: Final = frozenset(
    {b"html", b"head", b"basefont", b"bgsound", b"link", b"meta"}
)
"""Start tags that leave a head open, and hold no text. Not ``<base>``: behind it the
script's address would be another host's (HTML, 2.4.1)."""

_RAW: Final = {
    name: re.compile(rb"</" + name + rb"(?=[\t\n\f\r />])", re.IGNORECASE)
    for name in (b"title", b"style", b"noframes")
}
"""Start tags in a head behind which only their own end tag is markup."""

_SCRIPT: Final = {
    # Script data, script data escaped, and double escaped (13.2.5.15 to 31).
    0: re.compile(rb"<!--|</script(?=[\t\n\f\r />])", re.IGNORECASE),
    1: re.compile(rb"-->|</?script(?=[\t\n\f\r />])", re.IGNORECASE),
    2: re.compile(rb"-->|</script(?=[\t\n\f\r />])", re.IGNORECASE),
}

_ENDING: Final = frozenset({b"head", b"body", b"html", b"br"})
"""End tags that close an open head; all others are ignored there."""

_DOCUMENT: Final = frozenset({b"html", b"head", b"body"})
"""Tags that stand in documents, not in the fragments that scripts ask for."""

_HELD: Final = 16
"""Bytes of text without markup held back: longer than any end that is looked for."""

# Text as a character reference, NUL and ISO-2022-JP's escapes: not understood.
_DOUBTFUL: Final = b"&\0\x1b"


class HeadEnd:
    """Finds the last sure place in a head, in one pass over a page's bytes.

    That is before ``</head>`` or what closes the head without it, before a ``<base>``,
    or before a ``<template>`` or ``<noscript>``, whose content no tokenizer can judge
    alone.
    """

    def __init__(self, source: bytes) -> None:
        """Look for no place in a page whose own script tag names ``source``."""
        self._source = source
        self._held = b""
        self._at = 0
        self._start = 0
        self._tag = b""
        self.is_document = False
        """Whether a tag has shown that this is a document."""
        self._escaped = 0
        self._raw = b""
        self._step: Callable[[], bool] = self._begin
        self.over = False
        """Whether nothing more is looked for."""
        self.found = False
        """Whether the script belongs behind what :meth:`feed` has returned."""

    def feed(self, data: bytes) -> bytes:
        """Return what may go on; once :attr:`over`, :meth:`rest` has what follows."""
        self._held += data
        while not self.over and self._step():
            pass
        if b"\x1b" in self._held[: self._start]:
            self._stop(found=False)
        count = self._start if self.found or not self.over else len(self._held)
        out, self._held = self._held[:count], self._held[count:]
        self._at -= count
        self._start = 0
        return out

    def rest(self) -> bytes:
        """Return what was held back."""
        held, self._held = self._held, b""
        return held

    def _stop(self, *, found: bool) -> bool:
        self.over, self.found = True, found
        return False

    def _move(self, to: int) -> bool:
        """Go on behind what can go to the visitor."""
        self._at = self._start = to
        return True

    def _begin(self) -> bool:
        if len(self._held) < 3:  # a byte order mark's length
            return False
        self._step = self._data
        return self._move(3 if self._held.startswith(b"\xef\xbb\xbf") else 0)

    def _data(self) -> bool:
        space = _SPACE.match(self._held, self._at)
        self._move(space.end() if space else self._at)
        rest = self._held[self._at : self._at + 4]
        if not rest or b"<!--".startswith(rest) or rest == b"</":
            if rest != b"<!--":
                return False
            self._step, self._at = self._comment_start, self._at + 4
        elif rest.startswith((b"<!", b"<?")):
            self._step = self._bogus
        elif _LETTER.match(rest[1:].removeprefix(b"/")) and rest[:1] == b"<":
            self._step = self._name
        elif rest.startswith(b"</"):
            self._step = self._bogus
        else:  # text closes a head
            self._stop(found=self.is_document and rest[0] not in _DOUBTFUL)
        return True

    def _bogus(self) -> bool:
        """Pass a doctype or what is read as a comment: both end at the first ``>``."""
        end = self._held.find(b">", self._at)
        if end < 0:
            return False
        if _DOCTYPE.match(self._held, self._start):
            self.is_document = True
        self._step = self._data
        return self._move(end + 1)

    def _comment_start(self) -> bool:
        if len(self._held) < self._at + 2:
            return False
        self._step = self._comment
        if short := _SHORT_COMMENT.match(self._held, self._at):
            self._step = self._data
            return self._move(short.end())
        return self._move(self._at)

    def _comment(self) -> bool:
        if end := _COMMENT_END.search(self._held, self._at):
            self._step = self._data
            return self._move(end.end())
        return self._pass_text()

    def _pass_text(self) -> bool:
        self._move(max(self._at, len(self._held) - _HELD))
        return False

    def _name(self) -> bool:
        name = _NAME.match(self._held, self._at)
        if name is None or name.end() == len(self._held):
            return False
        self._tag = name[1].lower()
        self._at = name.end()
        self._step = self._attributes
        return True

    def _attributes(self) -> bool:
        while attribute := _ATTRIBUTE.match(self._held, self._at):
            if attribute.end() == len(self._held):
                return False  # it may go on
            self._at = attribute.end()
        if self._at == len(self._held):
            return False
        whole = self._held[self._start : self._at + 1]
        return self._judge(whole, self._tag, closing=whole.startswith(b"</"))

    def _judge(self, whole: bytes, name: bytes, *, closing: bool) -> bool:
        """Decide by a whole tag: where it leaves the head, the place is found."""
        self.is_document |= name in _DOCUMENT
        self._step = self._data
        if closing:
            if name in _ENDING:
                return self._stop(found=self.is_document)
        elif name == b"script":
            if self._source in whole:
                return self._stop(found=False)
            self._step, self._escaped = self._script, 0
        elif name in _RAW:
            self._step, self._raw = self._raw_text, name
        elif name not in _IN_HEAD:
            return self._stop(found=self.is_document)
        return self._move(self._at + 1)

    def _raw_text(self) -> bool:
        end = _RAW[self._raw].search(self._held, self._at)
        if end is None:
            return self._pass_text()
        return self._end_tag(end.start())

    def _end_tag(self, start: int) -> bool:
        self._step = self._name
        return self._move(start)

    def _script(self) -> bool:
        found = _SCRIPT[self._escaped].search(self._held, self._at)
        if found is None:
            return self._pass_text()
        mark = found[0].lower()
        if mark == b"<!--":
            self._escaped = 1
            return self._move(found.end() - 2)  # "<!-->" ends at once
        if mark == b"-->":
            self._escaped = 0
        elif mark == b"<script":
            self._escaped = 2
        elif self._escaped < 2:
            return self._end_tag(found.start())
        else:
            self._escaped = 1
        return self._move(found.end())
