"""dub-relay: a self-hosted attribution relay for Dub."""

__version__ = "0.1.0"
