"""Puts the dashboard together: its pages by path, and its files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from relay.config.settings import Settings
from relay.core.clock import Clock
from relay.core.resources import static_dir
from relay.dashboard.access import MAX_SIGN_IN, Access, Identity
from relay.dashboard.actions import Acting
from relay.dashboard.lead_pages import LeadPages
from relay.dashboard.live import LiveWatch
from relay.dashboard.overview_page import OverviewPages
from relay.dashboard.pages import HEADERS, Pages, ToolPages
from relay.http.callers import Trusted
from relay.http.request_body import read_form
from relay.http.responses import RefusedError
from relay.outbox.contract import Outbox
from relay.outbox.encryption import Seal

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

FILES: Final = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "vendor/htmx.min.js": "text/javascript",
    "vendor/htmx-ext-sse.min.js": "text/javascript",
    "vendor/uPlot.iife.min.js": "text/javascript",
    "vendor/uPlot.min.css": "text/css",
}
"""What the pages load, all from here."""

BELOW: Final = "dashboard"


class Dashboard:
    """The pages over one outbox; ``stopping`` says when the relay ends."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        clock: Clock,
        *,
        stopping: Callable[[], bool],
    ) -> None:
        path = f"{settings.prefix}/{BELOW}"
        trusted = Trusted(settings.trusted_proxies, settings.listen.unix is not None)
        identity = None
        if settings.dashboard_identity_header is not None:
            identity = Identity(
                settings.dashboard_identity_header, settings.dashboard_identity_proxies
            )
        self._access = Access(
            settings.dashboard_password,
            settings.secret,
            path=path,
            trusted=trusted,
            clock=clock,
            outbox=outbox,
            identity=identity,
        )
        self._pages = Pages(self._access, path, clock)
        watch = LiveWatch(outbox, clock)
        self._overview = OverviewPages(outbox, watch, self._pages, clock, stopping)
        self._leads = LeadPages(outbox, self._pages, clock, settings.signup)
        self._acting = Acting(
            outbox,
            watch,
            self._pages,
            clock,
            database=settings.database,
            seal=Seal(settings.data_key),
            dedupe_days=settings.dedupe_days,
        )
        self._tools = ToolPages(settings, outbox, self._pages)

    def endpoints(self) -> list[tuple[str, str, Answer]]:
        """List method, path below the prefix, and what answers there."""
        guarded = self._pages.guarded
        return [
            ("GET", BELOW, self._to_front),
            ("GET", f"{BELOW}/", guarded(self._overview.page)),
            ("GET", f"{BELOW}/live", guarded(self._overview.live)),
            ("GET", f"{BELOW}/plots", guarded(self._overview.plots)),
            ("GET", f"{BELOW}/leads", guarded(self._leads.index)),
            ("GET", f"{BELOW}/leads/{{id}}", guarded(self._leads.story)),
            ("POST", f"{BELOW}/leads/{{id}}", guarded(self._leads.reveal)),
            ("POST", f"{BELOW}/act", guarded(self._acting.act)),
            ("GET", f"{BELOW}/audit", guarded(self._acting.audit)),
            ("GET", f"{BELOW}/health", guarded(self._tools.health)),
            ("GET", f"{BELOW}/reconciliation", guarded(self._tools.reconciliation)),
            ("GET", f"{BELOW}/rules", guarded(self._tools.rules)),
            ("POST", f"{BELOW}/rules", guarded(self._tools.rules)),
            ("GET", f"{BELOW}/sign-in", self._ask),
            ("POST", f"{BELOW}/sign-in", self._sign_in),
            ("POST", f"{BELOW}/sign-out", self._sign_out),
            *(("GET", f"{BELOW}/static/{name}", _file(name)) for name in FILES),
        ]

    async def _to_front(self, _: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"{self._pages.path}/")

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        if not self._access.by_password or await self._access.session(request):
            return await self._to_front(request)
        return self._pages.answer("sign_in.html", None, failed=False, back="")

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        if not self._access.by_password:
            return await self._to_front(request)
        try:
            self._access.require_own_page(request)
            self._access.admit(request)
            form = await read_form(request, MAX_SIGN_IN)
            right = await self._access.sign_in(form.get("password", ""))
        except RefusedError as refused:
            return self._pages.problem(refused)
        back = form.get("back", "")
        if not right:
            return self._pages.answer("sign_in.html", None, 403, failed=True, back=back)
        # Only back to the dashboard: an address from a form may be anybody's.
        front = f"{self._pages.path}/"
        response = web.Response(
            status=303,
            headers={"Location": back if back.startswith(front) else front, **HEADERS},
        )
        self._access.open(request, response)
        return response

    async def _sign_out(self, request: web.Request) -> web.StreamResponse:
        try:
            self._access.require_own_page(request)
        except RefusedError as refused:
            return self._pages.problem(refused, await self._access.session(request))
        response = web.Response(
            status=303, headers={"Location": f"{self._pages.path}/sign-in", **HEADERS}
        )
        await self._access.close(request, response)
        return response


def _file(name: str) -> Answer:
    path = static_dir() / "dashboard" / name

    async def serve(_: web.Request) -> web.StreamResponse:
        # Revalidated each time: FileResponse answers 304 by ETag.
        return web.FileResponse(
            path,
            headers={
                "Cache-Control": "no-cache",
                "Content-Type": f"{FILES[name]}; charset=utf-8",
                "X-Content-Type-Options": "nosniff",
            },
        )

    return serve
