"""Dub's ``POST /track/lead``: its check, our forgiving one, and the call's body.

:func:`validate` is Dub's own check, texts included. :func:`sanitise` is the
relay's: what a person typed never loses a lead, and what passes can be stored
and sent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from relay.core.dub.errors import (
    BAD_REQUEST,
    EXTERNAL_ID_REQUIRED,
)
from relay.core.dub.fields import (
    MAX_EMAIL,
    MAX_EVENT_NAME,
    MAX_METADATA,
    MAX_NAME,
    MAX_QUANTITY,
    MISSING,
    PLACEHOLDER,
    Body,
    FieldIssue,
    InvalidFieldError,
    is_email,
    is_placeholder,
    js_trim,
    json_depth,
    limited,
    metadata_length,
    read_email,
    read_event_name,
    read_metadata,
    read_mode,
    read_name,
    read_quantity,
    read_text,
    read_trimmed,
    refused,
    utf16_len,
    wrong_type,
)
from relay.core.leads import Lead, Mode, Sale, Step

__all__ = [
    "MAX_CUSTOMER_ID",
    "MAX_EMAIL",
    "MAX_EVENT_NAME",
    "MAX_METADATA",
    "MAX_METADATA_DEPTH",
    "MAX_NAME",
    "MAX_QUANTITY",
    "FieldIssue",
    "InvalidFieldError",
    "LeadFields",
    "dedupe_key",
    "fold_event",
    "is_email",
    "js_trim",
    "keepable",
    "lead_body",
    "metadata_length",
    "person_of",
    "sanitise",
    "utf16_len",
    "validate",
    "with_customer",
]

MAX_CUSTOMER_ID: Final = 100
"""Documented by Dub but not checked on its server route, where a longer id
breaks the database write *after* the dedupe key was claimed: a lost lead."""

MAX_METADATA_DEPTH: Final = 100
"""Ours: Python's JSON stops at some depth below 1000, wherever it happens to
stand on the stack. A hundred is more than anybody writes and passes all."""

CUSTOMER_ID_NAMES: Final = ("customerExternalId", "externalId", "customerId")
"""Dub's name and its two deprecated ones; the first that is not empty counts."""

PERSON_NAMES: Final = ("customerName", "customerEmail", "customerAvatar")
"""What a person types into a form, where empty means absent."""

# UTF-8 has no lone surrogates, and PostgreSQL's text no NUL.
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")

_Value = TypeVar("_Value")
_Text = TypeVar("_Text", bound=str | None)


@dataclass(frozen=True, slots=True)
class LeadFields:
    """A checked lead, before it has an id. Personal fields stay out of its repr.

    ``click_id`` is None when absent or null; "" is "the customer's earlier click".
    With ``sale`` it is a sale (:mod:`relay.core.dub.track_sale`).
    """

    click_id: str | None
    event_name: str
    customer_external_id: str = field(repr=False)
    customer_name: str | None = field(default=None, repr=False)
    customer_email: str | None = field(default=None, repr=False)
    customer_avatar: str | None = field(default=None, repr=False)
    mode: Mode = Mode.ASYNC
    event_quantity: int | None = None
    metadata: Mapping[str, Any] | None = field(default=None, repr=False)
    sale: Sale | None = None


def fold_event(name: str) -> str:
    """Fold an event's name as Dub does for its dedupe key."""
    return name.lower().replace(" ", "-")


def dedupe_key(customer: str, event: str, *, deferred: bool) -> str:
    """Say which leads count once: one customer, one folded event, one kind.

    The customer's length makes the join unambiguous. A deferred lead and the
    lead that completes it are two.
    """
    kind = "deferred" if deferred else "lead"
    return f"{kind}:{len(customer)}:{customer}:{fold_event(event)}"


def lead_of(fields: LeadFields, **more: Any) -> Lead:
    """Make a lead of Dub's fields; ``more`` is what else a Lead has, its click too."""
    return Lead(
        event_name=fields.event_name,
        customer_external_id=fields.customer_external_id,
        mode=fields.mode,
        customer_name=fields.customer_name,
        customer_email=fields.customer_email,
        customer_avatar=fields.customer_avatar,
        event_quantity=fields.event_quantity,
        metadata=fields.metadata,
        sale=fields.sale,
        **more,
    )


