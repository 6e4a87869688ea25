"""What ``dub-relay check`` looks at, one function a question.

No check changes anything: Dub is asked with an empty body, which it can only
refuse, and it refuses it after it has judged the key. All checks run even if
one fails, at the same time and with short time limits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import aiohttp

from relay.capture.snippet import (
    BrokenSnippetError,
    Snippet,
)
from relay.config.settings import Settings
from relay.config.values import sqlite_file
from relay.core.clock import iso, now_ms
from relay.core.dub.events import Kind, NotNow, NotProvable, read_page
from relay.core.dub.replies import (
    Answer,
    Meaning,
    NoAnswer,
    interpret,
)
from relay.core.http.site_host import SiteHost
from relay.core.leads import Step
from relay.core.providers import PROVIDERS
from relay.core.rules.review import review
from relay.core.signing import sign_call
from relay.delivery.dub_client import DubClient
from relay.http.public_suffix import is_public_suffix
from relay.outbox.contract import TAG, Circuit, Outbox, OutboxError, Sighting

TIMEOUT_S: Final = 5.0
"""A person is waiting; what takes longer is as good as down for sign-ups."""

MAX_SKEW_MS: Final = 60_000
"""A signed hook may be 300 s off; a minute leaves room for the sender's clock."""

MAX_DATABASE_SKEW_MS: Final = 2_000
"""Relays go by the database's clock; so much shows that one of the two is not set."""

TAG_MS: Final = 7 * 86_400_000
"""A tag that was put right is not spoken of any more after a week."""

PROBE: Final = b"{}"
"""Dub judges a body after the key, the workspace and the plan; this one lacks
every required field, so that nothing can be recorded."""


class CheckResult(StrEnum):
    """How a check ended. A note is no failure: something to know."""

    OK = "ok"
    NOTE = "note"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    result: CheckResult
    detail: str

    @property
    def failed(self) -> bool:
        """Return whether the command must end with 1."""
        return self.result is CheckResult.FAIL


def ok(name: str, detail: str) -> Finding:
    """Make a finding of something that works."""
    return Finding(name, CheckResult.OK, detail)


def note(name: str, detail: str) -> Finding:
    """Make a finding of something to know."""
    return Finding(name, CheckResult.NOTE, detail)


def fail(name: str, detail: str) -> Finding:
    """Make a finding of something that does not work."""
    return Finding(name, CheckResult.FAIL, detail)


async def run_checks(settings: Settings, outbox: Outbox) -> list[Finding]:
    """Run all checks, whatever each of them finds."""
    stored, site, dub, proof = await asyncio.gather(
        check_database(settings, outbox),
        check_upstream(settings),
        check_dub(settings),
        check_events(settings),
    )
    reached, key, clock = dub
    cookie = check_cookie(settings)
    found = [
        check_settings(settings),
        *stored,
        site,
        reached,
        key,
        proof,
        cookie,
        clock,
    ]
    found += [check_hooks(settings), check_snippet(settings)]
    return [*found, *check_rules(settings)]


def check_settings(settings: Settings) -> Finding:
    """Say where the settings came from; they were valid, or we were not here."""
    if settings.config is None:
        return ok("settings", "valid, from the environment alone: no file was read")
    return ok("settings", f"valid, from {settings.config} and the environment")


async def check_database(settings: Settings, outbox: Outbox) -> list[Finding]:
    """Open, migrate and write, as a relay does when it starts.

    With what is in it of tags of the script that say other than the settings.
    """
    path = sqlite_file(settings.database)
    if path is not None and not path.exists():
        return [_missing_file(path)]
    try:
        await outbox.open()
        await outbox.check_writable()
        total = sum((await outbox.counts()).values())
        circuit = await outbox.circuit()
        ahead = now_ms() - outbox.now()
        tags = await outbox.sightings(TAG)
    except OutboxError as error:
        return [fail("database", str(error))]
    finally:
        await outbox.close()
    return [_judge_database(total, circuit, ahead), *_judge_tags(tags, now_ms())]


def _judge_database(total: int, circuit: Circuit, ahead: int) -> Finding:
    if abs(ahead) > MAX_DATABASE_SKEW_MS:
        word = "ahead of" if ahead > 0 else "behind"
        said = f"the clock here is {abs(ahead) / 1000:.0f} s {word} its own"
        return note("database", f"writable, but {said}: set both by NTP")
    if circuit.open:
        return note("database", f"writable, but delivery is stopped: {circuit.reason}")
    return ok("database", f"migrated and writable, leads in it: {total}")


