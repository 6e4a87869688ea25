"""``POST hooks/<name>``: a provider's own event becomes a lead, a sale, or both.

The same for every row of :data:`relay.core.providers.PROVIDERS` and every
``[[hook]]``: the signature first, then the payload, then the commit. Only then is the
caller answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aiohttp import web

from relay.capture.intake import Capture, Intake
from relay.capture.spill import Spill
from relay.core import signing
from relay.core.clock import Clock
from relay.core.dub.track_lead import (
    InvalidFieldError,
    sanitise,
)
from relay.core.dub.track_sale import sanitise_sale
from relay.core.http.tickets import (
    FoundClick,
    Opener,
)
from relay.core.providers.account import (
    Event,
    Ignored,
    NewAccount,
    PayloadError,
    Provider,
    ProviderSale,
    Verify,
)
from relay.core.rules import hook_events
from relay.core.rules.bodies import Copy
from relay.core.rules.documents import Document, asked_document
from relay.core.rules.hook_rules import (
    HOOK_ROOTS,
    NOTHING_ADDED,
    Additions,
    HookRule,
)
from relay.http.responses import RefusedError, answer, read_object, try_again
from relay.observability.logging import get_logger
from relay.outbox.contract import (
    Inserted,
    NewLead,
    OutboxUnavailableError,
)

log = get_logger()

PATIENCE_S: Final = 2.0
"""How long a sign-up that waits for us may wait for the database; then its lead
goes to the spill file. Supabase gives a hook five seconds."""

STATUS: Final = {"queued": 202, "unattributed": 202}
"""What is answered with; anything else with 200."""

TOGETHER: Final = 50
"""Events of one call that are with the database at once: they share a commit."""

KNOWN_BEFORE: Final = "This purchase is of a customer known before."
UNKNOWN: Final = (
    "The relay has no lead and no sale of this customer, and the event does not name"
    " the site's own id: set metadata.dubCustomerExternalId."
)
EARLIER: Final = "customer"
"""What a lead's click comes from where it is the one that Dub has of the customer."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What all providers' hooks share."""

    intake: Intake
    spill: Spill
    opener: Opener
    event: str
    clock: Clock


class UnverifiedError(RefusedError):
    """A call that does not prove who made it; ``result`` is what it counts as."""

    def __init__(self, result: str, problem: str) -> None:
        super().__init__(401, problem)
        self.result = result


@dataclass(frozen=True, slots=True)
class Check:
    """How a source's calls are checked; ``secret`` names its keys for people."""

    verify: Verify
    keys: Sequence[bytes]
    secret: str

    def verified(self, headers: Mapping[str, str], body: bytes, now: int) -> str:
        """Return the id of a signed message, or raise UnverifiedError."""
        try:
            return self.verify(self.keys, headers, body, now)
        except signing.SignatureMismatchError:
            problem = f"The signature does not fit {self.secret}."
            raise UnverifiedError("forged", problem) from None
        except signing.BadSignatureError as error:
            stale = isinstance(error, signing.StaleTimestampError)
            word = "stale" if stale else "unsigned"
            raise UnverifiedError(word, str(error)) from None


