"""Draws the dashboard's pages, and answers for what goes wrong on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from relay.config.settings import Settings
from relay.core import VERSION
from relay.core.clock import (
    Clock,
    iso,
)
from relay.core.leads import LeadStatus
from relay.core.resources import templates_dir
from relay.core.rules.candidates import often, quoted, suggest
from relay.core.rules.har import TryoutError
from relay.core.rules.preview import RuleVerdict, parse_exchanges, try_all
from relay.core.rules.rule import SignupRule
from relay.dashboard.access import Access, AdminSession
from relay.http.request_body import read_form
from relay.http.responses import RefusedError
from relay.observability.logging import get_logger
from relay.operations.diagnostics import run_checks
from relay.operations.looks import Progress
from relay.operations.presentation import events_words, span
from relay.operations.rule_report import rule_candidates, rule_reports
from relay.outbox.backends import open_outbox
from relay.outbox.contract import Outbox, OutboxUnavailableError, Query

log = get_logger()

HEADERS: Final = {
    # htmx and uPlot are served from here and need nothing more.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

MAX_FORM: Final = 1024 * 1024
"""Bytes of a form that an operator sends who is signed in: a recorded sign-up."""

Page = Callable[[web.Request, AdminSession], Awaitable[web.StreamResponse]]
"""A handler that is called only with somebody who is signed in."""

WORDS: Final[Mapping[LeadStatus, str]] = {
    LeadStatus.HELD: "passed on, the site's answer is not known",
    LeadStatus.QUEUED: "to be sent",
    LeadStatus.SENDING: "a call is under way",
    LeadStatus.WAITING: "tried, and tried again soon",
    LeadStatus.PARKED: "waits until a person acts",
    LeadStatus.DELIVERED: "Dub has taken it",
    LeadStatus.CONFIRMED: "Dub's webhook said so",
    LeadStatus.DUPLICATE: "Dub had it already",
    LeadStatus.UNCONFIRMED: "may or may not have counted",
    LeadStatus.REJECTED: "will not pass as it is",
}
"""Each state in a few words, in the order of a lead's way."""