def _judge_tags(tags: Sequence[Sighting], now: int) -> Iterator[Finding]:
    """Name options of the script's tag that the settings contradict."""
    for tag in tags:
        if now - tag.last_at < TAG_MS:
            said = f"a page's tag has {tag.name}, the settings say otherwise"
            yield note("tag", f"{said}: set the same in both (docs/snippet.md)")


def _missing_file(path: Path) -> Finding:
    """Judge a database that the first start will make; make none for a check."""
    folder = path.absolute().parent
    if not folder.is_dir():
        return fail("database", f"there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return fail("database", f"the folder {folder} is not writable")
    return note("database", f"{path} is not there yet; serve makes it")


async def check_upstream(settings: Settings) -> Finding:
    """Ask every instance of the site for its first page; any answer will do."""
    if settings.upstream is None:
        return note("upstream", "not set: no reverse proxy")
    host = settings.upstream_host
    found = await asyncio.gather(*(_check_site(url, host) for url in settings.upstream))
    if len(found) == 1:
        return found[0]
    worst = max(found, key=lambda each: list(CheckResult).index(each.result))
    said = "; ".join(
        f"{url}: {each.detail}"
        for url, each in zip(settings.upstream, found, strict=True)
    )
    return Finding("upstream", worst.result, said)


async def _check_site(upstream: str, host: str | None) -> Finding:
    try:
        status = await _ask(upstream, host)
    except TimeoutError:
        return fail("upstream", f"no answer within {TIMEOUT_S:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return fail("upstream", unreachable(error))
    if status >= 500:
        return note("upstream", f"reachable, but answers HTTP {status}")
    named = f" as {host}" if host else ""
    return ok("upstream", f"reachable, answers HTTP {status}{named}")


async def _ask(upstream: str, host: str | None) -> int:
    connector: aiohttp.BaseConnector
    if upstream.startswith("unix:"):
        connector = aiohttp.UnixConnector(upstream.removeprefix("unix:"))
        url = "http://localhost/"
    else:
        connector, url = aiohttp.TCPConnector(), f"{upstream}/"
    async with (
        aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
        ) as session,
        session.get(
            url,
            allow_redirects=False,
            headers={"Host": host} if host else None,
            server_hostname=SiteHost(host).server_name if host else None,
        ) as answer,
    ):
        return answer.status


async def check_dub(settings: Settings) -> tuple[Finding, Finding, Finding]:
    """Ask Dub once: is it there, does it take the key, are our clocks alike."""
    timeout = min(settings.dub_timeout, TIMEOUT_S)
    async with DubClient(
        settings.dub_api_url, settings.dub_api_key, timeout=timeout
    ) as dub:
        signature = sign_call(settings.secret, "check", PROBE, now_ms())
        reply = await dub.track_lead(PROBE, signature)
    now = now_ms()
    if isinstance(reply, NoAnswer):
        unknown = "not known: Dub did not answer"
        return (
            fail("dub", f"{settings.dub_api_url} is not reachable: {reply.reason}"),
            note("key", unknown),
            note("clock", unknown),
        )
    return (*_judge(settings, reply, now), _clock(reply, now))


async def check_events(settings: Settings) -> Finding:
    """Ask for an event of the last minute, to see whether the key may read them."""
    if not settings.reconcile_every:
        return note("proof", "off: reconcile.every is 0")
    now = now_ms()
    query = {"event": "leads", "limit": "1", "start": iso(now - 60_000)}
    timeout = min(settings.dub_timeout, TIMEOUT_S)
    async with DubClient(
        settings.dub_api_url, settings.dub_api_key, timeout=timeout
    ) as dub:
        signature = sign_call(settings.secret, "check", b"", now)
        found = read_page(await dub.list_events(query, signature), Kind.LEADS)
    match found:
        case NotProvable(reason):
            said = f"not provable: Dub says “{reason}”"
            return note("proof", f"{said}. The key needs analytics.read")
        case NotNow(reason):
            return note("proof", f"not known: {reason}")
    return ok("proof", "Dub's list of events can be read")


def _judge(settings: Settings, reply: Answer, now: int) -> tuple[Finding, Finding]:
    """Read what Dub says to the empty body."""
    outcome = interpret(reply, Step.PROVE, now)
    reached = ok("dub", f"{settings.dub_api_url} answers (HTTP {reply.status})")
    match outcome.meaning:
        case Meaning.FINAL | Meaning.CLICK_MISSING if outcome.code:
            return reached, ok("key", "accepted")
        case Meaning.THROTTLED:
            return reached, note("key", f"accepted, but {outcome.reason}")
        case Meaning.OPERATOR if outcome.code:
            return reached, fail("key", outcome.reason)
        case Meaning.AGAIN:
            trouble = fail("dub", f"{settings.dub_api_url}: {outcome.reason}")
        case _:
            trouble = fail(
                "dub",
                f"{settings.dub_api_url} answers HTTP {reply.status}, but not as Dub"
                " does: is dub.api_url right?",
            )
    return trouble, note("key", "not known: Dub did not judge it")


def _clock(reply: Answer, now: int) -> Finding:
    """Compare clocks by the Date of Dub's answer, which has whole seconds."""
    try:
        theirs = parsedate_to_datetime(reply.headers.get("date", ""))
    except ValueError:
        return note("clock", "not known: the answer has no date")
    skew = now - round(theirs.timestamp() * 1000)
    if abs(skew) <= MAX_SKEW_MS:
        return ok("clock", "agrees with Dub's within a minute")
    word = "ahead of" if skew > 0 else "behind"
    return fail("clock", f"is {abs(skew) / 1000:.0f} s {word} Dub's: set it by NTP")


def check_cookie(settings: Settings) -> Finding:
    """Say for which domain the click cookie is set, and whether browsers take it."""
    domain = settings.cookie_domain
    if domain is None:
        return ok("cookie", "domain by the visited host: . + host without www.")
    bare = domain.removeprefix(".")
    if _is_address(bare) or "." not in bare:
        return fail("cookie", f"browsers refuse a cookie for {domain}: leave it unset")
    if is_public_suffix(bare):
        return fail(
            "cookie",
            f"{bare} is a public suffix, below which strangers register names: browsers"
            f" refuse a cookie for it. Name your own, such as .shop.{bare}, or leave it"
            " unset",
        )
    return ok("cookie", f"set for {domain} and every host below it")


def check_hooks(settings: Settings) -> Finding:
    """Say which hooks are on, by the secrets that are set."""
    secrets = {
        "signup": settings.hook_secret,
        "dub": settings.dub_webhook_secret,
        **{row.name: settings.provider_keys(row) for row in PROVIDERS},
        **{rule.path: rule.keys for rule in settings.hook},
    }
    paths = [f"{settings.prefix}/hooks/{name}" for name in secrets if secrets[name]]
    on = ", ".join(paths) or "none"
    off = ", ".join(name for name, keys in secrets.items() if not keys)
    return ok("hooks", f"on: {on}" + (f"; off: {off}" if off else ""))


def check_rules(settings: Settings) -> Iterator[Finding]:
    """Say what decides in each rule, and what can go wrong with it."""
    if settings.upstream is None and not settings.signup:
        return
    if not settings.signup:
        hint = "dub-relay rules candidates finds them"
        yield note("rules", f"none: the proxy makes no leads; {hint}")
        return
    reviews = review(settings.signup)
    default = ", ".join(each.label for each in reviews if each.when is None)
    said = f"{len(reviews)}, by the default test: {default or 'none'}"
    yield ok("rules", said)
    for each in reviews:
        for warning in each.warnings:
            yield note("rules", f"{each.label}: {warning}")


def check_snippet(settings: Settings) -> Finding:
    """Write the script tag for this build and these settings, to be copied."""
    try:
        return ok("snippet", Snippet.of(settings).tag())
    except BrokenSnippetError as error:
        return fail("snippet", str(error))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def unreachable(error: BaseException) -> str:
    """Name an error without its text, which may quote an address."""
    number = getattr(error, "errno", None)
    kind = os.strerror(number) if number else type(error).__name__
    return f"not reachable ({kind})"


def report_lines(settings: Settings, findings: Sequence[Finding]) -> Iterator[str]:
    """Write the report for people; settings that are not default below the first."""
    for finding in findings:
        yield f"{finding.result:<5} {finding.name:<9} {finding.detail}"
        if finding.name == "settings":
            yield from _setting_lines(settings)


def _setting_lines(settings: Settings) -> Iterator[str]:
    for row in settings.describe():
        if row.origin != "default":
            yield f"      {row.name} = {row.value}  ({row.origin})"


def report_json(settings: Settings, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the report for programs; secrets are masked here as well."""
    return {
        "ok": not any(finding.failed for finding in findings),
        "checks": [
            {
                "name": finding.name,
                "result": finding.result.lower(),
                "detail": finding.detail,
            }
            for finding in findings
        ],
        "settings": [
            {"name": row.name, "value": row.value, "origin": row.origin}
            for row in settings.describe()
        ],
    }
