"""Names that the site may read otherwise than a rule does.

A request may name a field twice, or spell it in two ways that a framework takes for
one: then the site may sign up one person while the rule reads another. Sources: PHP
trims names and turns dots and blanks into ``_`` (php_register_variable), ASP.NET and
Go's encoding/json ignore case, PHP and Rack take the last of repeated names, others
the first; ``name[]`` takes the place of ``name``; request parameters of Java, PHP and
Rails join the query and the form.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Final

from relay.core.rules.expression_tree import Trail

_BLANKS: Final = " \t\r\n\v\f\ufeff\xa0"
_JOINED: Final = re.compile(r"[ .\[]")


class Ambiguity:
    """Finds out which fields of one request can be read in more than one way."""

    def __init__(self, values: Mapping[str, Any], repeated: frozenset[str]) -> None:
        """Look at what a request has given a document, and its ``repeated`` names."""
        self._values = values
        self._repeated = repeated

    def among(self, trails: Iterable[Trail]) -> Trail | None:
        """Return the first trail that is ambiguous, None if all are clear."""
        return next((each for each in sorted(trails) if self._is_doubtful(each)), None)

    def _is_doubtful(self, trail: Trail) -> bool:
        if trail[:1] == ("json",):
            return not self._repeated.isdisjoint(trail) or self._has_twins(trail[1:])
        if trail[:1] in {("form",), ("query",)} and len(trail) > 1:
            return len(self._readings(trail[1])) > 1
        return False

    def _readings(self, name: str) -> set[str]:
        """Return the different values that a site may read under a name."""
        plain = _canonical(name)
        return self._parameters[plain] | self._arrays[plain]

    @cached_property
    def _parameters(self) -> defaultdict[str, set[str]]:
        """The values of the form and the query by the name that sites make of it."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for root in ("form", "query"):
            for name, value in self._values[root].items():
                given = value if isinstance(value, list) else [value]
                found[_canonical(name)].update(filter(_is_text, given))
        return found

    @cached_property
    def _arrays(self) -> defaultdict[str, set[str]]:
        """The same for ``name[]`` and ``name[key]``, by what stands before."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for name, values in self._parameters.items():
            if "[" in name:
                found[name.partition("[")[0]] |= values
        return found

    def _has_twins(self, names: Trail) -> bool:
        value = self._values["json"]
        for name in names:
            if not isinstance(value, dict):
                return False
            folded = name.casefold()
            if any(key != name and key.casefold() == folded for key in value):
                return True
            value = value.get(name)
        return False


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _canonical(name: str) -> str:
    """Return a name as the frameworks that change names most would have it."""
    bare = name.partition("\0")[0].strip(_BLANKS).casefold()
    base, bracket, rest = bare.partition("[")
    if bracket and "]" not in rest:
        base, bracket, rest = bare, "", ""
    return _JOINED.sub("_", base) + bracket + rest
