"""The loop that looks for causes, writes down what is to be reported, and reports it.

What was reported is in the database, so that it is reported once, whichever relay saw
it and however often they start. A message is written down before it is sent, and sent
again until it is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from relay.core import VERSION
from relay.core.clock import (
    Clock,
    Roll,
)
from relay.core.leads import LeadStatus
from relay.core.signing import sign_webhook
from relay.observability.logging import get_logger
from relay.operations.alerts import causes as messages
from relay.operations.alerts.causes import (
    AlertLimits,
    find,
    is_mine,
)
from relay.operations.status import Overview
from relay.outbox.contract import Alert, Outbox, OutboxError, Query

log = get_logger()

NAMED: Final = 50
"""Leads whose links a message names."""

TIMEOUT_S: Final = 15.0
"""As Standard Webhooks advises: 15 to 30 s."""


@dataclass(frozen=True, slots=True)
class AlertTerms:
    """What the settings say about alerts. Times are seconds."""

    url: str
    keys: Sequence[bytes]
    limits: AlertLimits
    every_s: float
    retry_base_s: float
    host: str


class AlertWatcher:
    """Looks every so often; run it as one task, and cancel it at the end."""

    def __init__(
        self,
        outbox: Outbox,
        look: Callable[[], Awaitable[Overview]],
        terms: AlertTerms,
        *,
        clock: Clock,
        roll: Roll,
    ) -> None:
        self._outbox = outbox
        self._look = look
        self._terms = terms
        self._clock = clock
        self._roll = roll

    async def run(self) -> None:
        """Go on until cancelled. Trouble with the database is waited out."""
        while True:
            try:
                await self.once()
            except OutboxError as error:
                log.error("alerts.database_unavailable", reason=str(error))
            except Exception as error:  # noqa: BLE001 - logged; alerts must go on
                log.error("alerts.failed", error=type(error).__name__)
            # Never all relays at the same moment.
            await asyncio.sleep(self._terms.every_s * (0.75 + self._roll() / 2))

    async def once(self) -> None:
        """Compare what is with what was reported, and send what is due."""
        await self._write_down()
        now = self._clock()
        alerts = await self._outbox.alerts()
        due = [one for one in alerts if one.due_at is not None and one.due_at <= now]
        await asyncio.gather(*map(self._send, due))
        log.debug("alerts.looked", standing=len(alerts), sent=len(due))

    async def _write_down(self) -> None:
        seen = await self._look()
        rejected = await self._outbox.reasons(LeadStatus.REJECTED)
        standing = {one.cause: one for one in await self._outbox.alerts()}
        host, limits = self._terms.host, self._terms.limits
        credited = messages.CreditedLinks(
            await self._links(Query(missing=True, limit=NAMED)),
            await self._links(Query(doubled=True, limit=NAMED)),
        )
        found = find(seen, rejected, standing, limits, host, credited)
        present = {cause.key: cause for cause in found}
        now = self._clock()
        for key, cause in present.items():
            old = standing.get(key)
            if old is None or old.over:
                await self._outbox.swap_alert(old, messages.begun(cause, now))
        for key, old in standing.items():
            if key not in present and not old.over and is_mine(key, host):
                await self._outbox.swap_alert(old, messages.over(old, now))

    async def _links(self, query: Query) -> list[str]:
        """Name the links that leads are credited to, each once."""
        entries = await self._outbox.list(query)
        return sorted({entry.link.name for entry in entries if entry.link})

    async def _send(self, alert: Alert) -> None:
        """Send one message, unless another relay does."""
        sending = messages.leased(alert, self._clock())
        if not await self._outbox.swap_alert(alert, sending):
            return
        good, answer = await post(
            self._terms.url, self._terms.keys, sending, self._clock()
        )
        if good:
            log.info("alert.sent", cause=alert.cause, over=alert.over)
            # False: something newer is to be reported already.
            await self._outbox.swap_alert(sending, messages.taken(sending))
            return
        log.error("alert.not_taken", cause=alert.cause, answer=answer)
        base_ms = round(self._terms.retry_base_s * 1000)
        later = messages.again(sending, self._clock(), base_ms, self._roll())
        await self._outbox.swap_alert(sending, later)


async def post(
    url: str, keys: Sequence[bytes], alert: Alert, now: int
) -> tuple[bool, str]:
    """Send a message once: whether it was taken, and what was answered.

    Only a 2xx is a yes (Standard Webhooks); redirects are not followed. The id
    stays the same when it is sent again, so that the receiver knows.
    """
    body = alert.body.encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"dub-relay/{VERSION}",
        **sign_webhook(keys, alert.message_id, now // 1000, body),
    }
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as answer,
        ):
            return 200 <= answer.status < 300, f"HTTP {answer.status}"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        # Its text would quote the address, which may be a secret.
        return False, type(error).__name__
