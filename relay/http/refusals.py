"""How often one source may be refused: a guard for endpoints that check a secret.

Whoever signs rightly is never limited, wherever the call comes from: a provider
calls from few addresses, in bursts, and behind a proxy that is not trusted all
the world has one. So only refusals are counted. Who is refused too often learns
no more than that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from aiohttp import web

from relay.core.http.headers import Headers
from relay.http.client_address import Trusted
from relay.http.rate_limit import VisitorRate
from relay.http.responses import (
    Handler,
    RefusedError,
)
from relay.observability.logging import get_logger

log = get_logger()

PER_MINUTE: Final = 120
"""Refusals of one address in one process: a provider whose secret is being changed
stays below it, and nobody guesses a secret at this speed."""

COUNTED: Final = frozenset({401, 413})
"""What a stranger gets: a signature that does not fit, a body that is too long."""


class RefusalRate:
    """Turns a stranger's refusals into 429 once there are too many in a minute."""

    def __init__(
        self,
        trusted: Trusted,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = VisitorRate(PER_MINUTE)
        self._trusted = trusted
        self._monotonic = monotonic

    def guard(self, handler: Handler) -> Handler:
        """Wrap a handler: what it refuses too often is answered 429."""
        return partial(self._handle, handler)

    async def _handle(
        self, handler: Handler, request: web.Request
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except (RefusedError, web.HTTPRequestEntityTooLarge) as refused:
            self.count(refused.status, request.raw_headers, request.remote)
            raise

    def count(self, status: int, headers: Headers, peer: str | None) -> None:
        """Count a refusal if it is COUNTED; raise RefusedError when it is one too many.

        For whoever answers without a request object: its headers, and the other end
        of its connection.
        """
        if status not in COUNTED:
            return
        address = self._trusted.address_of(headers, peer)
        wait = self._rate.take(address, self._monotonic())
        if wait:
            log.warning("hook.throttled")
            raise RefusedError(
                429,
                "Too many calls from this address were refused.",
                {"Retry-After": str(math.ceil(wait))},
            ) from None
