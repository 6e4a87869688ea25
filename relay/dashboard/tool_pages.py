"""Two pages that help: whether everything works, and what a rule would make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from relay.config.settings import Settings
from relay.core.rules.preview import (
    TryoutError,
    parse_exchange,
    try_out,
)
from relay.core.rules.rule import SignupRule
from relay.dashboard.access import AdminSession
from relay.dashboard.pages import Pages
from relay.operations.diagnostics import run_checks
from relay.outbox.backends import open_outbox

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


class ToolPages:
    """Runs the checks of ``check``, and its ``--try``."""

    def __init__(self, settings: Settings, pages: Pages) -> None:
        self._settings = settings
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

    async def rules(self, request: web.Request, session: AdminSession) -> web.Response:
        """Show what the rules make of a sign-up that is pasted."""
        given, verdict, problem = SAMPLE, None, None
        if request.method == "POST":
            given = str((await request.post()).get("exchange", ""))
            try:
                verdict = try_out(self._rules, parse_exchange(given))
            except TryoutError as error:
                problem = str(error)
        return self._pages.answer(
            "rules.html",
            session,
            rules=self._rules,
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
