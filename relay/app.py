"""The composition root: settings in, a running relay out."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import cached_property, partial
from os import getpid
from socket import gethostname
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from relay.capture import openapi
from relay.capture.browser_api import Admission, BrowserApi
from relay.capture.click_cookie import Landing, StoringTerms
from relay.capture.dub_webhook import DubHook
from relay.capture.intake import Intake
from relay.capture.page_endpoints import CookieEndpoint, TicketEndpoint
from relay.capture.pass_through import KEYED_PATHS, OPEN_PATHS, PATHS, Passthrough
from relay.capture.provider_hooks import MappedHook, Parts, ProviderHook
from relay.capture.signup_hook import SignupHook
from relay.capture.snippet import Snippet
from relay.capture.spill import Spill, spill_path
from relay.capture.track_api import TrackApi, Waiting
from relay.config.settings import Settings
from relay.core.clock import now_ms, roll
from relay.core.dub.retry import Policy
from relay.core.http.consent import parse_consent
from relay.core.http.front_probes import FrontProbes
from relay.core.http.tickets import Opener
from relay.core.providers import PROVIDERS
from relay.core.providers.account import Provider
from relay.core.providers.stripe import StripeTerms, stripe
from relay.core.rules.hook_rules import NOTHING_ADDED
from relay.delivery.deliver import Delivery, DeliveryTerms, lease_ms
from relay.delivery.dub_client import DubClient
from relay.delivery.rollback import LastSeen
from relay.delivery.worker import Worker
from relay.http.aiohttp_internals import RawRequestMessage
from relay.http.callers import OwnPages, RefusalRate, Trusted
from relay.http.fast_path import FAST_PATHS, FastEndpoints, FastPath
from relay.http.responses import Handler, RefusedError, speaking_json
from relay.observability.metrics import Metrics
from relay.operations import reconcile
from relay.operations.alerts import causes
from relay.operations.alerts import watcher as alerts
from relay.operations.alerts.watcher import AlertWatcher
from relay.operations.monitoring import HealthEndpoints, MetricsAccess
from relay.operations.retention import RetentionJob, RowRemovalJob
from relay.operations.status import Overview, look
from relay.outbox.backends import open_outbox
from relay.outbox.contract import Outbox
from relay.outbox.encryption import Seal
from relay.proxy.exchange import UpstreamLimits
from relay.proxy.forward import Proxy, no_site
from relay.proxy.sightings import Sightings
from relay.proxy.signup_leads import ProxiedSignups
from relay.proxy.upstream import Sites

if TYPE_CHECKING:
    from relay.dashboard.live import Sampler
    from relay.observability.tracing import Tracing
    from relay.operations.recovery import BypassWatch

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
        self.tracing = _tracing(settings)
        seal = Seal(settings.data_key)
        self.outbox: Outbox = open_outbox(settings.database, seal)
        self.intake = Intake(
            self.outbox,
            dedupe_days=settings.dedupe_days,
            clock=self.outbox.now,
            metrics=self.metrics,
            stamp=self.tracing.stamp if self.tracing else None,
        )
        path = spill_path(settings.database)
        self.spill = Spill(
            path, self.intake.store, seal, on_lost=self.metrics.missed.inc
        )
        self.landing = Landing(
            settings.secret,
            domain=settings.cookie_domain,
            days=settings.cookie_days,
            attribution=settings.attribution,
            clock=now_ms,
            metrics=self.metrics,
            storing=StoringTerms(
                settings.cookie_landing,
                parse_consent(settings.cookie_consent)
                if settings.cookie_consent
                else None,
                settings.cookie_gpc,
            ),
        )
        self.sightings = Sightings(self.outbox, self.landing, self.metrics, now_ms)
        self.probes = FrontProbes(settings.secret, now_ms)
        self.trusted = Trusted(
            settings.trusted_proxies,
            # What may open the socket is the server in front, on this machine.
            settings.listen.unix is not None,
        )
        self.opener = Opener(
            settings.secret,
            life_s=round(settings.hooks_ticket_life),
            required=settings.hooks_require_ticket,
        )
        self._methods: defaultdict[str, list[str]] = defaultdict(list)

    async def start(self, stack: AsyncExitStack, *, delivery: bool) -> None:
        """Open the outbox and start the work behind it, until the stack unwinds.

        Raises OutboxError when the database cannot be opened.
        """
        await self.outbox.open()
        if self.tracing is not None:
            stack.push_async_callback(asyncio.to_thread, self.tracing.close)
        stack.push_async_callback(self.outbox.close)
        if delivery:
            await self._start_delivery(stack)
            await self._start_reconciling(stack)
        stack.push_async_callback(self.sightings.flush)
        for work in self._background(delivery=delivery):
            stack.callback(asyncio.create_task(work).cancel)

    async def _start_delivery(self, stack: AsyncExitStack) -> None:
        worker = self.worker(await stack.enter_async_context(self.dub()))
        running = asyncio.create_task(worker.run())

        async def end() -> None:
            await worker.stop()
            await running

        stack.push_async_callback(end)

    async def _start_reconciling(self, stack: AsyncExitStack) -> None:
        if not self.settings.reconcile_every:
            return
        dub = await stack.enter_async_context(reconcile.reading_client(self.settings))
        looking = reconcile.reconciler(self.settings, self.outbox, dub, self.metrics)
        stack.callback(asyncio.create_task(looking.run()).cancel)

    def _background(self, *, delivery: bool) -> Iterator[Coroutine[Any, Any, None]]:
        yield self.spill.run()
        yield self.sightings.run()
        if delivery:
            yield self.sweeper().run()
            if self.settings.bypass_log is not None:
                yield self._bypass_watch(self.settings.bypass_log).run()
            yield self.remover().run()
        if self.settings.dashboard:
            yield self._sampler().run()
        if (watch := self.watch()) is not None:
            yield watch.run()

    def _bypass_watch(self, path: str) -> BypassWatch:
        """Put together what recovers the leads of sign-ups that went around."""
        # Here, so that a relay without such a log does not carry it.
        from relay.operations.recovery import BypassWatch, Recovery  # noqa: PLC0415

        return BypassWatch(Recovery(self.outbox, self.intake, self.settings), path)

    def _sampler(self) -> Sampler:
        """Put together what keeps this process's samples for the dashboard."""
        # Here, so that a relay without a dashboard does not carry it.
        from relay.dashboard.live import Sampler  # noqa: PLC0415

        name = f"{gethostname()}:{getpid()}"
        return Sampler(
            self.outbox,
            self.metrics,
            self.outbox.now,
            name,
            self.settings.delivery_rate,
        )

    def worker(self, dub: DubClient) -> Worker:
        """Put delivery together; it runs until its stop() is awaited."""
        settings = self.settings
        terms = _terms(settings)
        delivery = self._delivery_kind()(
            self.outbox,
            dub,
            secrets=settings.secret,
            terms=terms,
            clock=self.outbox.now,
            roll=roll,
            metrics=self.metrics,
        )
        seen = LastSeen(
            self.outbox,
            spill_path(settings.database).with_suffix(".seen"),
            keep_days=settings.keep_days,
        )
        return Worker(self.outbox, delivery, seen, terms=terms, clock=self.outbox.now)

    def _delivery_kind(self) -> Callable[..., Delivery]:
        if self.tracing is None:
            return Delivery
        # Here, for it needs packages that only tracing needs.
        from relay.delivery.traced_delivery import TracedDelivery  # noqa: PLC0415

        return partial(TracedDelivery, tracing=self.tracing)

    def watch(self) -> AlertWatcher | None:
        """Put together what calls the operator's webhook; None without one."""
        settings = self.settings
        if settings.alerts_url is None:
            return None
        terms = alerts.AlertTerms(
            url=settings.alerts_url,
            keys=settings.alerts_secret,
            limits=causes.AlertLimits(
                settings.alerts_backlog, settings.alerts_disk / 100
            ),
            every_s=settings.alerts_every,
            retry_base_s=settings.delivery_retry_base,
            host=gethostname(),
        )
        return AlertWatcher(
            self.outbox, self.overview, terms, clock=self.outbox.now, roll=roll
        )

    def sweeper(self) -> RetentionJob:
        """Put together what erases personal data whose time is over."""
        return RetentionJob(
            self.outbox, days=self.settings.retention_days, clock=self.outbox.now
        )

    def remover(self) -> RowRemovalJob:
        """Put together what removes the rows of leads of long ago."""
        settings = self.settings
        return RowRemovalJob(
            self.outbox,
            days=settings.keep_days,
            for_ever=settings.dedupe_days == 0,
            clock=self.outbox.now,
        )

    def dub(self) -> DubClient:
        """Return a client for Dub; the caller closes it."""
        return DubClient(
            self.settings.dub_api_url,
            self.settings.dub_api_key,
            timeout=self.settings.dub_timeout,
        )

    def application(self) -> web.Application:
        """Put the web side together: the relay's own paths, then the site."""
        app = web.Application(client_max_size=MAX_OWN_BODY)
        if self.tracing is not None:
            app.middlewares.append(self.tracing.middleware())
        prefix = self.settings.prefix
        signup = SignupHook(self.intake, self.settings.hook_secret, now_ms, self.opener)
        rate = RefusalRate(self.trusted)
        api = self._track_api()
        fast_paths: list[FastPath] = [self._fast_endpoints(signup, rate, api)]
        app[FAST_PATHS] = fast_paths
        endpoints = [*self._endpoints(signup, rate, api), *self._for_pages(app)]
        for method, path, handler in endpoints:
            served = speaking_json(handler)
            if takes_sign_ups(path):
                served = self.metrics.timed(path, served)
            for each in (method, "HEAD") if method == "GET" else (method,):
                app.router.add_route(each, f"{prefix}/{path}", served)
                self._methods[f"{prefix}/{path}"].append(each)
        if self.settings.dashboard and self.settings.dashboard_listen is None:
            self._add_dashboard(app)
        app.router.add_route("*", prefix, speaking_json(self._unknown))
        app.router.add_route("*", prefix + "/{path:.*}", speaking_json(self._unknown))
        self._add_site(app)
        return app

    def dashboard_application(self) -> web.Application:
        """Put the dashboard together for an address of its own."""
        app = web.Application(client_max_size=MAX_OWN_BODY)
        self._add_dashboard(app)
        path = f"{self.settings.prefix}/metrics"
        app.router.add_get(path, speaking_json(self.health.all_metrics))
        return app

    @cached_property
    def health(self) -> HealthEndpoints:
        """What monitoring asks, the same at both addresses."""
        return HealthEndpoints(
            self.outbox,
            self.metrics,
            self.overview,
            lambda: self.stopping,
            MetricsAccess(self.trusted, self.settings.metrics_token),
            self.probes,
        )

    def _add_dashboard(self, app: web.Application) -> None:
        # Here, so that a relay without a dashboard does not carry it.
        from relay.dashboard.routes import Dashboard  # noqa: PLC0415

        dashboard = Dashboard(
            self.settings, self.outbox, now_ms, stopping=lambda: self.stopping
        )
        for method, path, handler in dashboard.endpoints():
            app.router.add_route(method, f"{self.settings.prefix}/{path}", handler)

    def _fast_endpoints(
        self, signup: SignupHook, rate: RefusalRate, api: TrackApi
    ) -> FastEndpoints:
        """Return what is answered without a request object.

        Nothing where middlewares must see every request.
        """
        if self.tracing is not None:
            return FastEndpoints({})

        async def respond(
            message: RawRequestMessage, peer: str | None, body: bytes
        ) -> web.Response:
            try:
                return await signup.respond(message.headers, body)
            except RefusedError as refused:
                rate.count(refused.status, message.raw_headers, peer)
                raise

        return FastEndpoints(
            {
                f"{self.settings.prefix}/{path}": self.metrics.timed(path, each)
                for path, each in (
                    ("hooks/signup", respond),
                    ("track/lead", api.respond),
                )
            }
        )

    def _endpoints(
        self, signup: SignupHook, rate: RefusalRate, api: TrackApi
    ) -> list[Endpoint]:
        health = self.health
        return [
            *(("POST", path, each) for path, each in self._hooks(signup, rate)),
            ("POST", "track/lead", api.lead),
            ("POST", "track/sale", api.sale),
            ("GET", "livez", health.livez),
            ("GET", "readyz", health.readyz),
            ("GET", "metrics", health.metrics),
            ("GET", openapi.PATH, openapi.OpenApi(self.settings.prefix).handle),
        ]

    def _hooks(
        self, signup: SignupHook, rate: RefusalRate
    ) -> list[tuple[str, Handler]]:
        settings = self.settings
        dub = DubHook(self.outbox, settings.dub_webhook_secret, now_ms)
        parts = Parts(
            self.intake, self.spill, self.opener, settings.hooks_event, now_ms
        )
        return [
            ("hooks/signup", rate.guard(signup.handle)),
            ("hooks/dub", rate.guard(dub.handle)),
            *(
                (path, rate.guard(each.handle))
                for path, each in self._providers_hooks(parts)
            ),
        ]

    def _providers_hooks(
        self, parts: Parts
    ) -> Iterator[tuple[str, ProviderHook | MappedHook]]:
        settings = self.settings
        for row in PROVIDERS:
            keys = settings.provider_keys(row)
            added = settings.additions.get(row.name, NOTHING_ADDED)
            hook = ProviderHook(_by_terms(row, settings), keys, parts, added)
            yield f"hooks/{row.name}", hook
        for path in dict.fromkeys(rule.path for rule in settings.hook):
            rules = [rule for rule in settings.hook if rule.path == path]
            yield f"hooks/{path}", MappedHook(rules, parts)

    def _track_api(self) -> TrackApi:
        settings = self.settings
        return TrackApi(
            self.intake,
            Waiting(self.outbox, self.outbox.now),
            self.trusted,
            keys=(settings.dub_api_key, *settings.api_token),
            rate=settings.api_rate,
        )

    def _for_pages(self, app: web.Application) -> list[Endpoint]:
        """Return the endpoints that the site's pages and their script call."""
        settings = self.settings
        snippet = Snippet.of(settings)
        cookie = CookieEndpoint(self.landing, self.trusted, self.sightings.tag_differs)
        ticket = TicketEndpoint(
            self.landing, OwnPages(self.trusted), self.opener, now_ms
        )
        dub = Passthrough(
            settings.dub_api_url, self.trusted, rate=settings.browser_rate
        )
        app.cleanup_ctx.append(dub.running)
        keyed: Passthrough | BrowserApi = dub
        if settings.stores_browser_leads:
            keyed = self._browser_api(dub)
            app.cleanup_ctx.append(keyed.running)
        return [
            *(("GET", name, snippet.handle) for name in snippet.names),
            ("POST", "cookie", cookie.keep),
            ("DELETE", "cookie", cookie.forget),
            ("GET", "ticket", ticket.issue),
            ("POST", "ticket", ticket.issue),
            *(("POST", path, partial(dub.handle, path)) for path in OPEN_PATHS),
            *(("POST", path, partial(keyed.handle, path)) for path in KEYED_PATHS),
            *(("OPTIONS", path, dub.preflight) for path in PATHS),
        ]

    def _browser_api(self, dub: Passthrough) -> BrowserApi:
        settings = self.settings
        return BrowserApi(
            self.intake,
            self.outbox,
            self.spill,
            Waiting(self.outbox, self.outbox.now),
            dub,
            self.trusted,
            Admission(
                settings.dub_publishable_key,
                settings.browser_hostnames,
                settings.browser_lead_rate,
            ),
        )

    def _add_site(self, app: web.Application) -> None:
        settings = self.settings
        if settings.upstream is None:
            app.router.add_route("*", "/{path:.*}", no_site)
            return
        sites = Sites(
            settings.upstream,
            limits=UpstreamLimits(
                connect=settings.limits_upstream_connect,
                answer=settings.limits_upstream_answer,
                stall=settings.limits_upstream_stall,
                copy=settings.limits_signup_copy,
            ),
            host=settings.upstream_host,
        )
        Proxy(
            sites,
            settings.signup,
            ProxiedSignups(
                self.intake,
                self.spill,
                self.metrics,
                per_minute=settings.limits_signup_rate,
            ),
            self.landing,
            trusted=self.trusted,
            prefix=settings.prefix,
            sightings=self.sightings,
            underscored=settings.underscore_headers,
            script=f"{settings.prefix}/script.js" if settings.inject_snippet else None,
        ).install(app, self.probes)

    async def overview(self) -> Overview:
        """Look at the outbox; raise OutboxUnavailableError if it cannot be read."""
        settings = self.settings
        spill = spill_path(settings.database)
        return await look(self.outbox, spill, settings.delivery_rate, self.outbox.now())

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        if methods := self._methods.get(request.path):
            allowed = ", ".join(methods)
            raise RefusedError(405, f"Use {allowed} here.", {"Allow": allowed})
        raise RefusedError(404, "The relay has nothing at this path.")