class Taking:
    """Takes the events of one source, verified and read: leads and sales.

    ``blocking``: a person's sign-up waits for the answer, and fails with an error.
    """

    def __init__(self, source: str, parts: Parts, *, blocking: bool = False) -> None:
        self._source = source
        self._parts = parts
        self._blocking = blocking

    async def take(self, event: Event) -> dict[str, Any]:
        """Commit what an event comes to; return the answer. Raises RefusedError."""
        if isinstance(event, Ignored):
            return self.ignored(event.reason)
        said = await self._lead(event)
        if event.sale is None:
            return said
        if event.sale.direct:
            return await self._direct(event, event.sale)
        if event.sale.known and not await self._knows(event):
            return self.ignored(UNKNOWN)
        said["sale"] = await self._sale(event, event.sale)
        return said

    async def _lead(self, signup: NewAccount) -> dict[str, Any]:
        if not signup.lead:
            # Of a direct sale the sale itself is counted.
            direct = signup.sale is not None and signup.sale.direct
            return {} if direct else self.ignored(KNOWN_BEFORE)
        found = self._click(signup)
        if found.click_id is None and signup.earlier_click:
            if signup.known and not await self._knows(signup):
                return self.ignored(UNKNOWN)
            found = FoundClick("", EARLIER)
        if found.click_id is None:
            return self._unattributed(found)
        return await self._commit(self._new_lead(signup, found, found.click_id))

    def _click(self, signup: NewAccount) -> FoundClick:
        opener, now = self._parts.opener, self._parts.clock()
        return opener.find(signup.trusted, signup.writable, now, signup.at)

    def _unattributed(self, found: FoundClick) -> dict[str, Any]:
        self._parts.intake.unattributed(self._source)
        return {"id": None, "status": "unattributed", "reason": found.told_by}

    async def _knows(self, signup: NewAccount) -> bool:
        try:
            return await self._parts.intake.knows(
                str(signup.person["customerExternalId"])
            )
        except OutboxUnavailableError:
            raise _again() from None

    def _new_lead(
        self, signup: NewAccount, found: FoundClick, click_id: str
    ) -> NewLead:
        try:
            fields, notes = sanitise({"eventName": self._parts.event, **signup.person})
        except InvalidFieldError as error:
            raise RefusedError(422, error.issue.text) from None
        capture = Capture(
            source=self._source,
            click_id=click_id,
            fields=fields,
            notes=(*signup.notes, *notes),
            origin={"click": found.told_by, "event": signup.kind},
            # No hash of the body: repeats differ in it (Stripe counts in it how
            # many deliveries are pending).
            idempotency_key=signup.event_id or None,
        )
        return self._parts.intake.new_lead(capture)

    async def _commit(self, new_lead: NewLead) -> dict[str, Any]:
        patience = PATIENCE_S if self._blocking else None
        try:
            async with asyncio.timeout(patience):
                result = await self._parts.intake.commit(new_lead)
        except (OutboxUnavailableError, TimeoutError):
            return await self._uncommitted(new_lead)
        new = result.outcome is Inserted.NEW
        return {"id": result.lead_id, "status": "queued" if new else "duplicate"}

    async def _uncommitted(self, new_lead: NewLead) -> dict[str, Any]:
        """Spill what nobody will send again; have the rest sent again."""
        if not self._blocking:
            raise _again() from None
        if await self._parts.spill.keep(new_lead, None):
            return {"id": new_lead.lead.id, "status": "queued"}
        self.count("missed")
        return {"id": None, "status": "missed", "reason": "neither database nor disk"}

    async def _direct(self, signup: NewAccount, sale: ProviderSale) -> dict[str, Any]:
        """Commit a sale that brings its click; answer with it as the one result."""
        found = self._click(signup)
        if found.click_id is None and not await self._knows(signup):
            return self._unattributed(found)
        committed = await self._sale(signup, sale, found)
        return {**committed, "sale": committed}

    async def _sale(
        self, signup: NewAccount, sale: ProviderSale, found: FoundClick | None = None
    ) -> dict[str, Any]:
        """Commit a sale; in its customer's queue it waits behind the lead, if any."""
        try:
            fields, notes = sanitise_sale({**signup.person, **sale.body})
        except InvalidFieldError as error:
            raise RefusedError(422, error.issue.text) from None
        if sale.refund and fields.sale is not None:
            refund = replace(
                fields.sale, refund=True, unnamed=sale.unnamed, by_hand=sale.by_hand
            )
            fields = replace(fields, sale=refund)
        brought = found is not None and found.click_id is not None
        capture = Capture(
            source=self._source,
            click_id=(found.click_id or "") if found else "",
            fields=fields,
            notes=(*signup.notes, *notes),
            origin={
                "click": found.told_by if found and brought else EARLIER,
                "event": signup.kind,
            },
            idempotency_key=f"sale:{signup.event_id}",
        )
        return await self._commit(self._parts.intake.new_lead(capture))

    def ignored(self, reason: str) -> dict[str, Any]:
        """Count an event that comes to nothing; return the answer."""
        self.count("ignored")
        return {"status": "ignored", "reason": reason}

    def count(self, result: str) -> None:
        """Count a call by what became of it."""
        self._parts.intake.count(self._source, result)


