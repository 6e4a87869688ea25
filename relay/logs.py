"""Structured logs: one JSON line an event, on stderr.

An event is named ``thing.happened`` and carries the lead's id where there is
one. Names, addresses, customer ids, cookies and keys never go into a line.
"""

from __future__ import annotations

import logging
import sys
import time
from functools import lru_cache
from typing import Final

import structlog
from structlog.typing import EventDict

from relay.core import jsontext

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

Logger = structlog.typing.FilteringBoundLogger


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
        return jsontext.encode(line | {"timestamp": _now()}).decode()


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
    structlog.configure(
        processors=[_render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(file=out.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(_OneLine())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger("aiohttp.server").addFilter(_BadRequests())


def _render(_: object, method: str, event: EventDict) -> bytes:
    event["level"] = method
    event["timestamp"] = _now()
    return jsontext.encode(event)


def _now() -> str:
    """Write the time as ISO 8601 in UTC, with microseconds and Z."""
    seconds, micros = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_to_seconds(seconds)}.{micros:06}Z"


@lru_cache(maxsize=1)
def _to_seconds(seconds: int) -> str:
    # Under load thousands of lines share it.
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def get_logger() -> Logger:
    """Give the logger that every part of the relay writes to."""
    logger: Logger = structlog.get_logger()
    return logger
