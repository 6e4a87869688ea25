"""What a rule makes of one sign-up: whether it is one, and the draft of its lead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from relay.core.rules.ambiguity import Ambiguity
from relay.core.rules.documents import Document
from relay.core.rules.expressions import EvaluationError, Expression, is_empty, is_true
from relay.core.rules.json_verdict import Ruling
from relay.core.rules.rule import Match, SignupRule
from relay.core.rules.success import Answered, Asked, Verdict, judge
from relay.core.rules.trpc import narrowed

MAX_AVATAR: Final = 2048
"""Characters of an avatar's address; Dub takes any, and a visitor may send any."""

_QUANTITY: Final = re.compile(r"[0-9]{1,9}")
# Dub takes ids of up to 100 characters, and str() refuses ints of over 4300.
_LONGEST_INT: Final = 10**100


@dataclass(frozen=True, slots=True)
class Draft:
    """What a rule makes of a sign-up.

    ``fields`` has Dub's names and values as they were found; nothing empty is
    in it. ``notes`` are sentences about what was left out, without values.
    ``problem``: why no lead can be made of it, to be kept as its reason.
    """

    fields: Mapping[str, object] = field(repr=False)
    notes: tuple[str, ...] = ()
    problem: str | None = None


class Judgement(NamedTuple):
    """What a rule makes of a sign-up and its response: a draft, or why there is none.

    An undecided one may have a draft, to be kept as rejected.
    """

    draft: Draft | None
    verdict: Verdict

    @property
    def accepted(self) -> bool:
        """Whether it was a sign-up, and the site accepted it."""
        return self.verdict.outcome is Ruling.ACCEPTED

    @property
    def weight(self) -> int:
        """How much there is to keep or to report of a sign-up that makes no lead."""
        undecided = self.verdict.outcome is Ruling.UNDECIDED
        return 2 if self.draft is not None else int(undecided)


@dataclass(frozen=True, slots=True)
class Beside:
    """What only the default test looks at, beside the document.

    ``body`` is the beginning of the response's, as far as that was copied.
    ``unreadable``: the response's body was to be read and could not.
    """

    asked: Asked = field(default_factory=Asked)
    body: bytes | None = field(default=None, repr=False)
    unreadable: bool = False


def evaluate(
    rule: SignupRule,
    document: Document,
    beside: Beside = Beside(),
    made: Draft | None = None,
) -> Judgement:
    """Judge a sign-up by its response, and make a draft of a lead if it was one.

    ``made`` is the draft, where it was made already.
    """
    if rule.when is None:
        return _by_default(rule, document, beside, made)
    try:
        holds = is_true(rule.when.search(document.values))
    except EvaluationError as error:
        made = made or draft(rule, document)
        why = f"when: {error}"
        return Judgement(
            replace(made, problem=why), Verdict(Ruling.UNDECIDED, "when fails")
        )
    if not holds:
        verdict = Verdict(Ruling.REFUSED, f"when says no: {rule.when.text}")
        return Judgement(None, verdict)
    return Judgement(made or draft(rule, document), _HOLDS)


_HOLDS: Final = Verdict(Ruling.ACCEPTED, "when holds")


def _by_default(
    rule: SignupRule, document: Document, beside: Beside, made: Draft | None
) -> Judgement:
    asked = beside.asked
    whole = Asked(asked.target, asked.host, asked.headers, _sent(document))
    verdict = judge(whole, _answered(document, beside))
    if verdict.outcome is Ruling.REFUSED:
        return Judgement(None, verdict)
    made = made or draft(rule, document)
    if not rule.customer.by_request and not beside.unreadable:
        # The site's own id of a customer: it is there if there is one.
        found = made.problem is None
        if verdict.outcome is Ruling.ACCEPTED and not found:
            verdict = Verdict(
                Ruling.UNDECIDED,
                "the response has no id where the rule looks",
                rule.customer.text,
            )
        elif found:
            verdict = Verdict(Ruling.ACCEPTED, "the response has the customer's id")
    if verdict.outcome is Ruling.ACCEPTED:
        return Judgement(made, verdict)
    if beside.unreadable:
        # Kept, since the site may have accepted it: nobody could find out later.
        return Judgement(replace(made, problem=made.problem or _UNREAD), verdict)
    return Judgement(None, verdict)


_UNREAD: Final = (
    "the site's response could not be read, so that it is not known whether it accepted"
    " the sign-up"
)


def _sent(document: Document) -> frozenset[str]:
    """Return the names of a request's fields."""
    sent = (document.values["form"], document.values["json"])
    return frozenset(name for each in sent if isinstance(each, dict) for name in each)


