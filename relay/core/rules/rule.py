"""Sign-up rules: which requests are sign-ups, and what lead they make.

:func:`compile_rules` turns the ``[[signup]]`` tables of the configuration into
rules, or names what is wrong with them in one line. :func:`match` finds the
rules of a request; :mod:`relay.core.rules.evaluation` makes a draft of a lead out of
the document (:mod:`relay.core.rules.documents`) that request and response form.
"""

from __future__ import annotations

import re
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from relay.core.leads import Mode
from relay.core.rules.expression_tree import ROOTS, Trail
from relay.core.rules.expressions import (
    Expression,
    ExpressionError,
    compile_expression,
    did_you_mean,
)
from relay.core.rules.paths import (
    PathPattern,
    parse_pattern,
)
from relay.core.rules.trpc import calls

T = TypeVar("T")

DEFAULT_EVENT: Final = "Sign Up"
"""What Dub's own guides call the event."""

FIELDS: Final[Mapping[str, str]] = {
    "customer_external_id": "customerExternalId",
    "customer_name": "customerName",
    "customer_email": "customerEmail",
    "customer_avatar": "customerAvatar",
    "quantity": "eventQuantity",
}
"""Expressions of a rule, and the field of Dub's that each one fills."""

_KEYS: Final = (
    *("method", "path", "event", "when", *FIELDS, "metadata"),
    *("mode", "clear_cookie", "known_customer", "ignore_case"),
)

_MAX_EVENT: Final = 255  # UTF-16 units; Dub refuses the lead above it
_METHOD: Final = re.compile(r"[A-Za-z]{1,20}")


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
    when: Expression | None
    """None: the default test decides (:mod:`relay.core.rules.success`)."""
    fields: Mapping[str, Expression]
    metadata: Mapping[str, Expression]
    clear_cookie: bool
    known_customer: bool
    reads: frozenset[Trail] = field(repr=False, compare=False)
    """What the expressions look at; ``()`` is all of the document."""
    told_by_request: bool = field(repr=False, compare=False)
    """Whether the fields stand fast before the site has answered."""

    @property
    def roots(self) -> frozenset[str]:
        """The names at the top of the document that any of the expressions has."""
        return frozenset(
            ROOTS if () in self.reads else (each[0] for each in self.reads)
        )

    @property
    def reads_answer(self) -> bool:
        """Whether the body of the response may decide anything."""
        return self.when is None or any(map(_is_of_body, self.reads))

    @property
    def customer(self) -> Expression:
        """What finds the customer's id."""
        return self.fields["customerExternalId"]

    @property
    def label(self) -> str:
        """What people call the rule: "POST /signup"."""
        return f"{self.method} {self.path}"


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
    return tuple(each_of(compiled).values())


def each_of(parts: Mapping[str, Callable[[], T]]) -> dict[str, T]:
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


class Table:
    """Typed access to one table; every complaint names the key."""

    def __init__(self, raw: object, where: str, roots: Collection[str] = ROOTS) -> None:
        """Read a table whose expressions search a document with these names on top."""
        if not isinstance(raw, Mapping):
            raise RuleError(f"{where}: must be a table")
        self._raw: Mapping[Any, Any] = raw
        self._where = where
        self._roots = roots

    def error(self, key: str, why: str) -> RuleError:
        """Make the complaint about one key."""
        return RuleError(f"{self._where}.{_one_line(key)}: {why}")

    def check_keys(self, known: Sequence[str]) -> None:
        """Refuse keys that there are not."""
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

    def is_null(self, key: str) -> bool:
        """Whether a key is there without a value, which TOML cannot write."""
        return key in self._raw and self._raw[key] is None

    def table(self, key: str) -> Table:
        """Return a table in this one; an empty one if there is none."""
        return Table(self._raw.get(key, {}), f"{self._where}.{key}", self._roots)

    def text(self, key: str, default: str | None = None) -> str:
        """Read a text, which must be there unless it has a default."""
        value = self._raw.get(key, default)
        if value is None:
            raise self.error(key, "is required")
        if not isinstance(value, str):
            raise self.error(key, "must be text")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self._raw.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def expression(self, key: str, default: str | None = None) -> Expression:
        """Compile an expression over the document."""
        try:
            return compile_expression(self.text(key, default), self._roots)
        except ExpressionError as error:
            raise self.error(key, _one_line(str(error))) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _compile(raw: object, where: str) -> SignupRule:
    table = Table(raw, where)
    parts: dict[str, Callable[[], Any]] = {
        "keys": partial(table.check_keys, _KEYS),
        "method": partial(_method, table),
        "pattern": partial(_pattern, table),
        "event": partial(event_of, table),
        "mode": partial(mode_of, table),
        "when": partial(when_of, table),
        "fields": partial(fields_of, table),
        "metadata": partial(metadata_of, table),
        "clear_cookie": partial(table.flag, "clear_cookie", default=True),
        "known_customer": partial(table.flag, "known_customer", default=False),
    }
    made = each_of(parts)
    del made["keys"]
    filled = (*made["fields"].values(), *made["metadata"].values())
    by_when = made["when"].reads if made["when"] else frozenset()
    return SignupRule(
        **made,
        path=table.text("path"),
        reads=by_when.union(*(each.reads for each in filled)),
        told_by_request=not any(
            _may_be(trail, "response") for each in filled for trail in each.reads
        ),
    )


