"""The reverse proxy: every request that is not the relay's own goes to the site.

It changes nothing it need not. What is refused is in ``request_guard``, how the
site is called in ``upstream``, how an answer is written in ``raw_responses``, what
becomes of sign-ups in ``signup_exchange``, of landings in ``click_cookie``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial
from typing import Any, Final

from aiohttp import web

from relay.capture.click_cookie import Landing, with_cookies
from relay.core.http.forwarding import Forwarding
from relay.core.http.front_probes import (
    MARK_HEADER,
    PROBE_HEADER,
    FrontProbes,
    ProbeWish,
)
from relay.core.http.headers import (
    Headers,
    with_forwarded,
    without_aliases,
    without_hop_by_hop,
)
from relay.core.rules.bodies import Copy
from relay.core.rules.rule import Match, SignupRule, match
from relay.http.callers import Trusted, Visit
from relay.http.fast_path import FAST_PATHS, Begun
from relay.http.listener import Listener
from relay.http.raw_responses import SiteResponse, own_answer
from relay.http.request_body import Readable, RequestBodyError, Tasks
from relay.http.request_guard import (
    Framing,
    Refusal,
    every,
    framing,
    origin_form,
    refuse,
    wants_websocket,
)
from relay.observability.logging import get_logger
from relay.proxy.copies import (
    GRACE_S,
    CopiedRequest,
    Tail,
    copied_request,
    copied_signup,
)
from relay.proxy.exchange import Body, UpstreamError
from relay.proxy.fast_proxy import FastProxy, Sent, Settling
from relay.proxy.injection import Page, is_html, is_navigation, is_page, page_headers
from relay.proxy.sightings import Overheard, Sightings, Watcher
from relay.proxy.signup_exchange import (
    Settled,
    SignupExchange,
    Store,
    close_answer,
    settle,
)
from relay.proxy.signup_leads import Signups
from relay.proxy.upstream import Sites, write_head
from relay.proxy.upstream_connection import UpstreamAnswer
from relay.proxy.websocket import Tunnels

log = get_logger()

SMALL_BODY: Final = 65_536
"""Bytes of a body that are read before the site is asked: a form, not an upload."""

FINISH_S: Final = 10.0
"""How long sign-ups under way may take when the relay stops."""

_DROPPED: Final = frozenset(
    {
        # Answered on this hop already (RFC 9110, 10.1.1).
        b"expect",
        # Belongs to an upgrade to HTTP/2 that is not passed on.
        b"http2-settings",
        # Written anew, so that the site reads one plain number.
        b"content-length",
    }
)


class Proxy:
    """Forwards to one site, of which there may be several instances."""

    def __init__(
        self,
        sites: Sites,
        rules: Sequence[SignupRule],
        signups: Signups,
        landing: Landing,
        *,
        trusted: Trusted | None = None,
        prefix: str = "",
        script: str | None = None,
        sightings: Sightings | None = None,
        underscored: Collection[str] = (),
    ) -> None:
        """Forward to the instances of a site.

        ``prefix`` is where the relay's own paths begin; ``script`` the URL of
        the script to put into pages, None to leave them alone. ``sightings`` counts
        what no rule can judge. ``underscored`` are header names with an underscore
        that pass.
        """
        self._sites = sites
        self._limits = sites.limits
        self._underscored = frozenset(name.lower().encode() for name in underscored)
        self._rules = tuple(rules)
        self._landing = landing
        self._trusted = trusted = trusted or Trusted()
        self._forwarding = Forwarding(
            trusted.networks,
            unix_trusted=trusted.unix,
            site_host=sites.host,
            underscored=self._underscored,
        )
        self._fast = FastProxy(
            self._sites,
            self._rules,
            self._forwarding,
            self._start_sign_up,
            self._watch,
            prefix=prefix,
            declines=is_html if script else None,
            may_clear=landing.may_clear,
        )
        self._script = script
        self._sightings = sightings
        self._probes: FrontProbes | None = None
        self._tasks = Tasks()
        report = sightings.judged if sightings else None
        self._store = Store(signups, landing, self._tasks, trusted, report)
        self._tunnels = Tunnels()

    def install(self, app: web.Application, probes: FrontProbes | None = None) -> None:
        """Send everything the application has no route for to the site.

        But what ``probes`` can read, which is answered here.

        A route for all paths does it for nearly all; the middleware has what
        no route can match: ``OPTIONS *``, CONNECT, targets in absolute form.
        """
        self._probes = probes
        app.setdefault(FAST_PATHS, []).append(self._fast)
        app.router.add_route("*", "/{path:(?s:.*)}", self.handle)
        app.middlewares.append(self._unrouted)
        app.on_shutdown.append(self.stop)
        app.cleanup_ctx.append(self.running)

    @web.middleware
    async def _unrouted(self, request: web.Request, handler: Any) -> Any:
        if request.match_info.http_exception is not None:
            return await self.handle(request)
        return await handler(request)

    async def running(self, app: web.Application) -> AsyncIterator[None]:
        """Live as long as an application does (for ``cleanup_ctx``)."""
        if list(app.middlewares) != [self._unrouted]:
            # Another's, for traces say, must see what may be a sign-up.
            self._fast.methods = frozenset({"GET"})
        async with self._sites.watched():
            yield
            await self.close()

    async def stop(self, _: web.Application | None = None) -> None:
        """End what would never end by itself; the rest may finish."""
        self._tunnels.close()

    async def close(self) -> None:
        """Let sign-ups under way finish."""
        await self._tasks.finish(FINISH_S)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forward a request to the site, and its answer to the visitor."""
        target = origin_form(request.raw_path, request.raw_headers)
        version = (request.version.major, request.version.minor)
        refusal = refuse(request.method, target, request.raw_headers, version)
        if refusal is not None:
            return own_answer(request, refusal.status, refusal.reason)
        if (wish := self._wish(request)) is not None:
            return _marked(request, wish)
        passage = _Passage(request, target, self._visit(request, target))
        if self._landing.comes_too_early(passage.visit):
            return own_answer(request, 503, "Landings are not fetched ahead.")
        try:
            return await self._pass(passage)
        except UpstreamError as error:
            log.warning("proxy.site_failed", status=error.status, reason=str(error))
            return own_answer(request, error.status, "The site does not answer.")
        except RequestBodyError as error:
            return own_answer(request, error.status, "The body did not come whole.")

    def _wish(self, request: web.BaseRequest) -> ProbeWish | None:
        if self._probes is None or request.method != "HEAD":
            return None
        return self._probes.read(request.headers.get(PROBE_HEADER))

    async def _pass(self, passage: _Passage) -> web.StreamResponse:
        begun = _begun(passage.request)
        if isinstance(begun, Settling):
            return await self._deliver_settled(passage, begun.work)
        signup = self._signup(passage)
        if signup is not None:
            # Of its own: the site may have taken it when the visitor leaves.
            work = self._tasks.start(self._sign_up(passage, signup))
            return await self._deliver_settled(passage, work)
        sent = begun if isinstance(begun, Sent) else None
        watcher = self._watch(passage.visit)
        stream = passage.request.content
        heard = Overheard(stream, sent.body if sent else b"")
        content = heard if watcher else stream
        # What was sent already has its body with it.
        body = None if sent else await passage.body(content, self._limits.visitor)
        answer = await self._send(passage, body, sent)
        reply = await self._deliver(passage, Settled(answer))
        if watcher is not None:
            watcher(heard.heard, answer.status, answer.headers, passage.first)
        return reply

    def _watch(self, visit: Visit) -> Watcher | None:
        """Return what looks at a request that no rule matches, if anything does."""
        return self._sightings.watch(visit) if self._sightings else None

    async def _deliver_settled(
        self, passage: _Passage, work: asyncio.Task[Settled]
    ) -> web.StreamResponse:
        try:
            settled = await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(close_answer)
            raise
        return await self._deliver(passage, settled)

    def _signup(self, passage: _Passage) -> SignupExchange | None:
        path, _, query = passage.target.partition("?")
        found = match(self._rules, passage.request.method, path, query)
        return SignupExchange(found, passage.visit, self._store) if found else None

    async def _sign_up(self, passage: _Passage, signup: SignupExchange) -> Settled:
        copied = await copied_signup(
            passage.request.content,
            passage.framing,
            passage.visit.headers,
            self._limits.visitor,
            self._limits.copy,
        )
        send = partial(self._send, passage)
        return await settle(signup, copied, send, self._limits.copy)

    def _start_sign_up(
        self,
        matches: Sequence[Match],
        visit: Visit,
        head: bytes,
        body: bytes,
    ) -> asyncio.Task[Settled]:
        """Start a sign-up of the fast path; its body is all there."""
        signup = SignupExchange(matches, visit, self._store)

        async def send(whole: Body | None) -> UpstreamAnswer:
            return _unless_upgraded(await self._sites.send("POST", head, whole))

        whole = Body(len(body), start=body)
        copied = CopiedRequest(whole, Copy.of(visit.headers, body))
        return self._tasks.start(settle(signup, copied, send, self._limits.copy))

    async def _send(
        self, passage: _Passage, body: Body | None, begun: Sent | None = None
    ) -> UpstreamAnswer:
        request = passage.request
        answer = await self._sites.send(
            request.method,
            write_head(
                request.method,
                passage.target.encode("ascii"),
                self._outgoing(request, passage.framing),
            ),
            body,
            begun=(begun.upstream, begun.connection) if begun else None,
        )
        wanted = wants_websocket(request.raw_headers)
        return answer if wanted else _unless_upgraded(answer)

    async def _deliver(self, passage: _Passage, settled: Settled) -> web.StreamResponse:
        """Forward an answer: what was read of it already, then the rest."""
        request = passage.request
        answer, copied, cookies, tail = settled
        first = b"".join(copied.pieces)
        if tail is None:
            first = first or answer.read_nowait()
        passage.first = first
        page = self._page(request, answer)
        if page is not None:
            first = await _opened(page, first, settled)
        headers = self._returned(passage, answer, cookies)
        changes = page is not None and not page.passes
        reply = SiteResponse(
            answer.status,
            answer.reason,
            page_headers(headers) if changes else headers,
            length=None if changes else answer.length,
            empty=answer.empty,
        )
        try:
            await reply.begin(request, first)
            if answer.upgraded:
                await self._tunnels.run(request, answer)
            if copied.cut is not None:
                raise copied.cut
            await _pour(tail or answer, reply, page)
            await reply.write_eof()
        except UpstreamError as error:
            if not reply.prepared:
                raise
            # The head is out: only a cut shows the visitor that this is not all.
            log.warning("proxy.answer_cut", reason=str(error))
            reply.cut(request)
        except ConnectionError:
            # The visitor left; closing the answer shows the site.
            reply.cut(request)
        finally:
            settled.close()
        return reply

    def _page(self, request: web.BaseRequest, answer: UpstreamAnswer) -> Page | None:
        """Return what puts the tag into this answer, None if it is to pass as it is."""
        if self._script is None or not is_navigation(request.raw_headers):
            return None
        if not is_page(answer.status, answer.headers):
            return None
        # HEAD says what GET would have: nothing of the old length.
        return Page(self._script, answer.headers)

    def _visit(self, request: web.BaseRequest, target: str) -> Visit:
        scheme, host = self._trusted.scheme_host(request)
        return Visit(
            request.method,
            target,
            request.raw_headers,
            host,
            scheme == "https",
            request.remote,
        )

    def _outgoing(self, request: web.BaseRequest, framed: Framing) -> Headers:
        """Write the headers that the site sees."""
        kept = without_hop_by_hop(request.raw_headers)
        kept = without_aliases(kept, self._underscored)
        lines = with_forwarded(
            [line for line in kept if line[0].lower() not in _DROPPED],
            peer=request.remote or None,
            scheme=request.scheme,
            host=request.headers.get("Host", ""),
            trusted=self._trusted.networks,
            unix_trusted=self._trusted.unix,
        )
        if self._sites.host:
            lines = [line for line in lines if line[0].lower() != b"host"]
        if not every(lines, b"host"):
            lines.append((b"Host", self._sites.authority.encode("ascii")))
        if framed.chunked:
            lines.append((b"Transfer-Encoding", b"chunked"))
        elif framed.length is not None:
            lines.append((b"Content-Length", b"%d" % framed.length))
        if wants_websocket(request.raw_headers):
            lines += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        return lines

    def _returned(
        self, passage: _Passage, answer: UpstreamAnswer, cookies: Sequence[bytes]
    ) -> Headers:
        """Write the headers that the visitor sees."""
        lines = without_hop_by_hop(answer.headers)
        if answer.upgraded:
            upgrade = every(answer.headers, b"upgrade") or [b"websocket"]
            return [*lines, (b"Connection", b"Upgrade"), (b"Upgrade", upgrade[0])]
        if answer.status == 204:
            # RFC 9110, 8.6 forbids it there, and some visitors would wait for it.
            lines = [line for line in lines if line[0].lower() != b"content-length"]
        cookies = cookies or self._landing.cookies(passage.visit)
        return with_cookies(lines, cookies, passage.request.method)


