"""Runs a scenario of chaos against relays, and counts what is wrong at its end.

``make chaos ARGS="--leads 20000 --database postgres --seed 1"`` is a storm of all
faults; ``make chaos ARGS="--scenario proof --database sqlite"`` the proof by Dub's own
list of events.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Final

import uvloop

from tests.chaos.proof import Proof, ProofOptions
from tests.chaos.run import Options, Run
from tests.chaos.storm import Storm

PROOF_ONLY: Final = ("kills", "lag", "forget")


async def main(scenario: type[Run], options: Options) -> int:
    with tempfile.TemporaryDirectory(prefix="relay-chaos-") as folder:
        run = scenario(options, Path(folder))
        found = await run.figures()
    print(json.dumps(found, indent=2))
    return 1 if any(found[name] for name in run.broken) else 0


def parse() -> tuple[type[Run], Options]:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--scenario", choices=("storm", "proof"), default="storm")
    parser.add_argument("--leads", type=int, help="customers")
    parser.add_argument("--database", choices=("postgres", "sqlite"))
    parser.add_argument("--rate", type=float, help="customers a second")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int, choices=(1, 2))
    parser.add_argument("--settle", type=float, help="seconds at the end")
    parser.add_argument("--kills", type=int, help="proof: of relays")
    parser.add_argument("--lag", type=float, help="proof: of events, in seconds")
    parser.add_argument("--forget", type=float, help="proof: share of events")
    said = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
    if said.pop("scenario") == "proof":
        return Proof, ProofOptions(**said)
    if known := [name for name in PROOF_ONLY if name in said]:
        parser.error(f"a storm has no --{known[0]}")
    return Storm, Options(**said)


if __name__ == "__main__":
    sys.exit(uvloop.run(main(*parse())))