def _may_be(trail: Trail, root: str) -> bool:
    return not trail or trail[0] == root


def _is_of_body(trail: Trail) -> bool:
    whole = len(trail) < 2 and _may_be(trail, "response")
    return whole or trail[:2] == ("response", "json")


def when_of(table: Table) -> Expression | None:
    """Compile what decides whether it is a sign-up, if that is said."""
    return table.expression("when") if "when" in table else None


def fields_of(table: Table) -> dict[str, Expression]:
    """Compile the fields of a lead, by Dub's names; the customer's id must be there."""
    return each_of(
        {
            name: partial(table.expression, key)
            for key, name in FIELDS.items()
            if key in table or key == "customer_external_id"
        }
    )


def metadata_of(table: Table) -> dict[str, Expression]:
    """Compile a table of names and expressions."""
    named = table.table("metadata")
    return each_of({key: partial(named.expression, key) for key in named})


def _method(table: Table) -> str:
    method = table.text("method", "POST")
    if not _METHOD.fullmatch(method):
        raise table.error("method", "must be an HTTP method, such as POST")
    return method.upper()


def event_of(table: Table) -> str:
    """Read the event's name at Dub."""
    event = table.text("event", DEFAULT_EVENT).strip()
    if not 0 < len(event.encode("utf-16-le", "surrogatepass")) // 2 <= _MAX_EVENT:
        raise table.error("event", f"must have 1 to {_MAX_EVENT} characters")
    return event


def mode_of(table: Table) -> Mode:
    """Read how Dub is asked to take the lead."""
    mode = table.text("mode", Mode.ASYNC)
    if mode not in tuple(Mode):
        raise table.error("mode", f"must be one of {', '.join(Mode)}")
    return Mode(mode)


def _pattern(table: Table) -> PathPattern:
    path = table.text("path")
    ignore_case = table.flag("ignore_case", default=False)
    try:
        return parse_pattern(path, ignore_case=ignore_case)
    except ValueError as error:
        raise table.error("path", str(error)) from None


class Match(NamedTuple):
    """A rule that a request fits, with its placeholders' values.

    ``call`` is the number of the call that it fits in a batch of tRPC.
    """

    rule: SignupRule
    params: Mapping[str, str]
    call: int | None = None


def match(
    rules: Iterable[SignupRule], method: str, path: str, query: str = ""
) -> tuple[Match, ...]:
    """Return the rules for a request, in their order.

    ``path`` and ``query`` are raw.
    """
    batch = calls(path, query) if "batch=" in query else ()
    found = (_match(rule, path, batch) for rule in rules if rule.method == method)
    return tuple(each for each in found if each is not None)


def _match(rule: SignupRule, path: str, batch: Sequence[str]) -> Match | None:
    for number, each in enumerate(batch):
        # A placeholder stands for all of the names, as without a batch.
        if rule.pattern.names_end and (found := rule.pattern.match(each)) is not None:
            return Match(rule, found, number)
    whole = rule.pattern.match(path)
    return None if whole is None else Match(rule, whole)
