"""Sign-ups on their way through the proxy: copied, written down, concluded.

Whatever goes wrong here is the relay's own affair: it is logged and counted,
and the person signing up never notices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple, TypeVar

from relay.capture.click_cookie import NO_CLICK, Landing, VisitorsClick
from relay.core.clock import iso
from relay.core.http.headers import Headers
from relay.core.rules.bodies import Copy
from relay.core.rules.documents import (
    Document,
    answered,
    asked_document,
)
from relay.core.rules.evaluation import (
    Beside,
    Draft,
    Judgement,
    decide,
    draft,
    placed,
)
from relay.core.rules.rule import Match, SignupRule
from relay.core.rules.success import Asked, Verdict
from relay.http.callers import Trusted, Visit
from relay.http.request_body import RequestBodyError, Tasks
from relay.observability.logging import get_logger
from relay.proxy.copies import (
    CopiedAnswer,
    CopiedRequest,
    Passing,
    Tail,
    copied_answer,
)
from relay.proxy.exchange import Body, UpstreamError
from relay.proxy.signup_leads import Held, Signups, patiently
from relay.proxy.upstream_connection import UpstreamAnswer

log = get_logger()

T = TypeVar("T")

STORE_WAIT_S: Final = 0.2
"""How long a person's sign-up waits for the database, in all.

A commit takes milliseconds; one that takes longer is a database in trouble, and the
lead goes to the spill file. The database's work is not given up with the waiting: a
commit that was cut off in the middle would be neither taken nor not.
"""


SPILL_WAIT_S: Final = 0.3
"""How long it waits for the spill file, whose disk may be as slow."""


Report = Callable[[SignupRule, Verdict], None]
"""Counts a response that the default test did not take for a sign-up's success."""


@dataclass(frozen=True, slots=True)
class Store:
    """What a sign-up needs of the relay around it."""

    signups: Signups
    landing: Landing
    tasks: Tasks
    trusted: Trusted
    report: Report | None = None


class SignupExchange:
    """One request that rules match, from its body to the site's answer.

    No method raises for a mistake of the relay's own.
    """

    def __init__(self, matches: Sequence[Match], visit: Visit, store: Store) -> None:
        self._matches = matches
        self._visit = visit
        self._store = store
        self._asked = Document({})
        self._looked = False
        self._draft: Draft | None = None
        self._held: Held | None = None
        self._holding: asyncio.Task[None] | None = None
        self._patience = STORE_WAIT_S
        self._click: VisitorsClick = NO_CLICK

    async def hold(self, body: Copy) -> None:
        """Write the sign-up down before the site sees it, once."""
        if self._looked:
            return
        self._looked = True
        self._unfailing(lambda: self._look(body), None)
        holder = next((one for one in self._matches if self._has_click(one.rule)), None)
        if holder is None:
            return
        self._held = self._unfailing(lambda: self._prepare(holder), None)
        if self._held is not None:
            self._holding = self._store.tasks.start(self._hold(self._held))
            await self._bounded(self._holding)

    @property
    def reads_answer(self) -> bool:
        """Whether the body of the site's answer may decide anything."""
        return any(one.rule.reads_answer for one in self._matches)

    @property
    def tasks(self) -> Tasks:
        """Work that goes on when the visitor has left."""
        return self._store.tasks

    def _look(self, body: Copy) -> None:
        self._click = self._store.landing.click(self._visit)
        self._asked = asked_document(
            query=self._visit.target.partition("?")[2],
            path_params=self._matches[0].params,
            headers=self._visit.headers,
            request=body,
            roots=frozenset[str]().union(*(one.rule.roots for one in self._matches)),
        )

    def drop(self) -> None:
        """Forget it: the site cannot have taken it."""
        self._store.tasks.start(self._drop())

    def unanswered(self) -> None:
        """Leave it to a person: the site has it, and did not answer."""
        self._store.tasks.start(self._leave())

    async def conclude(
        self, status: int, headers: Headers, body: Copy | None
    ) -> list[bytes]:
        """Settle it by the site's answer.

        Returns the Set-Cookie values that go with it: once the lead is safe the
        click is used up. ``body`` is None where the rule does not look at it.
        """
        work = self._store.tasks.start(self._conclude(status, headers, body))
        # The store keeps to what is left of the patience; then it has a file to write.
        await patiently(work, self._patience + SPILL_WAIT_S)
        safe = work.result() if work.done() else None
        if safe is None or not self._click.id or not safe.clear_cookie:
            return []
        return self._unfailing(lambda: self._store.landing.used(self._visit), [])

    async def conclude_late(
        self, status: int, headers: Headers, body: Copy | None
    ) -> None:
        """Settle it when the answer's head is out: the next answer clears the click."""
        if await self.conclude(status, headers, body):
            self._unfailing(lambda: self._store.landing.used_unseen(self._visit), None)

    def _prepare(self, holder: Match) -> Held:
        rule = holder.rule
        made = draft(rule, placed(self._asked, holder))
        if rule.told_by_request and holder is self._matches[0]:
            self._draft = made
        click = self._click_of(rule)
        return self._store.signups.prepare(
            made,
            self._notes(made) if self._draft is made else (),
            click_id=click.id or "",
            origin=_origin(click, rule),
        )

    async def _hold(self, held: Held) -> None:
        try:
            await self._store.signups.hold(held)
        except Exception as error:  # noqa: BLE001 - ours; the sign-up must pass
            # Not missed yet: the lead is still taken when the site has answered.
            log.error("signup.hold_failed", error=type(error).__name__)

    async def _conclude(
        self, status: int, headers: Headers, body: Copy | None
    ) -> SignupRule | None:
        """Settle it; return the rule whose lead is safe, None if there is none."""
        try:
            rule, judged = self._judge(status, headers, body)
            if judged.draft is None:
                if self._store.report is not None:
                    self._store.report(rule, judged.verdict)
                if self._held is not None:
                    # Nobody need wait for that: it stands in the database's queue.
                    self._store.tasks.start(self._drop())
                return None
            click = self._click_of(rule)
            hangs = self._holding is not None and not self._holding.done()
            safe = await self._store.signups.take(
                judged.draft,
                self._notes(judged.draft),
                click_id=click.id,
                origin=_origin(click, rule),
                held=self._held,
                address=self._address,
                patience=0.0 if hangs else self._patience,
            )
        except Exception as error:  # noqa: BLE001 - ours; the sign-up must pass
            self._missed(error)
            return None
        return rule if safe else None

    def _judge(
        self, status: int, headers: Headers, body: Copy | None
    ) -> tuple[SignupRule, Judgement]:
        whole = answered(self._asked, status, headers, body)
        asked = Asked.of(self._visit.target, self._visit.host, self._visit.headers)
        beside = Beside(asked, whole.answer_start, unreadable=whole.answer_unread)
        # The response may have notes, and a charset for the form.
        same = whole.notes == self._asked.notes
        return decide(self._matches, whole, beside, self._draft if same else None)

    def _notes(self, made: Draft) -> tuple[str, ...]:
        return (*made.notes, *_remarks(self._visit))

    async def _drop(self) -> None:
        try:
            if self._holding is not None:
                await self._holding
            if self._held is not None:
                await self._store.signups.drop(self._held)
        except Exception as error:  # noqa: BLE001 - ours; it stays held, for a person
            log.error("signup.drop_failed", error=type(error).__name__)

    async def _leave(self) -> None:
        try:
            if self._holding is not None:
                await self._holding
            if self._held is not None:
                await self._store.signups.unanswered(self._held, self._address)
        except Exception as error:  # noqa: BLE001 - ours; it stays held, for a person
            log.error("signup.leave_failed", error=type(error).__name__)

    @property
    def _address(self) -> str:
        visit = self._visit
        return self._store.trusted.address_of(visit.headers, visit.peer)

    async def _bounded(self, task: asyncio.Task[None]) -> None:
        started = time.monotonic()
        await patiently(task, self._patience)
        self._patience = max(0.0, self._patience - (time.monotonic() - started))
        if not task.done():
            log.error("signup.store_slow", seconds=STORE_WAIT_S)

    def _unfailing(self, work: Callable[[], T], default: T) -> T:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - ours; the sign-up must pass
            self._missed(error)
            return default

    def _missed(self, error: Exception) -> None:
        self._store.signups.missed(f"the relay failed: {type(error).__name__}")

    def _has_click(self, rule: SignupRule) -> bool:
        return self._click_of(rule).id is not None

    def _click_of(self, rule: SignupRule) -> VisitorsClick:
        """Return the click that a lead by this rule counts for."""
        if self._click.id is None and rule.known_customer:
            return VisitorsClick("", "customer")
        return self._click


