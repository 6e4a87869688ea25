"""The part of the contract about personal data: erased, encrypted, walked through."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from relay.core.leads import RETRYABLE, SETTLED, Lead, LeadRecord, LeadStatus
from relay.outbox.backends import open_outbox
from relay.outbox.contract import (
    Inserted,
    NewLead,
    Outbox,
    Query,
    Settlement,
    Wanted,
)
from relay.outbox.encryption import Seal
from relay.outbox.personal_data import FORGOTTEN
from relay.outbox.records import pseudonym
from tests.support.outbox_rig import (
    DAY,
    LEASE,
    NOW,
    attempt,
    claim_one,
    claimed,
    entry,
    ids,
    lead,
    new_lead,
    put_all,
    requeue,
    signup,
    status,
)

Reopen = Callable[[], Awaitable[Outbox]]

PERSON: dict[str, Any] = {
    "customer_name": "Zoë",
    "customer_email": "zoe@example.com",
    "customer_avatar": "https://example.com/zoe.png",
    "event_quantity": 2,
    "metadata": {"plan": "pro"},
    "notes": ("zoe's note",),
    "origin": {"click": "cookie"},
}

U = Wanted(customer="zoe@example.com")


def zoe(at: int = NOW, **more: Any) -> NewLead:
    """A sign-up whose customer's id is an address, with everything about her."""
    made = lead(U.customer, created_at=at, **PERSON)
    return new_lead(made, dedupe_key="k", dedupe_since=at - 90 * DAY, **more)


async def reach(outbox: Outbox, wanted: LeadStatus, made: NewLead) -> str:
    """Put a lead and bring it into a state; its id."""
    if wanted in {LeadStatus.HELD, LeadStatus.REJECTED}:
        await outbox.put(new_lead(made.lead, status=wanted))
        return made.lead.id
    await outbox.put(made)
    if wanted is LeadStatus.QUEUED:
        return made.lead.id
    claim = await claim_one(outbox, made.lead.created_at)
    if wanted is LeadStatus.UNCONFIRMED:
        await outbox.begin_recording(claim, [], NOW, LEASE)
    if wanted is not LeadStatus.SENDING:
        end = LeadStatus.DELIVERED if wanted is LeadStatus.CONFIRMED else wanted
        due_at = NOW + DAY if wanted is LeadStatus.WAITING else None
        await outbox.settle(claim, Settlement(end, [attempt()], due_at=due_at), NOW)
    if wanted is LeadStatus.CONFIRMED:
        await outbox.confirm([made.lead.id], NOW)
    return made.lead.id


def require_erased(found: LeadRecord, by: str) -> None:
    """Nothing of the person is left, and the story says why."""
    kept = found.lead
    assert kept == Lead(
        id=kept.id,
        source="hook",
        click_id=kept.click_id,
        event_name="Sign Up",
        customer_external_id=pseudonym("zoe@example.com"),
        created_at=kept.created_at,
        notes=kept.notes,
        origin={"click": "cookie"},
    )
    (told,) = kept.notes
    assert by in told
    assert found.erased_at is not None


