"""``python -m relay`` is the same as ``dub-relay``."""

import sys

from relay.cli.main import main

sys.exit(main())
