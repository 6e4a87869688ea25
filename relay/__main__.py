"""``python -m relay`` and ``dub-relay``: the command line over the whole program."""

from __future__ import annotations

import sys

from relay.cli import main as command_line
from relay.config.settings import Settings


def main() -> int:
    """Run the command line of this process; return its exit code."""
    return command_line.main(serve=serve)


def serve(settings: Settings, *, web: bool, delivery: bool, workers: int) -> int:
    """Run the relay that these settings describe; return its exit code."""
    # Here, so that --help and version do not wait for the whole program.
    from relay.app import Relay  # noqa: PLC0415
    from relay.server import process  # noqa: PLC0415

    return process.serve(settings, Relay, web=web, delivery=delivery, workers=workers)


if __name__ == "__main__":
    sys.exit(main())
