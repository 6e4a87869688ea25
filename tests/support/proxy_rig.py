"""The proxy on a real socket, with a store that only remembers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from relay.capture.click_cookie import ALWAYS, Landing, StoringTerms
from relay.core.http.cookies import Attribution
from relay.core.http.headers import Network
from relay.core.rules.evaluation import Draft
from relay.core.rules.rule import compile_rules
from relay.http.callers import Trusted
from relay.http.fast_path import FAST_PATHS
from relay.http.listener import ListenerRunner
from relay.observability.metrics import Metrics
from relay.proxy.exchange import UpstreamLimits
from relay.proxy.forward import Proxy
from relay.proxy.signup_leads import Held
from relay.proxy.upstream import Sites

SECRETS = ("a-secret-for-tests-only",)
FAST_PATH = True
"""Whether proxies have one, unless a test says so itself."""
NOW = 1_800_000_000_000


@dataclass
class Remembering:
    """Signups in memory: what was called, in order."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    safe: bool = True

    def named(self, name: str) -> list[Any]:
        return [what for called, what in self.calls if called == name]

    def prepare(
        self,
        draft: Draft,
        notes: Sequence[str],  # noqa: ARG002 - the protocol's
        *,
        click_id: str,
        origin: Mapping[str, str],
    ) -> Held:
        held = {"fields": draft.fields, "click_id": click_id, "origin": origin}
        return Held("lead_held", draft, held)

    async def hold(self, held: Held) -> None:
        self.calls.append(("hold", held.ready))

    async def take(
        self,
        draft: Draft,
        notes: Sequence[str],
        *,
        click_id: str | None,
        origin: Mapping[str, str],
        held: Held | None,
        address: str,
        patience: float,  # noqa: ARG002 - the protocol's
    ) -> bool:
        lead = {
            "fields": draft.fields,
            "notes": notes,
            "click_id": click_id,
            "origin": origin,
            "held": held.lead_id if held else None,
            "problem": draft.problem,
            "address": address,
        }
        self.calls.append(("take", lead))
        return self.safe

    async def drop(self, held: Held) -> None:
        self.calls.append(("drop", held.lead_id))

    async def unanswered(self, held: Held, address: str) -> None:
        self.calls.append(("unanswered", (held.lead_id, address)))

    def missed(self, reason: str) -> None:
        self.reasons.append(reason)


def landing(
    attribution: Attribution = "last-click",
    domain: str | None = None,
    now: int = NOW,
    storing: StoringTerms = ALWAYS,
    metrics: Metrics | None = None,
) -> Landing:
    return Landing(
        SECRETS,
        days=90,
        attribution=attribution,
        domain=domain,
        clock=lambda: now,
        metrics=metrics or Metrics(),
        storing=storing,
    )


@contextlib.asynccontextmanager
async def proxied(
    url: str | Sequence[str],
    rules: Sequence[Mapping[str, Any]] = (),
    signups: Remembering | None = None,
    *,
    landings: Landing | None = None,
    limits: UpstreamLimits | None = None,
    now: int = NOW,
    grace: float = 1.0,
    fast: bool | None = None,
    fast_requests: list[int] | None = None,
    middlewares: Sequence[Any] = (),
    trusted: Sequence[Network] = (),
    site_host: str | None = None,
    **options: Any,
) -> AsyncIterator[int]:
    """Run a proxy in front of a site; yield its port.

    ``fast`` opens the fast path, or does not; how many requests took it is appended
    to ``fast_requests``.
    """
    urls = (url,) if isinstance(url, str) else url
    proxy = Proxy(
        Sites(urls, limits=limits, host=site_host),
        compile_rules(rules),
        signups or Remembering(),
        landings or landing(now=now),
        trusted=Trusted(trusted),
        **options,
    )
    has_fast_path = FAST_PATH if fast is None else fast
    app = web.Application(middlewares=middlewares)
    proxy.install(app)
    fast_paths = app[FAST_PATHS]
    runner = ListenerRunner(
        app,
        fast_paths if has_fast_path else (),
        access_log=None,
        shutdown_timeout=grace,
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        if fast_requests is not None:
            fast_requests.append(runner.fast_requests)
        await runner.cleanup()
