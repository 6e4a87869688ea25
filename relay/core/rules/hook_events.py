"""What a hook's rule makes of one call: a lead, or why there is none."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from relay.core.providers.account import (
    Event,
    Ignored,
    NewAccount,
    PayloadError,
)
from relay.core.rules.documents import Document
from relay.core.rules.evaluation import findings
from relay.core.rules.expressions import EvaluationError, Expression, is_true
from relay.core.rules.hook_rules import Additions, HookRule

_EVENT_ID: Final = re.compile(r"[!-~]{1,255}")


def added(
    additions: Additions, document: Document
) -> tuple[dict[str, object], tuple[str, ...]]:
    """Return what is added to a lead, by Dub's names, and notes on what is left out."""
    fields, notes = findings(additions.quantity, additions.metadata, document)
    return fields, (*document.notes, *notes)


def events(rule: HookRule, document: Document) -> list[Document]:
    """Return the events of a call as documents: in each the event is the ``json``.

    Raises PayloadError where ``each`` finds no list.
    """
    if rule.each is None:
        return [document]
    found = _search(rule.each, document, "each")
    if not isinstance(found, list):
        raise PayloadError(f"each found no list: {rule.each.text}")
    values = document.values
    return [replace(document, values={**values, "json": event}) for event in found]


def read(rule: HookRule, document: Document, message_id: str) -> Event:
    """Map a verified call; ``message_id`` is the one of its signature, "" if none.

    Raises PayloadError where the call lacks the customer, or an expression that
    decides fails on it.
    """
    if rule.when is not None and not is_true(_search(rule.when, document, "when")):
        return Ignored(f"when says no: {rule.when.text}")
    found, notes = findings(rule.fields, rule.metadata, document)
    if "customerExternalId" not in found:
        text = rule.fields["customerExternalId"].text
        raise PayloadError(f"customer_external_id found no id: {text}")
    click = None if rule.click is None else _search(rule.click, document, "click")
    return NewAccount(
        event_id=_event_id(rule, document) or message_id,
        kind=rule.event,
        person={"eventName": rule.event, "mode": rule.mode.value, **found},
        # What a form or a contact says of its click, a visitor may have written.
        writable=(click.strip(),) if isinstance(click, str) and click.strip() else (),
        earlier_click=rule.known_customer,
        notes=(*document.notes, *notes),
    )


def _event_id(rule: HookRule, document: Document) -> str:
    """Return the sender's id of this event, which repeats share; "" if none is said."""
    given = None if rule.id is None else _search(rule.id, document, "id")
    if given is None:
        return ""
    written = str(given) if isinstance(given, str | int) else ""
    if not _EVENT_ID.fullmatch(written):
        raise PayloadError("id: must find 1 to 255 visible ASCII characters.")
    return written


def _search(expression: Expression, document: Document, key: str) -> Any:
    try:
        return expression.search(document.values)
    except EvaluationError as error:
        raise PayloadError(f"{key}: {error}.") from None
