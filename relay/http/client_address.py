"""Who the visitor is, by the word of the proxies that may say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from relay.core.http.headers import (
    Headers,
    Network,
    client,
    visitor_scheme_host,
)


@dataclass(frozen=True, slots=True)
class Trusted:
    """The proxies in front, whose X-Forwarded-* are believed; nobody else's are.

    ``unix``: whoever reaches the relay by its unix socket is one of them.
    """

    networks: Sequence[Network] = ()
    unix: bool = False

    def address(self, request: web.BaseRequest) -> str:
        """Give the visitor's address, "unknown" if there is none."""
        return self.address_of(request.raw_headers, request.remote)

    def address_of(self, headers: Headers, peer: str | None) -> str:
        """Do the same by a request's headers and its connection's other end."""
        return client(headers, peer or None, self.networks, unix_trusted=self.unix)

    def scheme_host(self, request: web.BaseRequest) -> tuple[str, str]:
        """Give scheme and host as they stand in the visitor's address bar."""
        return visitor_scheme_host(
            request.raw_headers,
            peer=request.remote or None,
            scheme=request.scheme,
            host=request.headers.get("Host", ""),
            trusted=self.networks,
            unix_trusted=self.unix,
        )
