"""The composition root: settings in, a running relay out."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Final

from aiohttp import web

from relay import metrics as prometheus
from relay import openapi
from relay.capture.answers import Handler, RefusedError, answer, speaking_json
from relay.capture.connection import Limits
from relay.capture.cookie import CookieEndpoint
from relay.capture.dubhook import DubHook
from relay.capture.hooks import SignupHook
from relay.capture.intake import Intake
from relay.capture.landing import Landing
from relay.capture.passthrough import PATHS, Passthrough
from relay.capture.proxied import ProxiedSignups
from relay.capture.proxy import Proxy
from relay.capture.script import Snippet
from relay.capture.shortcut import SHORTCUTS
from relay.capture.spill import Spill, spill_path
from relay.capture.trusted import Trusted
from relay.clock import now_ms, roll
from relay.core.retry import Policy
from relay.delivery.client import DubClient
from relay.delivery.delivery import Delivery, Terms, lease_ms
from relay.delivery.worker import Worker
from relay.keeping import Sweeper
from relay.metrics import Metrics
from relay.outbox import open_outbox
from relay.outbox.contract import Outbox, OutboxUnavailableError
from relay.outbox.sealing import Seal
from relay.settings import Settings

Endpoint = tuple[str, str, Handler]
"""A method, a path below the prefix, and what answers there."""

MAX_OWN_BODY: Final = 1024 * 1024
"""What an endpoint of the relay's own reads at most; the proxy streams instead."""


