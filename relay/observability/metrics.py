"""What Prometheus sees. Labels are few and never hold anything of a person's.

Counters and histograms are this process's own; what stands in the outbox is read
at each scrape (:mod:`relay.observability.status_metrics`). With several workers on one
port a scrape reaches any of them: then they share files (:func:`share_among_workers`),
and each answers with the sum.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Final, ParamSpec, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

SHARED: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client looks for the folder of the workers' shared files."""

_CALL_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Dub answers in tenths of a second; a call is given up after ten."""

_COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1)
"""From one commit on a fast disk to a disk in trouble."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

# A series for each that says when the process began: process_start_time does.
disable_created_metrics()


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
        own = CollectorRegistry()
        self.captured = Counter(
            "dub_relay_captured_total",
            "Sign-ups seen, by where they came from and what became of them.",
            ("source", "result"),
            registry=own,
        )
        self.missed = Counter(
            "dub_relay_signups_missed_total",
            "Sign-ups that passed the proxy but whose lead could not be kept.",
            registry=own,
        )
        self.bounded = Counter(
            "dub_relay_signups_bounded_total",
            "Sign-ups through the proxy that came too fast from one address, by what"
            " became of their leads.",
            ("result",),
            registry=own,
        )
        self.undecided = Counter(
            "dub_relay_signups_undecided_total",
            "Responses to sign-ups that a rule without a when cannot decide.",
            ("rule",),
            registry=own,
        )
        self.candidates = Counter(
            "dub_relay_signup_candidates_total",
            "Requests with a click that no rule matches, by method and folded path.",
            ("method", "path"),
            registry=own,
        )
        self.landings = Counter(
            "dub_relay_landings_total",
            "Visits that brought a click id through the proxy.",
            registry=own,
        )
        self.unread_consent = Counter(
            "dub_relay_consent_unreadable_total",
            "Landings whose click was not kept: their consent cookie is no yes or no.",
            registry=own,
        )
        self.capture = Histogram(
            "dub_relay_capture_seconds",
            "From a call with a sign-up to its answer, by path.",
            ("path",),
            buckets=_COMMIT_SECONDS,
            registry=own,
        )
        self.commit = Histogram(
            "dub_relay_commit_seconds",
            "From offering a lead to the outbox to its commit.",
            buckets=_COMMIT_SECONDS,
            registry=own,
        )
        self.calls = Histogram(
            "dub_relay_dub_call_seconds",
            "Calls to Dub, by step and what the answer meant.",
            ("step", "meaning"),
            buckets=_CALL_SECONDS,
            registry=own,
        )
        self.reconciled = Counter(
            "dub_relay_reconciled_total",
            "Leads and sales compared with Dub's list of events, by what that showed.",
            ("found",),
            registry=own,
        )
        self.registry = own
        if SHARED in os.environ:
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)
        else:
            ProcessCollector(registry=own)

    def timed(
        self, path: str, answer: Callable[_P, Awaitable[_T]]
    ) -> Callable[_P, Awaitable[_T]]:
        """Measure what answers a path by which sign-ups come, in whichever form."""
        observe = self.capture.labels(path).observe

        async def timed(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            started = perf_counter()
            try:
                return await answer(*args, **kwargs)
            finally:
                observe(perf_counter() - started)

        return timed

    def totals(self) -> dict[str, float]:
        """Return what has been counted since the start, for samples over time.

        Named as :mod:`relay.dashboard.live` says; all sources are one.
        """
        counted: defaultdict[str, float] = defaultdict(float)
        for metric in (self.captured, self.landings, self.calls):
            for family in metric.collect():
                for sample in family.samples:
                    if (name := _plotted(sample.name, sample.labels)) is not None:
                        counted[name] += sample.value
        return dict(counted)

    def render(self) -> bytes:
        """Return the text of a scrape."""
        return generate_latest(self.registry)


def share_among_workers(folder: Path) -> None:
    """Have all processes that are forked from now on count together.

    To be called before any Metrics are made; the folder is the workers' own.
    """
    from prometheus_client import values  # noqa: PLC0415 - of no other use

    os.environ[SHARED] = str(folder)
    # It chose when it was imported, which may be long ago.
    values.ValueClass = values.get_value_class()