class Pages:
    """Renders templates for a person, and guards what only such a person may do."""

    def __init__(self, access: Access, path: str, clock: Clock) -> None:
        self.access = access
        self.path = path
        self._clock = clock
        self._made = Environment(
            loader=FileSystemLoader(templates_dir() / "dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._made.globals |= {"path": path, "version": VERSION, "words": WORDS}
        self._made.filters |= {
            "iso": iso,
            "time": _clock_time,
            "ago": lambda at: span(clock() - at),
            "number": lambda value: f"{value:,}",
            "often": often,
            "quoted": quoted,
            "at_dub": events_words,
        }

    def text(self, name: str, session: AdminSession | None, **what: Any) -> str:
        """Render a template."""
        token = self.access.token(session) if session is not None else ""
        page = self._made.get_template(name)
        return page.render(session=session, csrf=token, now=self._clock(), **what)

    def answer(
        self, name: str, session: AdminSession | None, status: int = 200, **what: Any
    ) -> web.Response:
        """Render a page as an answer that nobody keeps."""
        return web.Response(
            text=self.text(name, session, **what),
            status=status,
            content_type="text/html",
            headers=HEADERS,
        )

    def problem(
        self, refused: RefusedError, session: AdminSession | None = None
    ) -> web.Response:
        """Render what went wrong, for a person."""
        page = self.answer(
            "problem.html", session, refused.status, message=refused.message
        )
        page.headers.update(refused.headers)
        return page

    def guarded(
        self, page: Page
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Let in who is signed in; ask the others to sign in, or refuse them."""

        async def handle(request: web.Request) -> web.StreamResponse:
            session = await self.access.session(request)
            if session is None:
                return self._sign_in_first(request)
            try:
                if request.method == "POST":
                    await self._require_own_form(request, session)
                return await page(request, session)
            except RefusedError as refused:
                return self.problem(refused, session)
            except OutboxUnavailableError:
                return self.problem(
                    RefusedError(503, "The database does not answer. Try again soon."),
                    session,
                )
            except Exception as error:  # noqa: BLE001 - the border: logged and answered
                log.error(
                    "dashboard.failed",
                    error=type(error).__name__,
                    detail=str(error),
                    path=request.path,
                )
                return self.problem(
                    RefusedError(500, "The dashboard failed to draw this page."),
                    session,
                )

        return handle

    async def _require_own_form(
        self, request: web.Request, session: AdminSession
    ) -> None:
        self.access.require_own_page(request)
        form = await read_form(request, MAX_FORM)
        self.access.require_token(session, form.get("csrf", ""))

    def _sign_in_first(self, request: web.Request) -> web.StreamResponse:
        if not self.access.by_password:
            return self.problem(
                RefusedError(403, "The proxy in front has not said who you are.")
            )
        if request.method != "GET" or "HX-Request" in request.headers:
            # htmx would put the sign-in form into a corner of the page.
            headers = {"HX-Redirect": f"{self.path}/sign-in"}
            return self.problem(RefusedError(403, "Sign in first.", headers))
        back = request.path_qs
        page = self.answer("sign_in.html", None, 401, failed=False, back=back)
        # RFC 9110, 15.5.2: a 401 names a scheme; browsers know none by this name.
        page.headers["WWW-Authenticate"] = "Form"
        return page


def _clock_time(at: int) -> str:
    """Write a time as people read it in a list: 2026-01-31 12:34:56."""
    return iso(at)[:19].replace("T", " ")


# --- Two pages that help: whether everything works, and what a rule would make. ---

SAMPLE: Final = json.dumps(
    {
        "request": {
            "method": "POST",
            "target": "/signup",
            "headers": {
                "Content-Type": "application/x-www-form-urlencoded",
                "Cookie": "dub_id=hQWlM0a9Zk3xY7bT",
            },
            "body": "email=ada@example.com&name=Ada",
        },
        "response": {"status": 303, "headers": {"Location": "/welcome"}},
    },
    indent=2,
)
"""A sign-up to begin with."""


MARKED: Final = 200
"""Leads that are missing or doubled at Dub, on their page."""


class ToolPages:
    """Runs the checks of ``check``, and its ``--try``; shows what is proven."""

    def __init__(self, settings: Settings, outbox: Outbox, pages: Pages) -> None:
        self._settings = settings
        self._outbox = outbox
        self._pages = pages

    async def health(self, _: web.Request, session: AdminSession) -> web.Response:
        """Run all checks now."""
        # An outbox of its own: the check opens and closes it.
        findings = await run_checks(
            self._settings, open_outbox(self._settings.database)
        )
        shown = [row for row in self._settings.describe() if row.origin != "default"]
        return self._pages.answer(
            "health.html", session, findings=findings, settings=shown
        )

    async def reconciliation(
        self, _: web.Request, session: AdminSession
    ) -> web.Response:
        """Show what Dub's own list of events has shown, and what it does not have."""
        marked = (Query(missing=True, limit=MARKED), Query(doubled=True, limit=MARKED))
        missing, doubled = [await self._outbox.list(query) for query in marked]
        return self._pages.answer(
            "reconciliation.html",
            session,
            every=self._settings.reconcile_every,
            known=Progress.read(await self._outbox.reconciliation()),
            found=await self._outbox.findings(),
            missing=missing,
            doubled=doubled,
        )

    async def rules(self, request: web.Request, session: AdminSession) -> web.Response:
        """Show the rules, what they do not know, and a sign-up that is pasted."""
        given, verdict, problem = SAMPLE, None, None
        if request.method == "POST":
            given = (await read_form(request, MAX_FORM)).get("exchange", "")
            try:
                # Rules may take a while over a long document; others must not wait.
                verdict = await asyncio.to_thread(_tried, self._rules, given)
            except TryoutError as error:
                problem = str(error)
        candidates = await rule_candidates(self._outbox, self._rules)
        wanted = request.query.get("suggest")
        found = next(
            (one.found for one in candidates if one.found.label == wanted), None
        )
        return self._pages.answer(
            "rules.html",
            session,
            rules=await rule_reports(self._outbox, self._rules),
            candidates=candidates,
            suggested=suggest(found) if found else None,
            given=given,
            verdict=verdict,
            lead=json.dumps(verdict.lead, indent=2, ensure_ascii=False)
            if verdict and verdict.lead
            else None,
            problem=problem,
        )

    @property
    def _rules(self) -> Sequence[SignupRule]:
        return self._settings.signup


def _tried(rules: Sequence[SignupRule], given: str) -> RuleVerdict:
    return try_all(rules, parse_exchanges(given))