class Relay:
    """One relay process: its outbox, its web side and its delivery."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = False
        self.metrics = Metrics()
        seal = Seal(settings.data_key)
        self.outbox: Outbox = open_outbox(settings.database, seal)
        self.intake = Intake(
            self.outbox,
            dedupe_days=settings.dedupe_days,
            clock=now_ms,
            metrics=self.metrics,
        )
        path = spill_path(settings.database)
        self.spill = Spill(path, self.intake.store, seal)
        self.landing = Landing(
            settings.secret,
            domain=settings.cookie_domain,
            days=settings.cookie_days,
            attribution=settings.attribution,
            clock=now_ms,
            metrics=self.metrics,
        )
        self._methods: defaultdict[str, list[str]] = defaultdict(list)

    def worker(self, dub: DubClient) -> Worker:
        """Put delivery together; it runs until its stop() is awaited."""
        settings = self.settings
        terms = _terms(settings)
        delivery = Delivery(
            self.outbox,
            dub,
            secrets=settings.secret,
            terms=terms,
            clock=now_ms,
            roll=roll,
            metrics=self.metrics,
        )
        return Worker(self.outbox, delivery, terms=terms, clock=now_ms)

    def sweeper(self) -> Sweeper:
        """Put together what erases personal data whose time is over."""
        return Sweeper(self.outbox, days=self.settings.retention_days, clock=now_ms)

    def dub(self) -> DubClient:
        """Give a client for Dub; the caller closes it."""
        return DubClient(
            self.settings.dub_api_url,
            self.settings.dub_api_key,
            timeout=self.settings.dub_timeout,
            in_flight=self.settings.in_flight,
        )

    def application(self) -> web.Application:
        """Put the web side together: the relay's own paths, then the site."""
        app = web.Application(client_max_size=MAX_OWN_BODY)
        prefix = self.settings.prefix
        hook = SignupHook(self.intake, self.settings.hook_secret, now_ms)
        app[SHORTCUTS] = {f"{prefix}/hooks/signup": hook.respond}
        endpoints = [*self._endpoints(hook), *self._for_pages(app)]
        for method, path, handler in endpoints:
            for each in (method, "HEAD") if method == "GET" else (method,):
                app.router.add_route(each, f"{prefix}/{path}", speaking_json(handler))
                self._methods[f"{prefix}/{path}"].append(each)
        if self.settings.dashboard and self.settings.admin_listen is None:
            self._add_dashboard(app)
        app.router.add_route("*", prefix, speaking_json(self._unknown))
        app.router.add_route("*", prefix + "/{path:.*}", speaking_json(self._unknown))
        self._add_site(app)
        return app

    def dashboard_application(self) -> web.Application:
        """Put the dashboard together for an address of its own."""
        app = web.Application(client_max_size=MAX_OWN_BODY)
        self._add_dashboard(app)
        return app

    def _add_dashboard(self, app: web.Application) -> None:
        # Here, so that a relay without a dashboard does not carry it.
        from relay.dashboard.site import Dashboard  # noqa: PLC0415

        dashboard = Dashboard(
            self.settings, self.outbox, now_ms, stopping=lambda: self.stopping
        )
        for method, path, handler in dashboard.endpoints():
            app.router.add_route(method, f"{self.settings.prefix}/{path}", handler)

    def _endpoints(self, hook: SignupHook) -> list[Endpoint]:
        dub_hook = DubHook(self.outbox, self.settings.dub_webhook_secret, now_ms)
        return [
            ("POST", "hooks/signup", hook.handle),
            ("POST", "hooks/dub", dub_hook.handle),
            ("GET", "livez", self._livez),
            ("GET", "readyz", self._readyz),
            ("GET", "metrics", self._metrics),
            ("GET", openapi.PATH, openapi.OpenApi(self.settings.prefix).handle),
        ]

    def _for_pages(self, app: web.Application) -> list[Endpoint]:
        """Give the endpoints that the site's pages and their script call."""
        settings = self.settings
        snippet = Snippet.of(settings)
        trusted = Trusted(settings.trusted_proxies, settings.listen.unix is not None)
        cookie = CookieEndpoint(self.landing, trusted)
        dub = Passthrough(settings.dub_api_url, trusted, rate=settings.visitor_rate)
        app.cleanup_ctx.append(dub.running)
        return [
            *(("GET", name, snippet.handle) for name in snippet.names),
            ("POST", "cookie", cookie.keep),
            ("DELETE", "cookie", cookie.forget),
            *(("POST", path, partial(dub.handle, path)) for path in PATHS),
            *(("OPTIONS", path, dub.preflight) for path in PATHS),
        ]

    def _add_site(self, app: web.Application) -> None:
        settings = self.settings
        if settings.upstream is None:
            app.router.add_route("*", "/{path:.*}", _no_site)
            return
        Proxy(
            settings.upstream,
            settings.signup,
            ProxiedSignups(self.intake, self.spill, self.metrics),
            self.landing,
            trusted=settings.trusted_proxies,
            # Whoever may open the socket is the server in front, on this machine.
            unix_trusted=settings.listen.unix is not None,
            prefix=settings.prefix,
            script=f"{settings.prefix}/script.js" if settings.inject_snippet else None,
            limits=Limits(
                connect=settings.upstream_connect,
                answer=settings.upstream_answer,
                stall=settings.upstream_stall,
                copy=settings.signup_copy,
            ),
        ).install(app)

    async def _livez(self, _: web.Request) -> web.StreamResponse:
        return answer({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.StreamResponse:
        if self.stopping:
            raise RefusedError(503, "The relay is stopping.")
        try:
            await self.outbox.check_writable()
        except OutboxUnavailableError as error:
            raise RefusedError(503, f"The database takes no leads: {error}") from None
        return answer({"status": "ready"})

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        oldest = await self.outbox.oldest_open()
        text = self.metrics.render(
            await self.outbox.counts(),
            (now_ms() - oldest) / 1000 if oldest is not None else 0.0,
            parked=(await self.outbox.gate()).closed,
        )
        return web.Response(
            body=text, headers={"Content-Type": prometheus.CONTENT_TYPE}
        )

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        if methods := self._methods.get(request.path):
            allowed = ", ".join(methods)
            raise RefusedError(405, f"Use {allowed} here.", {"Allow": allowed})
        raise RefusedError(404, "The relay has nothing at this path.")


def _terms(settings: Settings) -> Terms:
    return Terms(
        policy=Policy(
            base_ms=round(settings.retry_base * 1000),
            max_ms=round(settings.retry_max * 1000),
            for_ms=round(settings.retry_for * 1000),
        ),
        in_flight=settings.in_flight,
        lease_ms=lease_ms(settings.dub_timeout),
        rate=settings.rate,
        two_step=settings.two_step,
    )


async def _no_site(_: web.Request) -> web.StreamResponse:
    return web.Response(
        status=404,
        text="This relay stands in front of no site: set RELAY_UPSTREAM.\n",
    )
