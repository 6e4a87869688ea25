"""A delivery that makes spans of itself and of its calls."""

from __future__ import annotations

from typing import Any, Final

from relay.core.dub.replies import Meaning, Outcome
from relay.core.leads import Lead, Step
from relay.delivery.deliver import Call, Delivered, Delivery
from relay.observability.tracing import Tracing, describe
from relay.outbox.contract import Claim

_WELL: Final = frozenset({Meaning.TAKEN, Meaning.NO_LINK})


class TracedDelivery(Delivery):
    """A :class:`Delivery` whose spans belong to the trace of the lead's sign-up."""

    def __init__(self, *arguments: Any, tracing: Tracing, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._tracing = tracing

    async def deliver(self, claim: Claim) -> Delivered:
        """Make the calls and write how they ended, in a span."""
        with self._tracing.delivery(claim.entry.lead) as span:
            end = await super().deliver(claim)
            if end.meaning is not None:
                span.set_attribute("dub_relay.meaning", end.meaning.value)
            return end

    async def _call(
        self, lead: Lead, step: Step, calls: list[Call], *, proved: bool = False
    ) -> Outcome:
        with self._tracing.call(step.value) as span:
            outcome = await super()._call(lead, step, calls, proved=proved)
            describe(
                span,
                meaning=outcome.meaning.value,
                status=outcome.http_status,
                failed=outcome.meaning not in _WELL,
            )
            return outcome