def lead_body(lead: Lead, step: Step, *, proved: bool = False) -> dict[str, object]:
    """Return the JSON body of the call that takes this step.

    ``proved``: Dub has just taken the proving call, and the avatar with it. Given
    again, Dub would upload it a second time, and delete the customer's if that fails.
    Encode it with ASCII escapes: metadata may hold lone surrogates.
    """
    mode = Mode.DEFERRED if step is Step.PROVE else lead.mode
    body: dict[str, object | None] = {
        "clickId": lead.click_id,
        "eventName": lead.event_name,
        "customerExternalId": lead.customer_external_id,
        "customerName": lead.customer_name,
        "customerEmail": lead.customer_email,
        "customerAvatar": None if proved else lead.customer_avatar,
        "mode": mode.value,
        "eventQuantity": lead.event_quantity,
        "metadata": None if lead.metadata is None else dict(lead.metadata),
    }
    return {name: value for name, value in body.items() if value is not None}


def validate(body: object) -> LeadFields:
    """Check a parsed JSON body exactly as Dub's server route does.

    Unknown keys are dropped, nothing is converted. Raises InvalidFieldError with
    the first issue in the schema's order. What Dub takes may still be impossible
    to store (lone surrogates, ids over 100): run :func:`sanitise` afterwards.
    """
    if not isinstance(body, Mapping):
        raise wrong_type("", "object", body)
    fields = LeadFields(
        click_id=read_trimmed(body, "clickId"),
        event_name=read_event_name(body),
        customer_external_id=read_trimmed(body, CUSTOMER_ID_NAMES[0]) or "",
        customer_name=read_name(body),
        customer_email=read_email(body),
        customer_avatar=read_text(body, "customerAvatar"),
        mode=read_mode(body),
        event_quantity=read_quantity(body),
        metadata=read_metadata(body),
    )
    return with_customer(fields, body, read_trimmed)


def with_customer(
    fields: LeadFields, body: Body, read: Callable[[Body, str], str | None]
) -> LeadFields:
    """Fall back on the older names of the customer's id, which Dub checks last.

    Raises InvalidFieldError where there is none; a 400, unlike all others.
    """
    given = [fields.customer_external_id]
    given += (read(body, name) or "" for name in CUSTOMER_ID_NAMES[1:])
    customer = next(filter(None, given), "")
    if not customer:
        name = CUSTOMER_ID_NAMES[0]
        raise InvalidFieldError(
            FieldIssue(name, "custom", EXTERNAL_ID_REQUIRED, BAD_REQUEST)
        )
    if customer == fields.customer_external_id:
        return fields
    return replace(fields, customer_external_id=customer)


def keepable(fields: LeadFields) -> LeadFields:
    """Refuse what :func:`validate` passes, as Dub does, but nobody can keep.

    Ids of more than 100 units, which Dub's database breaks on, NUL and lone
    surrogates, metadata that nests too deep. Raises InvalidFieldError.
    """
    limited(CUSTOMER_ID_NAMES[0], fields.customer_external_id, MAX_CUSTOMER_ID)
    _storable(CUSTOMER_ID_NAMES[0], fields.customer_external_id)
    _storable("clickId", fields.click_id)
    _storable("eventName", fields.event_name)
    if fields.sale is not None:
        _storable("invoiceId", fields.sale.invoice_id)
    if fields.metadata is None:
        return fields
    return replace(fields, metadata=_plain_metadata({"metadata": fields.metadata}))


def person_of(body: Body, notes: list[str]) -> dict[str, Any]:
    """Read what a person typed, and the metadata; add a note for each left out.

    Gives them by the names of :class:`LeadFields`.
    """
    # What was left empty in a form is absent.
    return {
        "customer_name": _kept(_storable_name, body, notes) or None,
        "customer_email": _kept(_typed_email, body, notes),
        "customer_avatar": _kept(_storable_avatar, body, notes) or None,
        "metadata": _kept(_plain_metadata, body, notes),
    }


