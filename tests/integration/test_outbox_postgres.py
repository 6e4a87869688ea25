"""The outbox on PostgreSQL: the contract, and what only a server can suffer."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager

import pytest

from relay.core.leads import LeadStatus
from relay.outbox import deliveries
from relay.outbox.backends import open_outbox, postgres_native
from relay.outbox.backends.postgres import PostgresOutbox
from relay.outbox.backends.postgres_session import STEPS, connect
from relay.outbox.contract import (
    Claim,
    Inserted,
    OutboxUnavailableError,
    SchemaChangedError,
    SchemaTooNewError,
    Settlement,
    UnstorableError,
)
from tests.support.outbox_contract import OutboxContract
from tests.support.outbox_rig import (
    LEASE,
    NOW,
    attempt,
    ids,
    lead,
    new_lead,
    put_all,
    put_together,
    signup,
)
from tests.support.postgres_server import PostgresServer


class TestPostgresOutbox(OutboxContract):
    @pytest.fixture
    def new_url(self, postgres: PostgresServer) -> Callable[[], str]:
        return postgres.new_url

    @pytest.fixture
    def outage(
        self, postgres: PostgresServer
    ) -> Callable[[], AbstractContextManager[None]]:
        return postgres.outage


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_url()


@contextlib.asynccontextmanager
async def opened(url: str, timeout_s: float = 5) -> AsyncIterator[PostgresOutbox]:
    outbox = PostgresOutbox(url, timeout_s=timeout_s)
    await outbox.open()
    try:
        yield outbox
    finally:
        await outbox.close()


@contextlib.asynccontextmanager
async def relays(url: str, number: int = 3) -> AsyncIterator[list[PostgresOutbox]]:
    """So many relays' outboxes on one database, each with its own connections."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(url)) for _ in range(number)]


# --- Opening. ---


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_url_names_the_server(scheme: str) -> None:
    assert isinstance(open_outbox(f"{scheme}://me@db/relay"), PostgresOutbox)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me:hunter2@127.0.0.1:9/relay", "127.0.0.1"),
        ("postgresql:///relay?host=/gone&password=hunter2", "No such file"),
        ("postgresql://me:hunter2@127.0.0.1:9/relay?sslmode=what", "cannot connect"),
    ],
)
async def test_a_server_that_is_not_there_is_named_without_the_password(
    url: str, says: str
) -> None:
    with pytest.raises(OutboxUnavailableError, match=says) as caught:
        await open_outbox(url).open()

    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_database_that_is_not_there_is_named(postgres: PostgresServer) -> None:
    gone = postgres.new_url().replace("/postgres?", "/gone?")

    with pytest.raises(OutboxUnavailableError, match='database "gone" does not exist'):
        await open_outbox(gone).open()


async def test_a_newer_database_is_left_alone(
    url: str, postgres: PostgresServer
) -> None:
    async with opened(url) as outbox:
        postgres.sql("UPDATE schema_version SET version = 9999", url)

        # One that runs goes on until it has to connect anew.
        assert (await outbox.put(new_lead())).outcome is Inserted.NEW
        disconnect(postgres)
        with pytest.raises(SchemaTooNewError, match="9999"):
            await outbox.put(new_lead())

    with pytest.raises(SchemaTooNewError, match="9999"):
        await open_outbox(url).open()


async def test_a_database_of_another_text_of_a_migration_is_refused_at_once(
    url: str, postgres: PostgresServer
) -> None:
    async with opened(url):
        postgres.sql("UPDATE schema_history SET checksum = 'another'", url)

    with pytest.raises(SchemaChangedError, match="made by another version"):
        await open_outbox(url).open()


async def test_a_database_that_lost_its_tables_is_not_silently_made_anew(
    url: str, postgres: PostgresServer
) -> None:
    async with opened(url) as outbox:
        disconnect(postgres)
        postgres.sql("ALTER TABLE schema_version RENAME TO aside", url)

        with pytest.raises(OutboxUnavailableError, match="lost its tables"):
            await outbox.put(new_lead())


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [step.version for step in STEPS] == list(range(1, len(STEPS) + 1))