def takes_sign_ups(path: str) -> bool:
    """Whether a path of the relay's own accepts leads, from any sender."""
    hook = path.startswith("hooks/") and path != "hooks/dub"
    return hook or path in ("track/lead", "track/sale")


def _by_terms(row: Provider, settings: Settings) -> Provider:
    """Return a provider whose events are read as the settings want it."""
    if row.name != "stripe":
        return row
    terms = StripeTerms(settings.hooks_stripe_references, settings.hooks_stripe_trials)
    return replace(row, read=partial(stripe, terms=terms))


def _tracing(settings: Settings) -> Tracing | None:
    if settings.traces_export == "off":
        return None
    from relay.observability.tracing import Tracing  # noqa: PLC0415 - as in _delivery_kind

    return Tracing(settings.prefix, takes_sign_ups)


def _terms(settings: Settings) -> DeliveryTerms:
    return DeliveryTerms(
        policy=Policy(
            base_ms=round(settings.delivery_retry_base * 1000),
            max_ms=round(settings.delivery_retry_max * 1000),
            for_ms=round(settings.delivery_retry_for * 1000),
            click_ms=round(settings.delivery_unknown_click_for * 1000),
            sale_ms=round(settings.delivery_sale_waits * 1000),
        ),
        in_flight=settings.delivery_in_flight,
        lease_ms=lease_ms(settings.dub_timeout, two_step=settings.two_step),
        rate=settings.delivery_rate,
        two_step=settings.two_step,
    )
