"""Dub's ``lead.created`` webhook: the envelope, its signature, one delivery.

Dub posts it after its answer and repeats it for a day; the sandbox tries once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any, Final

import aiohttp

from relay.core.clock import iso
from relay.sandbox.dub import Dub, link_json
from relay.sandbox.model import RecordedLead
from relay.sandbox.state import api_customer_json

TIMEOUT_S: Final = 5.0
"""Long enough for a relay on this machine, short enough to stop with."""


def lead_created(dub: Dub, lead: RecordedLead) -> dict[str, Any]:
    """Make the envelope of a lead; one a call, whatever its quantity."""
    link = dub.links[lead.click.link_key]
    partner = {"id": link.partner_id, "name": link.partner} if link.partner else None
    return {
        "id": f"evt_{dub.new_id(25)}",
        "event": "lead.created",
        "createdAt": iso(dub.clock()),
        "data": {
            "eventName": lead.event_name,
            "customer": api_customer_json(lead.customer),
            "click": {
                "id": lead.click.id,
                "timestamp": iso(lead.click.at),
                "url": link.url,
                "trigger": "link",
                "referer": lead.click.referrer or "(direct)",
                "qr": False,
            },
            "link": link_json(link, dub.domain),
            "partner": partner,
            "metadata": lead.metadata,
        },
    }


def sign(secret: str, body: bytes) -> str:
    """Give ``Dub-Signature``: hex HMAC-SHA256 under the whole secret string."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


async def post(
    session: aiohttp.ClientSession, url: str, secret: str, envelope: dict[str, Any]
) -> int | None:
    """Post a webhook once; the answer's status, or None when there was none."""
    body = json.dumps(envelope, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json", "Dub-Signature": sign(secret, body)}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with session.post(
            url, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return None
