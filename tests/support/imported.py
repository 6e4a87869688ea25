"""What the fork server has ready before it forks relays: see forked.py."""

from __future__ import annotations

import gc

from relay import __main__, app  # noqa: F401 - importing is the point
from relay.capture.snippet import Snippet
from relay.outbox.backends import sqlite  # noqa: F401
from relay.server import process  # noqa: F401

# Compresses the scripts as most relays have them.
Snippet()
# Of all this nothing becomes garbage: a relay's own collection need not look again.
gc.collect()
gc.freeze()
