"""Whether a call comes from a page of the relay's own origin.

Whoever can make a visitor's browser call could plant a click or take one, so
some endpoints answer only pages of the very same origin: the Origin header says
so, which no page can forge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from relay.core.http.cookies import Visit
from relay.core.http.headers import every, is_host
from relay.http.client_address import Trusted
from relay.http.responses import RefusedError
from relay.observability.logging import get_logger

log = get_logger()

NOT_SAME_ORIGIN: Final = (
    "Only pages of this very origin may ask for this. If they do, a proxy in front "
    "of the relay hides scheme or host: name its address in RELAY_TRUSTED_PROXIES, "
    "and let it send X-Forwarded-Proto and X-Forwarded-Host."
)

_USUAL_PORTS: Final = {"http": ":80", "https": ":443"}


class OwnPages:
    """Tells the site's own pages from everybody else's."""

    def __init__(self, trusted: Trusted) -> None:
        self._trusted = trusted
        self._warned = False

    def visit(self, request: web.Request) -> Visit:
        """Give the visit behind a call of an own page; refuse others with 403."""
        headers = request.raw_headers
        scheme, host = self._trusted.scheme_host(request)
        origins = every(headers, b"origin")
        sites = [each.strip().lower() for each in every(headers, b"sec-fetch-site")]
        # Browsers send no Origin with a GET of their own origin, but say this.
        told = request.method == "GET" and not origins and bool(sites)
        if not is_host(host) or not (told or origins == [_origin(scheme, host)]):
            self._hint(origins, host)
            raise RefusedError(403, NOT_SAME_ORIGIN)
        if any(site != b"same-origin" for site in sites):
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
