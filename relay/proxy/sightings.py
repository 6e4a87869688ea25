"""What the proxy sees and cannot judge: counted here, and kept in the outbox.

Three kinds: requests with a click that no rule matches (candidates for a rule),
responses to sign-ups that the default test cannot decide, and tags of the script that
say other than the settings. All are bounded: in memory, in the database, and in the
series of their metrics, whatever strangers send.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from relay.capture.click_cookie import Landing
from relay.core.clock import Clock
from relay.core.http.headers import Headers
from relay.core.rules.bodies import Copy
from relay.core.rules.candidates import fold_path, merged, observe
from relay.core.rules.documents import answered, asked_document
from relay.core.rules.har import Exchange
from relay.core.rules.json_verdict import Ruling
from relay.core.rules.rule import SignupRule
from relay.core.rules.success import Verdict
from relay.http.callers import Visit
from relay.http.request_body import Readable
from relay.http.request_guard import every
from relay.observability.logging import get_logger
from relay.observability.metrics import Metrics
from relay.outbox.contract import (
    CANDIDATE,
    TAG,
    UNDECIDED,
    Outbox,
    OutboxError,
    Sighting,
)

log = get_logger()

MAX_KINDS: Final = 100
"""Kinds of request remembered between two writes; the oldest makes room."""

KEPT: Final = 200
"""Rows of each kind in the database."""

MAX_SERIES: Final = 20
"""Candidates with a series of their own in the metrics; the others share one."""

EVERY_S: Final = 1.0
"""Between two writes: soon enough for a person who tries, and one row a kind."""

LOOKED_AT: Final = 16 * 1024
"""Bytes of a body that are looked at for names: milliseconds, whatever is in it."""

OFTEN: Final = 50
"""Requests of one kind whose bodies are read; the others are only counted."""

_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
_NOWHERE: Final = frozenset({404, 405, 501})
"""The site has nothing there, so that strangers cannot fill the list."""


Watcher = Callable[[bytes, int, Headers, bytes], None]
"""Looks at a request's body and at the status, headers and body of its response."""


class Overheard:
    """A body on its way to the site, whose beginning is kept."""

    def __init__(self, stream: Readable, heard: bytes = b"") -> None:
        self._stream = stream
        self.heard = heard

    async def readany(self) -> bytes:
        """Return the next bytes of the body, b"" at its end."""
        data = await self._stream.readany()
        self.heard += data[: max(0, LOOKED_AT - len(self.heard))]
        return data


