"""The proxy on a real socket, with a store that only remembers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from relay.capture.connection import Limits
from relay.capture.front import FrontRunner
from relay.capture.landing import Landing
from relay.capture.proxy import EXPRESS, Proxy
from relay.core.cookies import Attribution
from relay.core.rules import compile_rules
from relay.metrics import Metrics

SECRETS = ("a-secret-for-tests-only",)
NOW = 1_800_000_000_000


@dataclass
class Remembering:
    """Signups in memory: what was called, in order."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    safe: bool = True

    def named(self, name: str) -> list[Any]:
        return [what for called, what in self.calls if called == name]

    async def hold(
        self,
        fields: Mapping[str, object],
        *,
        click_id: str,
        origin: Mapping[str, str],
    ) -> str | None:
        self.calls.append(
            ("hold", {"fields": fields, "click_id": click_id, "origin": origin})
        )
        return "lead_held"

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
        lead = {
            "fields": fields,
            "notes": notes,
            "click_id": click_id,
            "origin": origin,
            "held": held,
            "problem": problem,
        }
        self.calls.append(("take", lead))
        return self.safe

    async def drop(self, held: str) -> None:
        self.calls.append(("drop", held))

    def missed(self, reason: str) -> None:
        self.reasons.append(reason)


def landing(
    attribution: Attribution = "last-click",
    domain: str | None = None,
    now: int = NOW,
) -> Landing:
    return Landing(
        SECRETS,
        days=90,
        attribution=attribution,
        domain=domain,
        clock=lambda: now,
        metrics=Metrics(),
    )


@contextlib.asynccontextmanager
async def proxied(
    url: str | Sequence[str],
    rules: Sequence[Mapping[str, Any]] = (),
    signups: Remembering | None = None,
    *,
    landings: Landing | None = None,
    limits: Limits | None = None,
    now: int = NOW,
    grace: float = 1.0,
    express: bool = True,
    flights: list[int] | None = None,
    **options: Any,
) -> AsyncIterator[int]:
    """Run a proxy in front of a site; give its port.

    ``flights`` is told how many requests the express lane took.
    """
    proxy = Proxy(
        url,
        compile_rules(rules),
        signups or Remembering(),
        landings or landing(now=now),
        limits=limits,
        **options,
    )
    app = web.Application()
    proxy.install(app)
    runner = FrontRunner(
        app,
        app[EXPRESS] if express else None,
        access_log=None,
        shutdown_timeout=grace,
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        if flights is not None:
            flights.append(app[EXPRESS].flights)
