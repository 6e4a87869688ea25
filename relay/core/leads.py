"""The lead, its states, and the one table of moves between them.

A reader who has understood this module has understood the program: capture
makes a :class:`Lead`, the outbox keeps it as an :class:`Entry`, delivery moves
the entry through :data:`MOVES` until nothing more can happen to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias


class Mode(StrEnum):
    """How Dub is asked to take the lead (``mode`` of ``POST /track/lead``)."""

    ASYNC = "async"
    WAIT = "wait"
    DEFERRED = "deferred"


class LeadStatus(StrEnum):
    """Where a lead is on its way. The words are those a user reads."""

    HELD = "held"
    QUEUED = "queued"
    SENDING = "sending"
    WAITING = "waiting"
    PARKED = "parked"
    DELIVERED = "delivered"
    CONFIRMED = "confirmed"
    DUPLICATE = "duplicate"
    UNCONFIRMED = "unconfirmed"
    REJECTED = "rejected"


OPEN: Final = frozenset(
    {LeadStatus.QUEUED, LeadStatus.SENDING, LeadStatus.WAITING, LeadStatus.PARKED},
)
"""States from which delivery goes on by itself; a customer's later leads wait."""

RETRYABLE: Final = frozenset(
    {LeadStatus.HELD, LeadStatus.PARKED, LeadStatus.UNCONFIRMED, LeadStatus.REJECTED},
)
"""States that a person may send again. Never one that Dub has already taken."""

SETTLED: Final = frozenset(
    {LeadStatus.DELIVERED, LeadStatus.CONFIRMED, LeadStatus.DUPLICATE}
)
"""States of leads that Dub has: their personal data is not needed any more."""

_FORGOTTEN: Final = frozenset({LeadStatus.REJECTED, LeadStatus.UNCONFIRMED})

MOVES: Final[Mapping[LeadStatus, frozenset[LeadStatus]]] = MappingProxyType(
    {
        # Anything that waits -> rejected or, in doubt, unconfirmed: a person had
        # the customer's data erased (`leads forget`), and there is nothing to send.
        #
        # The site answered (queued), refused (the row is removed), or the
        # relay died in between and a person decides.
        LeadStatus.HELD: frozenset(
            {LeadStatus.QUEUED, LeadStatus.WAITING, LeadStatus.REJECTED}
        ),
        # Dub's webhook may report a lead whose call got no answer, at any
        # moment before the lead is settled: whatever is in doubt -> confirmed.
        LeadStatus.QUEUED: frozenset(
            {LeadStatus.SENDING, LeadStatus.PARKED, LeadStatus.CONFIRMED} | _FORGOTTEN
        ),
        # A lease that ran out is claimed again: sending -> sending.
        LeadStatus.SENDING: frozenset(
            {
                LeadStatus.SENDING,
                LeadStatus.QUEUED,
                LeadStatus.WAITING,
                LeadStatus.PARKED,
                LeadStatus.DELIVERED,
                LeadStatus.CONFIRMED,
                LeadStatus.DUPLICATE,
                LeadStatus.UNCONFIRMED,
                LeadStatus.REJECTED,
            },
        ),
        LeadStatus.WAITING: frozenset(
            {LeadStatus.SENDING, LeadStatus.PARKED, LeadStatus.CONFIRMED} | _FORGOTTEN
        ),
        # The probe is sent straight from parked; the others go back in line.
        LeadStatus.PARKED: frozenset(
            {
                LeadStatus.SENDING,
                LeadStatus.QUEUED,
                LeadStatus.WAITING,
                LeadStatus.CONFIRMED,
            }
            | _FORGOTTEN
        ),
        # Dub's list of events does not have it: sent again, if the operator allows it.
        LeadStatus.DELIVERED: frozenset(
            {LeadStatus.CONFIRMED, LeadStatus.QUEUED, LeadStatus.WAITING}
        ),
        # Settled by Dub's list of events, or sent again by a person: at once, or when
        # Dub's dedupe key is free again.
        LeadStatus.UNCONFIRMED: frozenset(
            {
                LeadStatus.CONFIRMED,
                LeadStatus.QUEUED,
                LeadStatus.WAITING,
                LeadStatus.DUPLICATE,
            }
        ),
        LeadStatus.REJECTED: frozenset({LeadStatus.QUEUED, LeadStatus.WAITING}),
        LeadStatus.DUPLICATE: frozenset(),
        LeadStatus.CONFIRMED: frozenset(),
    },
)
"""Every move there is. Both stores, delivery, the CLI and the docs read it."""


class IllegalMoveError(Exception):
    """A move that :data:`MOVES` does not have: a defect, never bad input."""


def require_move(old: LeadStatus, new: LeadStatus) -> None:
    """Raise :class:`IllegalMoveError` unless a lead may go from old to new."""
    if new not in MOVES[old]:
        raise IllegalMoveError(f"a lead cannot go from {old} to {new}")


class Step(StrEnum):
    """The calls that deliver a lead, a sale or a refund, and one that looks it up.

    Dub claims its dedupe key before it looks the click up and never gives it
    back, but ``mode: "deferred"`` skips that key. So the lead is first proved
    with a deferred call, repeated as often as needed, then recorded once.
    """

    PROVE = "prove"
    RECORD = "record"
    LOOK_UP = "look_up"
    SALE = "sale"
    REFUND = "refund"


