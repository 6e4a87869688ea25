"""``POST hooks/signup``: a signed registration hook becomes a lead."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from aiohttp import web

from relay.capture.intake import Capture, Intake
from relay.core import signing
from relay.core.clock import Clock
from relay.core.dub.track_lead import (
    InvalidFieldError,
    LeadFields,
    sanitise,
)
from relay.core.http import cookies
from relay.core.http.tickets import Opener
from relay.core.providers import schemes
from relay.http.responses import RefusedError, answer, read_object, try_again
from relay.outbox.contract import Inserted, OutboxUnavailableError

SOURCE: Final = "hook"

FORGERY_HELP: Final = (
    "The signature does not fit. Sign 'webhook-id.webhook-timestamp.body' with "
    "the hook secret (Standard Webhooks), over the exact bytes that are sent."
)


class SignupHook:
    """Checks the signature first, then the body, then commits the lead."""

    def __init__(
        self,
        intake: Intake,
        keys: tuple[bytes, ...],
        clock: Clock,
        opener: Opener,
    ) -> None:
        self._intake = intake
        self._keys = keys
        self._clock = clock
        self._opener = opener

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer as the table of ``POST hooks/signup`` in the docs says."""
        return await self.respond(request.headers, await request.read())

    async def respond(self, headers: Mapping[str, str], body: bytes) -> web.Response:
        """Do the same by what was sent; raise RefusedError."""
        if not self._keys:
            raise RefusedError(404, "hooks/signup is off: set RELAY_HOOK_SECRET.")
        message_id = self._verify(headers, body)
        fields, notes, document = _read(body)
        click_id, told_by = self._click(fields, document)
        if click_id is None:
            self._intake.unattributed(SOURCE)
            return answer({"id": None, "status": "unattributed"}, 202)
        capture = Capture(
            source=SOURCE,
            click_id=click_id,
            fields=fields,
            notes=notes,
            origin={"click": told_by},
            idempotency_key=message_id,
            body_hash=hashlib.sha256(body).digest(),
        )
        return await self._take(capture)

    def _verify(self, headers: Mapping[str, str], body: bytes) -> str:
        try:
            return schemes.either(self._keys, headers, body, self._clock())
        except signing.MissingHeaderError as error:
            self._refuse("unsigned", 401, str(error))
        except signing.StaleTimestampError as error:
            self._refuse("stale", 401, str(error))
        except signing.BadSignatureError:
            self._refuse("forged", 401, FORGERY_HELP)

    def _click(
        self, fields: LeadFields, document: Mapping[str, Any]
    ) -> tuple[str | None, str]:
        """Choose the click id; clickId beats cookie, "" means the customer's own."""
        given = fields.click_id
        if given is None:
            return self._cookies_click(document.get("cookie") or ""), "cookie"
        if given == "" or cookies.is_click_id(given):
            return given, "clickId" if given else "customer"
        # The site's server may pass on what its page was given.
        found = self._opener.find((given,), (), self._clock())
        return found.click_id, found.told_by

    def _cookies_click(self, header: str) -> str | None:
        """Return the click of a visitor's cookies; of several the newest proven one."""
        clicks = cookies.usable([header], cookies.CLICK_COOKIE, cookies.is_click_id)
        sealed = cookies.usable([header], cookies.COMPANION_COOKIE, cookies.is_sealed)
        max_age_s = cookies.MAX_DAYS * 86_400
        signed = cookies.newest_signed(
            sealed, self._opener.secrets, self._clock(), max_age_s
        )
        return cookies.newest_click(clicks, signed)

    def _refuse(self, result: str, status: int, message: str) -> NoReturn:
        self._intake.count(SOURCE, result)
        raise RefusedError(status, message)

    async def _take(self, capture: Capture) -> web.Response:
        try:
            result = await self._intake.take(capture)
        except OutboxUnavailableError:
            raise try_again(
                "The lead could not be stored. Send it again: it counts once."
            ) from None
        if result.outcome is Inserted.CONFLICT:
            raise RefusedError(
                409, "This webhook-id was taken before with another body."
            )
        if result.outcome is Inserted.DUPLICATE:
            return answer({"id": result.lead_id, "status": "duplicate"}, 200)
        return answer({"id": result.lead_id, "status": "queued"}, 202)


def _read(body: bytes) -> tuple[LeadFields, tuple[str, ...], Mapping[str, Any]]:
    """Turn a hook's body into sanitised fields, or refuse it with what to do."""
    document = read_object(body)
    cookie = document.get("cookie")
    if cookie is not None and not isinstance(cookie, str):
        raise RefusedError(422, "cookie: must be the raw Cookie header, a string.")
    try:
        fields, notes = sanitise(document)
    except InvalidFieldError as error:
        raise RefusedError(422, error.issue.text) from None
    return fields, notes, document
