"""Carries a call from a socket to its endpoint and back, through the faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

import aiohttp
from aiohttp import web

from relay.sandbox.api import Api
from relay.sandbox.faults import Conditions, Faults
from relay.sandbox.model import Call, Event
from relay.sandbox.state import announcement, post
from relay.sandbox.wire import Incoming, Reply, made_up, with_retry_after

Endpoint = Callable[[Incoming, Conditions], Reply]

MAX_BODY: Final = 4 * 1024 * 1024
"""Dub's host takes about as much; metadata beyond its limit must get its 422."""


class Server:
    """Answers calls as the faults allow, and posts webhooks afterwards."""

    def __init__(self, api: Api, faults: Faults) -> None:
        self._api = api
        self._faults = faults
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    def handler(
        self, endpoint: Endpoint
    ) -> Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]:
        """Make an aiohttp handler of an endpoint."""

        async def handle(request: web.Request) -> web.StreamResponse:
            call = await incoming(request, self._api.dub.clock())
            conditions = self._faults.take(call.path, call.step)
            return await self._answer(request, call, conditions, endpoint)

        return handle

    async def _answer(
        self,
        request: web.Request,
        call: Incoming,
        conditions: Conditions,
        endpoint: Endpoint,
    ) -> web.StreamResponse:
        if conditions.hang is not None:
            self._log(call, conditions, None)
            await self._pause(conditions.hang)
            return _cut(request)
        if conditions.cut == "before":
            self._log(call, conditions, None)
            return _cut(request)
        reply = self._reply(call, conditions, endpoint)
        reply = with_retry_after(reply, conditions.retry_after)
        cut = conditions.cut is not None
        self._log(call, conditions, reply, cut=cut)
        await self._pause(conditions.slow)
        try:
            return await self._send(request, conditions, reply)
        finally:
            # Also when the caller has gone: what was recorded counts all the same.
            for event in reply.recorded:
                self._announce(event)

    def _reply(
        self, call: Incoming, conditions: Conditions, endpoint: Endpoint
    ) -> Reply:
        """Ask the endpoint, unless a fault answers; with work, both happen."""
        if conditions.status is None:
            return endpoint(call, conditions)
        recorded = endpoint(call, conditions).recorded if conditions.work else ()
        made = made_up(conditions, self._api.rate_headers())
        return replace(made, recorded=recorded)

    async def _send(
        self, request: web.Request, conditions: Conditions, reply: Reply
    ) -> web.StreamResponse:
        if conditions.cut == "after":
            return _cut(request)
        response = _response(reply)
        if conditions.cut == "mid-body":
            return await _half(request, response)
        # Sent here rather than by aiohttp: the webhook comes after the answer.
        await response.prepare(request)
        await response.write_eof()
        return response

    async def _pause(self, seconds: float) -> None:
        """Wait, but never longer than the sandbox runs."""
        if not seconds:
            return
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def _log(
        self,
        call: Incoming,
        conditions: Conditions,
        reply: Reply | None,
        *,
        cut: bool = False,
    ) -> None:
        signature = self._api.signature(call) if call.step else None
        said = f"fault: {conditions.named}" if conditions.named else ""
        note = "; ".join(part for part in (said, reply.note if reply else "") if part)
        self._api.dub.note(
            Call(
                method=call.method,
                path=call.path,
                at=call.now,
                status=None if reply is None or cut else reply.status,
                step=call.step,
                code=reply.code if reply else None,
                note=note,
                signed=signature.word if signature else None,
                lead_id=signature.lead_id if signature else None,
                customer=_shown(call.fields.get("customerExternalId")),
                event=_shown(call.fields.get("eventName")),
            )
        )

    # Webhooks

    def _announce(self, event: Event) -> None:
        url = self._api.options.webhook_url
        if url is None:
            return
        task = asyncio.create_task(self._post(url, event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post(self, url: str, event: Event) -> None:
        dub, secret = self._api.dub, self._api.options.webhook_secret
        if self._session is None:
            self._session = aiohttp.ClientSession()
        envelope = announcement(dub, event)
        status = await post(self._session, url, secret, envelope)
        name = envelope["event"]
        dub.note(
            Call(
                method="WEBHOOK",
                path=url,
                at=dub.clock(),
                status=status,
                note=name if status else f"{name}: no answer",
                customer=event.customer.external_id,
                event=event.event_name,
            )
        )

    async def stop(self) -> None:
        """End what hangs, so that the sandbox stops at once."""
        self._stopping.set()

    async def close(self) -> None:
        """Return up the webhooks under way and their connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()


async def incoming(request: web.Request, now: int) -> Incoming:
    """Read a request to its end."""
    return Incoming(
        method=request.method,
        path=request.path,
        headers=request.headers,
        query=request.query,
        body=await request.read(),
        address=request.remote or "",
        now=now,
    )


def _response(reply: Reply) -> web.Response:
    if isinstance(reply.body, str):
        body = reply.body.encode()
    else:
        body = json.dumps(reply.body, ensure_ascii=False).encode("utf-8", "replace")
    headers = {"Content-Type": "application/json", **reply.headers}
    return web.Response(status=reply.status, body=body, headers=headers)


def _cut(request: web.Request) -> web.Response:
    """Close the connection; the response given back goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, whole: web.Response) -> web.StreamResponse:
    """Announce the whole answer, send half of it, and close."""
    body = whole.body if isinstance(whole.body, bytes) else b""
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _shown(value: object) -> str | None:
    return value if isinstance(value, str) else None
