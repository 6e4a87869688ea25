"""The fenced blocks of the documentation, as CommonMark has them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

TOP: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (
    *("README.md", "CONTRIBUTING.md", "bench/**/README*", "deploy/**/README*"),
    *("docs/**/*.md", "examples/**/README*"),
)
"""Every page that people read, and no other Markdown."""

_MARKER: Final = "<!-- file: "
"""Before a block: the file that a reader makes of it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A block of code: where it stands, in which language, and its text.

    ``file`` is the name that the page gives it, ``section`` counts the page's
    headings above it (of the first and second level).
    """

    page: str
    line: int
    language: str
    text: str
    section: int
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> Iterator[str]:
    """Name every page, from the top of the repository."""
    for pattern in PAGES:
        for path in sorted(TOP.glob(pattern)):
            yield str(path.relative_to(TOP))


def samples() -> list[Sample]:
    """Give the blocks of all pages."""
    return [
        sample
        for page in pages()
        for sample in blocks((TOP / page).read_text("utf-8"), page)
    ]


def blocks(text: str, page: str, above: int = 0) -> Iterator[Sample]:
    """Give the blocks of a page, those in tabs and admonitions too."""
    section, file = 0, None
    for token in MarkdownIt().parse(text):
        line = above + (token.map[0] if token.map else 0) + 1
        section += token.type == "heading_open" and token.tag in ("h1", "h2")
        match token.type:
            case "fence":
                language, named = _info(token.info)
                name = named or file
                yield Sample(page, line, language, token.content, section, name)
            case "code_block":
                yield from _indented(token, page, line, section)
        file = _named(token) if token.type == "html_block" else None


def _indented(token: Token, page: str, line: int, section: int) -> Iterator[Sample]:
    """Look into what is indented: mkdocs' tabs and admonitions hold blocks."""
    inner = textwrap.dedent(token.content)
    found = list(blocks(inner, page, line - 1)) if "```" in inner else []
    if not found:
        yield Sample(page, line, "", token.content, section)
    for sample in found:
        where = (sample.page, sample.line, sample.language, sample.text)
        yield Sample(*where, section, sample.file)


def _info(info: str) -> tuple[str, str | None]:
    """Split the words behind a fence: the language, and `title="FILE"`."""
    language, _, rest = info.strip().partition(" ")
    _, titled, title = rest.partition('title="')
    return language, title.partition('"')[0] if titled else None


def _named(token: Token) -> str | None:
    _, found, rest = token.content.partition(_MARKER)
    return rest.partition(" -->")[0] if found else None


def spans() -> Iterator[tuple[str, str]]:
    """Give page and text of everything that stands between backticks in a line."""
    for page in pages():
        parsed = MarkdownIt().enable("table").parse((TOP / page).read_text("utf-8"))
        for span in _inline(parsed):
            yield page, " ".join(span.split())


def _inline(tokens: Iterable[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type == "code_inline":
            yield token.content
        yield from _inline(token.children or ())
