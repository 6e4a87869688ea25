"""The commands as a user types them: output, exit codes, one-line mistakes."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from relay.cli.main import (
    cli,
    main,
)
from relay.core import signing
from relay.core.clock import (
    iso,
    now_ms,
)
from relay.core.leads import Attempt, CreditedLink, Lead, LeadStatus, Step
from relay.outbox.backends import open_outbox
from relay.outbox.contract import Circuit, NewLead, Outbox, Proof, Settlement

HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLUSw"
BORN = now_ms() - 3_600_000
HOUR = 3_600_000
LEASE = 60_000

COMMANDS = [
    *("serve", "demo", "sandbox", "check", "sign", "version", "leads"),
    *("leads list", "leads show", "leads retry", "leads export", "leads forget"),
    *("leads credit", "leads import", "leads recover", "front"),
    *("leads rekey", "alerts", "alerts list", "alerts test"),
    *("health", "stats", "reconcile", "delivery", "delivery pause", "delivery resume"),
    *("rules", "rules list", "rules candidates", "rules suggest"),
    *("backup", "restore", "migrate", "completion"),
]

PUBLIC_KEYS = [
    *(
        "id",
        "kind",
        "status",
        "source",
        "clickId",
        "eventName",
        "customerExternalId",
        "mode",
    ),
    *("createdAt", "attempts", "lastError", "nextAttemptAt", "deliveredAt", "notes"),
    *("linkId", "linkKey", "linkDomain", "partnerId", "dubEventId", "confirmedBy"),
    *("missingAtDubAt", "doubledAtDubAt"),
]


@dataclass
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def mistake(self) -> str:
        """The one line of a mistake; nothing may stand on stdout."""
        assert self.out == ""
        assert self.err.startswith("dub-relay: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("dub-relay: ").rstrip("\n")


Run = Callable[..., Ran]


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs a command line in an empty folder, with no setting but those given."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("RELAY_", "DUB_")):
            monkeypatch.delenv(name)

    def go(line: str, stdin: bytes = b"", **environ: str) -> Ran:
        with monkeypatch.context() as context:
            for name, value in environ.items():
                context.setenv(name, value)
            context.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            code = main(shlex.split(line))
        return Ran(code, *capsys.readouterr())

    return go


def lead(number: int, **more: Any) -> Lead:
    defaults: dict[str, Any] = {
        "id": f"lead_{number:026}",
        "source": "hook",
        "click_id": f"click{number:08}",
        "event_name": "Sign Up",
        "customer_external_id": f"u_{number}",
        "created_at": BORN + number * 1000,
        "origin": {"click": "cookie"},
    }
    return Lead(**(defaults | more))


def new_lead(made: Lead, **more: Any) -> NewLead:
    key = f"{made.customer_external_id} {made.event_name}"
    return NewLead(made, dedupe_key=key, dedupe_since=None, **more)


def attempt(step: Step, outcome: str, status: int | None) -> Attempt:
    return Attempt(
        at=BORN + 5000, step=step, duration_ms=87, outcome=outcome, http_status=status
    )


FATES = [
    Settlement(
        LeadStatus.DELIVERED,
        [attempt(Step.RECORD, "Dub took the lead", 200)],
        delivered_at=BORN + 6000,
    ),
    Settlement(
        LeadStatus.WAITING,
        [attempt(Step.PROVE, "Dub had an internal error (500)", 500)],
        due_at=now_ms() + HOUR,
        last_error="Dub had an internal error (500)",
    ),
    Settlement(
        LeadStatus.UNCONFIRMED,
        [attempt(Step.RECORD, "Dub did not answer in time", None)],
        last_error="Dub did not answer in time",
        in_doubt=True,
    ),
    Settlement(
        LeadStatus.REJECTED,
        [attempt(Step.PROVE, "The link of this click is disabled", 404)],
        last_error="The link of this click is disabled",
    ),
]
DELIVERED, WAITING, UNCONFIRMED, REJECTED, QUEUED, HELD = range(6)


def name(number: int) -> str:
    return lead(number).id


def with_outbox(work: Callable[[Outbox], Coroutine[Any, Any, None]]) -> None:
    """Do something with ./relay.db as another process would."""

    async def do() -> None:
        outbox = open_outbox("sqlite:///relay.db")
        await outbox.open()
        try:
            await work(outbox)
        finally:
            await outbox.close()

    asyncio.run(do())


@pytest.fixture
def ledger(run: Run) -> None:
    """A database with one lead in each of six states, oldest first."""

    async def fill(outbox: Outbox) -> None:
        for number in range(len(FATES)):
            await outbox.put(new_lead(lead(number)))
        claims = await outbox.claim(len(FATES), now_ms(), LEASE)
        fates = {name(number): fate for number, fate in enumerate(FATES)}
        for claim in claims:
            await outbox.settle(claim, fates[claim.entry.lead.id], now_ms())
        await outbox.put(new_lead(_queued()))
        await outbox.put(new_lead(lead(HELD, source="proxy"), status=LeadStatus.HELD))

    with_outbox(fill)


def _queued() -> Lead:
    return lead(
        QUEUED,
        customer_name="Zoë [red]\x1b[31m",
        customer_email="zoe@example.com",
        metadata={"plan": "pro"},
        notes=("customerAvatar was left out: it is no text",),
    )


# All commands


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_takes_a_config(
    run: Run, command: str
) -> None:
    ran = run(f"{command} --help")

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: dub-relay {command}")
    assert "--config FILE" in ran.out


def test_no_command_is_left_out_here() -> None:
    def walked(group: click.Group, before: str = "") -> Iterator[str]:
        for name, command in group.commands.items():
            yield before + name
            if isinstance(command, click.Group):
                yield from walked(command, f"{before}{name} ")

    assert sorted(walked(cli)) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_brackets_what_may_be_left_out(run: Run, command: str) -> None:
    found: click.Command = cli
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.commands[name]
    usage = " ".join(run(f"{command} --help").out.partition("\n\n")[0].split())

    for argument in found.params:
        if isinstance(argument, click.Argument):
            optional = usage.removesuffix("...").endswith("]")
            assert optional is not argument.required, usage


def test_without_a_command_the_help_is_shown_as_wrong_usage(run: Run) -> None:
    ran = run("")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: dub-relay ")


def test_version_names_product_and_version(run: Run) -> None:
    assert run("version") == Ran(0, "dub-relay 0.1.0\n", "")


def test_serve_help_lists_every_setting(run: Run) -> None:
    out = run("serve --help").out

    assert "\n  RELAY_RETRY_BASE  delivery.retry_base\n" in out
    assert "\n  DUB_API_KEY  dub.api_key\n" in out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("sevre", "No such command 'sevre'"),
        ("leads lst", "Did you mean 'list'?"),
        ("serve --wrkers 2", "Did you mean '--workers'?"),
        ("serve --workers 0", "Invalid value for '--workers'"),
        ("serve --no-web --no-delivery", "leave nothing to do"),
        ("leads show", "Missing argument 'ID'"),
        ("leads list --status sent", "'sent' is not one of"),
        ("leads list --since yesterday", "2h for ago"),
        ("leads list --since 5", "2h for ago"),
        ("leads list --limit 0", "--limit"),
        ("leads retry", "either lead ids or --status"),
        ("leads retry lead_1 --status held", "either lead ids or --status"),
        ("leads retry --status delivered", "'delivered' is not one of"),
        ("sandbox --listen 8080", "no host before the port"),
        ("sandbox --listen unix:/a", "must be host:port"),
    ],
)
def test_wrong_usage_is_one_line_and_2(run: Run, line: str, told: str) -> None:
    ran = run(line)

    assert ran.code == 2
    assert told in ran.mistake


@pytest.mark.parametrize(
    "line", ["serve", "check", "leads list", "leads show x", "leads retry x", "sign"]
)
def test_a_wrong_setting_is_one_line_and_2_for_every_command(
    run: Run, line: str
) -> None:
    ran = run(
        line,
        DUB_API_KEY="k",
        RELAY_SECRET="a-secret-of-16-or-more",
        RELAY_RETRY_BASE="soon",
    )

    assert ran.code == 2
    assert ran.mistake.startswith("RELAY_RETRY_BASE: not a duration. Use seconds")


@pytest.mark.parametrize(
    "line",
    [
        "--config my.toml leads list",
        "leads --config my.toml list",
        "leads list --config my.toml",
        "--config other.toml leads list --config my.toml",
    ],
)
def test_config_is_taken_before_and_after_the_command(run: Run, line: str) -> None:
    Path("my.toml").write_text("[delivery]\nrate = 0\n")

    ran = run(line, RELAY_CONFIG="third.toml")

    assert ran.code == 2
    assert ran.mistake == (
        "RELAY_RATE (delivery.rate in my.toml): out of range."
        " Use a whole number from 1 to 1000000."
    )


def test_relay_config_names_the_file_too(run: Run) -> None:
    ran = run("check", RELAY_CONFIG="gone.toml")

    assert ran.code == 2
    assert ran.mistake.startswith("gone.toml: cannot be read")


def test_the_required_settings_are_asked_for_before_anything_starts(run: Run) -> None:
    ran = run("serve", RELAY_SECRET="a-secret-of-16-or-more")

    assert ran.code == 2
    assert ran.mistake.startswith("DUB_API_KEY: is required")
    assert not Path("relay.db").exists()


@pytest.mark.parametrize("line", ["serve", "check"])
def test_every_wrong_or_missing_setting_has_a_line_of_its_own(
    run: Run, line: str
) -> None:
    ran = run(
        line, RELAY_SECRET="a-secret-of-16-or-more", RELAY_RATE="0", RELAY_LISTN="x"
    )

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        (
            "dub-relay: RELAY_LISTN: unknown setting. The nearest known one is"
            " RELAY_LISTEN."
        ),
        (
            "dub-relay: DUB_API_KEY: is required. Set it, or DUB_API_KEY_FILE, or"
            " dub.api_key in the configuration file."
        ),
        "dub-relay: RELAY_RATE: out of range. Use a whole number from 1 to 1000000.",
    ]


@pytest.mark.process
def test_reading_settings_loads_no_server_and_without_rules_no_jmespath() -> None:
    code = (
        "import sys; from relay.config.settings import load;"
        " load(None, {}, complete=False); print(*sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    heavy = {"aiohttp", "asyncio", "click", "jmespath", "pydantic", "sqlite3", "ssl"}
    assert heavy & set(ran.stdout.split()) == set()


@pytest.mark.parametrize("line", ["serve", "check", "leads list"])
def test_a_kind_of_database_that_is_not_there_is_a_wrong_setting(
    run: Run, line: str
) -> None:
    url = "mysql://relay:CANARY@db/relay"

    ran = run(
        line, DUB_API_KEY="k", RELAY_SECRET="a-secret-of-16-or-more", RELAY_DATABASE=url
    )

    assert ran.code == 2
    assert ran.mistake.startswith("RELAY_DATABASE: not a database. Use sqlite:///")
    assert "CANARY" not in ran.mistake


@pytest.mark.process
def test_python_m_relay_is_the_same_command(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "relay", "version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (0, "dub-relay 0.1.0\n")


# leads list


def test_a_listing_has_the_public_keys_newest_first(run: Run, ledger: None) -> None:
    ran = run("leads list --json")

    assert (ran.code, ran.err) == (0, "")
    assert [list(row) for row in ran.json] == [PUBLIC_KEYS] * 6
    assert [row["id"] for row in ran.json] == [name(n) for n in reversed(range(6))]
    assert ran.json[5] == {
        "id": name(DELIVERED),
        "kind": "lead",
        "status": "delivered",
        "source": "hook",
        "clickId": "click00000000",
        "eventName": "Sign Up",
        "customerExternalId": "u_0",
        "mode": "async",
        "createdAt": iso(BORN),
        "attempts": 1,
        "lastError": None,
        "nextAttemptAt": None,
        "deliveredAt": iso(BORN + 6000),
        "notes": [],
        **dict.fromkeys(PUBLIC_KEYS[-8:]),
    }
    assert ran.json[4]["nextAttemptAt"] == iso(FATES[WAITING].due_at or 0)
    assert ran.json[1]["notes"] == ["customerAvatar was left out: it is no text"]


def test_a_listing_has_nothing_of_the_person(run: Run, ledger: None) -> None:
    for line in ("leads list", "leads list --json"):
        assert "zoe@example.com" not in run(line).out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--status held", [HELD]),
        ("--customer u_2", [UNCONFIRMED]),
        ("--customer nobody", []),
        ("--limit 2", [HELD, QUEUED]),
        pytest.param(f"--since {iso(BORN + 4000)}", [HELD, QUEUED], id="since"),
        ("--since 2099-01-01", []),
        ("--since 2h", [HELD, QUEUED, REJECTED, UNCONFIRMED, WAITING, DELIVERED]),
        ("--since 10m", []),
        ("--status waiting --customer u_1", [WAITING]),
    ],
)
def test_a_listing_is_narrowed(
    run: Run, ledger: None, options: str, expected: list[int]
) -> None:
    ran = run(f"leads list --json {options}")

    assert (ran.code, ran.err) == (0, "")
    assert [row["id"] for row in ran.json] == [name(number) for number in expected]


def test_a_plain_listing_has_a_head_and_one_line_a_lead(run: Run, ledger: None) -> None:
    head, *rows = run("leads list").out.splitlines()

    assert head.split()[:3] == ["ID", "STATUS", "CAPTURED"]
    assert len(rows) == 6
    assert "The link of this click is disabled" in rows[2]


def test_a_plain_listing_stops_at_50_and_says_so(run: Run) -> None:
    async def fill(outbox: Outbox) -> None:
        for number in range(51):
            await outbox.put(new_lead(lead(number)))

    with_outbox(fill)

    plain = run("leads list")
    assert len(plain.out.splitlines()) == 1 + 50
    assert "more than these 50" in plain.err
    assert len(run("leads list --json").json) == 51
    assert len(run("leads list --limit 51").out.splitlines()) == 1 + 51


def test_a_stranger_cannot_steer_the_terminal(run: Run) -> None:
    async def fill(outbox: Outbox) -> None:
        await outbox.put(new_lead(lead(0, customer_external_id="u\x1b[2J\n\x9b1m")))

    with_outbox(fill)

    for line in ("leads list", "leads list --json", f"leads show {name(0)}"):
        out = run(line).out
        assert not {"\x1b", "\x9b"} & set(out)
    assert len(run("leads list").out.splitlines()) == 2


@pytest.mark.process
def test_on_a_terminal_the_table_is_drawn_and_ids_stay_whole(
    run: Run, ledger: None
) -> None:
    shown = on_a_terminal("leads list")

    assert "─".encode() in shown
    assert name(HELD).encode() in shown


@pytest.mark.process
def test_an_export_cannot_steer_a_terminal(run: Run, tmp_path: Path) -> None:
    steering = "Ada\x1b[2J\u202e\x9b1m"

    async def fill(outbox: Outbox) -> None:
        await outbox.put(new_lead(lead(0, customer_name=steering)))

    with_outbox(fill)

    for form in ("csv", "jsonl"):
        shown = on_a_terminal(f"leads export --format {form}").decode()
        assert name(0) in shown
        assert not {"\x1b", "\u202e", "\x9b"} & set(shown)
    # A file has what was given, byte by byte.
    file = tmp_path / "leads.csv"
    assert run(f"leads export --format csv --output {file}").code == 0
    assert steering in file.read_text("utf-8")


def on_a_terminal(line: str) -> bytes:
    """Run a command whose stdout is a terminal; return what it shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "relay", *line.split()],
        stdout=theirs,
        env=os.environ | {"COLUMNS": "100", "TERM": "xterm", "PYTHONUTF8": "1"},
    ) as process:
        os.close(theirs)
        shown = b""
        while piece := _read(ours):
            shown += piece
        assert process.wait(30) == 0
    os.close(ours)
    return shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says EIO where the other side is closed
        return b""


