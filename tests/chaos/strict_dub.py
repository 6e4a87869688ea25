"""A Dub that shares no code with the relay: strict, forgetful and moody.

As Dub's own server: ``track/lead`` claims its dedupe key first and never gives it
back, ``deferred`` passes it by, and an invoice is written down after the answer. Its
moods come before the work (nothing is done) or after it (the answer is lost or
replaced). Its list of events lags (``events_lag_s``), and may lack some for ever
(``forget``).
``GET /report`` says what was counted; ``POST /mood`` sets the moods' shares.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import uvloop
from aiohttp import ClientError, ClientSession, ClientTimeout, web

HTML = "<html><h1>Something between</h1></html>"


class StrictDub:
    """What it has recorded, and how it behaves."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.mood: dict[str, float] = {}
        self.customers: set[str] = set()
        self.keys: set[tuple[str, str]] = set()
        self.leads: Counter[tuple[str, str]] = Counter()
        self.sales: Counter[str] = Counter()
        self.invoices: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[float, float, str, dict[str, Any]]] = []
        self.forgotten: list[tuple[str, str]] = []
        self.calls = 0
        self.webhooks: list[str] = []
        self.secret = ""
        self.tasks: set[asyncio.Task[None]] = set()

    def feels(self, mood: str) -> bool:
        share = self.mood.get(mood, 0.0)
        return share > 0 and self.dice.random() < share

    async def before(self, request: web.Request) -> web.StreamResponse | None:
        """Fail before anything was done."""
        if self.feels("error_before"):
            return refusal(500, "internal_server_error", "An internal server error")
        if self.feels("html_before"):
            status = self.dice.choice([401, 403, 404, 410, 502, 503])
            return web.Response(status=status, text=HTML, content_type="text/html")
        if self.feels("limit"):
            answer = refusal(429, "rate_limit_exceeded", "Rate limit exceeded")
            answer.headers["Retry-After"] = "0.2"
            return answer
        if self.feels("cut_before"):
            return cut(request)
        return None

    async def after(
        self, request: web.Request, answer: web.Response
    ) -> web.StreamResponse:
        """Lose or replace the answer to work that was done."""
        if self.feels("cut_after"):
            return cut(request)
        if self.feels("error_after"):
            return refusal(500, "internal_server_error", "An internal server error")
        if self.feels("html_after"):
            status = self.dice.choice([400, 401, 403, 404, 408, 429, 502])
            return web.Response(status=status, text=HTML, content_type="text/html")
        if self.feels("slow_after"):
            await asyncio.sleep(4)
        return answer

    async def track_lead(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        if (failed := await self.before(request)) is not None:
            return failed
        body = await request.json()
        if not body.get("customerExternalId"):
            return refusal(
                422, "unprocessable_entity", "invalid_type: clickId: Required"
            )
        customer, event = body["customerExternalId"], body["eventName"].lower()
        if self.feels("slow_before"):
            await asyncio.sleep(1)
        counted = True
        if body.get("mode") == "deferred":
            counted = False
        elif (customer, event) in self.keys:
            return await self.after(request, self.taken(body, link=None))
        else:
            self.keys.add((customer, event))
            if self.feels("crash"):
                return refusal(500, "internal_server_error", "An internal server error")
            if self.feels("lost_click"):
                return refusal(
                    404, "not_found", f"Click event not found: {body['clickId']}"
                )
        self.customers.add(customer)
        if counted:
            self.leads[customer, event] += 1
            if self.feels("forget"):
                self.forgotten.append((customer, event))
            else:
                self.list_event("leads", body)
                self.tell(body)
        return await self.after(request, self.taken(body, link={"id": "link_1"}))

    def taken(self, body: dict[str, Any], link: dict[str, Any] | None) -> web.Response:
        return web.json_response(
            {
                "click": {"id": body.get("clickId") or "stored"},
                "link": link,
                "customer": {"externalId": body["customerExternalId"]},
            }
        )

    async def track_sale(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        if (failed := await self.before(request)) is not None:
            return failed
        body = await request.json()
        invoice = body.get("invoiceId")
        if invoice in self.invoices:
            return web.json_response(self.invoices[invoice])
        if body["customerExternalId"] not in self.customers:
            return web.json_response(
                {"eventName": "Purchase", "customer": None, "sale": None}
            )
        self.sales[body["metadata"]["sale"]] += 1
        self.list_event("sales", body)
        said = {
            "eventName": "Purchase",
            "customer": {"externalId": body["customerExternalId"]},
            "sale": {"amount": body["amount"], "invoiceId": invoice},
        }
        answer = await self.after(request, web.json_response(said))
        if invoice:
            # Written after the answer, as Dub does.
            self.invoices[invoice] = said
        return answer

    def list_event(self, kind: str, body: dict[str, Any]) -> None:
        """Write an event, to be seen after a while."""
        customer = body["customerExternalId"]
        now = time.time()
        lag = self.dice.random() * self.mood.get("events_lag_s", 5.0)
        event = {
            "event": kind.removesuffix("s"),
            "eventId": f"ev_{len(self.events)}",
            "timestamp": datetime.fromtimestamp(now, UTC).isoformat(),
            "eventName": body.get("eventName") or "Purchase",
            "metadata": body.get("metadata"),
            "click": {"id": body.get("clickId") or "stored"},
            "link": {"id": "link_1"},
            "customer": {"id": f"cus_{customer}", "externalId": customer},
        }
        if kind == "sales":
            event["sale"] = {
                "amount": body["amount"],
                "currency": "usd",
                "invoiceId": body.get("invoiceId"),
            }
        self.events.append((now, now + lag, kind, event))

    async def list_events(self, request: web.Request) -> web.StreamResponse:
        if (failed := await self.before(request)) is not None:
            return failed
        query, now = request.query, time.time()
        begin, end = (
            datetime.fromisoformat(query[name]).timestamp() for name in ("start", "end")
        )
        customer = query.get("customerId")
        found = [
            event
            for at, seen_at, kind, event in self.events
            if kind == query["event"]
            and begin <= at <= end
            and seen_at <= now
            and customer in (None, event["customer"]["id"])
        ]
        limit = int(query["limit"])
        first = (int(query["page"]) - 1) * limit
        page = web.json_response(found[first : first + limit])
        return await self.after(request, page)

    async def list_customers(self, request: web.Request) -> web.StreamResponse:
        if (failed := await self.before(request)) is not None:
            return failed
        wanted = request.query["externalId"]
        known = wanted in self.customers
        found = [{"id": f"cus_{wanted}", "externalId": wanted}] if known else []
        return await self.after(request, web.json_response(found))

    def tell(self, body: dict[str, Any]) -> None:
        """Send a webhook for what was counted, to one relay after another."""
        if self.webhooks:
            task = asyncio.get_running_loop().create_task(self.webhook(body))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def webhook(self, body: dict[str, Any]) -> None:
        customer = {"externalId": body["customerExternalId"]}
        data = {"eventName": body["eventName"], "customer": customer}
        data["click"] = {"id": body["clickId"]}
        content = json.dumps({"event": "lead.created", "data": data}).encode()
        signature = hmac.new(self.secret.encode(), content, hashlib.sha256).hexdigest()
        await asyncio.sleep(self.dice.random() * 3)
        async with ClientSession(timeout=ClientTimeout(total=5)) as session:
            for _ in range(40):
                url = self.dice.choice(self.webhooks)
                headers = {"Dub-Signature": signature}
                try:
                    async with session.post(url, data=content, headers=headers) as got:
                        if got.status == 200:
                            return
                except (ClientError, OSError, TimeoutError):
                    pass  # a relay that was killed, or is frozen
                await asyncio.sleep(1)

    async def set_mood(self, request: web.Request) -> web.StreamResponse:
        said = await request.json()
        self.mood = said.get("mood", self.mood)
        self.webhooks = said.get("webhooks", self.webhooks)
        self.secret = said.get("secret", self.secret)
        return web.json_response({})

    async def report(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                "leads": [[*key, number] for key, number in self.leads.items()],
                "keys": [list(key) for key in self.keys],
                "sales": dict(self.sales),
                "calls": self.calls,
                "telling": len(self.tasks),
                "forgotten": [list(key) for key in self.forgotten],
                "lagging": sum(seen > time.time() for _, seen, _, _ in self.events),
            }
        )


def refusal(status: int, code: str, message: str) -> web.Response:
    return web.json_response(
        {"error": {"code": code, "message": message}}, status=status
    )


def cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def serve(port: int, seed: int) -> None:
    dub = StrictDub(seed)
    app = web.Application(client_max_size=1 << 24)
    app.add_routes(
        [
            web.post("/track/lead", dub.track_lead),
            web.post("/track/sale", dub.track_sale),
            web.get("/events", dub.list_events),
            web.get("/customers", dub.list_customers),
            web.post("/mood", dub.set_mood),
            web.get("/report", dub.report),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
