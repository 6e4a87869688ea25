"""What monitoring sees of a relay: ``livez``, ``readyz``, ``metrics``, its gauges."""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from aiohttp import web
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from relay.core import VERSION
from relay.core.http.front_probes import PROBE_HEADER, FrontProbes, ProbeWish
from relay.core.leads import LeadStatus
from relay.http.callers import Trusted
from relay.http.responses import RefusedError, answer
from relay.observability import metrics as prometheus
from relay.observability.metrics import Metrics
from relay.operations.status import Overview
from relay.outbox.contract import Outbox, OutboxUnavailableError

SPARE_DESCRIPTORS: Final = 16
"""A request through the relay takes two; so many may come until it is asked again."""

RENDER_EVERY_S: Final = 1.0
"""Metrics of half a million leads take up to 0.8 s of CPU."""

Value = float | dict[str, float]
"""A number, or one for each value of the gauge's only label."""


class _Gauge(NamedTuple):
    """A gauge's name and meaning, and how an overview gives its value."""

    name: str
    help: str
    value: Callable[[Overview], Value]
    label: str | None = None


_GAUGES: Final = (
    _Gauge(
        "dub_relay_leads",
        "Leads in the outbox, by state.",
        lambda seen: {one.value: seen.leads.get(one, 0) for one in LeadStatus},
        "status",
    ),
    _Gauge(
        "dub_relay_oldest_open_lead_seconds",
        "Age of the oldest lead that is not settled yet; 0 if there is none.",
        lambda seen: seen.oldest_open_s,
    ),
    _Gauge(
        "dub_relay_delivery_parked",
        "1 while nothing is sent until a person acts.",
        lambda seen: seen.circuit.open and seen.circuit.parks,
    ),
    _Gauge(
        "dub_relay_dub_down",
        "1 while Dub is taken for down, and one probe at a time goes out.",
        lambda seen: seen.circuit.open and not seen.circuit.parks,
    ),
    _Gauge(
        "dub_relay_rate_plan",
        "Calls to Dub a minute that are allowed by the settings.",
        lambda seen: seen.plan,
    ),
    _Gauge(
        "dub_relay_rate_now",
        "Calls to Dub a minute that are made at most just now, after 429s; 0: paused.",
        lambda seen: 0.0 if seen.paused_until else seen.rate,
    ),
    _Gauge(
        "dub_relay_spill_bytes",
        "What waits in files beside the database until it takes leads again.",
        lambda seen: seen.spilled.bytes,
    ),
    _Gauge(
        "dub_relay_disk_free_bytes",
        "What is free on the disk of the database, or of the spill file.",
        lambda seen: seen.disk.free,
    ),
    _Gauge(
        "dub_relay_missing_at_dub",
        "Leads and sales that Dub took and that its own list of events does not have.",
        lambda seen: seen.findings.missing,
    ),
    _Gauge(
        "dub_relay_doubled_at_dub",
        "Leads and sales that Dub's own list of events has too often.",
        lambda seen: seen.findings.doubled,
    ),
    _Gauge(
        "dub_relay_reconciled_until_seconds",
        "How far Dub's list of events was read, in seconds of the epoch; 0: never.",
        lambda seen: (seen.reconciled.read_until or 0) / 1000,
    ),
    _Gauge(
        "dub_relay_not_provable",
        "1 while Dub does not let its list of events be read.",
        lambda seen: seen.reconciled.not_provable is not None,
    ),
    _Gauge(
        "dub_relay_disk_size_bytes",
        "The size of that disk.",
        lambda seen: seen.disk.size,
    ),
)


class StatusCollector(Collector):
    """Collects from the overview that was set last; None: the database is down."""

    def __init__(self) -> None:
        self.seen: Overview | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return every gauge that is known."""
        build = {VERSION: 1.0}
        yield _family("dub_relay_build_info", "1, with the version.", build, "version")
        up = float(self.seen is not None)
        yield _family("dub_relay_database_up", "1 while the database answers.", up)
        if self.seen is not None:
            for gauge in _GAUGES:
                value = gauge.value(self.seen)
                yield _family(gauge.name, gauge.help, value, gauge.label)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return every gauge there is, without a value."""
        named = [("dub_relay_build_info", "version"), ("dub_relay_database_up", None)]
        for name, label in [*named, *((one.name, one.label) for one in _GAUGES)]:
            yield GaugeMetricFamily(name, "", labels=[label] if label else None)


def _family(
    name: str, text: str, value: Value, label: str | None = None
) -> GaugeMetricFamily:
    if not isinstance(value, dict):
        return GaugeMetricFamily(name, text, value=float(value))
    family = GaugeMetricFamily(name, text, labels=[label or ""])
    for key, number in value.items():
        family.add_metric([key], number)
    return family


