"""Dub's ``track/lead/client`` and ``track/sale/client``: keys, hosts and schema.

Pages call them with a publishable key, which anybody can read. The relay and the
sandbox hold such calls to the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from relay.core.dub.errors import (
    BAD_REQUEST,
    INVALID_PUBLISHABLE_KEY,
    MALFORMED_PUBLISHABLE_KEY,
    MISSING_PUBLISHABLE_KEY,
)
from relay.core.dub.fields import (
    MISSING,
    Body,
    limited,
    read_event_name,
    refused,
    wrong_type,
)
from relay.core.dub.track_lead import (
    CUSTOMER_ID_NAMES,
    MAX_CUSTOMER_ID,
    LeadFields,
    validate,
)

LEAD: Final = "track/lead/client"
SALE: Final = "track/sale/client"

_BEARER: Final = "Bearer "

UNKNOWN_KEY: Final = ("unauthorized", INVALID_PUBLISHABLE_KEY)
"""Dub's error for a key that is well written, and no workspace's."""


def malformed_key(authorization: str | None) -> tuple[str, str] | None:
    """Return Dub's error (code, message) for a header without a publishable key."""
    if authorization is None:
        return "unauthorized", MISSING_PUBLISHABLE_KEY
    if not authorization.startswith(_BEARER):
        return BAD_REQUEST, MALFORMED_PUBLISHABLE_KEY
    if not authorization.startswith("dub_pk_", len(_BEARER)):
        return BAD_REQUEST, MALFORMED_PUBLISHABLE_KEY
    return None


def key_of(authorization: str) -> str:
    """Return the key of a header that :func:`malformed_key` has passed."""
    return authorization.removeprefix(_BEARER)


def page_host(referer: str | None, origin: str | None) -> str | None:
    """Return the host of the page that calls, as Dub compares it: without ``www.``.

    Referer counts before Origin.
    """
    return _host(referer) or _host(origin)


def is_allowed(host: str | None, allowed: Iterable[str]) -> bool:
    """Whether one of the allowed hostnames covers a host.

    ``*.site`` covers the subdomains of a site, but not the site itself.
    """
    return host is not None and any(_covers(entry, host) for entry in allowed)


def host_refused(host: str | None) -> str:
    """Return Dub's message to a page of another host."""
    return (
        f"Request origin '{host or 'null'}' is not included in the allowed hostnames "
        "for this workspace. Update your allowed hostnames here: "
        "https://app.dub.co/settings/tracking"
    )


def validate_client(body: object) -> LeadFields:
    """Check a lead's parsed JSON body as Dub's route for browsers does.

    As :func:`relay.core.dub.track_lead.validate`, but ``clickId`` must be a text, and
    the customer's id has one name and 1 to 100 units. Raises InvalidFieldError.
    """
    if not isinstance(body, Mapping):
        raise wrong_type("", "object", body)
    _text(body, "clickId")
    read_event_name(body)
    name, *aliases = CUSTOMER_ID_NAMES
    customer = limited(name, _text(body, name), MAX_CUSTOMER_ID)
    if not customer.strip():
        message = "Too small: expected string to have >=1 characters"
        raise refused(name, "too_small", message)
    return validate({key: it for key, it in body.items() if key not in aliases})


def _text(body: Body, name: str) -> str:
    value = body.get(name, MISSING)
    if not isinstance(value, str):
        raise wrong_type(name, "string", value)
    return value


def _host(address: str | None) -> str | None:
    try:
        host = urlsplit(address or "").hostname
    except ValueError:
        return None
    return host.removeprefix("www.") if host else None


def _covers(entry: str, host: str) -> bool:
    if entry.startswith("*."):
        return host.endswith(entry[1:])
    return host == entry
