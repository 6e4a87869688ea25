"""What a visitor may take of the relay, and how aiohttp's server is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """What a visitor may take of the relay. Times in seconds, sizes in bytes.

    ``line`` and ``field`` are the longest request line and header field,
    ``fields`` their number. ``head`` is how long a request's head may take from
    its first byte, ``idle`` how long a connection is kept without a request.
    A body must bring ``body_rate`` bytes a second, measured over ``body_span``
    and only while the relay would take more. ``connections`` is how many one
    address may hold open (0: any number); trusted proxies are exempt.
    """

    line: int = 16_384
    field: int = 32_768
    fields: int = 128
    head: float = 10.0
    idle: float = 75.0
    body_rate: int = 500
    body_span: float = 10.0
    connections: int = 0


def server_options(limits: FrontLimits) -> dict[str, Any]:
    """Give what aiohttp's server must be told for a proxy to stand behind it."""
    return {
        # Bodies pass as they are: a decoded one would not fit its headers.
        "auto_decompress": False,
        # A visitor who leaves ends the call to the site.
        "handler_cancellation": True,
        "max_line_size": limits.line,
        "max_field_size": limits.field,
        "max_headers": limits.fields,
        "keepalive_timeout": limits.idle,
    }
