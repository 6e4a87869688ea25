"""Makes links out of docs/ work on the site as they do in the repository.

A file or folder of the repository that a page links to becomes a page itself: a
Markdown file as it is, any other text as a block of code, a folder as the list of
its files.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP: Final = Path(__file__).parents[1]
LINK: Final = re.compile(r"(?<=\]\()([\w./-]+)(#[\w-]+)?(?=\))")
ROOTS: Final = ("CHANGELOG.md", "CONTRIBUTING.md", "docs/decisions")
"""What the navigation names, whether or not a page links to it."""

PLACES: Final = {"README.md": "index.md"}
"""The site's first page says what the README says."""

LANGUAGES: Final = {
    ".conf": "nginx",
    ".js": "js",
    ".json": "json",
    ".mjs": "js",
    ".py": "python",
    ".service": "ini",
    ".socket": "ini",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
}
UNSEEN: Final = frozenset({"__pycache__", "node_modules"})


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for whatever the pages link to, and what those link to in turn."""
    texts = {_home(it.src_uri): it.content_string for it in files.documentation_pages()}
    waiting = [*ROOTS, *(found for home in texts for found in _linked(home, texts))]
    while waiting:
        home = _page_of(waiting.pop())
        if home is None or home in texts or _place(home) in files.src_uris:
            continue
        texts[home] = _text(home)
        waiting.extend(_linked(home, texts))
        files.append(File.generated(config, _place(home), content=texts[home]))
    return files


def on_page_markdown(
    markdown: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Point the links of a page at the places that the site has for them."""
    del config
    here = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        home = _page_of(_target(_home(here), link[1]))
        if home is None or _place(home) not in files.src_uris:
            return link[0]
        place = posixpath.relpath(_place(home), posixpath.dirname(here) or ".")
        return place + (link[2] or "")

    return LINK.sub(moved, markdown)


def _place(home: str) -> str:
    """Return where the site has a path of the repository."""
    if home in PLACES:
        return PLACES[home]
    if home.startswith("docs/"):
        return home.removeprefix("docs/")
    return f"repository/{home}" + ("" if home.endswith(".md") else ".md")


def _home(place: str) -> str:
    """Return where the repository has a page of the site: undoes :func:`_place`."""
    if not place.startswith("repository/"):
        return f"docs/{place}"
    home = place.removeprefix("repository/")
    return home if (TOP / home).exists() else _plain(home)


def _plain(home: str) -> str:
    plain = home.removesuffix(".md")
    return plain if (TOP / plain).is_file() else home


def _linked(home: str, texts: dict[str, str]) -> Iterator[str]:
    for target, _ in LINK.findall(texts[home]):
        yield _target(home, target)


def _target(home: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(home), link))


def _page_of(path: str) -> str | None:
    """Name the page for a path; a folder has its README's, or a list of files.

    None is what is no text, or not in the repository: MkDocs judges such a link.
    """
    if path.startswith(".."):
        return None
    if (TOP / path).is_dir():
        readme = f"{path}/README.md"
        return readme if (TOP / readme).is_file() else f"{path}/index.md"
    if path.startswith("docs/") and not path.endswith(".md"):
        return None
    return path if (TOP / path).is_file() else None


def _text(home: str) -> str:
    path = TOP / home
    if not path.exists():
        return _listing(path.parent)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    language = LANGUAGES.get(path.suffix, "text")
    hidden = "---\nsearch: {exclude: true}\n---\n"
    return f"{hidden}# {home}\n\n~~~~~~ {language}\n{text.rstrip()}\n~~~~~~\n"


def _listing(folder: Path) -> str:
    seen = (it for it in sorted(folder.rglob("*")) if not UNSEEN & set(it.parts))
    lines = (
        f"- [{_title(it, folder)}]({it.relative_to(folder).as_posix()})"
        for it in seen
        if it.is_file()
    )
    return f"# {folder.name.capitalize()}\n\n" + "\n".join(lines) + "\n"


def _title(path: Path, folder: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    return path.relative_to(folder).as_posix()
