"""What sign-up rules decide, miss and leave open, for commands and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.core.clock import iso
from relay.core.rules.candidates import Candidate, candidate
from relay.core.rules.review import RuleReview, near, review
from relay.core.rules.rule import SignupRule, match
from relay.outbox.contract import CANDIDATE, UNDECIDED, Outbox


@dataclass(frozen=True, slots=True)
class Undecided:
    """Responses to a rule's sign-ups that the default test could not decide.

    ``when`` would decide them, None where none is known. Times are epoch ms.
    """

    reason: str
    when: str | None
    times: int
    last_at: int


@dataclass(frozen=True, slots=True)
class RuleReport:
    """A rule, and what it has left open."""

    review: RuleReview
    undecided: Sequence[Undecided]


async def rule_reports(outbox: Outbox, rules: Sequence[SignupRule]) -> list[RuleReport]:
    """Report on every rule; raise OutboxUnavailableError if it cannot be read."""
    open_: dict[str, list[Undecided]] = {}
    for one in await outbox.sightings(UNDECIDED):
        seen = one.seen
        open_.setdefault(seen["rule"], []).append(
            Undecided(seen["reason"], seen["when"], one.times, one.last_at)
        )
    return [
        RuleReport(each, () if each.when else open_.get(each.label, ()))
        for each in review(rules)
    ]


@dataclass(frozen=True, slots=True)
class RuleCandidate:
    """A candidate, and why no rule matches it although one looks like it."""

    found: Candidate
    near: str | None


async def rule_candidates(
    outbox: Outbox, rules: Sequence[SignupRule]
) -> list[RuleCandidate]:
    """Return what no rule matches, the likeliest first."""
    found = [
        candidate(one.name, one.seen, one.times, one.first_at, one.last_at)
        for one in await outbox.sightings(CANDIDATE)
    ]
    unknown = [each for each in found if not match(rules, each.method, each.path)]
    unknown.sort(key=lambda each: (-each.likelihood, -each.times, each.label))
    return [
        RuleCandidate(each, near(rules, each.method, each.path)) for each in unknown
    ]


def candidate_json(number: int, one: RuleCandidate) -> Mapping[str, Any]:
    """Return a candidate for programs; its number is that of ``rules suggest``."""
    found = one.found
    return {
        "number": number,
        "method": found.method,
        "path": found.path,
        "times": found.times,
        "fields": list(found.fields),
        "contentTypes": list(found.types),
        "statuses": [int(each) for each in found.statuses],
        "answers": list(found.answers),
        "near": one.near,
        "firstAt": iso(found.first_at),
        "lastAt": iso(found.last_at),
    }


def rule_json(one: RuleReport) -> Mapping[str, Any]:
    """Return a rule for programs."""
    return {
        "rule": one.review.label,
        "when": one.review.when,
        "default": one.review.when is None,
        "warnings": list(one.review.warnings),
        "undecided": [
            {
                "reason": each.reason,
                "when": each.when,
                "times": each.times,
                "lastAt": iso(each.last_at),
            }
            for each in one.undecided
        ],
    }