@pytest.mark.process
def test_a_closed_pipe_ends_quietly(run: Run) -> None:
    async def fill(outbox: Outbox) -> None:
        for number in range(300):
            await outbox.put(new_lead(lead(number)))

    with_outbox(fill)

    with subprocess.Popen(
        [sys.executable, "-m", "relay", "leads", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # More than a pipe holds is to come, and nobody will read it.
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_database_that_is_not_there_is_not_made(run: Run) -> None:
    ran = run("leads list")

    assert ran.code == 1
    assert ran.mistake.startswith("database: there is no relay.db")
    assert not Path("relay.db").exists()


def test_a_file_that_is_no_database_is_told(run: Run) -> None:
    Path("relay.db").write_bytes(b"not a database, but long enough" * 100)

    ran = run("leads list")

    assert ran.code == 1
    assert ran.mistake.startswith("database: ")


# leads show


def test_the_story_of_a_delivered_lead(run: Run, ledger: None) -> None:
    out = run(f"leads show {name(DELIVERED)}").out

    assert out.startswith(f"{name(DELIVERED)} is delivered.\n")
    assert "click00000000, from the dub_id cookie" in out
    assert f"{iso(BORN + 5000)}  record the lead  HTTP 200" in out
    assert "87 ms  Dub took the lead" in out
    assert "Next: Nothing more: Dub has taken it." in out


def test_the_story_tells_what_was_left_out_and_whose_lead_it_is(
    run: Run, ledger: None
) -> None:
    out = run(f"leads show {name(QUEUED)}").out

    assert "Noted:\n  - customerAvatar was left out: it is no text" in out
    assert "zoe@example.com" in out
    assert r"Zoë [red]\x1b[31m" in out
    assert "No call to Dub so far." in out


@pytest.mark.parametrize(
    ("number", "next_step"),
    [
        (WAITING, "It is tried again at "),
        (UNCONFIRMED, "may or may not have counted"),
        (REJECTED, f"`dub-relay leads retry {name(REJECTED)}` sends it"),
        (QUEUED, "goes as soon as a relay is free"),
        (HELD, "before the site's answer was known"),
    ],
)
def test_the_story_says_what_happens_next(
    run: Run, ledger: None, number: int, next_step: str
) -> None:
    assert next_step in run(f"leads show {name(number)}").out


ADA = CreditedLink("link_1", "acme.link", "ada", partner_id="pn_1")
BOB = CreditedLink("link_2", "acme.link", "bob")


def credited(run: Run) -> None:
    async def fill(outbox: Outbox) -> None:
        for number in range(4):
            await outbox.put(new_lead(lead(number, created_at=now_ms())))
        for number, claim in enumerate(await outbox.claim(3, now_ms(), LEASE)):
            link = BOB if number == 2 else ADA
            done = Settlement(LeadStatus.DELIVERED, link=link)
            await outbox.settle(claim, done, now_ms())
        proof = Proof("webhook", event_id="ev_1")
        assert await outbox.confirm([name(0)], now_ms(), proof) == 1

    with_outbox(fill)


def test_who_was_credited_is_shown_and_can_be_asked_for(run: Run) -> None:
    credited(run)

    [of_bob] = run("leads list --link link_2 --json").json
    of_ada = run("leads list --partner pn_1 --json").json

    assert (of_bob["linkDomain"], of_bob["linkKey"]) == ("acme.link", "bob")
    assert [one["linkId"] for one in of_ada] == ["link_1", "link_1"]
    assert {one["confirmedBy"] for one in of_ada} == {"webhook", None}
    story = run(f"leads show {name(0)}").out
    assert "credited  acme.link/ada (link_1), of partner pn_1" in story
    assert "at Dub    ev_1" in story
    assert run(f"leads show {name(3)} --json").json[0]["linkId"] is None


def test_the_overview_by_link_counts_what_became_of_the_leads(run: Run) -> None:
    credited(run)

    ada, *others = run("leads credit --json").json
    assert (ada["partnerId"], ada["link"], ada["signUps"]) == (
        *("pn_1", "acme.link/ada"),
        2,
    )
    assert (ada["confirmed"], ada["delivered"]) == (1, 1)
    assert {one["link"]: one["signUps"] for one in others} == {
        "acme.link/bob": 1,
        None: 1,
    }
    table = run("leads credit --csv").out.splitlines()
    assert table[0].startswith("partnerId,link,linkId,signUps,delivered,confirmed")
    assert table[1] == "pn_1,acme.link/ada,link_1,2,1,1,0,0,0"
    assert "acme.link/bob" in run("leads credit").out
    assert run("leads credit --since 2100-01-01 --json").json == []


def test_the_story_of_a_lead_behind_another_names_the_customer(run: Run) -> None:
    async def fill(outbox: Outbox) -> None:
        for number in (0, 1):
            one = lead(number, customer_external_id="u_1", event_name=f"e{number}")
            await outbox.put(new_lead(one))
        [claim] = await outbox.claim(2, now_ms(), LEASE)
        later = Settlement(LeadStatus.WAITING, due_at=now_ms() + 3_600_000)
        await outbox.settle(claim, later, now_ms())
        assert await outbox.claim(2, now_ms(), LEASE) == []

    with_outbox(fill)

    out = run(f"leads show {name(1)}").out
    assert "behind an earlier lead of this customer" in out
    assert "leads list --customer u_1" in out


def test_the_story_of_a_lead_under_way(run: Run, ledger: None) -> None:
    async def claim(outbox: Outbox) -> None:
        await outbox.claim(10, now_ms(), LEASE)

    with_outbox(claim)

    out = run(f"leads show {name(QUEUED)}").out
    assert "is sending." in out
    assert "Next: A call to Dub is under way." in out
    assert run(f"leads retry {name(QUEUED)}").code == 1


def test_the_story_of_a_lead_that_waits_for_a_person(run: Run, ledger: None) -> None:
    async def close(outbox: Outbox) -> None:
        circuit = Circuit(open=True, reason="The API key has expired", probe_at=BORN)
        await outbox.set_circuit(circuit)
        await outbox.park_due(now_ms(), 10)

    with_outbox(close)

    out = run(f"leads show {name(QUEUED)}").out
    assert "Delivery waits for a person: The API key has expired." in out
    assert f"The next probe goes at {iso(BORN)}." in out


def test_the_story_as_json_adds_the_person_and_the_calls(
    run: Run, ledger: None
) -> None:
    (story,) = run(f"leads show --json {name(QUEUED)}").json
    (delivered,) = run(f"leads show --json {name(DELIVERED)}").json

    assert list(story)[: len(PUBLIC_KEYS)] == PUBLIC_KEYS
    assert story["customerEmail"] == "zoe@example.com"
    assert story["metadata"] == {"plan": "pro"}
    assert story["history"] == []
    assert delivered["history"] == [
        {
            "at": iso(BORN + 5000),
            "step": "record",
            "durationMs": 87,
            "httpStatus": 200,
            "code": None,
            "outcome": "Dub took the lead",
        }
    ]


def test_a_lead_that_is_not_there_is_told(run: Run, ledger: None) -> None:
    ran = run("leads show lead_x")

    assert ran.code == 1
    assert ran.mistake == "no lead lead_x in this database"


# leads retry


def test_a_lead_is_sent_again_by_its_id(run: Run, ledger: None) -> None:
    ran = run(f"leads retry {name(REJECTED)}")

    assert ran == Ran(
        0,
        f"1 lead to be sent again\n{name(REJECTED)}  rejected -> queued\n",
        "",
    )
    assert run("leads list --json --status rejected").json == []


def test_a_whole_state_is_sent_again_oldest_first(run: Run, ledger: None) -> None:
    async def more(outbox: Outbox) -> None:
        await outbox.put(new_lead(lead(8), status=LeadStatus.HELD))

    with_outbox(more)

    lines = run("leads retry --status held").out.splitlines()

    assert lines[0] == "2 leads to be sent again"
    assert [line.split()[0] for line in lines[1:]] == [name(HELD), name(8)]


def test_a_limit_takes_the_newest(run: Run, ledger: None) -> None:
    async def more(outbox: Outbox) -> None:
        await outbox.put(new_lead(lead(8), status=LeadStatus.HELD))

    with_outbox(more)

    run("leads retry --status held --limit 1")

    held = run("leads list --json --status held").json
    assert [row["id"] for row in held] == [name(HELD)]


def test_a_dry_run_changes_nothing(run: Run, ledger: None) -> None:
    before = run("leads list --json").out

    ran = run("leads retry --status held --dry-run")

    assert ran.out.startswith("1 lead would be sent again\n")
    assert run("leads list --json").out == before


@pytest.mark.parametrize("number", [DELIVERED, WAITING, QUEUED])
def test_what_is_taken_or_on_its_way_is_not_sent_again(
    run: Run, ledger: None, number: int
) -> None:
    ran = run(f"leads retry {name(number)} {name(HELD)}")

    assert ran.code == 1
    assert f"{name(number)} is " in ran.err
    assert "is not sent again" in ran.err
    assert f"{name(HELD)}  held -> queued" in ran.out


def test_what_names_no_customer_is_not_sent_but_told_what_to_do(
    run: Run, ledger: None
) -> None:
    nameless = lead(8, customer_external_id="")

    async def more(outbox: Outbox) -> None:
        await outbox.put(new_lead(nameless, status=LeadStatus.HELD))

    with_outbox(more)

    ran = run(f"leads retry {name(8)}")

    assert ran.code == 1
    assert "names no customer" in ran.err
    assert "report the sign-up by the hook" in ran.err
    assert run("leads retry --status held --dry-run").out.startswith("1 lead would")
    assert "report the sign-up by the hook" in run(f"leads show {name(8)}").out
    held = run("leads list --json --status held").json
    assert [row["id"] for row in held] == [name(8), name(HELD)]


def test_an_unknown_id_is_told_and_1(run: Run, ledger: None) -> None:
    ran = run("leads retry lead_x")

    assert ran.code == 1
    assert ran.err == "dub-relay: there is no lead lead_x\n"


def test_a_retry_as_json_leaves_stdout_to_the_objects(run: Run, ledger: None) -> None:
    ran = run(f"leads retry --json {name(HELD)} {name(HELD)}")

    assert [(row["id"], row["status"]) for row in ran.json] == [(name(HELD), "queued")]
    assert ran.err == "1 lead to be sent again\n"


def test_a_retry_says_when_nothing_will_go(run: Run, ledger: None) -> None:
    async def close(outbox: Outbox) -> None:
        await outbox.set_circuit(Circuit(open=True, reason="The API key has expired"))

    with_outbox(close)

    ran = run(f"leads retry {name(HELD)}")

    assert ran.code == 0
    assert ran.err == "Delivery waits for a person: The API key has expired\n"


# sign


def test_a_signed_body_verifies(run: Run) -> None:
    body = b'{"a": 1}\n'

    ran = run("sign", stdin=body, RELAY_HOOK_SECRET=HOOK_SECRET)

    headers = dict(line.split(": ", 1) for line in ran.out.splitlines())
    keys = signing.parse_webhook_secrets(HOOK_SECRET)
    message_id = signing.verify_webhook(keys, headers, body, now_ms())
    assert (ran.code, ran.err) == (0, "")
    assert list(headers) == ["webhook-id", "webhook-timestamp", "webhook-signature"]
    assert message_id.startswith("msg_")


def test_each_signing_has_an_id_of_its_own_unless_one_is_given(run: Run) -> None:
    def message_id(line: str) -> str:
        out = run(line, stdin=b"{}", RELAY_HOOK_SECRET=HOOK_SECRET).out
        return out.splitlines()[0]

    assert message_id("sign") != message_id("sign")
    assert message_id("sign --id msg_7") == "webhook-id: msg_7"


@pytest.mark.parametrize("bad", ["a b", "a.b", "é"])
def test_an_id_that_no_receiver_takes_is_wrong_usage(run: Run, bad: str) -> None:
    ran = run(f"sign --id '{bad}'", RELAY_HOOK_SECRET=HOOK_SECRET)

    assert ran.code == 2
    assert "--id" in ran.mistake


def test_signing_needs_a_hook_secret(run: Run) -> None:
    ran = run("sign", stdin=b"{}")

    assert ran.code == 2
    assert ran.mistake.startswith("RELAY_HOOK_SECRET: is required")


@pytest.mark.process
@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "O\'Brien $(id) `id` \\\\ \\"x\\""}',
        b'{\n  "a": 1,\r\n  "b": "\\n"\n}\n',
        '{"name": "Zoë"}'.encode(),
        b"@/etc/passwd",
        b"no json\nat all",
        b"",
    ],
)
def test_a_curl_line_survives_the_shell_and_verifies(run: Run, body: bytes) -> None:
    url = "http://localhost/_dub/hooks/signup?a=1&b='2"
    line = f"sign --curl {shlex.quote(url)}"

    out = run(line, stdin=body, RELAY_HOOK_SECRET=HOOK_SECRET).out

    # A shell splits it, and shows what curl would be called with.
    split = subprocess.run(
        ["sh", "-c", f'set -- {out}\nprintf "%s\\0" "$@"'],
        capture_output=True,
        check=True,
    )
    words = split.stdout.decode().split("\0")[:-1]
    pairs = itertools.pairwise(words)
    headers = dict(word.split(": ", 1) for flag, word in pairs if flag == "-H")
    sent, target = words[-2:]
    keys = signing.parse_webhook_secrets(HOOK_SECRET)
    signing.verify_webhook(keys, headers, sent.encode(), now_ms())
    assert words[:2] == ["curl", "-sS"]
    assert words[-3] == ("--data-raw" if body.startswith(b"@") else "--data-binary")
    assert target == url
    assert headers["content-type"] == "application/json"
    assert sent.split() == body.decode().split()
    if body.startswith(b"{"):
        assert out.count("\n") == 1


