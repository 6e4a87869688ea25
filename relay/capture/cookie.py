"""``POST cookie`` and ``DELETE cookie``: the snippet's same-origin calls.

Safari keeps a cookie that a script wrote for seven days at most, one that the
site's server wrote for its full time. So the script tells its click here, and
gets the cookie again from the server, with the companion beside it.

Whoever can make a visitor's browser call this could plant a click, so only
pages of the very same origin may: their Origin says so, which no page can
forge. There are no CORS headers, and what an HTML form can send is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from relay.capture.answers import RefusedError, read_json
from relay.capture.bodies import read_small
from relay.capture.guard import every
from relay.capture.landing import Landing, Visit
from relay.capture.trusted import Trusted
from relay.core.cookies import is_click_id
from relay.core.headers import is_host
from relay.logs import get_logger

log = get_logger()

PATH: Final = "cookie"

MAX_BODY: Final = 1024
"""Bytes of a body; it holds one id of 64 characters at most."""

FIELD: Final = "dub_id"

NOT_SAME_ORIGIN: Final = (
    "Only pages of this very origin may ask for this. If they do, a proxy in front "
    "of the relay hides scheme or host: name its address in RELAY_TRUSTED_PROXIES, "
    "and let it send X-Forwarded-Proto and X-Forwarded-Host."
)

_USUAL_PORTS: Final = {"http": ":80", "https": ":443"}


class CookieEndpoint:
    """Writes, restores and removes the click cookie for the site's own pages."""

    def __init__(self, landing: Landing, trusted: Trusted) -> None:
        self._landing = landing
        self._trusted = trusted
        self._warned = False

    async def keep(self, request: web.Request) -> web.StreamResponse:
        """Write the click of the body for its full time.

        Without one, restore what was lost; ``null`` forgets it, as DELETE does.
        Raises RefusedError for anybody else's page and for what is no such body.
        """
        visit = self._visit_of_own_page(request)
        if request.content_type != "application/json":
            raise RefusedError(415, "The Content-Type must be application/json.")
        document = read_json(await read_small(request, MAX_BODY))
        if not isinstance(document, dict):
            raise RefusedError(422, "The body must be a JSON object.")
        if FIELD not in document:
            return _silent(self._landing.restored(visit))
        click_id = document[FIELD]
        if click_id is None:
            return _silent(self._landing.forgotten(visit))
        if not isinstance(click_id, str) or not is_click_id(click_id):
            raise RefusedError(422, f"{FIELD}: is no click id.")
        return _silent(self._landing.told(visit, click_id, _page(request)))

    async def forget(self, request: web.Request) -> web.StreamResponse:
        """Remove the click cookie and its companion: consent was withdrawn."""
        return _silent(self._landing.forgotten(self._visit_of_own_page(request)))

    def _visit_of_own_page(self, request: web.Request) -> Visit:
        headers = request.raw_headers
        scheme, host = self._trusted.scheme_host(request)
        origins = every(headers, b"origin")
        if not is_host(host) or origins != [_origin(scheme, host)]:
            self._hint(origins, host)
            raise RefusedError(403, NOT_SAME_ORIGIN)
        sites = every(headers, b"sec-fetch-site")
        if any(site.strip().lower() != b"same-origin" for site in sites):
            raise RefusedError(403, NOT_SAME_ORIGIN)
        return Visit(request.method, request.path, headers, host, scheme == "https")

    def _hint(self, origins: Sequence[bytes], host: str) -> None:
        """Tell the operator once of a proxy that ends TLS and is not believed."""
        if not self._warned and origins == [_origin("https", host)]:
            self._warned = True
            log.warning("cookie.https_not_known", help=NOT_SAME_ORIGIN)


def _origin(scheme: str, host: str) -> bytes:
    """Write an origin as browsers do: lower case, without the usual port."""
    name = host.lower().removesuffix(_USUAL_PORTS[scheme])
    return f"{scheme}://{name}".encode("latin-1")


def _page(request: web.Request) -> str:
    """Give the path of the page that asks; browsers tell it to their own origin."""
    try:
        return urlsplit(request.headers.get("Referer", "")).path or "/"
    except ValueError:
        return "/"


def _silent(lines: Sequence[bytes]) -> web.StreamResponse:
    """Answer with cookies and nothing else."""
    response = web.Response(status=204, headers={"Cache-Control": "no-store"})
    for line in lines:
        response.headers.add("Set-Cookie", line.decode("ascii"))
    return response