class Settled(NamedTuple):
    """The site's answer to a sign-up whose lead is settled, or will be at its end.

    The answer, what was read of it, the cookies that go with it, and the rest of one
    that streams.
    """

    answer: UpstreamAnswer
    copied: CopiedAnswer = CopiedAnswer()
    cookies: Sequence[bytes] = ()
    tail: Tail | None = None

    def close(self) -> None:
        """Close an answer that nobody is there to read."""
        (self.tail or self.answer).close()


async def settle(
    signup: SignupExchange,
    copied: CopiedRequest,
    send: Callable[[Body | None], Awaitable[UpstreamAnswer]],
    bound: int,
) -> Settled:
    """Write a sign-up down, send it to the site, and settle it by the answer.

    ``bound`` is how much of the answer is copied. Raises what ``send`` raises.
    """
    hold = partial(signup.hold, copied.copy)
    body = copied.body
    if not copied.passes:
        await hold()
    elif body is not None and body.rest is not None:
        body = replace(body, rest=Passing(body.rest, copied.copy, hold))
    try:
        answer = await send(body)
    except UpstreamError as error:
        if error.sent:
            signup.unanswered()
        else:
            signup.drop()
        raise
    except RequestBodyError:
        # Half a request, which the site cannot have taken.
        signup.drop()
        raise
    try:
        # It may have answered before it had all of the request.
        await hold()
        read = await copied_answer(answer, wanted=signup.reads_answer, bound=bound)
        head = answer.status, answer.headers
        if read.streams is not None:
            conclude = partial(signup.conclude_late, *head)
            tail = Tail(answer, read.streams, conclude, signup.tasks)
            return Settled(answer, read, tail=tail)
        return Settled(answer, read, await signup.conclude(*head, read.copy))
    except BaseException:
        answer.close()
        raise


def close_answer(work: asyncio.Task[Settled]) -> None:
    """Close an answer that nobody is there to read."""
    if not work.cancelled() and work.exception() is None:
        work.result().close()


def _origin(click: VisitorsClick, rule: SignupRule) -> Mapping[str, str]:
    origin = {"click": click.source, "rule": rule.label}
    if click.seen is not None:
        origin["landed"] = iso(click.seen.first_seen)
    return origin


def _remarks(visit: Visit) -> tuple[str, ...]:
    """Return what was odd about the click, for those who ask about this lead."""
    if len(set(visit.clicks)) > 1:
        return ("several different dub_id cookies came; the newest proven one counts",)
    return ()
