"""Paths of sign-up rules: exact, with {placeholders}, and perhaps all below."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import unquote

# A name that JMESPath can look up without quotes: path.team.
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Segment(NamedTuple):
    """One part of a path between slashes: its text, or a placeholder's name."""

    text: str
    is_placeholder: bool


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A path that requests are compared with; ``below``: what lies below it."""

    segments: tuple[Segment, ...]
    below: bool

    def match(self, path: str) -> dict[str, str] | None:
        """The placeholders' values, percent-decoded, or None if it is another path.

        ``path`` is raw, without the query. Segments are compared decoded, as the
        site will do: ``/sign%75p`` is ``/signup``. A placeholder stands for just
        one segment, not empty. A trailing slash makes another path.
        """
        given = path.split("/")
        extra = len(given) - len(self.segments)
        if extra < 0 or (extra > 0) is not self.below:
            return None
        found = {}
        for segment, raw in zip(self.segments, given, strict=False):
            text = unquote(raw)
            if segment.is_placeholder and text:
                found[segment.text] = text
            elif segment.is_placeholder or segment.text != text:
                return None
        return found


def parse_pattern(path: str) -> PathPattern:
    """Compile ``/teams/{team}/signup`` or ``/signup/*``; ValueError says why not.

    A trailing ``/*`` matches what lies below, at any depth, not the path itself.
    """
    if not path.startswith("/"):
        raise ValueError("must start with /")
    if "?" in path or "#" in path:
        raise ValueError("must not hold a query or a fragment")
    segments = tuple(map(_segment, path.removesuffix("/*").split("/")))
    names = [segment.text for segment in segments if segment.is_placeholder]
    if len(set(names)) < len(names):
        raise ValueError("has two placeholders of one name")
    return PathPattern(segments, below=path.endswith("/*"))


def _segment(part: str) -> Segment:
    placeholder = _PLACEHOLDER.fullmatch(part)
    if placeholder:
        return Segment(placeholder[1], is_placeholder=True)
    if "*" in part:
        raise ValueError("may have a * only as its last segment")
    if "{" in part or "}" in part:
        raise ValueError("needs a whole segment for a {placeholder}")
    return Segment(unquote(part), is_placeholder=False)
