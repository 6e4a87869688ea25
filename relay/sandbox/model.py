"""What the sandbox keeps: links, clicks, customers, leads, sales and calls.

All times are epoch milliseconds. Everything lives in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeAlias

from relay.core.dub import errors

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""Dub's ids are made of these; a click id is 16 of them."""


class RefusalError(Exception):
    """An error that Dub answers with: one of its codes, and its sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def internal_error() -> RefusalError:
    """Return Dub's answer to any error of its own; the sentence never varies."""
    return RefusalError(errors.INTERNAL, errors.INTERNAL_ERROR)


@dataclass(frozen=True, slots=True)
class Link:
    """A short link. ``path`` is the address that people see beside ``key``.

    ``foreign`` belongs to another workspace, ``gone`` was deleted after it had
    been clicked. Without a partner and without ``tracked`` the redirect hands
    no click id on, as with a plain link of Dub's.
    """

    id: str
    key: str
    path: str
    url: str
    partner: str | None = None
    tracked: bool = True
    foreign: bool = False
    gone: bool = False
    disabled: bool = False

    @property
    def partner_id(self) -> str | None:
        """Dub's id of the partner, made from the key here."""
        return f"pn_{self.key}" if self.partner else None

    @property
    def hands_on(self) -> bool:
        """Whether the redirect appends ``dub_id`` to the destination."""
        return self.tracked or self.partner is not None


@dataclass(frozen=True, slots=True)
class Click:
    """A recorded click. A phantom id has none: that is what makes it one."""

    id: str
    link_key: str
    at: int
    referrer: str = ""


@dataclass(slots=True)
class Customer:
    """A customer, made by its first lead; track/lead never changes one."""

    id: str
    external_id: str
    name: str | None
    email: str | None
    avatar: str | None
    click: Click
    created_at: int
    sales: int = 0
    sale_amount: int = 0
    first_sale_at: int | None = None


@dataclass(frozen=True, slots=True)
class RecordedLead:
    """A lead event that counts. ``signed`` is "yes", "no", "invalid" or "unchecked"."""

    id: str
    customer: Customer
    event_name: str
    click: Click
    quantity: int
    metadata: Mapping[str, Any] | None
    at: int
    signed: str
    visible_at: int


@dataclass(frozen=True, slots=True)
class RecordedSale:
    """A sale event; ``amount`` in the smallest unit of ``currency``."""

    id: str
    customer: Customer
    event_name: str
    click: Click
    amount: int
    currency: str
    processor: str
    invoice_id: str | None
    metadata: Mapping[str, Any] | None
    at: int


Event: TypeAlias = RecordedLead | RecordedSale
"""What counts: listed by ``GET /events``, and announced by a webhook."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API, as the page and the tests see it.

    ``status`` is None when the connection was cut instead of an answer;
    ``note`` names the fault that did it, or the error's sentence.
    """

    method: str
    path: str
    at: int
    status: int | None
    step: str | None = None
    code: str | None = None
    note: str = ""
    signed: str | None = None
    lead_id: str | None = None
    customer: str | None = None
    event: str | None = None


# --- The names Dub gives to customers that came without one. ---

_ADJECTIVES: Final = ("Able", "Brisk", "Calm", "Dapper", "Eager", "Frank", "Gentle")
_COLORS: Final = ("Amber", "Blue", "Coral", "Green", "Ivory", "Rose", "Violet")
_ANIMALS: Final = ("Badger", "Crane", "Dolphin", "Falcon", "Heron", "Lynx", "Otter")


def random_name(rng: Random) -> str:
    """Make a capitalised "Adjective Color Animal", as Dub does."""
    return " ".join(rng.choice(words) for words in (_ADJECTIVES, _COLORS, _ANIMALS))
