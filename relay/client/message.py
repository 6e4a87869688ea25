"""Makes the hook's message out of what a site knows of a registration."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Required, TypedDict

from relay.core.dub.track_lead import (
    InvalidFieldError,
    sanitise,
)

MAX_BODY: Final = 1024 * 1024
"""Bytes that the relay's hook reads at most."""


class Signup(TypedDict, total=False):
    """The keyword arguments of ``signup``: Dub's fields, in Python's spelling."""

    customer_external_id: Required[str]
    """Your own stable id of the new user, 1 to 100 characters."""
    event_name: str
    """1 to 255 characters; "Sign Up" if not given."""
    customer_name: str | None
    customer_email: str | None
    customer_avatar: str | None
    click_id: str | None
    """Instead of the request's cookie. "": this customer's earlier click."""
    mode: Literal["async", "wait", "deferred"]
    event_quantity: int | None
    metadata: Mapping[str, Any] | None


class BadFieldError(Exception):
    """A field that the integrator writes is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Message:
    """A hook's body under its webhook-id; the same bytes each time it is sent."""

    id: str
    body: bytes = field(repr=False)


_NAMES: Final = {
    "customer_external_id": "customerExternalId",
    "event_name": "eventName",
    "customer_name": "customerName",
    "customer_email": "customerEmail",
    "customer_avatar": "customerAvatar",
    "click_id": "clickId",
    "mode": "mode",
    "event_quantity": "eventQuantity",
    "metadata": "metadata",
}


def message_of(click_id: str, fields: Signup) -> Message:
    """Write the message, with an id of its own.

    Raises BadFieldError for what the relay would refuse, so that a mistake
    shows in the first test and not once the relay is back; and TypeError, as
    any function does, for an argument that there is none of. What a person
    typed is never wrong: the relay leaves it out.
    """
    if unknown := sorted(fields.keys() - _NAMES.keys()):
        raise TypeError(f"signup() got an unexpected keyword argument {unknown[0]!r}")
    document: dict[str, object] = {"eventName": "Sign Up"}
    document |= {
        _NAMES[name]: value for name, value in fields.items() if value is not None
    }
    document["clickId"] = click_id
    try:
        sanitise(document)
        body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    except InvalidFieldError as error:
        raise BadFieldError(error.issue.text) from None
    except (TypeError, ValueError, RecursionError) as error:
        # The error's own text may quote the value.
        raise BadFieldError(f"metadata: is no JSON ({type(error).__name__})") from None
    if len(body) > MAX_BODY:
        raise BadFieldError("all fields together are over 1 MiB")
    return Message(f"msg_{secrets.token_hex(12)}", body)
