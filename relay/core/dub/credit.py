"""Whom Dub credits for a lead, as its answers, webhooks and events name it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from relay.core.leads import CreditedLink

MAX_TEXT: Final = 512
"""Characters of a value that are kept: Dub's ids and links are far shorter."""

LINK_FIELDS: Final = {
    "id": "id",
    "domain": "domain",
    "key": "key",
    "short_link": "shortLink",
    "partner_id": "partnerId",
    "program_id": "programId",
    "tenant_id": "tenantId",
    "external_id": "externalId",
}
"""The fields of :class:`CreditedLink`, and how Dub spells them."""


def credited_link(said: object) -> CreditedLink | None:
    """Read a ``link`` of Dub's; None for what names none."""
    if not isinstance(said, Mapping):
        return None
    values = {ours: _text(said.get(theirs)) for ours, theirs in LINK_FIELDS.items()}
    return CreditedLink(**values) if values["id"] else None  # type: ignore[arg-type]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_TEXT else None