@pytest.mark.parametrize("body", [b"\xff", b"a\0b"])
def test_what_no_shell_can_hold_is_told(run: Run, body: bytes) -> None:
    ran = run("sign --curl http://h", stdin=body, RELAY_HOOK_SECRET=HOOK_SECRET)

    assert ran.code == 1
    assert "shell cannot hold it" in ran.mistake


# Secrets

CANARIES = {
    "DUB_API_KEY": "dub_CANARYkey",
    "DUB_WEBHOOK_SECRET": "CANARYwebhook",
    "RELAY_SECRET": "CANARYsecret-number-1,CANARYsecret-number-2",
    "RELAY_API_TOKEN": "CANARYtoken",
    "RELAY_ADMIN_PASSWORD": "CANARYpassword",
    "RELAY_HOOK_SECRET": "whsec_CANARYCANARYCANARYCANARYCANARYCANARY",
    "DUB_API_URL": "http://127.0.0.1:9",
}


@pytest.mark.parametrize(
    "line",
    [
        *(f"{command} --help" for command in COMMANDS),
        *("check", "check --json", "leads list", "leads list --json", "leads show x"),
        *("leads retry x", "sign", "sign --curl http://h", "version"),
    ],
)
def test_no_command_prints_a_secret(run: Run, ledger: None, line: str) -> None:
    ran = run(line, stdin=b"{}", **CANARIES)

    assert ran.out + ran.err
    assert "CANARY" not in ran.out + ran.err


@pytest.mark.parametrize("wrong", ["RELAY_RATE", "RELAY_LISTEN", "RELAY_HOOK_SECRET"])
def test_no_mistake_prints_a_secret(run: Run, wrong: str) -> None:
    ran = run("serve", **(CANARIES | {wrong: "CANARYwrong"}))

    assert ran.code == 2
    assert "CANARY" not in ran.mistake