def disconnect(postgres: PostgresServer) -> None:
    """End every connection but this one, as a restart of the server would."""
    postgres.sql(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )


# --- Trouble. ---


async def test_connections_that_were_cut_are_made_anew(
    url: str, postgres: PostgresServer
) -> None:
    async with opened(url) as outbox:
        await put_all(outbox, [new_lead(), new_lead()])
        disconnect(postgres)
        await asyncio.sleep(0)

        assert (await outbox.put(new_lead())).outcome is Inserted.NEW
        assert len(await outbox.claim(9, NOW, LEASE)) == 3
        assert await outbox.counts() == {LeadStatus.SENDING: 3}


async def test_what_is_locked_for_too_long_is_an_outage_that_passes(
    url: str, postgres: PostgresServer
) -> None:
    async with opened(url, timeout_s=0.2) as outbox:
        other = await connect(url)
        async with other.transaction():
            await other.execute("LOCK TABLE leads")
            with pytest.raises(OutboxUnavailableError, match="timeout"):
                await outbox.put(new_lead())
            with pytest.raises(OutboxUnavailableError, match="timeout"):
                await outbox.oldest_open()
            with pytest.raises(OutboxUnavailableError, match="timeout"):
                await outbox.claim(1, NOW, LEASE)
        await other.close()

        assert (await outbox.put(new_lead())).outcome is Inserted.NEW
        assert len(await outbox.claim(1, NOW, LEASE)) == 1


async def test_the_counts_of_many_statements_are_summed_up(url: str) -> None:
    async with opened(url) as outbox:
        for _ in range(300):
            await outbox.put(new_lead())
        claims = await outbox.claim(300, NOW, LEASE)
        for claim in claims[:100]:
            await outbox.settle(claim, Settlement(LeadStatus.DELIVERED), NOW)

        counted = {LeadStatus.SENDING: 200, LeadStatus.DELIVERED: 100}
        assert await outbox.counts() == counted
        connection = await connect(url)
        assert await connection.fetchval("SELECT count(*) FROM tallies") < 300
        await connection.close()


async def test_a_server_that_hangs_is_an_outage_that_passes(
    url: str, postgres: PostgresServer
) -> None:
    async with opened(url, timeout_s=0.2) as outbox:
        with postgres.frozen():
            with pytest.raises(OutboxUnavailableError):
                await outbox.put(new_lead())
            with pytest.raises(OutboxUnavailableError):
                await outbox.put(new_lead())

        assert (await outbox.put(new_lead())).outcome is Inserted.NEW


async def test_a_read_only_server_takes_nothing(
    url: str, postgres: PostgresServer
) -> None:
    async with opened(url):
        pass
    # As a standby is, to which a failover has not come yet.
    with pytest.raises(OutboxUnavailableError, match="read-only"):
        async with opened(f"{url}&default_transaction_read_only=on") as outbox:
            await outbox.check_writable()


async def test_trouble_says_nothing_of_what_is_stored(
    url: str, postgres: PostgresServer
) -> None:
    async with opened(url) as outbox:
        postgres.sql("ALTER TABLE leads ADD CHECK (customer <> 'secret')", url)
        with pytest.raises(UnstorableError) as caught:
            await outbox.put(new_lead(lead("secret")))

    assert "secret" not in str(caught.value)


# --- Several relays at the same moment. ---


async def test_relays_that_claim_together_take_one_lead_of_a_customer_at_a_time(
    url: str,
) -> None:
    async with relays(url) as outboxes:
        new_leads = [new_lead(lead(f"u{n % 20}")) for n in range(200)]
        await put_all(outboxes[0], new_leads)
        under_way: set[str] = set()
        order: dict[str, list[str]] = defaultdict(list)

        async def deliver(outbox: PostgresOutbox) -> None:
            while sum(map(len, order.values())) < len(new_leads):
                claims = await outbox.claim(5, NOW, LEASE)
                for claim in claims:
                    customer = claim.entry.lead.customer_external_id
                    assert customer not in under_way
                    under_way.add(customer)
                    order[customer].append(claim.entry.lead.id)
                await asyncio.gather(*(end(outbox, claim) for claim in claims))

        async def end(outbox: PostgresOutbox, claim: Claim) -> None:
            await outbox.begin_recording(claim, [attempt()], NOW, LEASE)
            # Before the settlement: after its commit another may claim at once.
            under_way.discard(claim.entry.lead.customer_external_id)
            assert await outbox.settle(claim, Settlement(LeadStatus.DELIVERED), NOW)

        async with asyncio.timeout(60):
            await asyncio.gather(*map(deliver, outboxes))

    assert order == {
        f"u{n}": [
            o.lead.id for o in new_leads if o.lead.customer_external_id == f"u{n}"
        ]
        for n in range(20)
    }


