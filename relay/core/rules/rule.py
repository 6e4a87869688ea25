"""Sign-up rules: which requests are sign-ups, and what lead they make.

:func:`compile_rules` turns the ``[[signup]]`` tables of the configuration into
rules, or names what is wrong with them in one line. :func:`match` finds the
rule of a request, :func:`evaluate` makes a draft of a lead out of the document
(:mod:`relay.core.rules.documents`) that the request and the site's answer form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

from relay.core.leads import Mode
from relay.core.rules.documents import (
    ROOTS,
    Document,
)
from relay.core.rules.expressions import (
    EvaluationError,
    Expression,
    ExpressionError,
    compile_expression,
    did_you_mean,
    is_empty,
    is_true,
)
from relay.core.rules.paths import (
    PathPattern,
    parse_pattern,
)

T = TypeVar("T")

DEFAULT_EVENT: Final = "Sign Up"
"""What Dub's own guides call the event."""

DEFAULT_WHEN: Final = "response.status < `400`"
"""A form answers 200 or redirects when it has taken a sign-up."""

_FIELDS: Final[Mapping[str, str]] = {
    "customer_external_id": "customerExternalId",
    "customer_name": "customerName",
    "customer_email": "customerEmail",
    "customer_avatar": "customerAvatar",
    "quantity": "eventQuantity",
}
"""Expressions of a rule, and the field of Dub's that each one fills."""

_KEYS: Final = (
    *("method", "path", "event", "when", *_FIELDS, "metadata"),
    *("mode", "clear_cookie", "known_customer"),
)

_MAX_EVENT: Final = 255  # UTF-16 units; Dub refuses the lead above it
_METHOD: Final = re.compile(r"[A-Za-z]{1,20}")
_HEAD: Final = re.compile(r"\bresponse\s*\.\s*(status|headers|cookies)\b")
_STATUS: Final = re.compile(r"\bresponse\s*\.\s*status\b")
_QUANTITY: Final = re.compile(r"[0-9]{1,9}")
# Dub takes ids of up to 100 characters, and str() refuses ints of over 4300.
_LONGEST_INT: Final = 10**100


class RuleError(ValueError):
    """Rules that cannot be used; a line for each mistake, which names the key."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


@dataclass(frozen=True, slots=True)
class SignupRule:
    """A compiled rule.

    ``fields`` has the expressions under Dub's names for what they fill.
    """

    method: str
    path: str
    pattern: PathPattern = field(repr=False)
    event: str
    mode: Mode
    when: Expression
    fields: Mapping[str, Expression]
    metadata: Mapping[str, Expression]
    clear_cookie: bool
    known_customer: bool
    roots: frozenset[str] = field(repr=False, compare=False)
    """The names at the top of the document that any of the expressions has."""
    told_by_request: bool = field(repr=False, compare=False)
    """Whether the fields stand fast before the site has answered."""
    reads_answer: bool = field(repr=False, compare=False)
    """Whether any of the expressions may look into the answer's body."""
    reads_status_alone: bool = field(repr=False, compare=False)
    """Whether none looks at anything of the answer but its status."""

    @property
    def label(self) -> str:
        """What people call the rule: "POST /signup"."""
        return f"{self.method} {self.path}"


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


def compile_rules(raw: object) -> tuple[SignupRule, ...]:
    """Compile the ``signup`` tables of a configuration, in their order.

    Raises RuleError for all that is wrong, a line each, as in
    ``signup[0].customer_name: not JMESPath: it ends too early``.
    """
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise RuleError("signup: must be a list of tables ([[signup]])")
    compiled = {
        f"signup[{index}]": partial(_compile, table, f"signup[{index}]")
        for index, table in enumerate(raw)
    }
    return tuple(_each(compiled).values())


