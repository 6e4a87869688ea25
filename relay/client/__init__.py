"""For Python sites: report a registration, in one line that never breaks it.

    from relay.client import Client

    relay = Client("https://www.example.com/_dub", secret="whsec_…")
    relay.signup(request, customer_external_id=str(user.id), customer_email=user.email)

:class:`Client` serves Django, Flask and all synchronous code,
:class:`AsyncClient` (``await relay.signup(…)``) FastAPI, Starlette and aiohttp.
The request may be any of theirs. No error reaches the caller: the
:class:`Result` says what happened.
"""

from __future__ import annotations

from relay.client.calls import Result, Signup, Status
from relay.client.clients import AsyncClient, Client, click_of, cookie_headers

__all__ = [
    "AsyncClient",
    "Client",
    "Result",
    "Signup",
    "Status",
    "click_of",
    "cookie_headers",
]