def _marked(request: web.BaseRequest, wish: ProbeWish) -> web.StreamResponse:
    """Answer a probe of a front server, which the site does not see."""
    status = 503 if wish is ProbeWish.AROUND else 200
    mark = (MARK_HEADER.encode(), wish.encode())
    return own_answer(request, status, "This is the relay.", [mark])


class _Passage:
    """One request on its way through."""

    __slots__ = ("first", "framing", "request", "target", "visit")

    def __init__(self, request: web.BaseRequest, target: str, visit: Visit) -> None:
        self.request = request
        self.target = target
        self.visit = visit
        self.first = b""
        framed = framing(request.raw_headers)
        # Refused before, if it was ambiguous.
        self.framing = Framing() if isinstance(framed, Refusal) else framed

    async def body(self, content: Readable, patience: float) -> Body | None:
        """Return the body; a small one whole: a slow visitor would hold a worker."""
        return (await copied_request(content, self.framing, patience, SMALL_BODY))[0]


async def _opened(page: Page, first: bytes, settled: Settled) -> bytes:
    """Read a page until it shows whether it is a document: its headers say its length.

    Return what can go on of it. One that takes its time shows it on its way.
    """
    source = settled.tail or settled.answer
    try:
        out = b"".join(page.feed(first))
        if settled.answer.empty or settled.copied.cut is not None:
            return out
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                while page.is_document is None:
                    data = await source.read()
                    out += b"".join(page.feed(data)) if data else page.end()
    except BaseException:
        settled.close()
        raise
    return out


async def _pour(
    answer: UpstreamAnswer | Tail, reply: SiteResponse, page: Page | None
) -> None:
    """Forward the rest of an answer as it comes."""
    while not answer.ended and (data := await answer.read()):
        if page is None:
            await reply.write(data)
            continue
        for piece in page.feed(data):
            await reply.write(piece)
    if page is not None and (isinstance(answer, Tail) or not answer.empty):
        await reply.write(page.end())


def _begun(request: web.BaseRequest) -> Begun | None:
    protocol = request.protocol
    return protocol.take_begun() if isinstance(protocol, Listener) else None


def _unless_upgraded(answer: UpstreamAnswer) -> UpstreamAnswer:
    if answer.upgraded:
        answer.close()
        raise UpstreamError("the site switched protocols unasked")
    return answer


async def no_site(_: web.Request) -> web.StreamResponse:
    """Answer where there is no site to forward to."""
    return web.Response(
        status=404,
        text="This relay stands in front of no site: set RELAY_UPSTREAM.\n",
    )