def sanitise(
    body: Mapping[str, object], *, lenient_quantity: bool = False
) -> tuple[LeadFields, tuple[str, ...]]:
    """Keep what can be kept; return the fields and a note for each one left out.

    What the integrator writes (event name, customer id, mode, quantity, the
    type of the click id) must be right: else InvalidFieldError, always a 422.
    What a person typed is left out when Dub would refuse it. With
    ``lenient_quantity`` that holds for the quantity too, for the proxy, where
    nobody could be asked.
    """
    notes: list[str] = []
    fields = LeadFields(
        click_id=_storable("clickId", read_trimmed(body, "clickId")),
        event_name=_storable("eventName", read_event_name(body)),
        customer_external_id=_customer_id(body),
        mode=read_mode(body),
        event_quantity=(
            _kept(read_quantity, body, notes)
            if lenient_quantity
            else read_quantity(body)
        ),
        **person_of(body, notes),
    )
    return fields, tuple(notes)


def _kept(
    read: Callable[[Body], _Value | None], body: Body, notes: list[str]
) -> _Value | None:
    """Read an optional field; on an issue add a note and go on without it."""
    try:
        return read(body)
    except InvalidFieldError as error:
        reason = error.issue.message
        notes.append(
            f"{error.issue.field} was left out: {reason[0].lower()}{reason[1:]}."
        )
        return None


def _typed_email(body: Body) -> str | None:
    """Read an address without the space that was typed around it; None for no more.

    That is the only fault of it that can be mended.
    """
    email = body.get("customerEmail")
    if isinstance(email, str):
        email = js_trim(email) or None
    return read_email({"customerEmail": email})


def _customer_id(body: Body) -> str:
    """Read the first customer id that is not empty: 1 to 100 units, no placeholder."""
    for name in CUSTOMER_ID_NAMES:
        if value := read_trimmed(body, name):
            # First: the expression for placeholders takes its time with a long text.
            limited(name, value, MAX_CUSTOMER_ID)
            if is_placeholder(value):
                raise refused(name, "custom", PLACEHOLDER)
            return _storable(name, value)
    name = CUSTOMER_ID_NAMES[0]
    given = body.get(name, MISSING)
    if isinstance(given, str):
        message = "Too small: expected string to have >=1 characters"
        raise refused(name, "too_small", message)
    raise wrong_type(name, "string", given)


def _storable_name(body: Body) -> str | None:
    """Read a name that every database can keep."""
    return _storable("customerName", read_name(body))


def _storable_avatar(body: Body) -> str | None:
    """Read an avatar that every database can keep; Dub takes any string."""
    return _storable("customerAvatar", read_text(body, "customerAvatar"))


def _plain_metadata(body: Body) -> Mapping[str, Any] | None:
    """Read metadata that every JSON encoder can write."""
    given = body.get("metadata")
    if given is None or (type(given) is dict and _is_plainly_small(given)):
        return given
    metadata = read_metadata(body)
    if metadata is None:
        return None
    if json_depth(metadata) > MAX_METADATA_DEPTH:
        raise refused("metadata", "custom", "Metadata is nested too deeply")
    return {key: _finite(value) for key, value in metadata.items()}


def _is_plainly_small(metadata: dict[str, Any]) -> bool:
    """Decide without measuring, as is the rule, that metadata is within all limits.

    JSON is at most five times as long as Python's repr: 1e+20 is written out.
    """
    text = repr(metadata)
    return (
        len(text) <= MAX_METADATA // 5
        and text.count("{") + text.count("[") <= MAX_METADATA_DEPTH
        and "inf" not in text
        and "nan" not in text
    )


def _finite(value: Any) -> Any:
    """Write infinity and NaN as JavaScript's JSON does: null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _storable(name: str, text: _Text) -> _Text:
    """Pass a text without lone surrogates and NUL."""
    # What can be printed has neither; most texts can, and to ask is quicker.
    if text is None or text.isprintable():
        return text
    if _UNSTORABLE.search(text):
        raise refused(name, "custom", "Text holds characters that cannot be stored")
    return text
