"""Bodies of sign-ups and of their answers, copied for the rules as they pass.

A small request is read whole before the site sees it. A form with large files passes
as it comes, while its fields are kept: its last bytes wait for the lead, for without
them the site can sign nobody up. An answer that comes whole, or soon, waits for its
lead; one that streams is passed on at once, and only its end waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from relay.core.http import codings
from relay.core.http.codings import MAX_BODY
from relay.core.http.headers import Headers
from relay.core.rules.bodies import (
    OPAQUE,
    Copy,
    may_be_json,
    may_hold_json,
)
from relay.core.rules.forms import MULTIPART, MultipartReader, content_type
from relay.http.request_body import Readable, Tasks, read_visitor
from relay.http.request_guard import Framing, every
from relay.proxy.exchange import Body, UpstreamError

SHORT_TEXT: Final = 4096
"""Bytes of a plain text that may say whether a sign-up was accepted."""

GRACE_S: Final = 0.05
"""How long an answer without a length may take before it counts as one that streams."""

FIRST_WAIT_S: Final = 0.3
"""How long the first bytes of what is not labelled JSON are waited for."""

FINISH_S: Final = 10.0
"""How long the rest of a streaming answer is read for a visitor who left."""

_ENOUGH: Final = 64
"""Bytes of a content that show whether it may be JSON: more than what guards it."""

_UNSURE: Final = 2**18
"""Bytes after which compressed data must have shown how its content begins: zstd
decodes whole blocks of up to 128 KB (RFC 8878, 3.1.1.2)."""


class AnswerBody(Protocol):
    """What is looked at here of the site's answer (``upstream_connection``)."""

    headers: Headers
    length: int | None
    empty: bool

    @property
    def ended(self) -> bool:
        """Whether all of the body has been read."""

    async def read(self) -> bytes:
        """Return the next bytes, b"" at the end; raises UpstreamError if it is cut."""

    def close(self) -> None:
        """Release the connection."""


class CopiedRequest(NamedTuple):
    """A request's body to be sent, and its copy.

    ``passes``: it is copied on its way, and the lead is written down before its end.
    """

    body: Body | None
    copy: Copy
    passes: bool = False


