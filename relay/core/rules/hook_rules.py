"""What is compiled of ``[[hook]]`` tables, and of what ``[hooks.NAME]`` says more.

The document of a hook is that of a sign-up rule without the site's part: ``json``,
``form``, ``query`` and ``headers`` of the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.core.leads import Mode
from relay.core.providers.account import Verify
from relay.core.rules.expressions import Expression

HOOK_ROOTS: Final = ("json", "form", "query", "headers")
"""The names at the top of a hook's document."""


@dataclass(frozen=True, slots=True)
class Additions:
    """What an operator adds to the leads of a provider's hook.

    ``event`` and ``mode`` are None where the hook's own hold.
    """

    event: str | None = None
    mode: Mode | None = None
    quantity: Mapping[str, Expression] = field(default_factory=dict)
    metadata: Mapping[str, Expression] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.event or self.mode or self.quantity or self.metadata)

    @property
    def searches(self) -> bool:
        """Whether there is anything to look for in the call."""
        return bool(self.quantity or self.metadata)


NOTHING_ADDED: Final = Additions()


@dataclass(frozen=True, slots=True)
class HookRule:
    """One ``[[hook]]``: who may call it, which calls count, and the lead of one.

    With ``each`` a call brings a list of events; the rest is searched in every one.
    """

    path: str
    scheme: str
    verify: Verify = field(repr=False, compare=False)
    keys: Sequence[bytes] = field(repr=False)
    event: str
    mode: Mode
    each: Expression | None
    when: Expression | None
    fields: Mapping[str, Expression]
    metadata: Mapping[str, Expression]
    click: Expression | None
    id: Expression | None
    known_customer: bool
