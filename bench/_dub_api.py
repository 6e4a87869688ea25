"""A stand-in for Dub's API that answers each call after a fixed time.

It keeps nothing but counts, so that it is never what a bench is waiting for.
``GET /counts`` returns how many calls came and how many leads were recorded;
``PUT /failing`` with "1" or "0" turns a fault on and off: 500 to every call.

    python bench/_dub_api.py PORT DELAY_MS
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import uvloop
from aiohttp import web

MOST_CONNECTIONS = 1024


class Api:
    """Counts calls and leads, answers late, and fails when it is asked to."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._failing = False
        self._calls = 0
        self._recorded: set[str] = set()

    def application(self) -> web.Application:
        """Give the server's side."""
        app = web.Application()
        app.router.add_post("/track/lead", self._lead)
        app.router.add_get("/counts", self._counts)
        app.router.add_put("/failing", self._fail)
        return app

    async def _lead(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self._calls += 1
        if self._delay:
            await asyncio.sleep(self._delay)
        if self._failing:
            return web.json_response(
                {
                    "error": {
                        "code": "internal_server_error",
                        "message": "",
                        "doc_url": "",
                    }
                },
                status=500,
            )
        if body.get("mode") != "deferred":
            self._recorded.add(body["customerExternalId"])
        return web.json_response(answer(body))

    async def _counts(self, _: web.Request) -> web.Response:
        # Customers named "way-number" are counted by their way, too.
        ways = Counter(name.partition("-")[0] for name in self._recorded)
        found = {"calls": self._calls, "recorded": len(self._recorded)}
        return web.json_response(ways | found)

    async def _fail(self, request: web.Request) -> web.Response:
        self._failing = await request.text() == "1"
        return web.Response()


def answer(body: dict[str, str]) -> dict[str, object]:
    """Give Dub's answer to a lead that it takes."""
    return {
        "click": {"id": body["clickId"]},
        "link": {
            "id": "link_1",
            "domain": "dub.sh",
            "key": "x",
            "shortLink": "https://dub.sh/x",
            "url": "https://example.com",
            "partnerId": None,
            "programId": None,
            "tenantId": None,
            "externalId": None,
        },
        "customer": {
            "name": body.get("customerName"),
            "email": body.get("customerEmail"),
            "avatar": body.get("customerAvatar"),
            "externalId": body["customerExternalId"],
        },
    }


def main() -> None:
    port, delay_ms = int(sys.argv[1]), float(sys.argv[2])
    uvloop.install()
    web.run_app(
        Api(delay_ms / 1000).application(),
        host="127.0.0.1",
        port=port,
        access_log=None,
        print=None,
        backlog=MOST_CONNECTIONS,
    )


if __name__ == "__main__":
    main()