def _each(parts: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Make every part; raise RuleError with the mistakes of all of them."""
    made: dict[str, T] = {}
    problems: list[str] = []
    for name, make in parts.items():
        try:
            made[name] = make()
        except RuleError as error:
            problems += error.problems
    if problems:
        raise RuleError(*problems)
    return made


class _Table:
    """Typed access to one table; every complaint names the key."""

    def __init__(self, raw: object, where: str) -> None:
        if not isinstance(raw, Mapping):
            raise RuleError(f"{where}: must be a table")
        self._raw: Mapping[Any, Any] = raw
        self._where = where

    def error(self, key: str, why: str) -> RuleError:
        return RuleError(f"{self._where}.{_one_line(key)}: {why}")

    def check_keys(self, known: Sequence[str]) -> None:
        if unknown := [str(key) for key in self._raw if key not in known]:
            raise RuleError(
                *(
                    f"{self._where}.{_one_line(key)}: there is no such setting"
                    f"{did_you_mean(key, known)}"
                    for key in unknown
                )
            )

    def __contains__(self, key: str) -> bool:
        return key in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def table(self, key: str) -> _Table:
        return _Table(self._raw.get(key, {}), f"{self._where}.{key}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._raw.get(key, default)
        if value is None:
            raise self.error(key, "is required")
        if not isinstance(value, str):
            raise self.error(key, "must be text")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._raw.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def expression(self, key: str, default: str | None = None) -> Expression:
        try:
            return compile_expression(self.text(key, default), ROOTS)
        except ExpressionError as error:
            raise self.error(key, _one_line(str(error))) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _compile(raw: object, where: str) -> SignupRule:
    table = _Table(raw, where)
    parts: dict[str, Callable[[], Any]] = {
        "keys": partial(table.check_keys, _KEYS),
        "method": partial(_method, table),
        "pattern": partial(_pattern, table),
        "event": partial(_event, table),
        "mode": partial(_mode, table),
        "when": partial(table.expression, "when", DEFAULT_WHEN),
        "fields": partial(_fields, table),
        "metadata": partial(_metadata, table),
        "clear_cookie": partial(table.flag, "clear_cookie", default=True),
        "known_customer": partial(table.flag, "known_customer", default=False),
    }
    made = _each(parts)
    del made["keys"]
    texts = [
        each.text for each in (*made["fields"].values(), *made["metadata"].values())
    ]
    every = [made["when"].text, *texts]
    return SignupRule(
        **made,
        path=table.text("path"),
        roots=frozenset(
            root for root in ROOTS if any(_mentions(text, root) for text in every)
        ),
        told_by_request=not any(_mentions(text, "response") for text in texts),
        reads_answer=any(_mentions(_HEAD.sub("", text), "response") for text in every),
        reads_status_alone=not any(
            _mentions(_STATUS.sub("", text), "response") for text in every
        ),
    )


def _fields(table: _Table) -> dict[str, Expression]:
    return _each(
        {
            name: partial(table.expression, key)
            for key, name in _FIELDS.items()
            if key in table or key == "customer_external_id"
        }
    )


def _metadata(table: _Table) -> dict[str, Expression]:
    named = table.table("metadata")
    return _each({key: partial(named.expression, key) for key in named})


def _mentions(text: str, name: str) -> bool:
    r"""Whether an expression may look up a name: "@" is all, "\\" may spell it."""
    return name in text or "@" in text or "\\" in text


def _method(table: _Table) -> str:
    method = table.text("method", "POST")
    if not _METHOD.fullmatch(method):
        raise table.error("method", "must be an HTTP method, such as POST")
    return method.upper()


def _event(table: _Table) -> str:
    event = table.text("event", DEFAULT_EVENT).strip()
    if not 0 < len(event.encode("utf-16-le", "surrogatepass")) // 2 <= _MAX_EVENT:
        raise table.error("event", f"must have 1 to {_MAX_EVENT} characters")
    return event


def _mode(table: _Table) -> Mode:
    mode = table.text("mode", Mode.ASYNC)
    if mode not in tuple(Mode):
        raise table.error("mode", f"must be one of {', '.join(Mode)}")
    return Mode(mode)


def _pattern(table: _Table) -> PathPattern:
    path = table.text("path")
    try:
        return parse_pattern(path)
    except ValueError as error:
        raise table.error("path", str(error)) from None


def match(
    rules: Iterable[SignupRule], method: str, path: str
) -> tuple[SignupRule, dict[str, str]] | None:
    """The first rule for a request, with its placeholders' values, or None.

    ``path`` is raw, without the query.
    """
    for rule in rules:
        if rule.method == method:
            found = rule.pattern.match(path)
            if found is not None:
                return rule, found
    return None


def evaluate(
    rule: SignupRule, document: Document, made: Draft | None = None
) -> Draft | None:
    """Make a draft of a lead, or None if ``when`` says that this was no sign-up.

    ``made`` is the draft, where it was made already.
    """
    try:
        if not is_true(rule.when.search(document.values)):
            return None
    except EvaluationError as error:
        made = made or draft(rule, document)
        return replace(made, problem=f"when: {error}")
    return made or draft(rule, document)


def draft(rule: SignupRule, document: Document) -> Draft:
    """Make a draft of a lead of what is taken for a sign-up.

    An expression that fails on this document costs its field, not the lead. If
    ``customer_external_id`` fails, or no id is found, the draft has a problem: a
    sign-up is never lost silently.
    """
    notes = list(document.notes)
    fields: dict[str, object] = {"eventName": rule.event, "mode": rule.mode.value}
    for name, value in _results(rule.fields, document, notes):
        kept = _CONVERSIONS[name](value)
        if kept is None:
            notes.append(f"{name} was left out: it is not text.")
        else:
            fields[name] = kept
    metadata = dict(_results(rule.metadata, document, notes, "metadata."))
    if metadata:
        fields["metadata"] = metadata
    problem = None
    if "customerExternalId" not in fields:
        problem = "customer_external_id found no id in this sign-up"
    return Draft(fields, tuple(notes), problem)


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
