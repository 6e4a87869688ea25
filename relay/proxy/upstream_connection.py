"""One connection to the site: a request goes out, its answer comes in.

It uses aiohttp's client protocol and its answer parser, not on
``ClientSession``: a session rewrites targets, orders and decodes headers,
keeps cookies, follows redirects and repeats requests, and none of that may
happen between a visitor and the site.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import ClientConnectionError, ClientError, StreamReader

from relay.core.http.forwarding import reason_phrase
from relay.core.http.headers import Headers
from relay.http.aiohttp_internals import (
    HttpProcessingError,
    RawResponseMessage,
    SiteProtocol,
    StreamWriter,
)
from relay.http.request_body import Readable, RequestBodyError, read_visitor
from relay.proxy.exchange import Body, GoneError, UpstreamError, UpstreamLimits

READ_BUFFER: Final = 2**16
"""Bytes buffered of one answer before the site is made to wait (twice that)."""

MAX_LINE: Final = 2**14
MAX_FIELD: Final = 2**16
"""Sites send long policies and cookies; the visitor's browser is the judge."""
MAX_FIELDS: Final = 512

_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""Never inside a field value (RFC 9110, 5.5); the answer parser is lenient."""

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")


class Connection:
    """One connection to the site, one exchange at a time."""

    __slots__ = (
        "_answered",
        "_keep",
        "_left",
        "_limits",
        "_loop",
        "protocol",
        "sender",
        "since",
    )

    def __init__(
        self,
        protocol: SiteProtocol,
        limits: UpstreamLimits,
        keep: Callable[[Connection], None],
        left: Callable[[Connection], None],
    ) -> None:
        self._keep = keep
        self._left = left
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._answered = False
        self.protocol = protocol
        self.sender: asyncio.Task[None] | None = None
        self.since = 0.0

    @property
    def usable(self) -> bool:
        """Whether another request may be sent: open, and nothing left over."""
        return self.protocol.is_connected() and not self.protocol.should_close

    async def exchange(
        self, method: str, head: bytes, body: Body | None
    ) -> UpstreamAnswer:
        """Send a request and wait for the answer's head."""
        self._expect(method)
        try:
            self._send(head, body)
        except BaseException:
            self.abort()
            raise
        return await self.answer(method)

    def begin(
        self, head: bytes, body: StreamReader, waiting: Callable[[], None]
    ) -> bytes | None:
        """Send a request without awaiting its answer: ``waiting`` is called for it.

        All of the body is there, and is read and returned. None if the connection
        has just gone; then nothing is. What :meth:`answer` returns is the same as
        that of an exchange.
        """
        transport = self.protocol.transport
        if transport is None or transport.is_closing():
            return None
        self._expect("GET")
        self.protocol.waiting = waiting
        sent = body.read_nowait()
        transport.write(head + sent)
        self.protocol.start_timeout()
        return sent

    async def answer(self, method: str) -> UpstreamAnswer:
        """Wait for the head of the answer to what was sent."""
        try:
            message, payload = await self._read_head()
            return UpstreamAnswer(self, method, message, payload)
        except BaseException:
            self.abort()
            raise

    def release(self) -> None:
        """Return the connection back if all of the exchange is over, else cut it."""
        sending = self.sender is not None and not self.sender.done()
        if sending or not self.usable:
            self.abort()
        else:
            self.sender = None
            self.protocol.idle = True
            self._keep(self)

    def abort(self) -> None:
        """Cut the connection, so that the site knows nobody waits any more."""
        if self.sender is not None:
            self.sender.cancel()
        self.protocol.waiting = None
        self.protocol.abort()
        self._left(self)

    def close(self) -> None:
        """Close the connection, not cut it: what was written still goes out."""
        self.protocol.close()
        self._left(self)

    def _expect(self, method: str) -> None:
        self._answered = False
        self.protocol.idle = False
        self.protocol.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=self._limits.answer,
            read_bufsize=READ_BUFFER,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
        )

    def _send(self, head: bytes, body: Body | None) -> None:
        """Send the head and what is there of the body; a task sends the rest.

        What is there is small (1 MiB at most) and not waited for: a site may
        answer without reading it.
        """
        rest = body.rest if body is not None else None
        if body is not None:
            head += body.framed_start(last=rest is None)
        transport = self.protocol.transport
        if transport is None or transport.is_closing():
            raise GoneError("the site closed the connection unanswered")
        transport.write(head)
        if body is None or rest is None:
            self.protocol.start_timeout()
            return
        writer = StreamWriter(self.protocol, self._loop)
        self.sender = self._loop.create_task(
            self._send_rest(rest, writer, chunked=body.length is None)
        )

    async def _send_rest(
        self, rest: Readable, writer: StreamWriter, *, chunked: bool
    ) -> None:
        if chunked:
            writer.enable_chunking()
        try:
            while data := await read_visitor(rest, self._limits.visitor):
                async with asyncio.timeout(self._limits.stall):
                    await writer.write(data)
            await writer.write_eof()
        except TimeoutError:
            self._fail(UpstreamError("the site stopped taking the request", status=504))
        except RequestBodyError as error:
            self._fail(error)
        except ConnectionError:
            # The site may have answered without wanting the rest; reading will show.
            return
        else:
            if not self._answered:
                self.protocol.start_timeout()

    def _fail(self, error: Exception) -> None:
        """End the exchange for its reader, and cut the connection.

        Cut, not closed: the site must never take half a body for a whole one.
        """
        transport = self.protocol.transport
        self.protocol.set_exception(error)
        if transport is not None:
            transport.abort()

    async def _read_head(self) -> tuple[RawResponseMessage, StreamReader]:
        try:
            while True:
                message, payload = await self.protocol.read()
                # 100 and 103 are for this hop; 101 ends HTTP on the connection.
                if message.code >= 200 or message.code == 101:
                    self._answered = True
                    return message, payload
                self.protocol.start_timeout()
        except (UpstreamError, RequestBodyError):
            raise
        except TimeoutError as error:
            raise UpstreamError(
                "the site did not answer in time", status=504
            ) from error
        except ClientConnectionError as error:
            raise GoneError("the site closed the connection unanswered") from error
        except (HttpProcessingError, ClientError, OSError) as error:
            raise UpstreamError("the site's answer is no valid HTTP") from error

    def head_is_there(self, headers: Headers) -> None:
        """Go over from the time limit of the head to that of the body."""
        events = any(
            name.lower() == b"content-type"
            and value.lower().startswith(b"text/event-stream")
            for name, value in headers
        )
        self.protocol.read_timeout = None if events else self._limits.stall
        self.protocol.start_timeout()


