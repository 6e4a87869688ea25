"""The proof by Dub's own list, small: ``make chaos`` runs it with 20,000 leads."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.proof import Proof, ProofOptions


async def test_what_dub_forgot_is_named_and_nothing_else_however_relays_die(
    tmp_path: Path,
) -> None:
    run = Proof(
        ProofOptions(
            leads=200,
            database="sqlite",
            rate=100,
            kills=2,
            lag=1,
            forget=0.05,
            hurry=True,
        ),
        tmp_path,
    )

    found = await run.figures()

    assert {name: found[name] for name in run.broken} == dict.fromkeys(run.broken, 0)
    assert found["acknowledged"] == 200
    assert found["faults"] == {"killed": 2}
    assert found["forgotten"] > 0
