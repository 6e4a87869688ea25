"""Probes: signed requests by which `dub-relay check --front` looks at a front server.

One asks the relay to say that it is there, the other to decline, as if it were down. A
relay answers a probe itself and passes nothing on. What is not signed with the relay's
secret, or was a minute ago, is an ordinary request: no stranger goes around by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from relay.core.signing import BadSignatureError, sign_json, verify_json

PROBE_HEADER: Final = "Dub-Relay-Probe"

MARK_HEADER: Final = "Dub-Relay"
"""In the relay's answer to a probe; its value is the wish that was read."""

LIFE_S: Final = 60

_PURPOSE: Final = "dub-relay.front-probe"


class ProbeWish(StrEnum):
    """What a probe asks of the relay."""

    PRESENT = "present"
    AROUND = "around"


@dataclass(frozen=True, slots=True)
class FrontProbes:
    """Signs and reads probes; the clock is in epoch milliseconds."""

    secrets: Sequence[str]
    clock: Callable[[], int]

    def sign(self, wish: ProbeWish) -> str:
        """Return the value of :data:`PROBE_HEADER`."""
        return sign_json(wish.value, self.secrets, _PURPOSE, self.clock())

    def read(self, value: str | None) -> ProbeWish | None:
        """Return what is asked; None of what is no probe, or not ours, or too old."""
        if not value:
            return None
        try:
            wish = verify_json(
                value, self.secrets, _PURPOSE, self.clock(), max_age_s=LIFE_S
            )
        except BadSignatureError:
            return None
        return ProbeWish(wish)
