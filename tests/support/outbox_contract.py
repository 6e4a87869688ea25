"""The contract of every outbox, as tests. A backend adds fixtures, no tests.

A backend's class gives ``new_url``, which makes an empty database and names it, and
``outage``, which keeps the database from taking writes for the time of a ``with``.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from relay.core.leads import IllegalMoveError, LeadRecord, LeadStatus, Mode
from relay.outbox.backends import open_outbox
from relay.outbox.contract import (
    Inserted,
    Outbox,
    OutboxUnavailableError,
    Query,
    Settlement,
    UnstorableError,
)
from tests.support.outbox_contract_delivery import DeliveryContract
from tests.support.outbox_contract_history import HistoryContract
from tests.support.outbox_contract_keeping import KeepingContract
from tests.support.outbox_contract_operating import OperatingContract
from tests.support.outbox_contract_sales import SalesContract
from tests.support.outbox_model import Model, Op, ops
from tests.support.outbox_rig import (
    DAY,
    LEASE,
    NOW,
    Child,
    attempt,
    claim_one,
    claimed,
    entry,
    ids,
    lead,
    new_lead,
    put_all,
    put_together,
    signup,
    status,
)

SURROGATE = "\ud83d"


class OutboxContract(
    DeliveryContract,
    KeepingContract,
    HistoryContract,
    OperatingContract,
    SalesContract,
):
    """Everything that any outbox does."""

    # --- What a backend gives, and what is made of it. ---

    @pytest.fixture
    def new_url(self) -> Callable[[], str]:
        raise NotImplementedError

    @pytest.fixture
    def outage(self, url: str) -> Callable[[], AbstractContextManager[None]]:
        raise NotImplementedError

    @pytest.fixture
    def url(self, new_url: Callable[[], str]) -> str:
        return new_url()

    @pytest.fixture
    async def reopen(self, url: str) -> AsyncIterator[Callable[[], Awaitable[Outbox]]]:
        """Open the database once more, as another relay would."""
        opened: list[Outbox] = []

        async def reopen() -> Outbox:
            outbox = open_outbox(url)
            opened.append(outbox)
            await outbox.open()
            return outbox

        yield reopen
        for outbox in opened:
            await outbox.close()

    @pytest.fixture
    async def outbox(self, reopen: Callable[[], Awaitable[Outbox]]) -> Outbox:
        return await reopen()

    # --- A lead is kept as it came. ---

    async def test_a_lead_is_kept_as_it_came(self, outbox: Outbox) -> None:
        made = lead(
            source="proxy",
            mode=Mode.DEFERRED,
            customer_name="Zoë 🦊",
            customer_email="zoe@example.com",
            customer_avatar="https://example.com/z.png",
            event_quantity=3,
            metadata={"plan": "pro", "seats": [1, 2.5, None, True], "": {}},
            notes=("customerName was left out", "ünïcode"),
            origin={"click": "cookie", "rule": "POST /signup"},
        )

        result = await outbox.put(new_lead(made))

        assert (result.outcome, result.lead_id) == (Inserted.NEW, made.id)
        assert await outbox.get(made.id) == LeadRecord(
            made, LeadStatus.QUEUED, due_at=NOW, since=NOW
        )

    async def test_empty_and_absent_metadata_stay_apart(self, outbox: Outbox) -> None:
        empty, absent = lead(metadata={}), lead(metadata=None)
        await put_all(outbox, [new_lead(empty), new_lead(absent)])

        assert (await entry(outbox, empty.id)).lead.metadata == {}
        assert (await entry(outbox, absent.id)).lead.metadata is None

    async def test_lone_surrogates_about_the_person_are_kept(
        self, outbox: Outbox
    ) -> None:
        made = lead(
            customer_name=SURROGATE,
            metadata={SURROGATE: [SURROGATE, "\0"]},
            notes=(SURROGATE,),
            origin={"rule": SURROGATE},
        )
        await outbox.put(new_lead(made))

        assert (await entry(outbox, made.id)).lead == made

    @pytest.mark.parametrize("bad", [SURROGATE, "\0"])
    async def test_an_id_that_cannot_be_stored_fails_its_own_caller_only(
        self, outbox: Outbox, bad: str
    ) -> None:
        good = [new_lead() for _ in range(3)]

        results = await asyncio.gather(
            outbox.put(good[0]),
            outbox.put(new_lead(lead(customer=f"u{bad}"))),
            outbox.put(good[1]),
            outbox.put(new_lead(idempotency_key=bad)),
            outbox.put(good[2]),
            return_exceptions=True,
        )

        assert [type(result).__name__ for result in results] == [
            *(
                "InsertResult",
                "UnstorableError",
                "InsertResult",
                "UnstorableError",
                "InsertResult",
            )
        ]
        assert sorted(await ids(outbox)) == [one.lead.id for one in good]

    async def test_a_row_that_the_database_refuses_fails_its_own_caller_only(
        self, outbox: Outbox
    ) -> None:
        taken = lead()
        await outbox.put(new_lead(taken))
        good = [new_lead(), new_lead()]

        results = await asyncio.gather(
            outbox.put(good[0]),
            outbox.put(new_lead(taken)),  # the same id again, a defect
            outbox.put(new_lead(lead(created_at=1 << 70))),
            outbox.put(good[1]),
            return_exceptions=True,
        )

        kinds = [type(result).__name__ for result in results]
        assert kinds == [
            "InsertResult",
            "UnstorableError",
            "UnstorableError",
            "InsertResult",
        ]
        assert sorted(await ids(outbox)) == [taken.id, *(one.lead.id for one in good)]

    async def test_an_unstorable_lead_says_nothing_of_what_it_holds(
        self, outbox: Outbox
    ) -> None:
        with pytest.raises(UnstorableError) as caught:
            await outbox.put(new_lead(lead(customer=f"secret{SURROGATE}")))

        assert "secret" not in str(caught.value)

    async def test_a_rejected_lead_is_kept_with_its_reason_and_never_due(
        self, outbox: Outbox
    ) -> None:
        made = lead(customer="")
        result = await outbox.put(
            new_lead(
                made, status=LeadStatus.REJECTED, reason=f"no customer id {SURROGATE}"
            )
        )

        assert result.status is LeadStatus.REJECTED
        found = await entry(outbox, made.id)
        assert (found.status, found.due_at) == (LeadStatus.REJECTED, None)
        assert found.last_error == "no customer id ?"
        assert await outbox.claim(9, NOW + DAY, LEASE) == []

    async def test_a_held_lead_is_neither_due_nor_open(self, outbox: Outbox) -> None:
        held, later = new_lead(lead("u"), status=LeadStatus.HELD), new_lead(lead("u"))
        await put_all(outbox, [held, later])

        assert await outbox.oldest_open() == NOW
        assert claimed(await outbox.claim(9, NOW, LEASE)) == [later.lead.id]

    # --- The same request twice: idempotency keys. ---

    async def test_the_same_request_again_is_a_duplicate(self, outbox: Outbox) -> None:
        first = new_lead(idempotency_key="msg_1", body_hash=b"one")
        await outbox.put(first)
        await outbox.settle(
            await claim_one(outbox), Settlement(LeadStatus.DELIVERED), NOW
        )

        again = await outbox.put(new_lead(idempotency_key="msg_1", body_hash=b"one"))

        assert (again.outcome, again.lead_id) == (Inserted.DUPLICATE, first.lead.id)
        assert again.status is LeadStatus.DELIVERED
        assert len(await ids(outbox)) == 1

    async def test_the_same_key_with_another_body_is_a_conflict(
        self, outbox: Outbox
    ) -> None:
        first = new_lead(idempotency_key="msg_1", body_hash=b"one")
        await outbox.put(first)

        other = await outbox.put(new_lead(idempotency_key="msg_1", body_hash=b"two"))

        assert (other.outcome, other.lead_id) == (Inserted.CONFLICT, first.lead.id)
        assert len(await ids(outbox)) == 1

    async def test_a_key_counts_within_its_source(self, outbox: Outbox) -> None:
        new_leads = [
            new_lead(lead(source=source), idempotency_key=key, body_hash=b"same")
            for source, key in [("hook", "k"), ("api", "k"), ("hook", "api:k")]
        ]

        results = await put_together(outbox, new_leads)

        assert [result.outcome for result in results] == [Inserted.NEW] * 3

    async def test_keys_meet_inside_one_batch_too(self, outbox: Outbox) -> None:
        new_leads = [
            new_lead(idempotency_key="msg_1", body_hash=body)
            for body in [b"one", b"one", b"two", b"one"]
        ]

        results = await put_together(outbox, new_leads)

        assert [result.outcome for result in results] == [
            *(
                Inserted.NEW,
                Inserted.DUPLICATE,
                Inserted.CONFLICT,
                Inserted.DUPLICATE,
            )
        ]
        assert {result.lead_id for result in results} == {new_leads[0].lead.id}

    async def test_a_rejected_lead_still_answers_for_its_request(
        self, outbox: Outbox
    ) -> None:
        first = new_lead(
            idempotency_key="m", body_hash=b"x", status=LeadStatus.REJECTED, reason="no"
        )
        await outbox.put(first)

        again = await outbox.put(new_lead(idempotency_key="m", body_hash=b"x"))

        assert (again.outcome, again.status) == (
            Inserted.DUPLICATE,
            LeadStatus.REJECTED,
        )

    # --- The same sign-up twice: dedupe keys. ---

    async def test_the_same_sign_up_again_is_a_duplicate(self, outbox: Outbox) -> None:
        first = signup("u")
        await outbox.put(first)

        again = await outbox.put(signup("u", at=NOW + 7 * DAY))

        assert (again.outcome, again.lead_id) == (Inserted.DUPLICATE, first.lead.id)
        assert again.status is LeadStatus.QUEUED
        assert len(await ids(outbox)) == 1

    async def test_it_counts_again_once_the_time_is_over(self, outbox: Outbox) -> None:
        await outbox.put(signup("u"))
        later = signup("u", at=NOW + 7 * DAY + 1)
        assert (await outbox.put(later)).outcome is Inserted.NEW

        # From now on the later one counts.
        third = await outbox.put(signup("u", at=NOW + 8 * DAY))

        assert (third.outcome, third.lead_id) == (Inserted.DUPLICATE, later.lead.id)

    async def test_no_time_given_means_that_none_is_a_repeat(
        self, outbox: Outbox
    ) -> None:
        new_leads = [new_lead(lead("u"), dedupe_key="k", dedupe_since=None)] * 1
        new_leads.append(new_lead(lead("u"), dedupe_key="k", dedupe_since=None))

        assert [r.outcome for r in await put_all(outbox, new_leads)] == [
            Inserted.NEW
        ] * 2

    async def test_other_keys_and_other_customers_do_not_meet(
        self, outbox: Outbox
    ) -> None:
        new_leads = [signup("u"), signup("v"), signup("u", key="Trial")]

        assert [r.outcome for r in await put_together(outbox, new_leads)] == [
            Inserted.NEW
        ] * 3
        assert [
            r.outcome for r in await put_all(outbox, [signup("w"), signup("x")])
        ] == [*(Inserted.NEW, Inserted.NEW)]

    async def test_of_many_at_once_exactly_one_is_new(self, outbox: Outbox) -> None:
        new_leads = [signup(f"u{n % 5}") for n in range(100)]

        results = await put_together(outbox, new_leads)

        assert [r.outcome for r in results].count(Inserted.NEW) == 5
        assert len({result.lead_id for result in results}) == 5
        assert await outbox.counts() == {LeadStatus.QUEUED: 5}

    @pytest.mark.parametrize("kept", [LeadStatus.REJECTED, LeadStatus.HELD])
    async def test_a_lead_of_which_nothing_came_blocks_no_good_one(
        self, outbox: Outbox, kept: LeadStatus
    ) -> None:
        new_leads = [signup("u", status=kept), signup("u"), signup("u", status=kept)]

        apart = await put_all(outbox, new_leads)
        new_leads = [signup("v", status=kept), signup("v"), signup("v", status=kept)]
        together = await put_together(outbox, new_leads)

        assert [r.outcome for r in apart + together] == [Inserted.NEW] * 6

    async def test_a_lead_that_dub_refused_blocks_no_good_one(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(signup("u"))
        await outbox.settle(
            await claim_one(outbox), Settlement(LeadStatus.REJECTED), NOW
        )

        assert (await outbox.put(signup("u"))).outcome is Inserted.NEW

    async def test_the_request_is_looked_at_before_the_sign_up(
        self, outbox: Outbox
    ) -> None:
        by_request = signup("u", key="a", idempotency_key="m", body_hash=b"1")
        by_customer = signup("u", key="b")
        await put_all(outbox, [by_request, by_customer])

        both = signup("u", key="b", idempotency_key="m", body_hash=b"1")
        other = signup("u", key="b", idempotency_key="m", body_hash=b"2")

        assert (await outbox.put(both)).lead_id == by_request.lead.id
        assert (await outbox.put(other)).outcome is Inserted.CONFLICT

    # --- Held leads are resolved. ---

    async def test_the_final_lead_takes_the_place_of_the_held_one(
        self, outbox: Outbox
    ) -> None:
        held = new_lead(lead("", source="proxy"), status=LeadStatus.HELD)
        await outbox.put(held)
        final = signup("u", at=NOW + 50)

        result = await outbox.release(held.lead.id, final)

        assert result is not None
        assert (result.outcome, result.lead_id) == (Inserted.NEW, held.lead.id)
        assert result.status is LeadStatus.QUEUED
        found = await entry(outbox, held.lead.id)
        assert found.lead.customer_external_id == "u"
        assert (found.due_at, found.since) == (NOW + 50, NOW + 50)
        assert await outbox.get(final.lead.id) is None
        assert (await outbox.put(signup("u"))).outcome is Inserted.DUPLICATE

    async def test_a_held_lead_may_be_let_go_as_it_is(self, outbox: Outbox) -> None:
        """Many at once: some repeat an earlier lead, one of them each other."""
        first = signup("u")
        new_leads = [signup(name) for name in ("u", "v", "v", "w", "x")]
        held = [
            replace(one, status=LeadStatus.HELD, dedupe_since=None) for one in new_leads
        ]
        await put_all(outbox, [first, *held])
        await outbox.release(held[4].lead.id, None)

        results = await asyncio.gather(
            *(
                outbox.release(one.lead.id, replace(one, as_held=True))
                for one in new_leads
            )
        )

        assert [one and (one.outcome, one.lead_id) for one in results] == [
            (Inserted.DUPLICATE, first.lead.id),
            (Inserted.NEW, held[1].lead.id),
            (Inserted.DUPLICATE, held[1].lead.id),
            (Inserted.NEW, held[3].lead.id),
            None,
        ]
        assert await ids(outbox) == [
            held[3].lead.id,
            held[1].lead.id,
            first.lead.id,
        ]
        found = await entry(outbox, held[3].lead.id)
        assert found.status is LeadStatus.QUEUED
        assert found.due_at == found.since == new_leads[3].lead.created_at
        assert (await outbox.put(signup("w"))).outcome is Inserted.DUPLICATE

    async def test_a_held_lead_that_the_site_refused_is_gone(
        self, outbox: Outbox
    ) -> None:
        held = new_lead(status=LeadStatus.HELD)
        await outbox.put(held)

        assert await outbox.release(held.lead.id, None) is None
        assert await outbox.get(held.lead.id) is None

    async def test_a_held_lead_that_repeats_another_is_gone(
        self, outbox: Outbox
    ) -> None:
        first, held = signup("u"), new_lead(status=LeadStatus.HELD)
        await put_all(outbox, [first, held])

        result = await outbox.release(held.lead.id, signup("u"))

        assert result is not None
        assert (result.outcome, result.lead_id) == (
            Inserted.DUPLICATE,
            first.lead.id,
        )
        assert await ids(outbox) == [first.lead.id]

    async def test_a_held_lead_whose_request_was_used_otherwise_stays(
        self, outbox: Outbox
    ) -> None:
        first = new_lead(idempotency_key="m", body_hash=b"1")
        held = new_lead(status=LeadStatus.HELD)
        await put_all(outbox, [first, held])

        result = await outbox.release(
            held.lead.id, new_lead(idempotency_key="m", body_hash=b"2")
        )

        assert result is not None
        assert (result.outcome, result.lead_id) == (
            Inserted.CONFLICT,
            first.lead.id,
        )
        assert await status(outbox, held.lead.id) is LeadStatus.HELD

    async def test_a_held_lead_is_no_repeat_of_itself(self, outbox: Outbox) -> None:
        held = new_lead(status=LeadStatus.HELD, idempotency_key="m", body_hash=b"1")
        await outbox.put(held)

        result = await outbox.release(
            held.lead.id, new_lead(idempotency_key="m", body_hash=b"2")
        )

        assert result is not None
        assert result.outcome is Inserted.NEW

    async def test_a_held_lead_can_end_as_rejected(self, outbox: Outbox) -> None:
        held = new_lead(status=LeadStatus.HELD)
        await outbox.put(held)

        await outbox.release(
            held.lead.id, new_lead(status=LeadStatus.REJECTED, reason="no customer id")
        )

        found = await entry(outbox, held.lead.id)
        assert (found.status, found.last_error) == (
            LeadStatus.REJECTED,
            "no customer id",
        )

    async def test_a_lead_is_released_once_and_only_while_held(
        self, outbox: Outbox
    ) -> None:
        held, queued = new_lead(status=LeadStatus.HELD), new_lead()
        await put_all(outbox, [held, queued])
        await outbox.release(held.lead.id, new_lead())

        again = await outbox.release(held.lead.id, new_lead())
        assert again == (Inserted.DUPLICATE, held.lead.id, LeadStatus.QUEUED)
        assert await outbox.release(queued.lead.id, None) is None
        assert await outbox.release("lead_unknown", new_lead()) is None
        assert len(await ids(outbox)) == 2

    async def test_a_lead_cannot_be_released_into_being_held(
        self, outbox: Outbox
    ) -> None:
        held = new_lead(status=LeadStatus.HELD)
        await outbox.put(held)

        with pytest.raises(IllegalMoveError):
            await outbox.release(held.lead.id, new_lead(status=LeadStatus.HELD))

    # --- What a person and the monitoring ask. ---

    async def test_a_listing_is_newest_first_and_filtered(self, outbox: Outbox) -> None:
        new_leads = [
            new_lead(lead(customer, created_at=NOW + n))
            for n, customer in enumerate(["u", "v", "u", "v"])
        ]
        await put_all(outbox, new_leads)
        made = [one.lead.id for one in new_leads]
        await outbox.claim(1, NOW, LEASE)

        async def found(**query: object) -> list[int]:
            listed = await ids(outbox, Query(**query))  # type: ignore[arg-type] # any
            return [made.index(one) for one in listed]

        assert await found() == [3, 2, 1, 0]
        assert await found(limit=2) == [3, 2]
        assert await found(limit=0) == []
        assert await found(status=LeadStatus.QUEUED) == [3, 2, 1]
        assert await found(customer="u") == [2, 0]
        assert await found(since=NOW + 2) == [3, 2]
        assert await found(customer="u", status=LeadStatus.SENDING, since=NOW) == [0]
        assert await found(customer="u' OR 1=1 --") == []

    async def test_counts_name_the_states_that_have_any(self, outbox: Outbox) -> None:
        assert await outbox.counts() == {}
        await put_all(
            outbox, [new_lead(), new_lead(), new_lead(status=LeadStatus.HELD)]
        )
        await outbox.claim(1, NOW, LEASE)

        assert await outbox.counts() == {
            LeadStatus.QUEUED: 1,
            LeadStatus.SENDING: 1,
            LeadStatus.HELD: 1,
        }

    async def test_the_oldest_open_lead_is_known(self, outbox: Outbox) -> None:
        assert await outbox.oldest_open() is None
        new_leads = [new_lead(lead(created_at=NOW + n)) for n in range(3)]
        await put_all(outbox, new_leads)
        claim = await claim_one(outbox, NOW + 9)
        assert await outbox.oldest_open() == NOW

        await outbox.settle(claim, Settlement(LeadStatus.DELIVERED), NOW + 9)

        assert await outbox.oldest_open() == NOW + 1

    async def test_what_is_not_there_is_not_found(self, outbox: Outbox) -> None:
        assert await outbox.get("lead_unknown") is None
        assert await outbox.attempts("lead_unknown") == []

    # --- Durability. ---

    async def test_many_callers_at_once_find_their_leads_after_reopening(
        self, outbox: Outbox, reopen: Callable[[], Awaitable[Outbox]]
    ) -> None:
        new_leads = [new_lead() for _ in range(200)]
        results = await put_together(outbox, new_leads)
        await outbox.close()

        there = await ids(await reopen())

        assert {result.outcome for result in results} == {Inserted.NEW}
        assert sorted(there) == [one.lead.id for one in new_leads]

    async def test_closing_finishes_what_was_begun(
        self, outbox: Outbox, reopen: Callable[[], Awaitable[Outbox]]
    ) -> None:
        puts = [asyncio.create_task(outbox.put(new_lead())) for _ in range(50)]
        await asyncio.sleep(0)  # lets them begin

        await outbox.close()

        results = await asyncio.gather(*puts)
        there = await ids(await reopen())
        assert sorted(there) == sorted(result.lead_id for result in results)

    async def test_a_closed_outbox_says_so_and_can_be_closed_again(
        self, outbox: Outbox
    ) -> None:
        await outbox.close()
        await outbox.close()

        with pytest.raises(OutboxUnavailableError):
            await outbox.put(new_lead())
        with pytest.raises(OutboxUnavailableError):
            await outbox.get("lead_1")

    async def test_a_caller_that_goes_away_harms_nobody(self, outbox: Outbox) -> None:
        gone, stays = new_lead(), new_lead()
        leaving = asyncio.create_task(outbox.put(gone))
        staying = asyncio.create_task(outbox.put(stays))
        await asyncio.sleep(0)

        leaving.cancel()

        assert (await staying).outcome is Inserted.NEW
        # Whether the one who left was taken is open; it is whole if it was.
        assert set(await ids(outbox)) - {gone.lead.id} == {stays.lead.id}

    async def test_an_outage_takes_nothing_and_is_over_when_it_is_over(
        self,
        outbox: Outbox,
        outage: Callable[[], AbstractContextManager[None]],
    ) -> None:
        before, after = new_lead(), new_lead()
        await outbox.put(before)
        claim = await claim_one(outbox)
        end = Settlement(LeadStatus.DELIVERED, [attempt()])

        with outage():
            results = await asyncio.gather(
                *(outbox.put(new_lead()) for _ in range(20)),
                outbox.settle(claim, end, NOW),
                outbox.check_writable(),
                return_exceptions=True,
            )

        assert {type(result) for result in results} == {OutboxUnavailableError}
        assert await ids(outbox) == [before.lead.id]
        assert await outbox.attempts(before.lead.id) == []
        await outbox.check_writable()
        assert (await outbox.put(after)).outcome is Inserted.NEW
        assert await outbox.settle(claim, end, NOW)

    # --- Any history. ---

    @settings(
        max_examples=60,
        # new_url makes another database for each example, and each backend's class
        # runs this one test.
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
        ],
    )
    @given(history=ops)
    def test_any_history_goes_as_in_a_small_model(
        self, new_url: Callable[[], str], history: list[Op]
    ) -> None:
        async def play() -> None:
            outbox = open_outbox(new_url())
            await outbox.open()
            model = Model(outbox)
            try:
                for op in history:
                    await model.do(op)
                await model.agree()
            finally:
                await outbox.close()

        asyncio.run(play())

    # --- Several relays on one database. ---

    @pytest.mark.process
    async def test_processes_may_make_the_database_at_the_same_time(
        self, url: str
    ) -> None:
        children = [
            Child(url, f"print((await outbox.put(new_lead('p{n}'))).outcome)")
            for n in range(4)
        ]

        printed = await asyncio.gather(*(child.run() for child in children))

        assert printed == [["new"]] * 4

    @pytest.mark.process
    async def test_processes_write_beside_each_other_and_agree_on_what_is_new(
        self, outbox: Outbox, url: str
    ) -> None:
        body = """
