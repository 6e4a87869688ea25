"""``[[hook]]`` tables, and what ``[hooks.NAME]`` says beside a secret, compiled."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar

from relay.core import signing
from relay.core.providers import schemes
from relay.core.providers.account import Verify
from relay.core.rules.expressions import Expression
from relay.core.rules.hook_rules import HOOK_ROOTS, Additions, HookRule
from relay.core.rules.rule import (
    FIELDS,
    RuleError,
    Table,
    each_of,
    event_of,
    fields_of,
    metadata_of,
    mode_of,
    when_of,
)

_SIGNED: Final = ("header", "algorithm", "encoding", "prefix")
_KEYS: Final = (
    *("path", "scheme", "secret", *_SIGNED, "each", "event", "when", "mode", *FIELDS),
    *("metadata", "click", "id", "known_customer"),
)

_PATH: Final = re.compile(
    r"[a-z0-9][a-z0-9._-]{0,63}(?:/[a-z0-9][a-z0-9._-]{0,63}){0,3}"
)
OWN_SOURCES: Final = frozenset(
    {"signup", "dub", "hook", "api", "proxy", "browser", "import", "recovered"}
)
"""Names that a ``[[hook]]`` cannot have: endpoints and sources of the relay's own."""

T = TypeVar("T")


def compile_hooks(raw: object, taken: Collection[str]) -> tuple[HookRule, ...]:
    """Compile the ``hook`` tables of a configuration, in their order.

    ``taken`` are the names of providers' hooks. A hook whose ``secret`` is None has no
    keys. Raises RuleError with a line for each mistake, as for sign-up rules; none
    quotes a secret.
    """
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise RuleError("hook: must be a list of tables ([[hook]])")
    reserved = OWN_SOURCES | set(taken)
    compiled = {
        f"hook[{number}]": partial(_compile, each, f"hook[{number}]", reserved)
        for number, each in enumerate(raw)
    }
    made = each_of(compiled)
    first: dict[str, HookRule] = {}
    for where, rule in made.items():
        if first.setdefault(rule.path, rule).each != rule.each:
            raise RuleError(f"{where}.each: must be the same in all of {rule.path}")
    return tuple(made.values())


def compile_additions(raw: object, where: str) -> Additions:
    """Compile what ``[hooks.NAME]`` says beside the secret; raise RuleError."""
    table = Table(raw, where, HOOK_ROOTS)
    parts: dict[str, Callable[[], Any]] = {
        "event": partial(_if_set, table, "event", event_of),
        "mode": partial(_if_set, table, "mode", mode_of),
        "quantity": partial(_quantity, table),
        "metadata": partial(metadata_of, table),
    }
    return Additions(**each_of(parts))


def _compile(raw: object, where: str, reserved: Collection[str]) -> HookRule:
    table = Table(raw, where, HOOK_ROOTS)
    parts: dict[str, Callable[[], Any]] = {
        "table": partial(table.check_keys, _KEYS),
        "path": partial(_path, table, reserved),
        "signature": partial(_signature, table),
        "event": partial(event_of, table),
        "mode": partial(mode_of, table),
        "each": partial(_expression, table, "each"),
        "when": partial(when_of, table),
        "fields": partial(fields_of, table),
        "metadata": partial(metadata_of, table),
        "click": partial(_expression, table, "click"),
        "id": partial(_expression, table, "id"),
        "known_customer": partial(table.flag, "known_customer", default=False),
    }
    made = each_of(parts)
    del made["table"]
    scheme, verify, keys = made.pop("signature")
    return HookRule(scheme=scheme, verify=verify, keys=keys, **made)


def _if_set(table: Table, key: str, read: Callable[[Table], T]) -> T | None:
    return read(table) if key in table else None


def _expression(table: Table, key: str) -> Expression | None:
    return table.expression(key) if key in table else None


def _quantity(table: Table) -> dict[str, Expression]:
    found = _expression(table, "quantity")
    return {} if found is None else {FIELDS["quantity"]: found}


def _path(table: Table, reserved: Collection[str]) -> str:
    path = table.text("path").strip("/")
    if not _PATH.fullmatch(path):
        raise table.error("path", "must be a name below hooks/, such as hubspot")
    if path in reserved:
        raise table.error("path", "is the relay's own: take another name")
    return path


def _signature(table: Table) -> tuple[str, Verify, tuple[bytes, ...]]:
    """Make the check of a scheme, and its keys."""
    scheme = table.text("scheme")
    if scheme not in _SCHEMES:
        known = ", ".join(_SCHEMES)
        raise table.error("scheme", f"must be one of {known}")
    parse, make, takes = _SCHEMES[scheme]
    foreign = [key for key in _SIGNED if key in table and key not in takes]
    if foreign:
        raise table.error(foreign[0], f"means nothing to the scheme {scheme}")
    return scheme, make(table), _keys(table, parse)


def _keys(table: Table, parse: Parse) -> tuple[bytes, ...]:
    if table.is_null("secret"):
        return ()
    try:
        return parse(table.text("secret"))
    except ValueError as error:
        raise table.error("secret", str(error)) from None


def _standard(_: Table) -> Verify:
    return schemes.either


def _hmac(table: Table) -> Verify:
    header = _header(table, "")
    algorithm = _one_of(table, "algorithm", schemes.ALGORITHMS)
    encoding = _one_of(table, "encoding", schemes.ENCODINGS)
    prefix = table.text("prefix", "")
    return schemes.hmac_header(header, algorithm, encoding, prefix)


def _bearer(table: Table) -> Verify:
    return schemes.bearer(_header(table, "authorization"))


def _basic(_: Table) -> Verify:
    return schemes.basic


def _header(table: Table, default: str) -> str:
    name = table.text("header", default or None).strip().lower()
    if not re.fullmatch(r"[!#$%&'*+.^`|~0-9a-z-]+", name):
        raise table.error("header", "must be the name of a header")
    return name


def _one_of(table: Table, key: str, known: Sequence[str]) -> str:
    value = table.text(key, known[0])
    if value not in known:
        raise table.error(key, f"must be one of {', '.join(known)}")
    return value


Parse = Callable[[str], tuple[bytes, ...]]
Make = Callable[[Table], Verify]

_SCHEMES: Final[Mapping[str, tuple[Parse, Make, tuple[str, ...]]]] = MappingProxyType(
    {
        "standard-webhooks": (signing.parse_webhook_secrets, _standard, ()),
        "hmac": (schemes.text_secrets, _hmac, _SIGNED),
        "bearer": (schemes.text_secrets, _bearer, ("header",)),
        "basic": (schemes.user_and_password, _basic, ()),
    }
)
"""How a call is checked: what its secrets are, the check, and the keys it takes."""
