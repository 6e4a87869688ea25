"""Structured logs: one JSON line an event, on stderr.

An event is named ``thing.happened`` and carries the lead's id where there is
one. Names, addresses, customer ids, cookies and keys never go into a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import get_ident
from typing import Any, Final

from relay.core import jsontext

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


TOGETHER: Final = 4096
"""Bytes at most of one write: several processes may share a pipe, which keeps no more
than these in one piece (PIPE_BUF)."""


class Logger:
    """Writes events at or above its level.

    Not a library's: the common ones bring 5 MiB and wrap each call several times
    (docs/decisions/0005-own-log-lines.md). Within :meth:`gathering` the lines of one
    turn of the loop are written together, with a warning or an error at once.
    """

    def __init__(self) -> None:
        self.level = logging.INFO
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._lines: list[str] = []
        self._bytes = 0

    def debug(self, event: str, **fields: object) -> None:
        """Log what helps to understand a case."""
        if self.level <= logging.DEBUG:
            self._write(event, "debug", fields)

    def info(self, event: str, **fields: object) -> None:
        """Log what happens in the ordinary course."""
        if self.level <= logging.INFO:
            self._write(event, "info", fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what a person may want to look at."""
        if self.level <= logging.WARNING:
            self._write(event, "warning", fields)

    def error(self, event: str, **fields: object) -> None:
        """Log what a person should look at."""
        self._write(event, "error", fields)

    def _write(self, event: str, level: str, fields: dict[str, object]) -> None:
        line = line_of({"event": event, "level": level, **fields})
        if self._loop is None or get_ident() != self._thread:
            _write_out(line)
            return
        size = len(line if line.isascii() else line.encode()) + 1
        if self._bytes + size > TOGETHER:
            self.flush()
        if not self._lines:
            self._loop.call_soon(self.flush)
        self._lines.append(line)
        self._bytes += size
        if level in {"warning", "error"}:
            self.flush()

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Gather the lines of this thread, in which an event loop runs.

        A process that is killed loses those of one turn; the ledger has what they say.
        """
        self._loop, self._thread = asyncio.get_running_loop(), get_ident()
        try:
            yield
        finally:
            self._loop = None
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        lines, self._lines, self._bytes = self._lines, [], 0
        if lines:
            _write_out("\n".join(lines))


def _write_out(text: str) -> None:
    # Nobody reads the log, and nobody could read that; the work must go on.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def line_of(fields: dict[str, Any]) -> str:
    """Write fields as one line of JSON, with the time it is written."""
    fields["timestamp"] = f"{datetime.now(UTC).isoformat().removesuffix('+00:00')}Z"
    return jsontext.encode(fields).decode()


_logger: Final = Logger()


class _OneLine(logging.Formatter):
    """Turns records of other libraries into the same JSON lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Keep the logger's name, the message and the kind of the error only.

        A traceback of the web server's may quote what a visitor sent.
        """
        line = {
            "event": "library.message",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
        return line_of(line)


class _BadRequests(logging.Filter):
    """Drops the web server's traceback for every malformed request.

    Anybody can send malformed requests at any rate; they are answered with
    400 and must not fill the disk with lines.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Error handling request")


def configure(level: str = "info") -> None:
    """Send every event at or above level ("debug".."error") to stderr."""
    out = sys.stderr
    _logger.level = LEVELS[level]
    handler = logging.StreamHandler(out)
    handler.setFormatter(_OneLine())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger("aiohttp.server").addFilter(_BadRequests())


def get_logger() -> Logger:
    """Return the logger that every part of the relay writes to."""
    return _logger
