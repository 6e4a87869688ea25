"""Dub's errors: codes, statuses, envelope and the messages it answers with.

The relay speaks them under its own prefix and the sandbox plays them, so that
code that handles Dub's errors handles ours; :mod:`relay.core.dub.replies` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypedDict

BAD_REQUEST: Final = "bad_request"
UNPROCESSABLE: Final = "unprocessable_entity"
INTERNAL: Final = "internal_server_error"

CODES: Final[Mapping[str, int]] = MappingProxyType(
    {
        BAD_REQUEST: 400,
        "unauthorized": 401,
        "forbidden": 403,
        "exceeded_limit": 403,
        "not_found": 404,
        "conflict": 409,
        "invite_pending": 409,
        "invite_expired": 410,
        UNPROCESSABLE: 422,
        "rate_limit_exceeded": 429,
        INTERNAL: 500,
    },
)
"""The status of each code. A set without additions: the SDKs' enums are closed."""

DOC_BASE: Final = "https://dub.co/docs/api-reference/errors#"

# Messages, letter by letter: clients and our own classification compare them.
MISCONFIGURED_HEADER: Final = (
    "Misconfigured authorization header. Did you forget to add 'Bearer '? "
    "Learn more: https://d.to/auth"
)
MISSING_HEADER: Final = "Missing Authorization header."
WORKSPACE_ID_NOT_FOUND: Final = (
    "Workspace ID not found. Did you forget to include a `workspaceId` query "
    "parameter? It looks like you might be using personal API keys, we also "
    "recommend refactoring to workspace API keys: https://d.to/keys"
)
INVALID_KEY: Final = "Unauthorized: Invalid API key."
MISSING_PUBLISHABLE_KEY: Final = "Missing publishable key."
MALFORMED_PUBLISHABLE_KEY: Final = "Invalid or missing publishable key."
INVALID_PUBLISHABLE_KEY: Final = "Invalid publishable key."
EXPIRED_KEY: Final = "Unauthorized: Access token expired."
TOO_MANY_REQUESTS: Final = "Too many requests."
WORKSPACE_NOT_FOUND: Final = "Workspace not found."
WRONG_ROLE: Final = (
    "You don't have the required role to access this endpoint. "
    "Required role(s): owner, member."
)
NO_ANALYTICS: Final = (
    "The provided key does not have the required permissions for this endpoint on the "
    "workspace 'ws_acme'. Having the 'analytics.read' permission would allow this "
    "request to continue."
)
NEED_HIGHER_PLAN: Final = "Unauthorized: Need higher plan."
INVALID_JSON: Final = (
    "Invalid JSON format in request body. "
    "Please ensure the request body is a valid JSON object."
)
EXTERNAL_ID_REQUIRED: Final = "customerExternalId is required"
CLICK_ID_REQUIRED: Final = (
    "The `clickId` property was not provided in the request, and no existing "
    "customer with the provided `customerExternalId` was found."
)
INTERNAL_ERROR: Final = (
    "An internal server error occurred. "
    "Please contact our support if the problem persists."
)


class ErrorDetail(TypedDict):
    """What stands in Dub's ``error`` object."""

    code: str
    message: str
    doc_url: str


class ErrorBody(TypedDict):
    """Dub's envelope around every error."""

    error: ErrorDetail


def click_not_found(click_id: str) -> str:
    """Return the 404 of a click that Dub does not have, or not yet."""
    return f"Click event not found for clickId: {click_id}"


def link_not_found(click_id: str) -> str:
    """Return the 404 of a click whose link was deleted."""
    return f"Link not found for clickId: {click_id}"


def customers_link_not_found(customer_id: str) -> str:
    """Return the 404 of a sale of a customer whose link was deleted."""
    return f"Link not found for customer {customer_id}"


def link_elsewhere(link_id: str, whose: str) -> str:
    """Return the 404 of another workspace's link; ``whose`` names click or customer."""
    return f"Link {link_id} for {whose} does not belong to the workspace"


def link_disabled(link_id: str, whose: str, what: str) -> str:
    """Return the 404 of a link that was switched off; what: ``lead`` or ``sale``."""
    return f"Link {link_id} for {whose} is disabled, {what} not tracked"


def doc_url(code: str) -> str:
    """Return the documentation address that Dub sends with a code.

    Dub replaces the first underscore only ("#rate-limit_exceeded"), except for
    the internal error, whose address it writes out.
    """
    dashes = -1 if code == INTERNAL else 1
    return DOC_BASE + code.replace("_", "-", dashes)


def error_body(code: str, message: str) -> ErrorBody:
    """Put a message into Dub's envelope.

    Raises ValueError for a code that is not Dub's: its SDKs would fail on it.
    """
    if code not in CODES:
        raise ValueError(f"not one of Dub's error codes: {code}")
    return {"error": {"code": code, "message": message, "doc_url": doc_url(code)}}
