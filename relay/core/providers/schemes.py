"""How providers sign: Standard Webhooks under two names, and ``t=…,v1=…``."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final

from relay.core import signing
from relay.core.signing import (
    TOLERANCE_S,
    MissingHeaderError,
    SignatureMismatchError,
    StaleTimestampError,
)

_TIMESTAMP: Final = re.compile(r"[0-9]{1,17}")


def standard(
    keys: Iterable[bytes], headers: Mapping[str, str], body: bytes, now: int
) -> str:
    """Check ``webhook-*`` headers (standardwebhooks.com); return the message's id.

    Supabase separates the signatures of two secrets by a comma and a blank, not
    by a blank alone (supabase/auth, internal/hooks/hookshttp).
    """
    given = _three(headers, "webhook")
    given["webhook-signature"] = given["webhook-signature"].replace(", ", " ")
    return signing.verify_webhook(keys, given, body, now)


def svix(
    keys: Iterable[bytes], headers: Mapping[str, str], body: bytes, now: int
) -> str:
    """Check ``svix-*`` headers: the same scheme under its older names.

    Svix's own libraries take the new names as well (docs.svix.com/receiving).
    """
    given = _three(headers, "svix")
    try:
        return signing.verify_webhook(keys, given, body, now)
    except MissingHeaderError as error:
        raise MissingHeaderError(str(error).replace("webhook-", "svix-")) from None


def either(
    keys: Iterable[bytes], headers: Mapping[str, str], body: bytes, now: int
) -> str:
    """Check the same scheme under whichever of its names; return the message's id."""
    return signing.verify_webhook(keys, _three(headers, "svix"), body, now)


def _three(headers: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Take the three headers by their names or the standard's, "" for a missing one."""
    return {
        f"webhook-{part}": headers.get(f"{prefix}-{part}")
        or headers.get(f"webhook-{part}", "")
        for part in ("id", "timestamp", "signature")
    }


def stripe(
    keys: Iterable[bytes], headers: Mapping[str, str], body: bytes, now: int
) -> str:
    """Check ``Stripe-Signature: t=<seconds>,v1=<hex>[,v1=…]``.

    docs.stripe.com/webhooks, "Verify webhook signatures manually"; while a
    secret is rolled there is one v1 for each.
    """
    _check_stamped("stripe-signature", keys, headers, body, now // 1000, 1)
    return ""


def workos(
    keys: Iterable[bytes], headers: Mapping[str, str], body: bytes, now: int
) -> str:
    """Check ``WorkOS-Signature: t=<milliseconds>, v1=<hex>``.

    workos.com/docs/events/data-syncing/webhooks, "Validate the requests
    manually".
    """
    _check_stamped("workos-signature", keys, headers, body, now, 1000)
    return ""


def _check_stamped(
    name: str,
    keys: Iterable[bytes],
    headers: Mapping[str, str],
    body: bytes,
    now: int,
    per_second: int,
) -> None:
    """Check hex HMAC-SHA256 over ``timestamp.body``, every key with every v1."""
    stamp, given = _stamped(headers.get(name, ""), name)
    if abs(now - int(stamp)) > TOLERANCE_S * per_second:
        raise StaleTimestampError(f"t in {name} is over {TOLERANCE_S} s off")
    content = stamp.encode() + b"." + body
    fits = False
    for key in keys:
        ours = hmac.new(key, content, "sha256").hexdigest().encode()
        for theirs in given:
            fits |= hmac.compare_digest(ours, theirs)
    if not fits:
        raise SignatureMismatchError(f"no v1 in {name} fits any of our keys")


def _stamped(header: str, name: str) -> tuple[str, list[bytes]]:
    """Take ``t`` and every ``v1`` out of a header; other versions are passed over."""
    if not header:
        raise MissingHeaderError(f"{name} is missing")
    fields = [part.strip().partition("=") for part in header.split(",")]
    stamps = [value for key, _, value in fields if key == "t"]
    given = [v.encode("ascii", "replace") for key, _, v in fields if key == "v1"]
    if len(stamps) != 1 or not _TIMESTAMP.fullmatch(stamps[0]) or not given:
        raise MissingHeaderError(f"{name} is malformed: it needs t=… and v1=…")
    return stamps[0], given


def text_secrets(written: str) -> tuple[bytes, ...]:
    """Read a list of secrets whose very text is the key. Raises ValueError."""
    return tuple(secret.encode() for secret in signing.parse_secrets(written))


def stripe_secrets(written: str) -> tuple[bytes, ...]:
    """Read a list of Stripe's; the whole text is the key, ``whsec_`` included."""
    secrets = text_secrets(written)
    if not all(secret.startswith(b"whsec_") for secret in secrets):
        raise ValueError(
            "not Stripe's signing secret. It starts with whsec_; an API key does not."
        )
    return secrets
