"""A sign-up with aiohttp that reports to the relay.

Run: python -m aiohttp.web -P 8000 app:make_app
"""

import os
from uuid import uuid4

from aiohttp import web

from relay.client import AsyncClient

RELAY = web.AppKey("RELAY", AsyncClient)


async def signup(request: web.Request) -> web.Response:
    registration = await request.json()
    user_id = f"u_{uuid4().hex}"  # Here you store the user.
    await request.app[RELAY].signup(
        request,
        customer_external_id=user_id,
        customer_name=registration["name"],
        customer_email=registration["email"],
    )
    return web.json_response({"id": user_id}, status=201)


def make_app(_: list[str]) -> web.Application:
    app = web.Application()
    app[RELAY] = AsyncClient(
        os.environ.get("DUB_RELAY_URL", "http://127.0.0.1:8080") + "/_dub",
        secret=os.environ["RELAY_HOOK_SECRET"],
        spool="dub-relay.spool",
    )
    app.router.add_post("/signup", signup)
    return app
