"""TLS in front: a certificate from files, read again when they change.

Whoever renews a certificate (certbot, cert-manager) writes the files anew;
connections that are open keep the old one, new ones get the new.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Final

from relay.observability.logging import get_logger

log = get_logger()

LOOK_S: Final = 2.0
"""How often the files are looked at: two calls of stat."""


class TlsError(Exception):
    """A certificate or its key cannot be used; one line that says why."""


class Certificate:
    """A certificate and its key in files, and the context that serves them."""

    def __init__(self, cert: str, key: str | None = None) -> None:
        """Read the files; raise :class:`TlsError` if they are of no use."""
        self._paths = (cert, key or cert)
        self._seen = self._stamp()
        self.context = self._context()

    async def watch(self) -> None:
        """Read the files again whenever they change, until cancelled.

        A pair that is wrong, or only half written, is not taken.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            self.refresh()

    def refresh(self) -> None:
        """Take the files' new content if there is any."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._context()  # tried on its own: the one in use must stay whole
            self.context.load_cert_chain(*self._paths)
        except (TlsError, OSError) as error:
            log.error("tls.not_reloaded", error=type(error).__name__)
            return
        log.info("tls.reloaded")

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(*self._paths)
        except ssl.SSLError as error:
            raise TlsError(f"no certificate with its key ({error.reason})") from error
        except OSError as error:
            raise TlsError(f"cannot be read: {error.strerror}") from error
        return context

    def _stamp(self) -> tuple[int, ...]:
        stamps: list[int] = []
        for path in self._paths:
            try:
                found = Path(path).stat()
            except OSError:
                stamps.append(0)
            else:
                stamps += (found.st_mtime_ns, found.st_ino, found.st_size)
        return tuple(stamps)
