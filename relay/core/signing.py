"""Signatures: Standard Webhooks, Dub-Signature, and the relay's own signed values.

Whatever bytes or text a stranger sends, a check here ends in a value or in one
of :class:`BadSignatureError`'s children, never in another exception::

    BadSignatureError
    |- MissingHeaderError       a header is absent or has not its form
    |- StaleTimestampError      signed too long ago, or too far in the future
    `- SignatureMismatchError   no key of ours made this signature

Times passed in are epoch milliseconds; the wire formats use seconds. Secrets
never appear in a message.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from itsdangerous import BadData, SignatureExpired, TimestampSigner
from itsdangerous.url_safe import URLSafeTimedSerializer

TOLERANCE_S: Final = 300
"""How far a sender's clock may be off, either way: what Svix's libraries allow."""

SKEW_S: Final = 60
"""How far in the future our own signatures may lie: relays that share a secret
need not have the same clock, but NTP keeps them well within a minute."""

MIN_WEBHOOK_KEY: Final = 24
"""Bytes. Standard Webhooks, "Signature scheme": at least 24 (192 bits)."""

_CALL: Final = "dub-relay.call"
_PREFIX: Final = "whsec_"

# The spec warns of ids with a full stop: "id.timestamp.body" could then be cut
# in two ways. 256 is far above any id in use and keeps an index row small.
_MESSAGE_ID: Final = re.compile(r"[!-\-/-~]{1,256}")
# Fifteen digits of seconds are 31 million years; int() of more is wasted work,
# and \d would let in Arabic digits, which are not what was signed.
_TIMESTAMP: Final = re.compile(r"[0-9]{1,15}")
# itsdangerous decodes base64 leniently and would take other spellings as well.
_SIGNED: Final = re.compile(r"[A-Za-z0-9_.-]+")


class BadSignatureError(Exception):
    """Base of everything a check here raises."""


class MissingHeaderError(BadSignatureError):
    """A header that the scheme needs is absent or has not its form."""


class StaleTimestampError(BadSignatureError):
    """The signature is genuine or not, but its time is not near enough to now."""


class SignatureMismatchError(BadSignatureError):
    """None of our keys made any of the given signatures over this content."""


def parse_secrets(text: str) -> tuple[str, ...]:
    """Secrets out of a comma-separated list, in order: the first signs.

    Raises ValueError, without the secret in it, if there is none or one is empty.
    """
    secrets = tuple(part.strip() for part in text.split(","))
    if not all(secrets):
        raise ValueError("a secret in the list is empty. Remove the extra comma.")
    return secrets


MIN_KEY: Final = 16
"""Characters of a key that can be guessed offline: anyone with a signed cookie, or
with a file of encrypted data, can try any number, so it must be long and random."""


def parse_long_secrets(text: str) -> tuple[str, ...]:
    """Keys out of a comma-separated list that can be guessed offline, in order.

    Raises ValueError, without the key in it, for one that is short.
    """
    keys = parse_secrets(text)
    for place, key in enumerate(keys, 1):
        if len(key) < MIN_KEY:
            raise ValueError(
                f"key {place} is short. Use {MIN_KEY} characters or more, such as "
                "`openssl rand -hex 32` makes."
            )
    return keys


def parse_webhook_secrets(text: str) -> tuple[bytes, ...]:
    """Keys out of a comma-separated list of ``whsec_<base64>``, in order.

    Supabase shows its secrets as ``v1,whsec_<base64>``, with ``|`` between two. Raises
    ValueError that names the place in the list, not the secret.
    """
    listed = text.replace("|", ",").split(",")
    secrets = [item for item in listed if item.strip() != "v1"]
    return tuple(
        _webhook_key(secret, f"secret {place}")
        for place, secret in enumerate(parse_secrets(",".join(secrets)), 1)
    )


def _webhook_key(secret: str, where: str) -> bytes:
    if secret.startswith(("whsk_", "whpk_")):
        raise ValueError(
            f"{where} is a key of a pair (v1a). Use a shared secret, {_PREFIX}<base64>."
        )
    if not secret.startswith(_PREFIX):
        raise ValueError(
            f"{where} does not start with {_PREFIX}. Use it whole; of a secret of your"
            f" own write {_PREFIX} and its base64."
        )
    text = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise ValueError(
            f"{where} is not base64 after {_PREFIX}. Use it whole."
        ) from None
    if len(key) < MIN_WEBHOOK_KEY:
        raise ValueError(
            f"{where} holds {len(key)} bytes. Use at least {MIN_WEBHOOK_KEY}."
        )
    return key


def sign_webhook(
    keys: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes
) -> dict[str, str]:
    """The three headers of a Standard Webhooks request, signed with the first key.

    Raises ValueError for an id that :func:`verify_webhook` would refuse.
    """
    if not _MESSAGE_ID.fullmatch(message_id):
        raise ValueError("a webhook-id is 1 to 256 visible ASCII characters, no '.'")
    timestamp = str(timestamp_s)
    signature = _webhook_signature(keys[0], message_id, timestamp, body)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": signature.decode(),
    }


def verify_webhook(
    keys: Iterable[bytes],
    headers: Mapping[str, str],
    body: bytes,
    now: int,
    tolerance_s: int = TOLERANCE_S,
) -> str:
    """Check a Standard Webhooks request and return its webhook-id.

    ``headers`` has lower-case names, or does not care about case. Signatures of
    other versions (``v1a``) are passed over. Every key is compared with every
    signature, so that the time taken reveals nothing about which one fits.
    """
    message_id = _header(headers, "webhook-id", _MESSAGE_ID)
    timestamp = _header(headers, "webhook-timestamp", _TIMESTAMP)
    given = _header(headers, "webhook-signature", None)
    if abs(now // 1000 - int(timestamp)) > tolerance_s:
        raise StaleTimestampError(f"webhook-timestamp is over {tolerance_s} s off")
    expected = [_webhook_signature(key, message_id, timestamp, body) for key in keys]
    # Compared as text: base64 that is not canonical is nobody's signature.
    candidates = [part.encode("ascii", "replace") for part in given.split(" ")]
    if not _any_equal(expected, candidates):
        raise SignatureMismatchError("no webhook-signature fits any of our keys")
    return message_id


def _header(headers: Mapping[str, str], name: str, form: re.Pattern[str] | None) -> str:
    value = headers.get(name, "")
    if not value:
        raise MissingHeaderError(f"{name} is missing")
    if form is not None and not form.fullmatch(value):
        raise MissingHeaderError(f"{name} is malformed")
    return value


def _webhook_signature(
    key: bytes, message_id: str, timestamp: str, body: bytes
) -> bytes:
    content = f"{message_id}.{timestamp}.".encode() + body
    return b"v1," + base64.b64encode(hmac.digest(key, content, "sha256"))


def _any_equal(expected: Iterable[bytes], candidates: Sequence[bytes]) -> bool:
    found = False
    for ours in expected:
        for theirs in candidates:
            found |= hmac.compare_digest(ours, theirs)
    return found


def verify_dub_webhook(secrets: Sequence[str], signature: str, body: bytes) -> bool:
    """Whether Dub signed this webhook body (its ``Dub-Signature`` header).

    Lower-case hex HMAC-SHA256; the key is the whole secret, ``whsec_`` included.
    Dub signs no time and no id: the caller guards against replays.
    """
    given = [signature.encode("ascii", "replace")]
    expected = (hmac.new(each.encode(), body, "sha256").hexdigest() for each in secrets)
    return _any_equal((each.encode() for each in expected), given)


def sign_call(secrets: Sequence[str], lead_id: str, body: bytes, now: int) -> str:
    """The ``Relay-Signature`` of an outbound call: lead id, time, hash of the body."""
    claim = {"id": lead_id, "sha256": hashlib.sha256(body).hexdigest()}
    return sign_json(claim, secrets, _CALL, now)


def verify_call(
    secrets: Sequence[str],
    value: str,
    body: bytes,
    now: int,
    max_age_s: int = TOLERANCE_S,
) -> str:
    """Check a ``Relay-Signature`` against the body and return the lead's id."""
    if not value:
        raise MissingHeaderError("Relay-Signature is missing")
    claim = verify_json(
        value, secrets, _CALL, now, max_age_s=max_age_s, skew_s=max_age_s
    )
    match claim:
        case {"id": str(lead_id), "sha256": str(digest)} if hmac.compare_digest(
            digest.encode(), hashlib.sha256(body).hexdigest().encode()
        ):
            return lead_id
    raise SignatureMismatchError("Relay-Signature was made for another body")


