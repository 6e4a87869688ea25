"""What Prometheus sees. Labels are few and never hold anything of a person's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from relay.core.leads import Status

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_CALL_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Dub answers in tenths of a second; a call is given up after ten."""

_COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1)
"""From one commit on a fast disk to a disk in trouble."""


def _plotted(name: str, labels: Mapping[str, str]) -> str | None:
    match name:
        case "dub_relay_captured_total":
            return f"captured.{labels['result']}"
        case "dub_relay_landings_total":
            return "landings"
        case "dub_relay_dub_call_seconds_count":
            return f"calls.{labels['meaning']}"
        case "dub_relay_dub_call_seconds_sum":
            return "call_seconds"
        case _:
            return None


class Metrics:
    """All of the relay's metrics, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.captured = Counter(
            "dub_relay_captured_total",
            "Sign-ups seen, by where they came from and what became of them.",
            ("source", "result"),
            registry=self.registry,
        )
        self.missed = Counter(
            "dub_relay_signups_missed_total",
            "Sign-ups that passed the proxy but whose lead could not be kept.",
            registry=self.registry,
        )
        self.landings = Counter(
            "dub_relay_landings_total",
            "Visits that brought a click id through the proxy.",
            registry=self.registry,
        )
        self.commit = Histogram(
            "dub_relay_commit_seconds",
            "From offering a lead to the outbox to its commit.",
            buckets=_COMMIT_SECONDS,
            registry=self.registry,
        )
        self.calls = Histogram(
            "dub_relay_dub_call_seconds",
            "Calls to Dub, by step and what the answer meant.",
            ("step", "meaning"),
            buckets=_CALL_SECONDS,
            registry=self.registry,
        )
        self._leads = Gauge(
            "dub_relay_leads",
            "Leads in the outbox, by state.",
            ("status",),
            registry=self.registry,
        )
        self._oldest = Gauge(
            "dub_relay_oldest_open_lead_seconds",
            "Age of the oldest lead that is not settled yet; 0 if there is none.",
            registry=self.registry,
        )
        self._gate = Gauge(
            "dub_relay_delivery_parked",
            "1 while nothing is sent until a person acts.",
            registry=self.registry,
        )

    def totals(self) -> dict[str, float]:
        """Give what has been counted since the start, for samples over time.

        Named as :mod:`relay.dashboard.sampling` says; all sources are one.
        """
        told: defaultdict[str, float] = defaultdict(float)
        for metric in (self.captured, self.landings, self.calls):
            for family in metric.collect():
                for sample in family.samples:
                    if (name := _plotted(sample.name, sample.labels)) is not None:
                        told[name] += sample.value
        return dict(told)

    def render(
        self, counts: Mapping[Status, int], oldest_age_s: float, *, parked: bool
    ) -> bytes:
        """Give the text of a scrape, with the outbox as it stands now."""
        for status in Status:
            self._leads.labels(status.value).set(counts.get(status, 0))
        self._oldest.set(oldest_age_s)
        self._gate.set(parked)
        return generate_latest(self.registry)
