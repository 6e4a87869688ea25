"""What a provider's event comes to, in the relay's own words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:  # nothing more is needed at start
    from relay.core.leads import ByHand

CLICK_KEYS: Final = ("dubTicket", "dubClickId", "dub_id")
"""Where a click travels in a provider's metadata. Under each name may stand a
ticket of the relay's or a plain click id; the last two are the names that Dub's
own guides use."""

_EVENT_ID: Final = re.compile(r"[!-~]{1,255}")

Document: TypeAlias = Mapping[str, Any]
"""A parsed JSON object."""


class PayloadError(ValueError):
    """A genuine event that lacks what a lead needs; the message says what."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that is no sign-up, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class ProviderSale:
    """The body of a ``track/sale``, in Dub's names.

    ``direct``: the sale brings the click along, and no lead goes before it.
    ``refund``: it takes the invoice's commission back; ``unnamed``, of a payment whose
    invoice is not known; ``by_hand``, in a way that Dub cannot be told of.
    ``known``: it counts only of a customer that the ledger has, for the event may be
    of anybody.
    """

    body: Mapping[str, object] = field(repr=False)
    direct: bool = False
    refund: bool = False
    unnamed: bool = False
    by_hand: ByHand | None = None
    known: bool = False


@dataclass(frozen=True, slots=True)
class NewAccount:
    """A person who signed up, as the provider sends it.

    ``event_id`` is the same for every repeat of this event. ``person`` has the
    fields of ``track/lead`` that are known, in Dub's names. ``trusted`` are
    click ids and tickets that stand where only the site's server writes,
    ``writable`` those that the person could have put there. ``at`` is when it
    happened, in epoch milliseconds. ``lead`` is false for a purchase of somebody
    who signed up before: only its sale counts. ``earlier_click``: without a click
    here, the one that Dub has of this customer is meant. ``known``: and only if the
    ledger has this customer. ``notes`` are sentences for the lead.
    """

    event_id: str
    kind: str
    person: Mapping[str, object] = field(repr=False)
    trusted: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    at: int | None = None
    lead: bool = True
    sale: ProviderSale | None = None
    earlier_click: bool = False
    known: bool = False
    notes: tuple[str, ...] = ()


Event: TypeAlias = NewAccount | Ignored

Read: TypeAlias = Callable[[Document, str], Event]
"""Maps a verified payload, and the id its signature names ("" if none), to an
event. Raises PayloadError."""

Verify: TypeAlias = Callable[[Iterable[bytes], Mapping[str, str], bytes, int], str]
"""Checks a signature: keys, headers (asked for by lower-case names), body, now in
epoch milliseconds. Returns the message's id, "" where the scheme has none. Raises
signing.BadSignatureError."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One row of the table: whose hook, how it is signed, what it means.

    ``secrets`` parses the setting. ``blocking``: the person's sign-up waits for
    the answer and fails with it, so a genuine event is never refused.
    """

    name: str
    title: str
    secrets: Callable[[str], tuple[bytes, ...]]
    verify: Verify
    read: Read
    example: str
    help: str
    blocking: bool = False

    @property
    def env(self) -> str:
        """Name the environment variable of its secret."""
        return f"RELAY_HOOKS_{self.name.upper()}_SECRET"

    @property
    def toml(self) -> str:
        """Name the TOML key of its secret."""
        return f"hooks.{self.name}.secret"


def clicks(*places: object) -> tuple[str, ...]:
    """Collect what stands under the click's names in some metadata, in order."""
    return tuple(
        value
        for place in places
        if isinstance(place, Mapping)
        for key in CLICK_KEYS
        if isinstance(value := place.get(key), str) and value
    )


def part(document: Document, key: str) -> Document:
    """Return an object inside an object; an empty one if there is none."""
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}


def text(document: Document, key: str) -> str | None:
    """Return a text that is not empty."""
    value = document.get(key)
    return value if isinstance(value, str) and value else None


def objects(value: object) -> list[Document]:
    """Return the objects of a list; none if it is no list."""
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def required(document: Document, key: str, where: str) -> str:
    """Return a text that must be there; else PayloadError."""
    value = text(document, key)
    if value is None:
        raise PayloadError(f"{where}{key}: is missing, or no text.")
    return value


def event_id(document: Document, key: str, where: str) -> str:
    """Return the id of an event: one word of ASCII; else PayloadError."""
    value = required(document, key, where)
    if not _EVENT_ID.fullmatch(value):
        raise PayloadError(f"{where}{key}: must be 1 to 255 visible ASCII characters.")
    return value


def full_name(*parts: str | None) -> str | None:
    """Join the parts of a person's name that are there."""
    return " ".join(filter(None, parts)) or None


def person(
    customer: str, name: str | None, email: str | None, avatar: str | None
) -> dict[str, object]:
    """Name a person's fields as Dub does."""
    return {
        "customerExternalId": customer,
        "customerName": name,
        "customerEmail": email,
        "customerAvatar": avatar,
    }


def iso_ms(value: object) -> int | None:
    """Read an ISO 8601 time with its zone as epoch milliseconds; None if it is none."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return None if moment.tzinfo is None else int(moment.timestamp() * 1000)


def whole(value: object) -> int | None:
    """Return a whole number; None for anything else, true and false included."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
