"""Copies of what passes by a sign-up, within a bound, for its rule to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import StreamReader

from relay.core.rules.documents import MAX_BODY, Copy
from relay.core.rules.rule import SignupRule
from relay.http.request_body import read_visitor
from relay.http.request_guard import Framing, every
from relay.proxy.exchange import Body, UpstreamError
from relay.proxy.upstream_connection import UpstreamAnswer


@dataclass(frozen=True, slots=True)
class CopiedAnswer:
    """What was read of an answer before it is released.

    ``copy`` is None where no rule looks at the body. ``cut`` is the error that
    ended the answer early; it is raised again after the pieces.
    """

    pieces: Sequence[bytes] = ()
    copy: Copy | None = None
    cut: UpstreamError | None = None


async def copied_request(
    stream: StreamReader, framed: Framing, patience: float, bound: int = MAX_BODY
) -> tuple[Body | None, bytes | None]:
    """Read a request's body up to the bound, to be looked at and forwarded.

    Returns the body to send, all of it whatever its size, and the copy (None if
    it is too big). Raises RequestBodyError as :func:`read_visitor` does.
    """
    if not framed.has_body:
        return None, b""
    if framed.length is not None and framed.length > bound:
        return Body(framed.length, rest=stream), None
    read = bytearray()
    while len(read) <= bound:
        data = await read_visitor(stream, patience)
        if not data:
            whole = bytes(read)
            return Body(framed.length, start=whole), whole
        read += data
    return Body(framed.length, start=bytes(read), rest=stream), None


async def copied_answer(
    answer: UpstreamAnswer, rule: SignupRule, bound: int = MAX_BODY
) -> CopiedAnswer:
    """Read an answer's body up to the bound where the rule looks at it.

    Only JSON is of use to a rule; anything else streams on as ever.
    """
    if answer.empty or not rule.reads_answer:
        return CopiedAnswer()
    kinds = every(answer.headers, b"content-type")
    if not any(b"json" in kind.lower() for kind in kinds):
        return CopiedAnswer()
    pieces: list[bytes] = []
    size = 0
    while size <= bound:
        try:
            data = await answer.read()
        except UpstreamError as error:
            return CopiedAnswer(pieces, Copy.of(answer.headers, None), error)
        if not data:
            whole = b"".join(pieces)
            return CopiedAnswer(pieces, Copy.of(answer.headers, whole))
        pieces.append(data)
        size += len(data)
    return CopiedAnswer(pieces, Copy.of(answer.headers, None))
