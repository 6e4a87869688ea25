"""What Dub's answers about a commission mean for a refund, and what follows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from relay.core.dub.refunds import (
    FORBIDDEN,
    NO_COMMISSION,
    NO_PROGRAM,
    PAID,
    Commission,
    found_commission,
    interpret_refund,
    left_to_a_person,
    refund_key,
)
from relay.core.dub.replies import Answer, Meaning, NoAnswer, Outcome
from relay.core.dub.retry import HOUR, Move, Park, Policy, decide, unrepeatable
from relay.core.leads import ByHand, Lead, LeadRecord, LeadStatus, Sale, Step

NOW = 1_732_171_669_000
REFUND = Sale(2198, "usd", "stripe", "in_1", refund=True)


def answer(status: int, body: object) -> Answer:
    return Answer(status=status, headers={}, body=json.dumps(body).encode())


def error(status: int, code: str, message: str = "No.") -> Answer:
    return answer(status, {"error": {"code": code, "message": message}})


def commission(status: str) -> dict[str, object]:
    return {"id": "cm_1", "status": status, "invoiceId": "in_1", "amount": 2198}


def record(sale: Sale = REFUND, **more: Any) -> LeadRecord:
    lead = Lead("lead_1", "stripe", "", "Refund", "cus_1", NOW, sale=sale)
    return replace(LeadRecord(lead, LeadStatus.SENDING), **more)


def after(
    outcome: Outcome, sale: Sale = REFUND, waited: int = 0
) -> Move | Park | object:
    return decide(
        record(sale),
        Step.REFUND,
        outcome,
        now=NOW + waited,
        since=NOW,
        roll=0.0,
        policy=Policy(),
    )


@pytest.mark.parametrize("status", ["pending", "processed", "hold", "fraud"])
def test_a_commission_that_is_not_paid_out_is_marked(status: str) -> None:
    found = found_commission(answer(200, [commission(status)]), NOW)

    assert found == Commission("cm_1", status)


@pytest.mark.parametrize(
    ("reply", "meaning", "reason"),
    [
        (answer(200, []), Meaning.NO_LINK, NO_COMMISSION),
        (answer(200, [commission("paid")]), Meaning.FINAL, PAID),
        (answer(200, [commission("refunded")]), Meaning.TAKEN, "already"),
        (answer(200, {}), Meaning.AGAIN, "understood"),
        (Answer(status=200, headers={}, body=b"<html>"), Meaning.AGAIN, "understood"),
        (error(403, "forbidden"), Meaning.FINAL, FORBIDDEN),
        (error(404, "not_found", "Program not found"), Meaning.FINAL, NO_PROGRAM),
        (error(401, "unauthorized"), Meaning.OPERATOR, "API key"),
        (error(429, "rate_limit_exceeded"), Meaning.THROTTLED, "429"),
        (error(500, "internal_server_error"), Meaning.AGAIN, "500"),
        (Answer(status=403, headers={}, body=b"<html>"), Meaning.AGAIN, "Not Dub"),
        (NoAnswer(sent=True, reason="cut"), Meaning.AGAIN, "cut"),
    ],
)
def test_whatever_else_ends_the_search(
    reply: Answer | NoAnswer, meaning: Meaning, reason: str
) -> None:
    found = found_commission(reply, NOW)

    assert isinstance(found, Outcome)
    assert found.meaning is meaning
    assert reason in found.reason
    # Marking a commission twice changes nothing: nothing is ever in doubt.
    assert not found.may_have_counted
    assert not found.claims_key


@pytest.mark.parametrize(
    ("reply", "meaning"),
    [
        (answer(200, commission("refunded")), Meaning.TAKEN),
        (answer(200, commission("pending")), Meaning.AGAIN),
        (
            error(400, "bad_request", "Commission cm_1 has already been paid."),
            Meaning.FINAL,
        ),
        (
            error(
                400,
                "bad_request",
                "Cannot update commission: Its payout is already processing.",
            ),
            Meaning.FINAL,
        ),
        (
            error(
                400, "bad_request", "This commission is already in the refunded status."
            ),
            Meaning.TAKEN,
        ),
        (error(403, "forbidden"), Meaning.FINAL),
        (NoAnswer(sent=True, reason="cut"), Meaning.AGAIN),
    ],
)
def test_the_mark_is_there_or_is_tried_again(
    reply: Answer | NoAnswer, meaning: Meaning
) -> None:
    outcome = interpret_refund(reply, NOW)

    assert outcome.meaning is meaning
    assert not outcome.may_have_counted


def test_a_key_that_may_not_touch_commissions_parks_no_leads() -> None:
    outcome = found_commission(error(403, "forbidden"), NOW)

    assert isinstance(outcome, Outcome)
    move = after(outcome)
    assert isinstance(move, Move)
    assert (move.status, move.reason) == (LeadStatus.REJECTED, FORBIDDEN)


def test_a_commission_may_come_after_its_refund() -> None:
    none = Outcome(Meaning.NO_LINK, NO_COMMISSION)

    early, late = after(none), after(none, waited=HOUR)

    assert isinstance(early, Move)
    assert early.status is LeadStatus.WAITING
    assert isinstance(late, Move)
    assert late.status is LeadStatus.DELIVERED
    assert "nothing to take back" in (late.note or "")


def test_where_the_invoice_is_not_known_a_person_is_asked() -> None:
    none = Outcome(Meaning.NO_LINK, NO_COMMISSION)

    move = after(none, replace(REFUND, unnamed=True), waited=HOUR)

    assert isinstance(move, Move)
    assert move.status is LeadStatus.REJECTED
    assert "2025-03-31" in (move.reason or "")


@pytest.mark.parametrize(
    ("by_hand", "said"),
    [("part", "A part was refunded"), ("dispute", "A dispute was lost")],
)
def test_what_dub_cannot_be_told_of_is_left_to_a_person(
    by_hand: ByHand, said: str
) -> None:
    move = after(left_to_a_person(by_hand), replace(REFUND, by_hand=by_hand))

    assert isinstance(move, Move)
    assert move.status is LeadStatus.REJECTED
    # The same for each: alerts come once for each reason.
    assert (move.reason or "").startswith(said)


def test_where_nobody_is_paid_for_it_nobody_is_asked() -> None:
    none = Outcome(Meaning.NO_LINK, NO_COMMISSION)

    move = after(none, replace(REFUND, by_hand="part"), waited=HOUR)

    assert isinstance(move, Move)
    assert move.status is LeadStatus.DELIVERED


def test_of_a_dispute_whose_invoice_is_not_known_a_person_is_asked() -> None:
    sale = replace(REFUND, unnamed=True, by_hand="dispute")

    move = after(Outcome(Meaning.NO_LINK, NO_COMMISSION), sale, waited=HOUR)

    assert isinstance(move, Move)
    assert move.status is LeadStatus.REJECTED
    assert "no invoice in a dispute" in (move.reason or "")


def test_each_part_is_one_refund_and_the_whole_another() -> None:
    part = replace(REFUND, amount=500, by_hand="part")
    more = replace(part, amount=700)
    dispute = replace(part, by_hand="dispute")

    keys = [refund_key(sale) for sale in (REFUND, part, more, dispute)]

    assert len(set(keys)) == 4
    assert refund_key(replace(REFUND, amount=1)) == refund_key(REFUND)


def test_a_refund_in_doubt_may_be_sent_again() -> None:
    """After a restore from a backup, say."""
    assert unrepeatable(record(in_doubt=True), NOW + 9 * 24 * HOUR) is None
