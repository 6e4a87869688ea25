"""What can be said of rules before any sign-up: which test, which can go wrong."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote

from relay.core.rules.rule import SignupRule, match


@dataclass(frozen=True, slots=True)
class RuleReview:
    """One rule: what decides, and what to know about it, in sentences."""

    label: str
    when: str | None
    warnings: tuple[str, ...] = ()

    @property
    def decided_by(self) -> str:
        """What decides whether the site accepted a sign-up."""
        return f"when = {self.when}" if self.when else "the default test"


def review(rules: Sequence[SignupRule]) -> list[RuleReview]:
    """Review all rules, in their order."""
    return [
        RuleReview(
            rule.label,
            rule.when.text if rule.when else None,
            tuple(_warnings(rules[:number], rule)),
        )
        for number, rule in enumerate(rules)
    ]


def _warnings(earlier: Sequence[SignupRule], rule: SignupRule) -> Iterator[str]:
    first = next((each for each in earlier if _takes_all(each, rule)), None)
    if first is not None:
        yield (
            f"it is never reached: {first.label} stands before it and takes every"
            " sign-up that it would; put it first, or give the other one a when"
        )
    if rule.customer.by_request:
        yield (
            "the customer's id can come from the request alone, so that anybody can"
            f" claim another's ({rule.customer.text}): use an id that the site answers"
            " with, if it has one"
        )


def _takes_all(first: SignupRule, later: SignupRule) -> bool:
    """Whether the first rule wins wherever the later one would."""
    if first.method != later.method or not first.pattern.covers(later.pattern):
        return False
    if first.when is not None:
        same = later.when is not None and later.when.text == first.when.text
        return same or (not first.when.reads and _is_constant(first))
    # The default accepts for both alike, unless only one waits for the site's id.
    waits = not first.customer.by_request
    return later.when is None and (not waits or first.customer == later.customer)


def _is_constant(rule: SignupRule) -> bool:
    return rule.when is not None and bool(rule.when.search({}))


def near(rules: Sequence[SignupRule], method: str, path: str) -> str | None:
    """Return why no rule matches a path that looks like a rule's, None if none does."""
    loose = [
        replace(rule, pattern=replace(rule.pattern, ignore_case=True)) for rule in rules
    ]
    if found := match(loose, method, path):
        return (
            f"looks like {found[0].rule.label} in other letters: if the site takes them"
            " for one, set ignore_case = true"
        )
    plain = posixpath.normpath("/" + unquote(path).replace("\\", "/").lstrip("/"))
    if found := match(loose, method, plain):
        return (
            f"looks like {found[0].rule.label}, spelled as a site may read otherwise:"
            " no rule matches dot segments, doubled or escaped slashes"
        )
    return None
