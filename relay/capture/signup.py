"""Sign-ups on their way through the proxy: copied, written down, concluded.

Whatever goes wrong here is the relay's own affair: it is logged and counted,
and the person signing up never notices.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from aiohttp import StreamReader

from relay.capture.connection import UpstreamAnswer
from relay.capture.exchange import Body, UpstreamError, read_visitor
from relay.capture.guard import Framing, every
from relay.capture.landing import Landing, Visit
from relay.core import cookies
from relay.core.documents import MAX_BODY, ROOTS, Copy, Document, document
from relay.core.expressions import compile_expression
from relay.core.headers import Headers
from relay.core.rules import SignupRule, evaluate
from relay.logs import get_logger

log = get_logger()

T = TypeVar("T")

STORE_WAIT_S: Final = 2.0
"""How long a person's sign-up waits for the store before it goes on.

A commit takes milliseconds. The store's work is not given up with the waiting:
a commit that was cut off in the middle would be neither taken nor not.
"""

_ALWAYS: Final = compile_expression("`true`", ROOTS)
_HEAD_OF_ANSWER: Final = re.compile(r"\bresponse\s*\.\s*(status|headers|cookies)\b")


@dataclass(frozen=True, slots=True)
class _Click:
    """A click id and where it came from; "" is the customer's earlier click."""

    id: str | None
    told_by: str


_NO_CLICK: Final = _Click(None, "none")


class Signups(Protocol):
    """Where sign-ups that passed the proxy are kept."""

    async def hold(
        self,
        fields: Mapping[str, object],
        *,
        click_id: str,
        origin: Mapping[str, str],
    ) -> str | None:
        """Commit a held lead before the request goes on; None if it failed."""

    async def take(
        self,
        fields: Mapping[str, object],
        notes: Sequence[str],
        *,
        click_id: str | None,
        origin: Mapping[str, str],
        held: str | None,
        problem: str | None,
    ) -> bool:
        """Commit the lead, or why there is none; True when it is safe."""

    async def drop(self, held: str) -> None:
        """Forget a held lead: it was no sign-up after all."""

    def missed(self, reason: str) -> None:
        """Count and log a sign-up whose lead could not be kept."""


class Tasks:
    """Work that goes on when the visitor has left; awaited when all ends."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work of its own; a reference is kept, or it might vanish."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def finish(self, timeout: float) -> None:  # noqa: ASYNC109 - gives up, cancels nothing
        """Wait for what is under way, for so many seconds at most."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout)


@dataclass(frozen=True, slots=True)
class CopiedAnswer:
    """What was read of an answer before it is let go.

    ``copy`` is None where no rule looks at the body. ``cut`` is the error that
    ended the answer early; it is passed on after the pieces.
    """

    pieces: Sequence[bytes] = ()
    copy: Copy | None = None
    cut: UpstreamError | None = None


@dataclass(frozen=True, slots=True)
class Store:
    """What a sign-up needs of the relay around it."""

    signups: Signups
    landing: Landing
    tasks: Tasks


