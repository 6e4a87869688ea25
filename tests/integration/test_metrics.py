"""Metrics as Prometheus reads them; docs, board and rules name what there is."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.observability.metrics import Metrics
from relay.operations.monitoring import StatusCollector
from tests.support.harness import RelayProcess, SandboxDub, post_hook
from tests.support.servers import DEPLOY, TOP, free_port, program

RULES = DEPLOY / "prometheus" / "alerts.yml"
BOARD = DEPLOY / "grafana" / "dub-relay.json"

OTHERS = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
"""Metrics of Prometheus itself, and of its client library."""

HOOK = {
    "clickId": "hQWlM0a9Zk3xY7bT",
    "eventName": "Sign Up",
    "customerExternalId": "u_1",
}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(session: aiohttp.ClientSession, relay: RelayProcess) -> Samples:
    async with session.get(f"{relay.url}/_dub/metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def known() -> dict[str, tuple[str, set[str]]]:
    """Every metric of the relay's, its type and its labels, as its code has them."""
    found = {}
    for collector in (*Metrics().registry._collector_to_names, StatusCollector()):
        for family in getattr(collector, "describe", list)():
            total = "_total" if family.type == "counter" else ""
            names = getattr(collector, "_labelnames", None)
            if names is None:
                names = family._labelnames
            found[family.name + total] = (family.type, set(names))
    return found


def documented() -> dict[str, tuple[str, set[str]]]:
    rows = re.findall(
        r"^\| `(dub_relay_\w+)` \| (\w+) \| ([^|]*)\|",
        (TOP / "docs" / "metrics.md").read_text("utf-8"),
        re.MULTILINE,
    )
    words = re.compile(r"\w+")
    return {name: (kind, set(words.findall(labels))) for name, kind, labels in rows}


def named(expression: str) -> set[str]:
    """The metrics that a query names, those of a histogram by its own name."""
    plain = re.sub(r'"[^"]*"|\{[^}]*\}|\b(by|without) ?\([^)]*\)', " ", expression)
    words = set(re.findall(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b|\bup\b", plain))
    functions = {"histogram_quantile", "min_over_time", "label_values"}
    return {re.sub(r"_(bucket|sum|count)$", "", word) for word in words - functions}


def labels(expression: str) -> set[tuple[str, str]]:
    """Metric and label, for each label that a query selects by."""
    return {
        (re.sub(r"_(bucket|sum|count)$", "", name), label)
        for name, inside in re.findall(r"(\w+)\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)\s*[=!]~?", inside)
    }


def expressions() -> Iterator[str]:
    yield from re.findall(
        r"^ *expr: (?:>\n)?((?:.|\n)*?)(?=\n *(?:for|labels):)",
        RULES.read_text(),
        re.MULTILINE,
    )
    board = json.loads(BOARD.read_text())
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    yield board["templating"]["list"][1]["query"]["query"]


def test_the_docs_name_every_metric_and_no_other() -> None:
    assert documented() == known()


def test_board_and_rules_name_only_metrics_and_labels_that_there_are() -> None:
    there = documented()
    asked = list(expressions())

    assert len(asked) > 30
    assert {name for it in asked for name in named(it)} - OTHERS <= set(there)
    wrong = {
        (name, label)
        for it in asked
        for name, label in labels(it)
        if label not in {"job", "instance", *there.get(name, ("", set()))[1]}
    }
    assert wrong == {(name, label) for name, label in wrong if name in OTHERS}
    assert {"dub_relay_leads", "dub_relay_dub_call_seconds"} <= {
        name for it in asked for name in named(it)
    }


def test_the_boards_panels_have_ids_and_places_of_their_own() -> None:
    panels = json.loads(BOARD.read_text())["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [cell for panel in panels for cell in _cells(panel["gridPos"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        yield from ((x, place["y"] + down) for down in range(place["h"]))


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")],
)
def test_promtool_finds_nothing_wrong_with_the_rules(arguments: Any) -> None:
    ran = subprocess.run(
        [program("promtool"), *arguments],
        cwd=RULES.parent,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


async def test_a_lead_is_seen_on_its_way(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    hook = HOOK | {"clickId": await dub.click()}

    await post_hook(session, delivering.url, hook)
    await delivering.settled(1)
    seen = await scrape(session, delivering)

    captured = (("result", "new"), ("source", "hook"))
    assert seen["dub_relay_captured_total", captured] == 1
    assert seen["dub_relay_capture_seconds_count", (("path", "hooks/signup"),)] == 1
    assert seen["dub_relay_commit_seconds_count", ()] == 1
    proved = (("meaning", "taken"), ("step", "prove"))
    assert seen["dub_relay_dub_call_seconds_count", proved] == 1
    assert seen["dub_relay_leads", (("status", "delivered"),)] == 1
    assert seen["dub_relay_oldest_open_lead_seconds", ()] == 0
    assert seen["dub_relay_rate_now", ()] == seen["dub_relay_rate_plan", ()] == 100_000
    assert seen["dub_relay_disk_free_bytes", ()] > 0
    assert seen["dub_relay_database_up", ()] == 1
    assert seen["process_resident_memory_bytes", ()] > 0


async def test_a_scrape_says_that_the_database_is_gone(
    delivering: RelayProcess, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "relay.db").rename(tmp_path / "elsewhere.db")

    seen = await scrape(session, delivering)

    assert seen["dub_relay_database_up", ()] == 0
    assert ("dub_relay_oldest_open_lead_seconds", ()) not in seen


async def test_what_is_spilled_is_measured(
    delivering: RelayProcess, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    aside = tmp_path / "relay.db.spill.1.ab"
    with (tmp_path / "new").open("wb") as file:
        # As another worker does that is just taking it in.
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"no lead\n")
        file.flush()
        (tmp_path / "new").rename(aside)

        seen = await scrape(session, delivering)

    assert seen["dub_relay_spill_bytes", ()] == 8


@pytest.mark.process
async def test_workers_count_together(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    relay = RelayProcess(
        tmp_path,
        {"RELAY_LISTEN": f"127.0.0.1:{free_port()}"},
        arguments=("--workers", "2", "--no-delivery"),
    )
    await relay.start()
    for number in range(20):
        # A connection each, so that both workers get some.
        async with aiohttp.ClientSession() as visitor:
            hook = HOOK | {"customerExternalId": f"u_{number}"}
            status, _ = await post_hook(visitor, relay.url, hook, f"msg_{number}")
            assert status == 202

    for _ in range(4):
        async with aiohttp.ClientSession() as visitor:
            seen = await scrape(visitor, relay)
        captured = (("result", "new"), ("source", "hook"))
        assert seen["dub_relay_captured_total", captured] == 20
        assert seen["dub_relay_leads", (("status", "queued"),)] == 20
    assert await relay.stop() == 0
