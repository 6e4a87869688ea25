"""A refund at Dub: the commission of an invoice is found, then marked as refunded.

Dub's ``GET /commissions?invoiceId=…`` shows at most one, for an invoice is unique in a
program; ``PATCH /commissions/{id}`` takes it out of the partner's payout
(dub.co/docs/api-reference/commissions). Marking one twice changes nothing, so both
calls can be repeated at will.

A part of a sale is left to a person: where its amount is lowered, Dub reckons the
partner's pay anew, without what was known of the sale (product, country, metadata).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from relay.core import jsontext
from relay.core.dub.replies import Answer, Meaning, NoAnswer, Outcome, interpret
from relay.core.leads import ByHand, Sale, Step

REFUNDED: Final = "refunded"

REFUND_BODY: Final = jsontext.encode({"status": REFUNDED})

REFUND_KEY: Final = "refund:"
"""The dedupe key of a refund begins so; an invoice is refunded once."""

NO_COMMISSION: Final = "Dub has no commission of this invoice"
PAID: Final = "The commission is paid out already, and Dub does not change it any more"
ALREADY: Final = "The commission is marked as refunded already"
BY_HAND: Final[Mapping[ByHand, str]] = MappingProxyType(
    {
        "part": "A part was refunded, and the commission stays as it is: lower it at"
        " Dub if the partner should get less",
        "dispute": "A dispute was lost, and the commission stays as it is: change it at"
        " Dub if the partner should get less",
    }
)
FORBIDDEN: Final = "Dub forbids the API key to read or change commissions (403)"
NO_PROGRAM: Final = (
    "Dub knows no such commission, or the workspace has no program (404)"
)


@dataclass(frozen=True, slots=True)
class Commission:
    """What Dub shows of a partner's pay for a sale."""

    id: str
    status: str


def refund_key(sale: Sale) -> str:
    """Return what repeats of one refund have in common.

    Parts of a payment go back one by one: what was refunded so far tells them apart.
    """
    part = f":{sale.by_hand}:{sale.amount}" if sale.by_hand else ""
    return f"{REFUND_KEY}{sale.invoice_id or ''}{part}"


def found_commission(reply: Answer | NoAnswer, now: int) -> Commission | Outcome:
    """Read Dub's list of an invoice's commissions; an Outcome where that ends it."""
    if isinstance(reply, NoAnswer) or reply.status != 200:
        return _failed(reply, now)
    match _parsed(reply):
        case []:
            return Outcome(Meaning.NO_LINK, NO_COMMISSION, http_status=200)
        case [{"id": str(commission), "status": str(status)}, *_]:
            return _judged(Commission(commission, status))
    return _not_understood()


def _judged(found: Commission) -> Commission | Outcome:
    if found.status == REFUNDED:
        return Outcome(Meaning.TAKEN, ALREADY, http_status=200)
    if found.status == "paid":
        return Outcome(Meaning.FINAL, PAID, http_status=200)
    return found


def left_to_a_person(by_hand: ByHand) -> Outcome:
    """End a refund whose commission was found, and which Dub cannot be told of."""
    return Outcome(Meaning.FINAL, BY_HAND[by_hand], http_status=200)


def interpret_refund(reply: Answer | NoAnswer, now: int) -> Outcome:
    """Say what Dub's answer to marking the commission means."""
    if isinstance(reply, NoAnswer) or reply.status != 200:
        return _failed(reply, now)
    match _parsed(reply):
        case {"status": "refunded"}:
            reason = "Dub marked the commission as refunded"
            return Outcome(Meaning.TAKEN, reason, http_status=200)
    return _not_understood()


def _failed(reply: Answer | NoAnswer, now: int) -> Outcome:
    """Read an error by the table of all calls, but for what concerns commissions alone.

    A key that may not touch them can still track: nothing is parked for that.
    """
    outcome = replace(
        interpret(reply, Step.REFUND, now), may_have_counted=False, claims_key=False
    )
    if isinstance(reply, NoAnswer) or outcome.code is None:
        return outcome
    if reply.status == 400 and b"already been paid" in reply.body:
        return replace(outcome, meaning=Meaning.FINAL, reason=PAID)
    if reply.status == 400 and b"already in the refunded status" in reply.body:
        return replace(outcome, meaning=Meaning.TAKEN, reason=ALREADY)
    own = {403: FORBIDDEN, 404: NO_PROGRAM}
    if reply.status in own:
        return replace(outcome, meaning=Meaning.FINAL, reason=own[reply.status])
    return outcome


def _parsed(answer: Answer) -> object:
    try:
        return jsontext.decode(answer.body)
    except ValueError:
        return None


def _not_understood() -> Outcome:
    reason = "Dub's answer (200) could not be understood"
    return Outcome(Meaning.AGAIN, reason, http_status=200)