class KeepingContract:
    """What any outbox does with personal data."""

    # --- Retention. ---

    @pytest.mark.parametrize("settled", sorted(SETTLED))
    async def test_what_dub_has_loses_its_personal_data(
        self, outbox: Outbox, settled: LeadStatus
    ) -> None:
        lead_id = await reach(outbox, settled, zoe())

        assert await outbox.erase_due(NOW, 9, NOW + DAY) == 0
        assert await outbox.erase_due(NOW + 1, 9, NOW + DAY) == 1
        assert await outbox.erase_due(NOW + 1, 9, NOW + DAY) == 0

        found = await entry(outbox, lead_id)
        require_erased(found, "its time was over")
        assert (found.status, found.attempts) == (settled, 1)
        assert len(await outbox.attempts(lead_id)) == 1

    @pytest.mark.parametrize("other", sorted(set(LeadStatus) - SETTLED))
    async def test_what_dub_has_not_keeps_its_data(
        self, outbox: Outbox, other: LeadStatus
    ) -> None:
        if other is LeadStatus.PARKED:
            await outbox.put(zoe())
            await outbox.park_due(NOW, 9)
        else:
            await reach(outbox, other, zoe())

        assert await outbox.erase_due(NOW + 90 * DAY, 9, NOW + 91 * DAY) == 0

    async def test_a_batch_takes_the_oldest_and_no_more(self, outbox: Outbox) -> None:
        made = [zoe_of(n) for n in range(5)]
        for one in made:
            await reach(outbox, LeadStatus.DELIVERED, one)

        assert await outbox.erase_due(NOW + DAY, 3, NOW + DAY) == 3

        erased = [(await entry(outbox, x.lead.id)).erased_at for x in made]
        assert [at is not None for at in erased] == [True] * 3 + [False] * 2

    async def test_several_relays_may_erase_at_once(
        self, outbox: Outbox, reopen: Reopen
    ) -> None:
        others = [outbox, await reopen(), await reopen()]
        for n in range(12):
            await reach(outbox, LeadStatus.DELIVERED, zoe_of(n))

        async def sweep(store: Outbox) -> int:
            total = 0
            while got := await store.erase_due(NOW + DAY, 2, NOW + DAY):
                total += got
            return total

        await asyncio.gather(*map(sweep, others))
        await sweep(outbox)

        found = await outbox.list(Query())
        assert [x.erased_at for x in found] == [NOW + DAY] * 12

    async def test_a_repeat_is_a_repeat_after_the_erasure(self, outbox: Outbox) -> None:
        first = zoe(idempotency_key="m", body_hash=b"1")
        await reach(outbox, LeadStatus.DELIVERED, first)
        await outbox.erase_due(NOW + 1, 9, NOW + 40 * DAY)

        same_request = await outbox.put(
            new_lead(idempotency_key="m", body_hash=b"another, nobody can tell")
        )
        same_sign_up = await outbox.put(zoe(NOW + 40 * DAY))
        too_late = await outbox.put(zoe(NOW + 91 * DAY))

        for result in (same_request, same_sign_up):
            assert (result.outcome, result.lead_id) == (
                Inserted.DUPLICATE,
                first.lead.id,
            )
        assert too_late.outcome is Inserted.NEW
        newest = await outbox.put(zoe(NOW + 92 * DAY))
        assert newest.lead_id == too_late.lead_id

    async def test_the_erased_are_found_under_the_customers_id(
        self, outbox: Outbox
    ) -> None:
        lead_id = await reach(outbox, LeadStatus.DELIVERED, zoe())
        await outbox.erase_due(NOW + 1, 9, NOW + DAY)

        for name in ("zoe@example.com", pseudonym("zoe@example.com")):
            assert await ids(outbox, Query(customer=name)) == [lead_id]
        assert await outbox.confirm([lead_id], NOW) == 1

    # --- Forgetting one customer. ---

    @pytest.mark.parametrize("state", sorted(set(LeadStatus) - {LeadStatus.PARKED}))
    async def test_a_customer_is_forgotten_in_every_state(
        self, outbox: Outbox, state: LeadStatus
    ) -> None:
        lead_id = await reach(outbox, state, zoe())
        other = await reach(outbox, LeadStatus.HELD, new_lead(lead("other", **PERSON)))

        forgotten = await outbox.forget(U, NOW)
        again = await outbox.forget(U, NOW)

        assert (dict(forgotten.leads), forgotten.before) == ({state: 1}, 0)
        assert (dict(again.leads), again.before) == ({}, 1)
        found = await entry(outbox, lead_id)
        require_erased(found, "on request")
        stays = state in SETTLED | {LeadStatus.UNCONFIRMED, LeadStatus.REJECTED}
        assert found.status is (state if stays else LeadStatus.REJECTED)
        if found.status in RETRYABLE:
            assert found.last_error == FORGOTTEN
        assert (await requeue(outbox, lead_id, NOW)).due_at is None
        assert await outbox.claim(9, NOW + 2 * DAY, LEASE) == []
        assert (await entry(outbox, other)).lead.customer_name == "Zoë"
        assert (await outbox.scrub(forgotten)).clean

    async def test_a_parked_lead_is_forgotten(self, outbox: Outbox) -> None:
        await outbox.put(zoe())
        await outbox.park_due(NOW, 9)

        forgotten = await outbox.forget(U, NOW)

        assert dict(forgotten.leads) == {LeadStatus.PARKED: 1}
        assert await outbox.claim(9, NOW + DAY, LEASE) == []

    async def test_a_call_under_way_loses_its_lease(self, outbox: Outbox) -> None:
        await outbox.put(zoe())
        claim = await claim_one(outbox)
        await outbox.forget(U, NOW)

        assert not await outbox.begin_recording(claim, [], NOW, LEASE)
        assert not await outbox.settle(claim, Settlement(LeadStatus.DELIVERED), NOW)
        assert await status(outbox, claim.entry.lead.id) is LeadStatus.REJECTED

    async def test_what_may_have_counted_stays_in_doubt(self, outbox: Outbox) -> None:
        await outbox.put(zoe())
        claim = await claim_one(outbox)
        await outbox.begin_recording(claim, [attempt()], NOW, LEASE)
        await outbox.forget(U, NOW)

        found = await entry(outbox, claim.entry.lead.id)
        assert (found.status, found.in_doubt) == (LeadStatus.UNCONFIRMED, True)
        assert (await outbox.put(zoe(NOW + 1))).outcome is Inserted.DUPLICATE

    async def test_one_lead_is_forgotten_and_the_next_in_line_goes(
        self, outbox: Outbox
    ) -> None:
        first, second = signup("u", key="a"), signup("u", key="b")
        await put_all(outbox, [first, second])
        claim = await claim_one(outbox)
        assert await outbox.claim(9, NOW, LEASE) == []

        await outbox.forget(Wanted(lead_id=first.lead.id), NOW)

        assert claim.entry.lead.id == first.lead.id
        assert claimed(await outbox.claim(9, NOW, LEASE)) == [second.lead.id]

    # --- Walking through everything. ---

    async def test_a_scan_gives_what_a_list_gives(self, outbox: Outbox) -> None:
        await put_all(outbox, [signup(f"u{n % 3}", key=str(n)) for n in range(1203)])

        for query in (
            Query(),
            Query(limit=501),
            Query(customer="u1", status=LeadStatus.QUEUED, since=NOW),
            Query(since=NOW + 1),
        ):
            scanned = [one.lead.id async for one in outbox.scan(query)]
            assert scanned == await ids(outbox, query)

    # --- Encryption at rest. ---

    async def test_personal_data_is_encrypted_and_read_again(
        self, outbox: Outbox, sealed: Callable[..., Awaitable[Outbox]]
    ) -> None:
        plain, secret = zoe_of(1), zoe_of(2)
        await outbox.put(plain)
        store = await sealed("first-key-of-them-all")
        await store.put(secret)

        assert (await entry(store, plain.lead.id)).lead == plain.lead
        assert (await entry(store, secret.lead.id)).lead == secret.lead
        assert claimed(await store.claim(9, NOW + DAY, LEASE)) == [
            *(plain.lead.id, secret.lead.id)
        ]
        [read] = await outbox.list(Query(customer="zoe2"))
        assert read.lead.customer_email is None
        assert read.sealed is not None
        assert "RELAY_DATA_KEY" in read.sealed

    async def test_dubs_answer_is_encrypted_and_erased_with_the_rest(
        self, outbox: Outbox, sealed: Callable[..., Awaitable[Outbox]]
    ) -> None:
        store = await sealed("first-key-of-them-all")
        await store.put(zoe_of(1))
        claim = await claim_one(store, NOW + 1)
        end = Settlement(LeadStatus.DELIVERED, answer='[200, {"name": "Zoë"}]')
        await store.settle(claim, end, NOW)
        lead_id = claim.entry.lead.id

        assert (await entry(store, lead_id)).answer == end.answer
        assert (await entry(outbox, lead_id)).answer is None
        await store.forget(Wanted(customer="zoe1"), NOW)
        assert (await entry(store, lead_id)).answer is None

    async def test_keys_are_rotated_without_a_stop(
        self, outbox: Outbox, sealed: Callable[..., Awaitable[Outbox]]
    ) -> None:
        made = [zoe_of(n) for n in range(4)]
        await outbox.put(made[0])
        await (await sealed("first-key-of-them-all")).put(made[1])
        both = await sealed("other-key-of-them-all", "first-key-of-them-all")
        await both.put(made[2])

        async def rekey(store: Outbox) -> tuple[int, int]:
            changed = unreadable = 0
            last: int | None = 0
            while last is not None:
                done = await store.rekey(last, 2)
                changed, unreadable = (
                    changed + done.changed,
                    unreadable + (done.unreadable),
                )
                last = done.last
            return changed, unreadable

        assert await rekey(await sealed("third-key-of-them-all")) == (1, 2)
        assert await rekey(both) == (1, 1)
        everything = await sealed(
            "other-key-of-them-all", "third-key-of-them-all", "first-key-of-them-all"
        )
        assert await rekey(everything) == (1, 0)
        assert await rekey(everything) == (0, 0)
        only = await sealed("other-key-of-them-all")
        assert [one.lead for one in await only.list(Query())] == [
            one.lead for one in reversed(made[:3])
        ]

    @pytest.fixture
    async def sealed(self, url: str) -> Any:
        """Open the database with keys."""
        opened: list[Outbox] = []

        async def sealed(*keys: str) -> Outbox:
            store = open_outbox(url, Seal(keys))
            opened.append(store)
            await store.open()
            return store

        yield sealed
        for store in opened:
            await store.close()


def zoe_of(number: int) -> NewLead:
    """One of several customers, each captured a moment later."""
    return new_lead(lead(f"zoe{number}", created_at=NOW + number, **PERSON))
