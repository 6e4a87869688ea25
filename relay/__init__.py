"""dub-relay: a self-hosted attribution relay for Dub."""

from relay.core.version import VERSION

__version__ = VERSION