class Sightings:
    """Counts what rules do not judge, and writes it down now and then."""

    def __init__(
        self, outbox: Outbox, landing: Landing, metrics: Metrics, clock: Clock
    ) -> None:
        self._outbox = outbox
        self._landing = landing
        self._metrics = metrics
        self._clock = clock
        self._fresh: OrderedDict[tuple[str, str], Sighting] = OrderedDict()
        self._known: OrderedDict[str, tuple[int, Mapping[str, Any]]] = OrderedDict()
        self._series: set[str] = set()
        self._options: set[str] = set()
        self._woken = asyncio.Event()

    def watch(self, visit: Visit) -> Watcher | None:
        """Return what looks at a request, None where it is no sign-up.

        It may be one if it carries a click, and sends fields or is a provider's answer
        to OAuth (RFC 6749, 4.1.2).
        """
        query = visit.target.partition("?")[2]
        oauth = visit.method == "GET" and "code=" in query and "state=" in query
        if not oauth and visit.method not in _METHODS:
            return None
        if self._landing.click(visit).id is None:
            return None
        return lambda *rest: self._saw(
            Exchange(visit.method, visit.target, visit.headers, *rest)
        )

    def _saw(self, passed: Exchange) -> None:
        if passed.status in _NOWHERE:
            return
        try:
            path = fold_path(passed.target.partition("?")[0])
            name = f"{passed.method} {path}"
            self._candidate(name, passed)
        except Exception as error:  # noqa: BLE001 - ours; the request has passed
            log.error("candidate.failed", error=type(error).__name__)

    def _candidate(self, name: str, passed: Exchange) -> None:
        times, seen = self._known.pop(name, (0, _NOTHING))
        fresh = {**(_names(passed) if times < OFTEN else _NO_NAMES), **_form(passed)}
        seen = merged(seen, fresh)
        self._known[name] = (times + 1, seen)
        if len(self._known) > MAX_KINDS:
            self._known.popitem(last=False)
        self._count(name, passed.method)
        self._add(CANDIDATE, name, seen)

    def _count(self, name: str, method: str) -> None:
        path = name.partition(" ")[2]
        if name not in self._series:
            if len(self._series) < MAX_SERIES:
                self._series.add(name)
            else:
                path = "(others)"
        self._metrics.candidates.labels(method, path).inc()

    def judged(self, rule: SignupRule, verdict: Verdict) -> None:
        """Count a response to a sign-up that the default test did not accept."""
        if verdict.outcome is not Ruling.UNDECIDED:
            return
        self._metrics.undecided.labels(rule.label).inc()
        log.info("signup.undecided", rule=rule.label, reason=verdict.reason)
        seen = {"rule": rule.label, "reason": verdict.reason, "when": verdict.when}
        self._add(UNDECIDED, f"{rule.label}\n{verdict.reason}", seen)

    def tag_differs(self, option: str) -> None:
        """Count a page whose script's tag says other than the settings; log it once."""
        if option not in self._options:
            self._options.add(option)
            log.warning("tag.differs", option=option)
        self._add(TAG, option, {})

    def _add(self, kind: str, name: str, seen: Mapping[str, Any]) -> None:
        now = self._clock()
        new = Sighting(kind, name, seen, 1, now, now)
        old = self._fresh.pop((kind, name), None)
        self._fresh[kind, name] = new if old is None else _joined(old, new)
        if len(self._fresh) > 2 * MAX_KINDS:
            self._fresh.popitem(last=False)
        self._woken.set()

    async def run(self) -> None:
        """Write what was seen until cancelled, beginning with what is known."""
        await self.recall()
        while True:
            await self._woken.wait()
            await self.flush()
            await asyncio.sleep(EVERY_S)

    async def recall(self) -> None:
        """Go on from what is in the database, by this relay or another."""
        try:
            known = await self._outbox.sightings(CANDIDATE)
        except OutboxError as error:
            log.warning("sightings.not_read", reason=str(error))
            return
        for one in reversed(known[:MAX_KINDS]):
            self._known.setdefault(one.name, (one.times, one.seen))

    async def flush(self) -> None:
        """Write what was seen since the last time; keep it if that fails."""
        self._woken.clear()
        fresh, self._fresh = self._fresh, OrderedDict()
        if not fresh:
            return
        try:
            await self._outbox.add_sightings([*fresh.values()], KEPT)
        except OutboxError as error:
            log.warning("sightings.not_stored", reason=str(error))
            for one in fresh.values():
                self._put_back(one)

    def _put_back(self, one: Sighting) -> None:
        later = self._fresh.pop((one.kind, one.name), None)
        joined = one if later is None else _joined(one, later)
        self._fresh[one.kind, one.name] = joined


def _joined(earlier: Sighting, later: Sighting) -> Sighting:
    """Return what two sightings of one kind and name are together."""
    times = earlier.times + later.times
    return replace(later, times=times, first_at=earlier.first_at)


_NO_NAMES: Final[Mapping[str, Any]] = {"fields": [], "answers": []}
_NOTHING: Final[Mapping[str, Any]] = {
    **_NO_NAMES,
    "types": [],
    "statuses": [],
    "pages": False,
}


def _names(passed: Exchange) -> dict[str, Any]:
    asked = asked_document(
        query=passed.target.partition("?")[2],
        path_params={},
        headers=passed.headers,
        request=Copy.of(
            passed.headers,
            passed.body[:LOOKED_AT],
            is_whole=len(passed.body) < LOOKED_AT,
        ),
        roots=frozenset({"form", "json", "query"}),
    )
    answer = Copy.of(passed.response_headers, (passed.response_body or b"")[:LOOKED_AT])
    return observe(answered(asked, passed.status, passed.response_headers, answer))


def _form(passed: Exchange) -> dict[str, Any]:
    """Return what the head says: content types without parameters, the status."""
    kind = _kind(passed.headers)
    return {
        "types": [kind] if kind else [],
        "statuses": [str(passed.status)],
        "pages": passed.status == 200 and "html" in _kind(passed.response_headers),
    }


def _kind(headers: Headers) -> str:
    line = next(iter(every(headers, b"content-type")), b"")
    kind = line.partition(b";")[0].strip().lower().decode("ascii", "replace")
    plain = kind.replace("/", "").replace("+", "").replace("-", "").replace(".", "")
    return kind[:60] if plain.isalnum() else ""
