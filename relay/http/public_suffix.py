"""Public suffixes: names below which strangers register theirs (publicsuffix.org).

Browsers refuse a cookie for one. A name is looked up in the text of the list that
publicsuffixlist brings: its own class would parse all of it, 0.1 s in which no visitor
is served.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from publicsuffixlist import PSLFILE

_NAMES: Final = 4096
"""Names that are remembered; any stranger may send new ones as a Host."""


@cache
def rules() -> str:
    """Return the list: a rule a line, among comments."""
    return Path(PSLFILE).read_text("utf-8")


@lru_cache(_NAMES)
def is_public_suffix(name: str) -> bool:
    """Whether a name, in lower case and without dots around it, is a public suffix."""
    shown, listed = _in_unicode(name), rules()
    _, dot, parent = shown.partition(".")
    if not dot or f"\n{shown}\n" in listed or f"\n*.{shown}\n" in listed:
        return True
    return f"\n*.{parent}\n" in listed and f"\n!{shown}\n" not in listed


def _in_unicode(name: str) -> str:
    """Write a name as the list does."""
    if "xn--" not in name:
        return name
    try:
        return name.encode("ascii").decode("idna")
    except UnicodeError:
        return name
