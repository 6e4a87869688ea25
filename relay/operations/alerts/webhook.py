"""The call to the operator's webhook; foreign errors stop here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import aiohttp

from relay.core.signing import sign_webhook
from relay.core.version import VERSION
from relay.outbox.contract import Alert

TIMEOUT_S: Final = 15.0
"""As Standard Webhooks advises: 15 to 30 s."""


async def post(
    url: str, keys: Sequence[bytes], alert: Alert, now: int
) -> tuple[bool, str]:
    """Send a message once: whether it was taken, and what was answered.

    Only a 2xx is a yes (Standard Webhooks); redirects are not followed. The id
    stays the same when it is sent again, so that the receiver knows.
    """
    body = alert.body.encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"dub-relay/{VERSION}",
        **sign_webhook(keys, alert.message_id, now // 1000, body),
    }
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as answer,
        ):
            return 200 <= answer.status < 300, f"HTTP {answer.status}"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        # Its text would quote the address, which may be a secret.
        return False, type(error).__name__