class Signup:
    """One request that a rule matches, from its body to the site's answer.

    No method raises for a mistake of the relay's own.
    """

    def __init__(
        self,
        rule: SignupRule,
        path_params: Mapping[str, str],
        visit: Visit,
        store: Store,
    ) -> None:
        self.rule = rule
        self._path_params = path_params
        self._visit = visit
        self._store = store
        self._request = Copy(None, None)
        self._held: asyncio.Task[str | None] | None = None
        self._click: _Click = _NO_CLICK

    async def hold(self, body: bytes | None) -> None:
        """Write the sign-up down before the site sees it; None: no copy."""
        self._request = Copy.of(self._visit.headers, body)
        self._click = self._unfailing(self._find_click, _NO_CLICK)
        if self._click.id is not None:
            self._held = self._store.tasks.start(self._hold(self._click.id))
            await self._bounded(self._held)

    async def drop(self) -> None:
        """Forget it: the site cannot have taken it."""
        await self._bounded(self._store.tasks.start(self._drop()))

    async def conclude(
        self, status: int, headers: Headers, body: Copy | None
    ) -> list[bytes]:
        """Settle it by the site's answer.

        Gives the Set-Cookie values that go with it: once the lead is safe the
        click is used up. ``body`` is None where the rule does not look at it.
        """
        work = self._conclude(status, headers, body)
        safe = await self._bounded(self._store.tasks.start(work))
        if not safe or not self._click.id or not self.rule.clear_cookie:
            return []
        return self._unfailing(lambda: self._store.landing.used(self._visit), [])

    async def _hold(self, click_id: str) -> str | None:
        try:
            told = self._document(None, (), None)
            draft = evaluate(replace(self.rule, when=_ALWAYS), told)
            return await self._store.signups.hold(
                draft.fields if draft else {},
                click_id=click_id,
                origin=self._origin,
            )
        except Exception as error:  # noqa: BLE001 - ours; the sign-up must pass
            # Not missed yet: the lead is still taken when the site has answered.
            log.error("signup.hold_failed", error=type(error).__name__)
            return None

    async def _conclude(self, status: int, headers: Headers, body: Copy | None) -> bool:
        try:
            held = await self._held if self._held is not None else None
            draft = evaluate(self.rule, self._document(status, headers, body))
            if draft is None:
                if held is not None:
                    await self._store.signups.drop(held)
                return False
            return await self._store.signups.take(
                draft.fields,
                (*draft.notes, *_remarks(self._visit)),
                click_id=self._click.id,
                origin=self._origin,
                held=held,
                problem=draft.problem,
            )
        except Exception as error:  # noqa: BLE001 - ours; the sign-up must pass
            self._missed(error)
            return False

    async def _drop(self) -> None:
        try:
            held = await self._held if self._held is not None else None
            if held is not None:
                await self._store.signups.drop(held)
        except Exception as error:  # noqa: BLE001 - ours; it stays held, for a person
            log.error("signup.drop_failed", error=type(error).__name__)

    async def _bounded(self, task: asyncio.Task[T]) -> T | None:
        done, _ = await asyncio.wait({task}, timeout=STORE_WAIT_S)
        if done:
            return task.result()
        log.error("signup.store_slow", seconds=STORE_WAIT_S)
        return None

    def _unfailing(self, work: Callable[[], T], default: T) -> T:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - ours; the sign-up must pass
            self._missed(error)
            return default

    def _missed(self, error: Exception) -> None:
        self._store.signups.missed(f"the relay failed: {type(error).__name__}")

    @property
    def _origin(self) -> Mapping[str, str]:
        return {"click": self._click.told_by, "rule": self.rule.label}

    def _find_click(self) -> _Click:
        click_id = cookies.click_id(self._visit.cookie_headers())
        if click_id is not None:
            return _Click(click_id, "cookie")
        companion = self._store.landing.companion(self._visit)
        if companion is not None and not companion.used:
            return _Click(companion.click_id, "companion")
        return _Click("", "customer") if self.rule.known_customer else _NO_CLICK

    def _document(
        self, status: int | None, headers: Headers, answer: Copy | None
    ) -> Document:
        return document(
            query=self._visit.target.partition("?")[2],
            path_params=self._path_params,
            headers=self._visit.headers,
            request=self._request,
            response_status=status,
            response_headers=headers,
            response=answer,
        )


def _remarks(visit: Visit) -> tuple[str, ...]:
    """Say what was odd about the click, for whoever asks about this lead."""
    given = cookies.values(visit.cookie_headers(), cookies.CLICK_COOKIE)
    if len(set(filter(cookies.is_click_id, given))) > 1:
        return ("several different dub_id cookies came; the first one counts",)
    return ()


def reads_answer_body(rule: SignupRule) -> bool:
    """Whether any of a rule's expressions may look into the answer's body."""
    expressions = [rule.when, *rule.fields.values(), *rule.metadata.values()]
    return any("response" in _HEAD_OF_ANSWER.sub("", each.text) for each in expressions)


async def copied_request(
    stream: StreamReader, framed: Framing, patience: float, bound: int = MAX_BODY
) -> tuple[Body | None, bytes | None]:
    """Read a request's body up to the bound, to be looked at and passed on.

    Gives the body to send, all of it whatever its size, and the copy (None if
    it is too big). Raises RequestBodyError as :func:`read_visitor` does.
    """
    if not framed.has_body:
        return None, b""
    if framed.length is not None and framed.length > bound:
        return Body(framed.length, rest=stream), None
    read = bytearray()
    while len(read) <= bound:
        data = await read_visitor(stream, patience)
        if not data:
            whole = bytes(read)
            return Body(framed.length, start=whole), whole
        read += data
    return Body(framed.length, start=bytes(read), rest=stream), None


async def copied_answer(
    answer: UpstreamAnswer, rule: SignupRule, bound: int = MAX_BODY
) -> CopiedAnswer:
    """Read an answer's body up to the bound where the rule looks at it.

    Only JSON is of use to a rule; anything else streams on as ever.
    """
    kinds = every(answer.headers, b"content-type")
    is_json = any(b"json" in kind.lower() for kind in kinds)
    if answer.empty or not is_json or not reads_answer_body(rule):
        return CopiedAnswer()
    pieces: list[bytes] = []
    size = 0
    while size <= bound:
        try:
            data = await answer.read()
        except UpstreamError as error:
            return CopiedAnswer(pieces, Copy.of(answer.headers, None), error)
        if not data:
            whole = b"".join(pieces)
            return CopiedAnswer(pieces, Copy.of(answer.headers, whole))
        pieces.append(data)
        size += len(data)
    return CopiedAnswer(pieces, Copy.of(answer.headers, None))