ByHand: TypeAlias = Literal["part", "dispute"]
"""Money that went back in a way that Dub cannot be told of: a part of a payment, or a
dispute that was lost."""


@dataclass(frozen=True, slots=True)
class Sale:
    """What a sale has and a lead has not (``POST /track/sale``).

    ``amount`` is in the smallest unit of ``currency`` (cents). Dub takes sales of
    one ``invoice_id`` once; those without one are each their own.
    ``lead_event_name`` names the lead that it belongs to, None the latest.
    ``refund``: it takes the commission of ``invoice_id`` back instead, and is no sale.
    ``unnamed``: that id is but the payment's, for the refund names no invoice.
    ``by_hand``: the commission is found, and a person is asked to change it.
    """

    amount: int
    currency: str = "usd"
    payment_processor: str = "custom"
    invoice_id: str | None = None
    lead_event_name: str | None = None
    refund: bool = False
    unnamed: bool = False
    by_hand: ByHand | None = None


@dataclass(frozen=True, slots=True)
class Lead:
    """What was captured. It never changes; what happens to it is the Entry.

    ``click_id`` is "" for a lead that uses the customer's earlier click, as
    with Dub's deferred mode. ``notes`` are sentences for people (what was left
    out and why); ``origin`` says where the parts came from ("click": "cookie",
    "rule": "POST /signup", ...). ``created_at`` is in epoch milliseconds.

    With ``sale`` it is a sale: it goes the same way, behind its customer's leads;
    ``mode`` and ``event_quantity`` do not speak of it, and a ``click_id`` makes it
    a direct one, of a customer whom no lead came before.
    """

    id: str
    source: str
    click_id: str
    event_name: str
    customer_external_id: str
    created_at: int
    mode: Mode = Mode.ASYNC
    customer_name: str | None = None
    customer_email: str | None = None
    customer_avatar: str | None = None
    event_quantity: int | None = None
    metadata: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    sale: Sale | None = None


@dataclass(frozen=True, slots=True)
class CreditedLink:
    """The link that a lead counts for; its partner, if it is a partner's link."""

    id: str
    domain: str | None = None
    key: str | None = None
    short_link: str | None = None
    partner_id: str | None = None
    program_id: str | None = None
    tenant_id: str | None = None
    external_id: str | None = None

    @property
    def name(self) -> str:
        """The link as people write it ("acme.link/ada"), else its id."""
        return f"{self.domain}/{self.key}" if self.domain and self.key else self.id


@dataclass(frozen=True, slots=True)
class LeadRecord:
    """A lead in the outbox, with what has happened to it so far.

    ``attempts`` counts calls to Dub. ``due_at`` (epoch ms) is the next attempt
    of an open lead, the end of the lease while it is being sent, else None.
    ``in_doubt`` is true while an earlier recording call of ours may have
    counted although no answer proved it. ``key_claimed_at`` (epoch ms) is when the
    last call of ours began that may have claimed Dub's dedupe key; None: none did.
    ``since`` (epoch ms) is when this round
    of attempts began: retry_for counts from here. ``erased_at`` (epoch ms) is when
    the personal data was erased: such a lead cannot be sent any more.
    ``link`` is the one that Dub credits, ``event_id`` Dub's id of what it recorded,
    ``confirmed_by`` what has shown that: "webhook" or "events". ``events`` are the id
    and the time (epoch ms) of each event of Dub's that shows it; ``doubled_at`` (epoch
    ms) is when those were seen to be too many, ``missing_at`` when Dub was last seen
    not to have it.
    ``sealed`` says why the personal data, which is there, cannot be read: it is
    missing from the lead, which has to wait. ``answer`` is Dub's last answer, kept
    only while somebody waits for it (:func:`relay.core.dub.replies.kept`).
    """

    lead: Lead
    status: LeadStatus
    attempts: int = 0
    last_error: str | None = None
    due_at: int | None = None
    delivered_at: int | None = None
    in_doubt: bool = False
    since: int | None = None
    erased_at: int | None = None
    sealed: str | None = None
    answer: str | None = field(default=None, repr=False)
    key_claimed_at: int | None = None
    link: CreditedLink | None = None
    event_id: str | None = None
    confirmed_by: str | None = None
    events: tuple[tuple[str, int], ...] = ()
    missing_at: int | None = None
    doubled_at: int | None = None


def is_missing(entry: LeadRecord) -> bool:
    """Return whether Dub has taken a lead, and its own list does not have it."""
    return entry.status is LeadStatus.DELIVERED and entry.missing_at is not None


def why_not_again(entry: LeadRecord) -> str | None:
    """Say why a person cannot send a lead again, as the end of a sentence; or None."""
    if entry.erased_at is not None:
        return "was erased: there is nothing left to send"
    if entry.status not in RETRYABLE and not is_missing(entry):
        return f"is {entry.status} and is not sent again"
    if not entry.lead.customer_external_id and entry.sealed is None:
        return (
            "names no customer, and Dub takes no such lead: report the sign-up"
            " by the hook, with the customer's id"
        )
    return None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to Dub and its answer, as the timeline of a lead shows it.

    ``at`` is epoch ms, ``duration_ms`` milliseconds. ``outcome`` is one plain
    sentence; ``http_status`` is None when no answer came.
    """

    at: int
    step: Step
    duration_ms: int
    outcome: str
    http_status: int | None = None
    code: str | None = None
