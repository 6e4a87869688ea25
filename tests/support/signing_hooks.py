"""Signs what schemathesis sends, as each security scheme of the document wants.

Loaded into its process by SCHEMATHESIS_HOOKS; the secrets come by environment.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import time
from typing import Any

import requests
import schemathesis

from relay.core import signing
from relay.sandbox.app import PUBLISHABLE_KEY
from tests.support.harness import API_KEY


def _body(request: requests.PreparedRequest) -> bytes:
    body = request.body or b""
    if isinstance(body, str):
        return body.encode()
    assert isinstance(body, bytes), "a body of schemathesis is whole"
    return body


class StandardWebhooks(requests.auth.AuthBase):
    """Signs, in place of the id and the time that were made up; wrong ones stay."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        keys = signing.parse_webhook_secrets(os.environ["RELAY_HOOK_SECRET"])
        given, now, body = request.headers, int(time.time()), _body(request)
        try:
            signing.sign_webhook(keys, str(given["webhook-id"]), now, body)
            right = re.fullmatch("[0-9]{1,15}", str(given["webhook-timestamp"]))
            _ = given["webhook-signature"]  # left out on purpose, it stays away
        except (KeyError, ValueError):
            right = None
        signed = signing.sign_webhook(keys, f"msg_{secrets.token_hex(8)}", now, body)
        if right:
            given.update(signed)
        return request


class PublishableKey(requests.auth.AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {PUBLISHABLE_KEY}"
        return request


class ApiKey(requests.auth.AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {API_KEY}"
        return request


class DubSignature(requests.auth.AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        key = os.environ["DUB_WEBHOOK_SECRET"].encode()
        signature = hmac.new(key, _body(request), "sha256").hexdigest()
        request.headers["Dub-Signature"] = signature
        return request


for signer, path in (
    (StandardWebhooks(), "/hooks/signup$"),
    (DubSignature(), "/hooks/dub$"),
    (PublishableKey(), "/client$"),
    (ApiKey(), "/track/(lead|sale)$"),
):
    auth: Any = schemathesis.auth  # its types do not know the method
    auth.set_from_requests(signer).apply_to(path_regex=path)


@schemathesis.hook
def map_headers(context: object, headers: dict[str, str] | None) -> object:
    """Speak as a page of the relay's own origin would, wherever an Origin is sent."""
    if headers and "Origin" in headers:
        headers["Origin"] = os.environ["RELAY_ORIGIN"]
    return headers