class UpstreamAnswer:
    """The site's answer: its head, and its body as it arrives.

    ``length`` is the body's size in bytes, None when only its end will show;
    ``empty`` says that there is none, whatever the headers announce (answers
    to HEAD, 204, 304). ``upgraded``: from here on the bytes are no HTTP.
    """

    __slots__ = (
        "_closed",
        "_connection",
        "_payload",
        "_until_close",
        "empty",
        "headers",
        "length",
        "reason",
        "status",
    )

    def __init__(
        self,
        connection: Connection,
        method: str,
        message: RawResponseMessage,
        payload: StreamReader,
    ) -> None:
        self._connection = connection
        self._payload = payload
        self._closed = False
        self.status = message.code
        self.reason = reason_phrase(message.reason)
        self.headers: Headers = message.raw_headers
        self.length = _checked_length(message.raw_headers)
        self._until_close = self.length is None and not message.chunked
        self.empty = method == "HEAD" or message.code in {101, 204, 304}
        connection.protocol.watch(payload)
        if not payload.is_eof():
            connection.head_is_there(message.raw_headers)

    @property
    def upgraded(self) -> bool:
        """Whether the site switched protocols (101)."""
        return self.status == 101

    @property
    def protocol(self) -> SiteProtocol:
        """The connection's protocol, for a tunnel."""
        return self._connection.protocol

    def read_nowait(self) -> bytes:
        """Return what has arrived of the body, b"" if nothing has."""
        if self._payload.exception() is not None:
            return b""
        return self._payload.read_nowait()

    async def read(self) -> bytes:
        """Return the next bytes of the body, b"" at its end.

        Raises :class:`UpstreamError` if the body was cut: it must then be cut
        for the visitor too.
        """
        try:
            data = await self._payload.readany()
        except TimeoutError as error:
            raise UpstreamError("the site's answer stalled", status=504) from error
        except (ClientError, HttpProcessingError, OSError) as error:
            raise UpstreamError("the site's answer was cut") from error
        if not data and self._broken:
            raise UpstreamError("the site's answer was cut")
        return data

    @property
    def whole(self) -> bool:
        """Whether all of the body has arrived, read or not."""
        return self._payload.exception() is None and self._payload.is_eof()

    @property
    def ended(self) -> bool:
        """Whether all of the body has been read."""
        whole = self._payload.exception() is None and not self._broken
        return whole and self._payload.at_eof()

    @property
    def _broken(self) -> bool:
        return self._until_close and not self.empty and self.protocol.broken

    def close(self) -> None:
        """Release the connection: kept if the answer ended, else cut."""
        if self._closed:
            return
        self._closed = True
        if self.upgraded:
            # Closed, not cut: a close frame may still be on its way out.
            self._connection.close()
        elif self.ended:
            self._connection.release()
        else:
            self._connection.abort()


def _checked_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """Return Content-Length after checking the framing as RFC 9112, 6 demands.

    The answer parser is lenient; what a visitor's browser might read otherwise
    than it did must not be passed on.
    """
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for name, value in headers:
        if _TOKEN.fullmatch(name) is None or _FORBIDDEN.search(value) is not None:
            raise UpstreamError("the site's answer has a malformed header")
        lower = name.lower()
        if lower == b"content-length":
            lengths.append(value)
        elif lower == b"transfer-encoding":
            codings.append(value.lower())
    if codings and (lengths or codings != [b"chunked"]):
        raise UpstreamError("the site's answer is framed ambiguously")
    if not lengths:
        return None
    if len(lengths) > 1 or _DIGITS.fullmatch(lengths[0]) is None:
        raise UpstreamError("the site's answer has a wrong Content-Length")
    return int(lengths[0])
