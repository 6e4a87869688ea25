"""Personal fields encrypted at rest, under a list of keys (RELAY_DATA_KEY).

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce, bound to the lead's id so
that no row's data can be put into another's. The first key encrypts, all decrypt;
what was written without a key is read as it is. So keys can be turned on, changed
and turned off while relays run.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MARK: Final = "sealed:1:"
"""Begins what is encrypted, where JSON begins with a brace. Then come the key's
name, a colon, and base64 of nonce and ciphertext."""

NONCE_BYTES: Final = 12

_INFO: Final = b"dub-relay: personal data at rest, 1"


class SealedError(Exception):
    """What was encrypted cannot be read: a key is missing, or it was changed."""


class Seal:
    """Encrypts with the first key and decrypts with any; without keys, neither.

    ``keys`` are the texts of the setting, of which the keys are derived. One that
    does not encrypt reads all the same.
    """

    def __init__(self, keys: Sequence[str] = (), *, encrypts: bool = True) -> None:
        ciphers = [_derived(text) for text in keys]
        self._first = ciphers[0] if ciphers and encrypts else None
        self._ciphers = dict(reversed(ciphers))

    @property
    def on(self) -> bool:
        """Whether what is written is encrypted."""
        return self._first is not None

    def close(self, text: str, bound: str) -> str:
        """Encrypt a text, bound to an id; without keys give it as it is."""
        if self._first is None:
            return text
        name, cipher = self._first
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + cipher.encrypt(nonce, text.encode(), bound.encode())
        return f"{MARK}{name}:{base64.b64encode(sealed).decode()}"

    def open(self, text: str, bound: str) -> str:
        """Decrypt what close gave; raise SealedError if that is not possible."""
        if not text.startswith(MARK):
            return text
        name, _, sealed = text.removeprefix(MARK).partition(":")
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise SealedError(
                f"its personal data is encrypted with the key {name}, which is not in "
                "RELAY_DATA_KEY: put that key back into the list"
            )
        return _decrypted(cipher, sealed, bound)

    def is_current(self, text: str) -> bool:
        """Return whether a text is as close would write it now."""
        if self._first is None:
            return not text.startswith(MARK)
        return text.startswith(f"{MARK}{self._first[0]}:")


PLAIN: Final = Seal()
"""Encrypts nothing."""


def _decrypted(cipher: AESGCM, sealed: str, bound: str) -> str:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as in _derived

    try:
        raw = base64.b64decode(sealed, validate=True)
        nonce, rest = raw[:NONCE_BYTES], raw[NONCE_BYTES:]
        return cipher.decrypt(nonce, rest, bound.encode()).decode()
    except (InvalidTag, binascii.Error, ValueError) as error:
        raise SealedError("its encrypted personal data was changed") from error


def _derived(text: str) -> tuple[str, AESGCM]:
    """Derive a key from a text (HKDF, RFC 5869); give its name and its cipher."""
    # Here, so that a relay without keys does not wait for the library.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    key = HKDF(SHA256(), length=32, salt=None, info=_INFO).derive(text.encode())
    # The name identifies a key and reveals nothing of it.
    name = hashlib.sha256(b"name of " + key).hexdigest()[:8]
    return name, AESGCM(key)
