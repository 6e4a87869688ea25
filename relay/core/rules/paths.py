"""Paths of sign-up rules: with {placeholders}, and perhaps all below.

A rule matches the spellings that sites take for one path by default: a slash at the
end or none, path parameters (``;jsessionid=1``), any escapes. It does not match what
a site may read as another path: dot segments, and slashes that hide in an escape.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

# A name that JMESPath can look up without quotes: path.team.
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

_HIDDEN: Final = re.compile(r"[/\\\x00-\x1f\x7f]")
"""What cuts a segment, or a name, in two on some server."""

_END: Final = re.compile(r"(?<=[^/])/(?:;[^/]*)?\Z")

_OVERLONG: Final = re.compile(r"%c[01]", re.IGNORECASE)
"""Begins UTF-8 that is longer than it must be, which lax decoders read as "." or "/"
(RFC 3629, 10)."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9._~@,:-]*")
"""Text that means itself in every server's configuration."""

MAX_SEGMENTS: Final = 100
"""Parts of a path that are looked at; no page lies so deep."""

_DECODINGS: Final = 3
"""Servers behind each other decode more than once."""


class Segment(NamedTuple):
    """One part of a path between slashes: its text, or a placeholder's name."""

    text: str
    is_placeholder: bool


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A path that requests are compared with; ``below``: what lies below it."""

    segments: tuple[Segment, ...]
    below: bool
    ignore_case: bool = False

    def match(self, path: str) -> dict[str, str] | None:
        """The placeholders' values, percent-decoded, or None if it is another path.

        ``path`` is raw, without the query. A placeholder stands for just one
        segment, not empty.
        """
        given = _without_end(path).split("/")
        extra = len(given) - len(self.segments)
        if self.below and extra == 0 and path.endswith("/"):
            extra, given = 1, [*given, ""]
        if extra < 0 or (extra > 0) is not self.below or len(given) > MAX_SEGMENTS:
            return None
        texts = [plain_segment(raw) for raw in given]
        found = {}
        for segment, text in zip(self.segments, texts, strict=False):
            if text is None or not self._fits(segment, text):
                return None
            if segment.is_placeholder:
                found[segment.text] = text
        return None if None in texts else found

    @property
    def names_end(self) -> bool:
        """Whether the last segment is a name, not a placeholder or what is below."""
        return not (self.below or self.segments[-1].is_placeholder)

    @property
    def example(self) -> str:
        """Return a path that the pattern fits, escaped."""
        parts = ["x" if it.is_placeholder else quote(it.text) for it in self.segments]
        return "/".join(parts) + ("/x" if self.below else "")

    @property
    def superset(self) -> str:
        """Return an expression for decoded paths that fits all that the pattern does.

        It fits some more, and PCRE, RE2 and Go read it alike: a server in front finds
        by it what must not pass the relay by.
        """
        parts = [_as_expression(segment) for segment in self.segments[1:]]
        if self.names_end and self.segments[-1].text:
            # A batch of tRPC has the names of its calls with commas between.
            parts[-1] = f"(?:[^/]*,)?{parts[-1]}(?:,[^/]*)?"
        fold = "(?i)" if self.ignore_case else ""
        rest = "/" if self.below else "(?:/(?:;[^/]*)?)?$"
        return f"{fold}^{''.join(f'/{part}' for part in parts)}{rest}"

    def _fits(self, segment: Segment, text: str) -> bool:
        if segment.is_placeholder:
            return bool(text)
        if self.ignore_case:
            return segment.text.casefold() == text.casefold()
        return segment.text == text

    def covers(self, other: PathPattern) -> bool:
        """Whether this matches every path that the other one matches."""
        extra = len(other.segments) - len(self.segments)
        if extra < 0 or (extra == 0 and self.below is not other.below):
            return False
        if extra > 0 and not self.below:
            return False
        pairs = zip(self.segments, other.segments, strict=False)
        return all(self._covers(mine, theirs, other) for mine, theirs in pairs)

    def _covers(self, mine: Segment, theirs: Segment, other: PathPattern) -> bool:
        if mine.is_placeholder or theirs.is_placeholder:
            return mine.is_placeholder and bool(theirs.text)
        if other.ignore_case and not self.ignore_case:
            return False
        return self._fits(mine, theirs.text)


def _as_expression(segment: Segment) -> str:
    """Return an expression for a segment with its parameters.

    Any segment does for one that a server's configuration would have to quote.
    """
    if segment.is_placeholder or not _PLAIN.fullmatch(segment.text):
        return "[^/]+"
    return segment.text.replace(".", "[.]") + "(?:;[^/]*)?"


def _without_end(path: str) -> str:
    """Leave the slash at the end away, if it is not the path."""
    return _END.sub("", path)


def plain_segment(raw: str) -> str | None:
    """Return a segment as the site reads it: decoded, without its parameters.

    None for what a site may read as more than one segment, or as none: a dot segment
    (RFC 3986, 3.3), a slash or control character in an escape, also one that only
    shows when it is decoded again.
    """
    bare = raw.partition(";")[0]
    if raw.isascii() and "%" not in raw and "\\" not in raw:
        return bare if bare not in {".", ".."} else None
    if _OVERLONG.search(bare):
        return None
    text = deeper = unquote(bare)
    for _ in range(_DECODINGS):
        if _HIDDEN.search(deeper) or deeper.partition(";")[0] in {".", ".."}:
            return None
        deeper = unquote(deeper)
    return text


def parse_pattern(path: str, *, ignore_case: bool = False) -> PathPattern:
    """Compile ``/teams/{team}/signup`` or ``/signup/*``; ValueError says why not.

    A trailing ``/*`` matches what lies below, at any depth, not the path itself.
    """
    if not path.startswith("/"):
        raise ValueError("must start with /")
    if "?" in path or "#" in path:
        raise ValueError("must not hold a query or a fragment")
    bare = path.removesuffix("/*") if path.endswith("/*") else _without_end(path)
    segments = tuple(map(_segment, bare.split("/")))
    names = [segment.text for segment in segments if segment.is_placeholder]
    if len(set(names)) < len(names):
        raise ValueError("has two placeholders of one name")
    return PathPattern(segments, below=path.endswith("/*"), ignore_case=ignore_case)


def _segment(part: str) -> Segment:
    placeholder = _PLACEHOLDER.fullmatch(part)
    if placeholder:
        return Segment(placeholder[1], is_placeholder=True)
    if "*" in part:
        raise ValueError("may have a * only as its last segment")
    if "{" in part or "}" in part:
        raise ValueError("needs a whole segment for a {placeholder}")
    text = plain_segment(part)
    if text is None:
        raise ValueError("holds a dot segment or an escaped slash: no request matches")
    return Segment(text, is_placeholder=False)