class ProviderHook:
    """One provider's endpoint; ``additions`` are what ``[hooks.NAME]`` says more."""

    def __init__(
        self,
        provider: Provider,
        keys: Sequence[bytes],
        parts: Parts,
        additions: Additions = NOTHING_ADDED,
    ) -> None:
        self._provider = provider
        self._check = Check(provider.verify, keys, provider.env)
        self._clock = parts.clock
        self._additions = additions
        if additions.event is not None:
            parts = replace(parts, event=additions.event)
        self._taking = Taking(provider.name, parts, blocking=provider.blocking)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer as ``hooks/signup`` does; with 200 what is no sign-up."""
        provider = self._provider
        if not self._check.keys:
            raise RefusedError(
                404, f"hooks/{provider.name} is off: set {provider.env}."
            )
        body = await request.read()
        message_id = self._verified(request, body)
        try:
            event = _read(provider, body, message_id)
            if isinstance(event, NewAccount) and self._additions:
                event = self._added(event, request, body)
            said = await self._taking.take(event)
        except RefusedError as refused:
            if not provider.blocking:
                raise
            # Genuine, and a person's sign-up waits for the answer.
            log.error("hook.unusable", source=provider.name, reason=refused.message)
            said = self._taking.ignored(refused.message)
        return answer(said, STATUS.get(said["status"], 200))

    def _verified(self, request: web.Request, body: bytes) -> str:
        try:
            return self._check.verified(request.headers, body, self._clock())
        except UnverifiedError as refused:
            self._taking.count(refused.result)
            raise

    def _added(
        self, event: NewAccount, request: web.Request, body: bytes
    ) -> NewAccount:
        """Add what the operator wants said of each lead, and of its sale."""
        additions = self._additions
        fields: dict[str, object] = {}
        notes: tuple[str, ...] = ()
        if additions.searches:
            document = _document(request, body)
            fields, notes = hook_events.added(additions, document)
        if additions.mode is not None:
            fields["mode"] = additions.mode.value
        metadata = {**_object(event.person), **_object(fields)}
        if metadata:
            fields["metadata"] = metadata
        # A quantity that the event itself has (the seats of a trial) is nearer.
        person = {**fields, **event.person, **_only(fields, "metadata", "mode")}
        return replace(event, person=person, notes=(*event.notes, *notes))


def _object(fields: Mapping[str, object]) -> Mapping[str, object]:
    found = fields.get("metadata")
    return found if isinstance(found, Mapping) else {}


def _only(fields: Mapping[str, object], *names: str) -> dict[str, object]:
    return {name: fields[name] for name in names if name in fields}


def _read(provider: Provider, body: bytes, message_id: str) -> Event:
    document = read_object(body)
    try:
        return provider.read(document, message_id)
    except PayloadError as error:
        raise RefusedError(422, str(error)) from None


class MappedHook:
    """The endpoint of the ``[[hook]]`` tables of one path.

    Of those whose signature fits, the first whose ``when`` holds decides.
    """

    def __init__(self, rules: Sequence[HookRule], parts: Parts) -> None:
        self._checked = [
            (rule, Check(rule.verify, rule.keys, f"that of [[hook]] {rule.path}"))
            for rule in rules
        ]
        self._clock = parts.clock
        self._taking = Taking(rules[0].path, parts)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer as ``hooks/signup`` does; with 200 what no rule takes for a lead."""
        body = await request.read()
        verified = self._verified(request, body)
        first, _ = verified[0]
        try:
            documents = hook_events.events(first, _document(request, body))
        except PayloadError as error:
            raise RefusedError(422, str(error)) from None
        if first.each is None:
            said = await self._taking.take(_event(verified, documents[0]))
        else:
            said = await self._many(verified, documents)
        return answer(said, STATUS.get(said["status"], 200))

    async def _many(
        self, verified: Sequence[tuple[HookRule, str]], documents: Sequence[Document]
    ) -> dict[str, Any]:
        """Take a list of events, in its order; the answer has what came of each.

        One that lacks what a lead needs costs the others nothing. Where the database
        is away all come again, and those that were taken count once.
        """
        results: list[dict[str, Any]] = []
        for begin in range(0, len(documents), TOGETHER):
            some = documents[begin : begin + TOGETHER]
            numbered = enumerate(some, begin)
            taken = (self._one(verified, it, number) for number, it in numbered)
            results += await asyncio.gather(*taken)
        queued = any(said["status"] == "queued" for said in results)
        return {"status": "queued" if queued else "done", "results": results}

    async def _one(
        self, verified: Sequence[tuple[HookRule, str]], document: Document, number: int
    ) -> dict[str, Any]:
        ids = [(rule, f"{said}:{number}" if said else "") for rule, said in verified]
        try:
            return await self._taking.take(_event(ids, document))
        except RefusedError as refused:
            if refused.status >= 500:
                raise
            return self._taking.ignored(refused.message)

    def _verified(
        self, request: web.Request, body: bytes
    ) -> list[tuple[HookRule, str]]:
        """Return the rules whose signature fits; raise RefusedError if none does."""
        found: list[tuple[HookRule, str]] = []
        refused: UnverifiedError | None = None
        for rule, check in self._checked:
            try:
                said = check.verified(request.headers, body, self._clock())
                found.append((rule, said))
            except UnverifiedError as error:
                refused = refused or error
        if not found and refused is not None:
            self._taking.count(refused.result)
            raise refused
        return found


def _event(verified: Sequence[tuple[HookRule, str]], document: Document) -> Event:
    """Read an event by the first rule whose ``when`` holds."""
    event: Event | None = None
    for rule, message_id in verified:
        try:
            event = hook_events.read(rule, document, message_id)
        except PayloadError as error:
            raise RefusedError(422, str(error)) from None
        if not isinstance(event, Ignored):
            return event
    assert event is not None  # noqa: S101 - one rule at least was verified
    return event


def _document(request: web.Request, body: bytes) -> Document:
    """Put a call together as expressions search it."""
    headers = request.raw_headers
    return asked_document(
        query=request.rel_url.raw_query_string,
        path_params={},
        headers=headers,
        request=Copy.of(headers, body),
        roots=HOOK_ROOTS,
    )


def _again() -> RefusedError:
    return try_again("The lead could not be stored. Send it again: it counts once.")
