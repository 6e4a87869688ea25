"""One sign-up from its body to the answer that may be let go, in either lane."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from relay.http.body_limit import RequestBodyError
from relay.proxy.body_capture import (
    CopiedAnswer,
    copied_answer,
)
from relay.proxy.exchange import UpstreamError
from relay.proxy.signup_exchange import SignupExchange
from relay.proxy.upstream_connection import UpstreamAnswer


class Settled(NamedTuple):
    """The site's answer to a sign-up whose lead is settled.

    The answer, what was read of it, and the cookies that go with it.
    """

    answer: UpstreamAnswer
    copied: CopiedAnswer
    cookies: list[bytes]


async def settle(
    signup: SignupExchange,
    copy: bytes | None,
    send: Callable[[], Awaitable[UpstreamAnswer]],
    bound: int,
) -> Settled:
    """Write a sign-up down, send it to the site, and settle it by the answer.

    ``copy`` is its body, None where that was too big; ``bound`` is how much of
    the answer is copied. Raises what ``send`` raises.
    """
    await signup.hold(copy)
    try:
        answer = await send()
    except UpstreamError as error:
        if not error.sent:
            await signup.drop()
        raise
    except RequestBodyError:
        # Half a request, which the site cannot have taken.
        await signup.drop()
        raise
    try:
        copied = await copied_answer(answer, signup.rule, bound)
        cookies = await signup.conclude(answer.status, answer.headers, copied.copy)
    except BaseException:
        answer.close()
        raise
    return Settled(answer, copied, cookies)


def close_answer(work: asyncio.Task[Settled]) -> None:
    """Let go of an answer that nobody is there to read."""
    if not work.cancelled() and work.exception() is None:
        work.result().answer.close()
