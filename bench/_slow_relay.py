"""Runs `dub-relay` as on an aiohttp that the fast path does not fit.

Every request then takes the slow path, and the relay says so in its log.
"""

import sys
from unittest.mock import patch

from relay.__main__ import main


def missing() -> list[str]:
    return ["nothing: switched off for a measurement"]


if __name__ == "__main__":
    with patch("relay.http.listener.missing_attributes", missing):
        sys.exit(main())
