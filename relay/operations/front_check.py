"""``dub-relay check --front``: visits a front server and has it go around the relay.

Sign-up paths and an address with a click are asked for with HEAD, once so that the
relay says that it is there, once so that it declines. Only what goes around reaches
the site.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import aiohttp

from relay.config.settings import Settings
from relay.core.clock import now_ms
from relay.core.http.front_probes import (
    MARK_HEADER,
    PROBE_HEADER,
    FrontProbes,
    ProbeWish,
)
from relay.operations.diagnostics import (
    TIMEOUT_S,
    Finding,
    fail,
    note,
    ok,
    unreachable,
)

_LANDING: Final = "/?dub_id=checkOfDubRelay0"

_NEVER_DECLINED: Final = (
    "goes through the relay; whether also around it cannot be asked of this server:"
    " either it goes by health checks of its own (HAProxy, Traefik) or it does not go"
    " around. Stop the relay for a moment and look (docs/front.md)"
)


async def check_front(settings: Settings, url: str) -> Finding:
    """Look whether a front server goes through the relay, and around it when asked to.

    ``url`` is the front server's, without a path.
    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(url, timeout=timeout) as visitor:
        front = _Front(visitor, FrontProbes(settings.secret, now_ms))
        try:
            return await _check(front, list(dict.fromkeys(_targets(settings))))
        except TimeoutError:
            return fail("front", f"no answer within {TIMEOUT_S:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return fail("front", unreachable(error))


class _Front:
    """A front server, as a visitor with probes."""

    def __init__(self, visitor: aiohttp.ClientSession, probes: FrontProbes) -> None:
        self._visitor = visitor
        self._probes = probes

    async def ask(self, target: str, wish: ProbeWish) -> tuple[int, bool]:
        """Return the status, and whether it is the relay's own answer."""
        headers = {PROBE_HEADER: self._probes.sign(wish)}
        async with self._visitor.head(
            target, headers=headers, allow_redirects=False
        ) as answer:
            return answer.status, answer.headers.get(MARK_HEADER) == wish


def _targets(settings: Settings) -> Iterator[str]:
    yield _LANDING
    yield from (rule.pattern.example for rule in settings.signup)


async def _check(front: _Front, targets: list[str]) -> Finding:
    through = [await front.ask(each, ProbeWish.PRESENT) for each in targets]
    for target, (status, marked) in zip(targets, through, strict=True):
        if not marked:
            return fail("front", f"{target} {_not_through(status)}")
    # At once, so that a server which holds one up does not hold up all.
    asked = (front.ask(each, ProbeWish.AROUND) for each in targets)
    around = await asyncio.gather(*asked)
    if any(marked for _, marked in around):
        return note("front", _NEVER_DECLINED)
    for target, (status, _) in zip(targets, around, strict=True):
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            said = f"{target} goes around a relay that declines, to an HTTP {status}"
            return fail("front", f"{said}: does it reach the site?")
    said = f"a click and {len(targets) - 1} paths of rules go through the relay"
    return ok("front", f"{said}, and around it when it declines")


def _not_through(status: int) -> str:
    if 300 <= status < 400:
        return f"is redirected (HTTP {status}): name the address that it leads to"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"answers HTTP {status}: neither the relay nor the site is reached"
    return (
        f"does not come to a relay with this secret (HTTP {status}). Is it serving?"
        " Make the configuration anew with dub-relay front"
    )
