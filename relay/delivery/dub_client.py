"""The only code that talks to Dub. Foreign errors stop here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from yarl import URL

from relay.core import VERSION
from relay.core.dub.replies import (
    Answer,
    NoAnswer,
)

CONNECT_TIMEOUT_S: Final = 5.0
"""A host that does not take a connection in five seconds is down for now."""

MAX_ANSWER: Final = 256 * 1024
"""Dub's answers are below 2 KiB; a page of HTML from a proxy may be longer."""

MAX_EVENTS: Final = 8 * 1024 * 1024
"""A page of events is some 500 KB; metadata may make each of them 10 KB longer."""


class DubClient:
    """Dub's API over one pool of connections.

    ``timeout`` is the limit in seconds for a whole call, answer included.
    """

    def __init__(self, api_url: str, api_key: str, *, timeout: float) -> None:
        self._lead_url = URL(api_url.rstrip("/") + "/track/lead")
        self._customers_url = URL(api_url.rstrip("/") + "/customers")
        self._events_url = URL(api_url.rstrip("/") + "/events")
        self._sale_url = URL(api_url.rstrip("/") + "/track/sale")
        self._commissions_url = URL(api_url.rstrip("/") + "/commissions")
        self._session = aiohttp.ClientSession(
            # How many calls there are at once is decided where they are made.
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout, connect=CONNECT_TIMEOUT_S),
            headers={
                "Authorization": f"Bearer {api_key}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "User-Agent": f"dub-relay/{VERSION}",
            },
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def track_lead(self, body: bytes, signature: str) -> Answer | NoAnswer:
        """Send ``POST /track/lead`` once; never raises for what Dub or the net do."""
        return await self._post(self._lead_url, body, signature)

    async def track_sale(self, body: bytes, signature: str) -> Answer | NoAnswer:
        """Send ``POST /track/sale`` once; as track_lead."""
        return await self._post(self._sale_url, body, signature)

    async def _post(self, url: URL, body: bytes, signature: str) -> Answer | NoAnswer:
        """Make a call.

        NoAnswer.sent is False only where no byte of the request can have
        reached Dub: then the call cannot have counted.
        """
        return await self._call(
            "POST", url, signature, data=body, allow_redirects=False
        )

    async def find_customer(
        self, external_id: str, signature: str
    ) -> Answer | NoAnswer:
        """Send ``GET /customers?externalId=…`` once; never raises, as above."""
        return await self._call(
            "GET",
            self._customers_url.with_query(externalId=external_id),
            signature,
            allow_redirects=False,
        )

    async def list_events(
        self, query: Mapping[str, str], signature: str
    ) -> Answer | NoAnswer:
        """Send ``GET /events`` once; never raises, as above."""
        return await self._call(
            "GET",
            self._events_url.with_query(query),
            signature,
            most=MAX_EVENTS,
            allow_redirects=False,
        )

    async def find_commission(self, invoice: str, signature: str) -> Answer | NoAnswer:
        """Send ``GET /commissions?invoiceId=…`` once; never raises, as above."""
        return await self._call(
            "GET",
            self._commissions_url.with_query(invoiceId=invoice),
            signature,
            allow_redirects=False,
        )

    async def refund_commission(
        self, commission: str, body: bytes, signature: str
    ) -> Answer | NoAnswer:
        """Send ``PATCH /commissions/{id}`` once; never raises, as above."""
        return await self._call(
            "PATCH",
            self._commissions_url / commission,
            signature,
            data=body,
            allow_redirects=False,
        )

    async def _call(
        self,
        method: str,
        url: URL,
        signature: str,
        *,
        most: int = MAX_ANSWER,
        **request: Any,
    ) -> Answer | NoAnswer:
        try:
            async with self._session.request(
                method, url, headers={"Relay-Signature": signature}, **request
            ) as answer:
                content = await answer.content.read(most)
                while not answer.content.at_eof() and len(content) < most:
                    content += await answer.content.read(most - len(content))
                headers = {
                    name.lower(): value for name, value in answer.headers.items()
                }
                return Answer(status=answer.status, headers=headers, body=content)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return NoAnswer(sent=False, reason=f"no connection to Dub ({_kind(error)})")
        except TimeoutError:
            reason = "Dub did not answer in time"
            return NoAnswer(sent=True, reason=reason, timed_out=True)
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError) as error:
            return NoAnswer(sent=True, reason=f"the call was cut ({_kind(error)})")


def _kind(error: BaseException) -> str:
    """Name an error without its text, which may quote addresses or content."""
    cause = error.__cause__ or error
    return type(cause).__name__