async def test_one_sign_up_told_to_all_relays_at_once_is_new_to_one(url: str) -> None:
    async with relays(url) as outboxes:
        new_leads = [[signup(f"u{n}") for n in range(100)] for _ in outboxes]
        # The same ones, but none in the same order.
        turned = [some[n * 30 :] + some[: n * 30] for n, some in enumerate(new_leads)]

        results = await asyncio.gather(*map(put_together, outboxes, turned))

        taken = [one.outcome for some in results for one in some]
        assert taken.count(Inserted.NEW) == 100
        assert await outboxes[0].counts() == {LeadStatus.QUEUED: 100}


async def test_one_request_told_to_all_relays_at_once_is_taken_once(url: str) -> None:
    async with relays(url) as outboxes:
        # A key used for several customers: nothing but the key brings them together.
        new_leads = [
            [new_lead(idempotency_key=f"m{n}", body_hash=bytes([m])) for n in range(50)]
            for m in range(len(outboxes))
        ]
        turned = [some[n * 20 :] + some[: n * 20] for n, some in enumerate(new_leads)]

        results = await asyncio.gather(*map(put_together, outboxes, turned))

        taken = [one.outcome for some in results for one in some]
        assert (
            taken.count(Inserted.NEW),
            taken.count(Inserted.CONFLICT),
        ) == (50, 100)


async def test_a_lead_is_visible_to_claims_only_after_the_customers_earlier_ones(
    url: str,
) -> None:
    async with relays(url, 2) as (one, other):
        blocker = await connect(url)
        first, second = new_lead(lead("u")), new_lead(lead("u"))
        async with blocker.transaction():
            # Both relays wait in the customer's line; whoever is first in it is
            # also the older lead for every claim.
            await blocker.execute("SELECT n FROM lines FOR UPDATE")
            putting = asyncio.gather(one.put(first), other.put(second))
            await asyncio.sleep(0.1)
            assert await one.claim(9, NOW, LEASE) == []
        await putting
        await blocker.close()

        listed = await ids(one)
        claims = await other.claim(9, NOW, LEASE)
        assert [claim.entry.lead.id for claim in claims] == listed[-1:]


# --- Speed that must not depend on how many leads there are. ---


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        pytest.param(f"{postgres_native.DUE} 64", "leads_due", id="claim"),
        pytest.param(f"{postgres_native.NEWEST_DUE} 64", "leads_status", id="newest"),
        pytest.param(deliveries.PARK, "leads_due", id="park"),
        pytest.param(deliveries.UNPARK, "leads_status", id="unpark"),
    ],
)
async def test_delivery_walks_an_index_and_sorts_nothing(
    url: str, statement: str, index: str
) -> None:
    async with opened(url):
        connection = await connect(url)
        # Such a plan as a prepared statement has, which knows no values.
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        kinds = ", ".join(["bigint"] * len(set(re.findall(r"\$\d", statement))))
        values = ", ".join(["1"] * (kinds.count(",") + 1))
        call = f"probed({values})" if kinds else "probed"
        head = f"PREPARE probed ({kinds}) AS" if kinds else "PREPARE probed AS"
        await connection.execute(f"{head} {statement}")
        rows = await connection.fetch(f"EXPLAIN EXECUTE {call}")
        plan = "\n".join(row[0] for row in rows)
        await connection.close()

    assert re.search(rf"Scan (Backward )?using {index}\b", plan), plan
    assert "Sort" not in plan
    assert "Seq Scan" not in plan