async def copied_request(
    stream: Readable, framed: Framing, patience: float, bound: int = MAX_BODY
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


async def copied_signup(
    stream: Readable, framed: Framing, headers: Headers, patience: float, bound: int
) -> CopiedRequest:
    """Read a sign-up's body up to the bound; of a large form, begin to read its fields.

    Raises RequestBodyError as :func:`read_visitor` does.
    """
    body, whole = await copied_request(stream, framed, patience, bound)
    fields = None
    if body is not None and whole is None:
        fields = _fields_reader(headers, bound)
    if body is not None and fields is not None:
        fields.feed(body.start)
    return CopiedRequest(body, Copy.of(headers, whole, fields), fields is not None)


def _fields_reader(headers: Headers, bound: int) -> MultipartReader | None:
    """Return what keeps the fields of a form that may have files."""
    kind = b", ".join(every(headers, b"content-type")).decode("latin-1")
    name, options = content_type(kind)
    if name != MULTIPART or b"".join(every(headers, b"content-encoding")).strip():
        return None
    return MultipartReader(options.get("boundary", ""), options.get("charset"), bound)


class Passing:
    """The rest of a form on its way: its fields are kept, its last bytes wait."""

    def __init__(
        self, stream: Readable, copy: Copy, before_end: Callable[[], Awaitable[None]]
    ) -> None:
        """Call ``before_end`` once all but the last bytes have passed."""
        self._stream = stream
        self._fields = copy.fields
        self._before_end = before_end
        self._kept = b""
        self._ended = False

    async def readany(self) -> bytes:
        """Return the next bytes, b"" at the end."""
        while not self._ended:
            data = await self._stream.readany()
            kept, self._kept = self._kept, data
            if not data:
                self._ended = True
                await self._before_end()
            elif self._fields is not None:
                self._fields.feed(data)
            if kept:
                return kept
        return b""


@dataclass(frozen=True, slots=True)
class CopiedAnswer:
    """What was read of an answer before it is released.

    ``copy`` is None where no rule looks at the body. ``cut`` is the error that
    ended the answer early; it is raised again after the pieces. ``streams``: more
    is on its way, and is copied as it passes.
    """

    pieces: Sequence[bytes] = ()
    copy: Copy | None = None
    cut: UpstreamError | None = None
    streams: AnswerCopy | None = None


class AnswerCopy:
    """The copy of an answer's body, as far as that is of use to a rule.

    Only JSON is, whatever its label, and a short text. Of anything else the
    beginning is kept, for the default test.
    """

    def __init__(self, answer: AnswerBody, bound: int) -> None:
        self._headers = answer.headers
        self._bound = bound
        self._pieces: list[bytes] = []
        self._size = 0
        kinds = every(answer.headers, b"content-type")
        name, _ = content_type(b", ".join(kinds).decode("latin-1"))
        self._coding = b",".join(every(answer.headers, b"content-encoding")).decode(
            "latin-1"
        )
        short = answer.length is not None and answer.length <= SHORT_TEXT
        self._is_text = short and name in {"", "text/plain"}
        self.is_labelled = may_hold_json(name)
        self._opening = bytearray()
        self._next_look = 1
        self._start = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes; none are kept once it is clear that they are no use."""
        self._size += len(data)
        if not self.is_sure:
            self._look(data)
        if not self.is_over:
            self._pieces.append(data)

    def _look(self, data: bytes) -> None:
        """Find out how the content begins; each time with twice as much, or more."""
        self._opening += data
        if len(self._opening) >= self._next_look:
            self._next_look = 2 * len(self._opening)
            opening = bytes(self._opening)
            self._start = codings.beginning(opening, self._coding, SHORT_TEXT)

    @property
    def is_over(self) -> bool:
        """Whether nothing more need be read to make the copy."""
        return self._size > self._bound or not self._is_kept

    @property
    def is_sure(self) -> bool:
        """Whether enough has come to see what it is."""
        return len(self._start) >= _ENOUGH

    @property
    def _is_kept(self) -> bool:
        if self.is_labelled or self._is_text:
            return True
        if not self._start:
            return self._size < _UNSURE
        return may_be_json(self._start) or not self.is_sure

    def made(self) -> Copy:
        """Return the copy of what was read."""
        if not self._is_kept:
            return Copy.of(self._headers, self._start, is_whole=False)
        whole = b"".join(self._pieces) if self._size <= self._bound else None
        return Copy.of(self._headers, whole)

    def cut(self) -> Copy:
        """Return the copy of an answer that ended early: no part of it counts."""
        return Copy.of(self._headers, None)


async def copied_answer(
    answer: AnswerBody, *, wanted: bool, bound: int = MAX_BODY
) -> CopiedAnswer:
    """Read of an answer's body what waits for the lead, where a rule looks at it."""
    kinds = b", ".join(every(answer.headers, b"content-type")).decode("latin-1")
    if answer.empty or not wanted or OPAQUE.fullmatch(content_type(kinds)[0]):
        return CopiedAnswer()
    copy, pieces = AnswerCopy(answer, bound), list[bytes]()
    soon = asyncio.get_running_loop().time() + GRACE_S
    patience = None if answer.length is not None else soon
    first = patience if copy.is_labelled else soon + FIRST_WAIT_S
    limit = asyncio.timeout_at(first)
    try:
        async with limit:
            while not copy.is_over and (data := await answer.read()):
                pieces.append(data)
                copy.feed(data)
                if copy.is_sure:
                    limit.reschedule(patience)
    except TimeoutError:
        if not pieces and not copy.is_labelled:
            return CopiedAnswer()
        return CopiedAnswer(pieces, streams=copy)
    except UpstreamError as error:
        return CopiedAnswer(pieces, copy.cut(), error)
    return CopiedAnswer(pieces, copy.made())


class Tail:
    """The rest of an answer that streams: it passes at once, its end waits.

    ``conclude`` settles the sign-up by the copy; it is called once.
    """

    def __init__(
        self,
        answer: AnswerBody,
        copy: AnswerCopy,
        conclude: Callable[[Copy], Awaitable[object]],
        tasks: Tasks,
    ) -> None:
        self._answer = answer
        self._copy = copy
        self._conclude = conclude
        self._tasks = tasks
        self._settling: asyncio.Task[None] | None = None

    async def read(self) -> bytes:
        """Return the next bytes; b"" at the end, when the sign-up is settled."""
        try:
            data = await self._answer.read()
        except UpstreamError:
            await asyncio.shield(self._settle(self._copy.cut()))
            raise
        if data:
            self._copy.feed(data)
        if not data:
            await asyncio.shield(self._settle(self._copy.made()))
        elif self._copy.is_over:
            self._settle(self._copy.made())
        return data

    def _settle(self, copy: Copy) -> asyncio.Task[None]:
        if self._settling is None:
            self._settling = self._tasks.start(self._concluded(copy))
        return self._settling

    async def _concluded(self, copy: Copy) -> None:
        await self._conclude(copy)

    @property
    def ended(self) -> bool:
        """Whether all of it was read, and the sign-up is settled."""
        settled = self._settling is not None and self._settling.done()
        return settled and self._answer.ended

    def close(self) -> None:
        """Release the connection; read the rest first if it is still to be judged."""
        if self._settling is not None:
            self._answer.close()
        else:
            self._tasks.start(self._finish())

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(FINISH_S):
                while self._settling is None:
                    await self.read()
        except (TimeoutError, UpstreamError):
            await self._settle(self._copy.cut())
        finally:
            self._answer.close()
