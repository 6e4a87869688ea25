"""How callers prove who they are: by signatures over what they send, or a secret.

Standard Webhooks under two names, ``t=…,v1=…``, an HMAC in a header, Bearer and Basic.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final

from relay.core import signing
from relay.core.providers.account import Verify
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


ALGORITHMS: Final = ("sha256", "sha1", "sha512")

ENCODINGS: Final = ("hex", "base64")


def hmac_header(header: str, algorithm: str, encoding: str, prefix: str) -> Verify:
    """Make the check of a header that holds an HMAC of the body, and no time.

    ``prefix`` stands before it (``sha256=``). Hex is read in either case, base64 with
    or without its padding.
    """

    def verify(
        keys: Iterable[bytes], headers: Mapping[str, str], body: bytes, _: int
    ) -> str:
        given = _given(headers, header)
        if not given.startswith(prefix):
            raise MissingHeaderError(f"{header} is malformed: it begins with {prefix}")
        theirs = _decoded(given.removeprefix(prefix), encoding, header)
        # Added up: any() would stop at the first that fits.
        fits = sum(
            hmac.compare_digest(hmac.digest(key, body, algorithm), theirs)
            for key in keys
        )
        if not fits:
            raise SignatureMismatchError(f"{header} fits none of our keys")
        return ""

    return verify


def _decoded(text: str, encoding: str, header: str) -> bytes:
    try:
        if encoding == "hex":
            return bytes.fromhex(text)
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise MissingHeaderError(f"{header} is malformed: no {encoding}") from None


def bearer(header: str) -> Verify:
    """Make the check of a secret that is sent as it is.

    In ``authorization`` behind ``Bearer`` (RFC 6750), in another header alone.
    """
    scheme = "bearer " if header == "authorization" else ""

    def verify(
        keys: Iterable[bytes], headers: Mapping[str, str], _: bytes, __: int
    ) -> str:
        given = _given(headers, header)
        if not given.lower().startswith(scheme):
            raise MissingHeaderError(f"{header} is malformed: it needs Bearer")
        _equal(keys, given[len(scheme) :].strip().encode("utf-8", "replace"), header)
        return ""

    return verify


def basic(keys: Iterable[bytes], headers: Mapping[str, str], _: bytes, __: int) -> str:
    """Check ``Authorization: Basic`` (RFC 7617); a key is ``user:password``."""
    scheme, _blank, given = _given(headers, "authorization").partition(" ")
    if scheme.lower() != "basic":
        raise MissingHeaderError("authorization is malformed: it needs Basic")
    _equal(keys, _decoded(given.strip(), "base64", "authorization"), "authorization")
    return ""


def _given(headers: Mapping[str, str], name: str) -> str:
    given = headers.get(name, "").strip()
    if not given:
        raise MissingHeaderError(f"{name} is missing")
    return given


def _equal(keys: Iterable[bytes], given: bytes, header: str) -> None:
    """Compare with every key; its length is hidden by an HMAC under a fixed key."""
    ours = hmac.digest(_EVEN, given, "sha256")
    fits = sum(
        hmac.compare_digest(hmac.digest(_EVEN, key, "sha256"), ours) for key in keys
    )
    if not fits:
        raise SignatureMismatchError(f"{header} fits none of our secrets")


_EVEN: Final = b"dub-relay"


def user_and_password(written: str) -> tuple[bytes, ...]:
    """Read a list of ``user:password``. Raises ValueError."""
    pairs = text_secrets(written)
    if not all(b":" in pair for pair in pairs):
        raise ValueError("not a user and a password. Write user:password.")
    return pairs


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