async def take(n):
    result = await outbox.put(new_lead(f"{me}{n}", f"customer{n}", f"key{n}"))
    if result.outcome == "new":
        print(n)
await asyncio.gather(*(take(n) for n in range(100)))
"""
        children = [Child(url, f"me = {name!r}\n{body}") for name in "abc"]
        mine = [new_lead() for _ in range(200)]

        ours = asyncio.create_task(put_all(outbox, mine))
        printed = await asyncio.gather(*(child.run() for child in children))
        await ours

        # Each sign-up was new to exactly one of them, and none of ours was lost.
        won = [int(word) for words in printed for word in words]
        assert sorted(won) == list(range(100))
        assert set(await ids(outbox)) >= {one.lead.id for one in mine}
        assert sum((await outbox.counts()).values()) == 300

    @pytest.mark.process
    async def test_what_was_acknowledged_survives_a_kill(
        self, url: str, reopen: Callable[[], Awaitable[Outbox]]
    ) -> None:
        body = """
async def take(name):
    for n in range(10**9):
        result = await outbox.put(new_lead(f"{name}-{n}"))
        os.write(1, (result.lead_id + "\\n").encode())
await asyncio.gather(*(take(name) for name in "abcdefgh"))
"""
        process = await Child(url, body).start()
        assert process.stdout is not None
        printed = b"".join([await process.stdout.readline() for _ in range(300)])

        process.send_signal(signal.SIGKILL)
        printed += (await process.communicate())[0]

        # The last line may have been cut off by the kill.
        acknowledged = printed.decode().split("\n")[:-1]
        there = set(await ids(await reopen()))
        assert len(acknowledged) >= 300
        assert set(acknowledged) <= there