class MetricsAccess(NamedTuple):
    """Who may read metrics at the visitors' address: numbers are the site's affair.

    With ``tokens`` a caller that has one of them; without, a direct connection from
    the machine itself or from a private network, as Prometheus makes it.
    """

    trusted: Trusted
    tokens: Sequence[str] = ()

    def require(self, request: web.Request) -> None:
        """Raise RefusedError(401 or 403) for a stranger."""
        if self.tokens:
            given = request.headers.get("Authorization", "").encode("utf-8", "replace")
            known = (f"Bearer {token}".encode() for token in self.tokens)
            if not sum(hmac.compare_digest(given, each) for each in known):
                raise RefusedError(
                    401, "Metrics need the token of RELAY_METRICS_TOKEN."
                )
        elif not self._is_near(request):
            raise RefusedError(
                403,
                "Metrics are for the relay's own network. Set RELAY_METRICS_TOKEN, or"
                " use RELAY_ADMIN_LISTEN.",
            )

    def _is_near(self, request: web.Request) -> bool:
        if not self.trusted.includes(request.remote or None) and any(
            name.lower() in _PASSED_ON for name, _ in request.raw_headers
        ):
            return False  # a proxy that nobody named: anyone may be behind it
        try:
            address = ip_address(self.trusted.address(request))
        except ValueError:
            return False
        return any(address in network for network in _NEAR)


_NEAR: Final = tuple(
    ip_network(each)
    for each in (
        *("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        "fc00::/7",
    )
)
"""The machine itself, and networks that the internet cannot reach (RFC 1918, 4193)."""

_PASSED_ON: Final = frozenset(
    {b"x-forwarded-for", b"x-real-ip", b"forwarded", b"via", b"x-forwarded-host"}
)
"""What only a proxy sends."""


class Paced:
    """Makes something at most once a second; all who ask meanwhile share the next."""

    def __init__(self, make: Callable[[], Awaitable[bytes]]) -> None:
        self._make = make
        self._next: asyncio.Task[bytes] | None = None
        self._made_at = -RENDER_EVERY_S

    async def get(self) -> bytes:
        """Return what is made from now on: never older than the question."""
        if self._next is None:
            self._next = asyncio.create_task(self._turn())
        return await asyncio.shield(self._next)

    async def _turn(self) -> bytes:
        await asyncio.sleep(self._made_at + RENDER_EVERY_S - time.monotonic())
        self._made_at = time.monotonic()
        self._next = None
        return await self._make()


def has_descriptors() -> bool:
    """Whether this process can open some more files or connections.

    One that cannot still answers on connections that it has, and would be sent requests
    on new ones, which it cannot accept.
    """
    opened: list[int] = []
    try:
        opened += os.pipe()
        opened += (os.dup(opened[0]) for _ in range(SPARE_DESCRIPTORS - 2))
    except OSError:
        return False
    finally:
        for each in opened:
            os.close(each)
    return True


class HealthEndpoints:
    """The three endpoints. ``overview`` raises OutboxUnavailableError."""

    def __init__(
        self,
        outbox: Outbox,
        metrics: Metrics,
        overview: Callable[[], Awaitable[Overview]],
        stopping: Callable[[], bool],
        access: MetricsAccess,
        probes: FrontProbes,
    ) -> None:
        self._outbox = outbox
        self._rendered = metrics
        self._gauges = StatusCollector()
        metrics.registry.register(self._gauges)
        self._overview = overview
        self._stopping = stopping
        self._access = access
        self._probes = probes
        self._text = Paced(self._render)

    async def livez(self, _: web.Request) -> web.StreamResponse:
        """Answer 200: the process is alive."""
        return answer({"status": "alive"})

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """Answer 200 if leads can be committed, 503 if not or when stopping."""
        if self._stopping():
            raise RefusedError(503, "The relay is stopping.")
        if not has_descriptors():
            raise RefusedError(503, "The relay cannot open more connections.")
        if self._probes.read(request.headers.get(PROBE_HEADER)) is ProbeWish.AROUND:
            raise RefusedError(503, "The relay declines, as a probe asks it to.")
        if request.query.get("only") == "serving":
            # In front of a site, a database that is down must not take it down too.
            return answer({"status": "serving"})
        try:
            await self._outbox.check_writable()
        except OutboxUnavailableError as error:
            raise RefusedError(503, f"The database takes no leads: {error}") from None
        return answer({"status": "ready"})

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Answer with Prometheus's text to those who may read it."""
        self._access.require(request)
        return await self.all_metrics(request)

    async def all_metrics(self, _: web.Request) -> web.StreamResponse:
        """Answer anyone with it, also while the database is down."""
        text = await self._text.get()
        return web.Response(
            body=text, headers={"Content-Type": prometheus.CONTENT_TYPE}
        )

    async def _render(self) -> bytes:
        try:
            seen = await self._overview()
        except OutboxUnavailableError:
            seen = None  # the scrape says so: it must not fail when it matters most
        self._gauges.seen = seen
        return self._rendered.render()