class _ClockedSigner(TimestampSigner):
    """Stamps and ages by the time it is given, since the core reads no clock."""

    def __init__(self, *args: Any, clock_s: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock_s = clock_s

    def get_timestamp(self) -> int:
        return self._clock_s


@lru_cache(maxsize=8)
def _serializer(
    secrets: tuple[str, ...], purpose: str, clock_s: int
) -> URLSafeTimedSerializer:
    # Kept for the other calls of the same second: to make one costs as much as to sign.
    return URLSafeTimedSerializer(
        # itsdangerous lists keys oldest to newest and signs with the last.
        list(reversed(secrets)),
        salt=purpose,
        signer=_ClockedSigner,
        # Its default is SHA-1.
        signer_kwargs={"digest_method": hashlib.sha256, "clock_s": clock_s},
    )


def sign_json(value: object, secrets: Sequence[str], purpose: str, now: int) -> str:
    """Sign a JSON value with its time: URL-safe text, readable but not forgeable.

    ``purpose`` is the salt: what was signed for one purpose is worth nothing for
    another. The first secret signs.
    """
    return _serializer(tuple(secrets), purpose, now // 1000).dumps(value)


def verify_json(
    text: str,
    secrets: Sequence[str],
    purpose: str,
    now: int,
    *,
    max_age_s: int,
    skew_s: int = SKEW_S,
) -> Any:
    """Return what :func:`sign_json` signed with any of the secrets.

    Raises StaleTimestampError when it is older than ``max_age_s`` seconds or
    lies more than ``skew_s`` in the future, else SignatureMismatchError.
    """
    if not _SIGNED.fullmatch(text):
        raise SignatureMismatchError("not a value that was signed here")
    # itsdangerous refuses any age below zero; reading a clock that is skew_s
    # ahead, with as much more age allowed, moves both ends as wanted.
    serializer = _serializer(tuple(secrets), purpose, now // 1000 + skew_s)
    try:
        return serializer.loads(text, max_age=max_age_s + skew_s)
    except SignatureExpired as error:
        raise StaleTimestampError("signed too long ago or in the future") from error
    except BadData as error:
        raise SignatureMismatchError("the signature does not fit") from error
