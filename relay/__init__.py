"""dub-relay: a self-hosted attribution relay for Dub."""

from relay.core import VERSION

__version__ = VERSION
