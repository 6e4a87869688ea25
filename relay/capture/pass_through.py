"""Passes the snippet's calls on to Dub: ``track/click`` and its four siblings.

Dub judges a click by the browser's own User-Agent and drops those of programs,
yet answers them with an id; it holds calls to the allowed hostnames by Referer
and Origin. So these three pass as they are, and nothing of the relay's own is
added, least of all its key. Cookies pass in neither direction.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import aiohttp
from aiohttp import web
from yarl import URL

from relay.core.dub.browser_calls import LEAD, SALE
from relay.core.dub.replies import Answer
from relay.http.callers import Trusted, VisitorRate
from relay.http.request_body import Tasks, read_small
from relay.http.responses import RefusedError
from relay.observability.logging import get_logger

log = get_logger()

OPEN_PATHS: Final = ("track/click", "track/visit", "track/open")
"""What Dub takes from any page of an allowed host."""

KEYED_PATHS: Final = (LEAD, SALE)
"""What Dub takes with a publishable key."""

PATHS: Final = OPEN_PATHS + KEYED_PATHS

CORS: Final[Mapping[str, str]] = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, OPTIONS",
    "Access-Control-Allow-Headers": "Content-Type, Authorization",
}
"""As Dub answers; the relay may stand on another host than the page."""

MAX_BODY: Final = 64 * 1024
"""Bytes of a call: metadata has 10,000 characters at most, the rest two addresses."""

MAX_ANSWER: Final = 256 * 1024
"""Dub's answers are below 2 KiB; an error page from in front of it may be longer."""

TIMEOUT_S: Final = 10.0
"""How long Dub may take; a visitor has mostly left the page by then."""

CONNECT_S: Final = 5.0
"""A host that does not take a connection in five seconds is down for now."""

CONNECTIONS: Final = 100
"""Calls to Dub at one time; more wait within their ten seconds."""

PASSED_ON: Final = ("User-Agent", "Referer", "Origin", "Content-Type", "Dub-No-Track")
"""What Dub looks at; the last is a visitor's wish that the click is not counted."""

PASSED_BACK: Final = (
    "Content-Type",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)

_ADDED_BY_AIOHTTP: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")

_PUBLISHABLE: Final = re.compile(r"Bearer dub_pk_[A-Za-z0-9_-]{1,128}")
"""The only kind of key that a page may hold; the workspace's own stays here."""

Monotonic = Callable[[], float]
"""Returns seconds of a monotonic clock."""


@contextmanager
def readable_by_pages() -> Iterator[None]:
    """Let pages of every host read a refusal, as they can read Dub's."""
    try:
        yield
    except RefusedError as error:
        headers = {**CORS, **error.headers}
        raise RefusedError(error.status, error.message, headers) from None


class Passthrough:
    """Carries browsers' calls to Dub, so many a minute for each visitor."""

    def __init__(
        self,
        api_url: str,
        trusted: Trusted,
        *,
        rate: int,
        timeout: float = TIMEOUT_S,
        clock: Monotonic = time.monotonic,
    ) -> None:
        self._api_url = api_url.rstrip("/")
        self._trusted = trusted
        self._rate = VisitorRate(rate)
        self._timeout = timeout
        self._clock = clock
        self._tasks = Tasks()
        self._session: aiohttp.ClientSession | None = None

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        """Live as long as an application does (for ``cleanup_ctx``)."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=CONNECT_S),
            skip_auto_headers=_ADDED_BY_AIOHTTP,
        )
        yield
        await self._tasks.finish(self._timeout)
        await self._session.close()

    async def preflight(self, _: web.Request) -> web.StreamResponse:
        """Answer OPTIONS as Dub does, without asking it."""
        return web.Response(status=204, headers=CORS)

    async def handle(self, path: str, request: web.Request) -> web.StreamResponse:
        """Pass one call on and its answer back; errors can be read by any page."""
        with readable_by_pages():
            self._limit(request)
            body = await read_small(request, MAX_BODY)
            return await self.forward(path, request, body)

    async def forward(
        self, path: str, request: web.Request, body: bytes
    ) -> web.StreamResponse:
        """Pass on a call whose body is read already; raise RefusedError."""
        url = f"{self._api_url}/{path}"
        if query := request.rel_url.raw_query_string:
            url = f"{url}?{query}"
        call = self._call(URL(url, encoded=True), _outgoing(path, request), body)
        # Of its own: a visitor who goes on to the next page has clicked all the same.
        answer = await asyncio.shield(self._tasks.start(call))
        if isinstance(answer, RefusedError):
            raise answer
        return _returned(answer)

    def _limit(self, request: web.Request) -> None:
        wait = self._rate.take(self._trusted.address(request), self._clock())
        if wait:
            raise RefusedError(
                429, "Too many requests.", {"Retry-After": str(math.ceil(wait))}
            )

    async def _call(
        self, url: URL, headers: Mapping[str, str], body: bytes
    ) -> Answer | RefusedError:
        """Ask Dub once. Gives its errors back: nobody may be left to raise them to."""
        assert self._session is not None, "not running"  # noqa: S101 - a defect of ours
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                content = await _read(answer)
                said = {name.lower(): it for name, it in answer.headers.items()}
                return Answer(answer.status, said, content)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return _failed(502, "Dub cannot be reached.", error)
        except TimeoutError as error:
            return _failed(504, "Dub did not answer in time.", error)
        except (aiohttp.ClientError, OSError) as error:
            return _failed(502, "Dub's answer did not come whole.", error)


def _failed(status: int, message: str, error: BaseException) -> RefusedError:
    # The error's own text may quote addresses; its name says enough.
    kind = type(error.__cause__ or error).__name__
    log.warning("passthrough.failed", status=status, error=kind)
    return RefusedError(status, message)


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """Read an answer to its end; raise ClientPayloadError if that is too far."""
    content = bytearray()
    async for data in answer.content.iter_any():
        content += data
        if len(content) > MAX_ANSWER:
            raise aiohttp.ClientPayloadError("too long")
    return bytes(content)


def _outgoing(path: str, request: web.Request) -> dict[str, str]:
    """Write the headers that Dub sees: the visitor's own, and few of them."""
    headers = {
        name: _sendable(value)
        for name in PASSED_ON
        if (value := request.headers.get(name)) is not None
    }
    key = request.headers.get("Authorization", "")
    if path in KEYED_PATHS and _PUBLISHABLE.fullmatch(key):
        headers["Authorization"] = key
    return headers


def _sendable(value: str) -> str:
    """Replace bytes that are no UTF-8, which the client could not write."""
    return value.encode("utf-8", "replace").decode()


def _returned(answer: Answer) -> web.StreamResponse:
    """Write the answer that the page sees.

    It stands on the site's own origin: what is not JSON must not be shown there
    by a browser that was sent here by a form.
    """
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or not answer.body
    if not is_json or 300 <= answer.status < 400:
        log.warning("passthrough.not_dubs", status=answer.status)
        raise RefusedError(502, f"Dub answered {answer.status}, but not as its API.")
    headers = {
        name: value
        for name in PASSED_BACK
        if (value := answer.headers.get(name.lower())) is not None
    }
    headers |= CORS
    headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(status=answer.status, body=answer.body, headers=headers)