def _answered(document: Document, beside: Beside) -> Answered:
    said = document.values["response"]
    return Answered(
        said["status"],
        said["headers"],
        said["json"],
        said.get("cookies", {}),
        beside.body,
        beside.unreadable,
    )


def decide(
    matches: Sequence[Match],
    document: Document,
    beside: Beside = Beside(),
    made: Draft | None = None,
) -> tuple[SignupRule, Judgement]:
    """Find the rule that a sign-up is judged by, among those that it fits.

    The first that accepts it wins; else the first that leaves something to keep, to
    report, or at all. ``made`` is the first rule's draft, where it was made already.
    """
    best: tuple[SignupRule, Judgement] | None = None
    for number, found in enumerate(matches):
        rule, whole = found.rule, placed(document, found)
        judged = evaluate(rule, whole, beside, None if number else made)
        if judged.accepted:
            return rule, judged
        if best is None or judged.weight > best[1].weight:
            best = rule, judged
    if best is None:
        raise ValueError("no rule matches")
    return best


def placed(document: Document, found: Match) -> Document:
    """Return the document for a rule's placeholders, and for its call of a batch."""
    values = document.values
    if found.call is not None:
        values = narrowed(values, found.call)
    elif values["path"] == found.params:
        return document
    return replace(document, values={**values, "path": dict(found.params)})


def draft(rule: SignupRule, document: Document) -> Draft:
    """Make a draft of a lead of what is taken for a sign-up.

    An expression that fails on this document costs its field, not the lead. If
    ``customer_external_id`` fails, or no id is found, or the site may read another
    one, the draft has a problem: a sign-up is never lost silently.
    """
    found, notes = findings(rule.fields, rule.metadata, document)
    fields = {"eventName": rule.event, "mode": rule.mode.value, **found}
    problem = _problem(rule, document, fields.get("customerExternalId"))
    return Draft(fields, (*document.notes, *notes), problem)


def findings(
    expressions: Mapping[str, Expression],
    metadata: Mapping[str, Expression],
    document: Document,
) -> tuple[dict[str, object], list[str]]:
    """Return what expressions find, by Dub's names, and a note for each left out."""
    notes: list[str] = []
    fields: dict[str, object] = {}
    for name, value in _results(expressions, document, notes):
        kept = _CONVERSIONS[name](value)
        if kept is None:
            notes.append(f"{name} was left out: it is not text.")
        elif name == "customerAvatar" and len(str(kept)) > MAX_AVATAR:
            notes.append(f"{name} was left out: it has over {MAX_AVATAR} characters.")
        else:
            fields[name] = kept
    found = dict(_results(metadata, document, notes, "metadata."))
    if found:
        fields["metadata"] = found
    return fields, notes


def _problem(rule: SignupRule, document: Document, customer: object) -> str | None:
    """Return why no lead can be made, None if nothing stands against it."""
    trail = Ambiguity(document.values, document.repeated).among(rule.customer.reads)
    if trail and _is_of_request(rule.customer, customer, document):
        return (
            f"the request has {'.'.join(trail)} more than once, and differing: the site"
            " may have signed up another customer than the one that the rule reads"
        )
    if customer is None:
        return "customer_external_id found no id in this sign-up"
    return None


def _is_of_request(
    expression: Expression, customer: object, document: Document
) -> bool:
    """Whether an id comes out of the request, not of the response."""
    if not expression.by_request:
        return False
    blank: dict[str, Any] = {"status": None, "headers": {}, "cookies": {}, "json": None}
    try:
        found = expression.search({**document.values, "response": blank})
        return _text_or_int(found) == customer
    except EvaluationError:
        return False


def _results(
    expressions: Mapping[str, Expression],
    document: Document,
    notes: list[str],
    prefix: str = "",
) -> Iterator[tuple[str, Any]]:
    """What each expression finds, unless it is empty; failures become notes."""
    for name, expression in expressions.items():
        try:
            value = expression.search(document.values)
        except EvaluationError as error:
            notes.append(f"{prefix}{name} was left out: {error}.")
        else:
            if not is_empty(value):
                yield name, value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _text_or_int(value: object) -> str | None:
    """Text; an integer too, since ids in JSON are often numbers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < _LONGEST_INT else None
    return _text(value)


def _quantity(value: object) -> object:
    """Digits as a number, since a form has only text; else as it is."""
    if isinstance(value, str) and _QUANTITY.fullmatch(value.strip()):
        return int(value)
    return value


_CONVERSIONS: Final[Mapping[str, Callable[[Any], object]]] = {
    "customerExternalId": _text_or_int,
    "customerName": _text_or_int,
    "customerEmail": _text,
    "customerAvatar": _text,
    "eventQuantity": _quantity,
}
"""What becomes of a field's value; None: it cannot be used."""
