"""Which content coding a client wants (RFC 9110, 12.5.3)."""

from __future__ import annotations

from collections.abc import Sequence


def preferred_coding(accepted: str, offered: Sequence[str]) -> str | None:
    """Choose a coding by Accept-Encoding; None for the text as it is.

    Of those that the client likes alike, the first that is offered.
    """
    weights = dict(map(_weighed, accepted.lower().split(",")))
    anything = weights.get("*", 0.0)
    weighed = [(weights.get(coding, anything), coding) for coding in offered]
    weight, coding = max(weighed, key=lambda pair: pair[0])
    return coding if weight > 0 else None


def _weighed(member: str) -> tuple[str, float]:
    coding, _, parameter = member.partition(";")
    name, _, value = parameter.partition("=")
    if name.strip() != "q":
        return coding.strip(), 1.0
    try:
        return coding.strip(), float(value)
    except ValueError:
        # Not understood: this coding is then better not used.
        return coding.strip(), 0.0


def matches(if_none_match: Sequence[str], etag: str) -> bool:
    """Compare If-None-Match weakly, as RFC 9110, 13.1.2 has it."""
    members = [part.strip() for field in if_none_match for part in field.split(",")]
    return any(part.removeprefix("W/") in {etag, "*"} for part in members)
