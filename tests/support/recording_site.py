"""A site that records the exact bytes it is sent, and a visitor made of bytes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Lines = list[tuple[bytes, bytes]]


def split_head(head: bytes) -> tuple[bytes, Lines]:
    """Split a head into its first line and its header lines."""
    first, *lines = head.split(b"\r\n")
    pairs = [line.split(b": ", 1) for line in lines if line]
    return first, [(name, value) for name, value in pairs]


def unchunked(body: bytes) -> bytes | None:
    """Join a body's chunks; None if the last one is missing."""
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return whole if rest == b"\r\n" else None
        whole += rest[:length]
        body = rest[length + 2 :]
    return None


@dataclass
class Message:
    """A request that the site saw, or an answer that the visitor got."""

    first: bytes
    headers: Lines
    raw_body: bytes = b""

    def all(self, name: str) -> list[bytes]:
        wanted = name.lower().encode()
        return [value for key, value in self.headers if key.lower() == wanted]

    def one(self, name: str) -> bytes:
        (value,) = self.all(name)
        return value

    @property
    def body(self) -> bytes | None:
        """The body without its framing; None if it was cut."""
        if self.all("Transfer-Encoding"):
            return unchunked(self.raw_body)
        lengths = self.all("Content-Length")
        if lengths and len(self.raw_body) != int(lengths[0]):
            return None
        return self.raw_body

    @property
    def target(self) -> bytes:
        return self.first.split(b" ")[1]

    @property
    def status(self) -> int:
        return int(self.first.split(b" ")[1])


Script = Callable[[Message, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def says(answer: bytes, *, then_close: bool = False) -> Script:
    """Answer every request with the same bytes."""

    async def script(_: Message, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if then_close:
            writer.close()

    return script


@dataclass
class Site:
    """Records requests; answers them by ``script``.

    ``broken`` counts requests that ended before they were whole, ``left`` is
    set when a connection to it has ended, ``came`` when one was made. It takes
    bodies only while ``reading`` is set.
    """

    script: Script = field(default_factory=lambda: says(OK))
    seen: list[Message] = field(default_factory=list)
    broken: int = 0
    connections: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    @contextlib.asynccontextmanager
    async def listening(
        self, *, unix: str | None = None, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[Site]:
        self.reading.set()
        self._open: set[asyncio.Task[None]] = set()
        if unix is not None:
            server = await asyncio.start_unix_server(self._serve, unix)
            self.url = f"unix:{unix}"
        else:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
            scheme, port = "https" if tls else "http", server.sockets[0].getsockname()
            self.url = f"{scheme}://127.0.0.1:{port[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in list(self._open):
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        self.came.set()
        try:
            while not writer.is_closing():
                request = await self._read(reader)
                if request is None:
                    break
                self.seen.append(request)
                await self.script(request, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.left.set()
            await closed(writer)
            self._open.discard(task)

    async def _read(self, reader: asyncio.StreamReader) -> Message | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        request = Message(*split_head(head))
        await self.reading.wait()
        try:
            if request.all("Transfer-Encoding"):
                while not request.raw_body.endswith(b"0\r\n\r\n"):
                    size = await reader.readuntil(b"\r\n")
                    rest = await reader.readexactly(int(size, 16) + 2)
                    request.raw_body += size + rest
            elif lengths := request.all("Content-Length"):
                request.raw_body = await reader.readexactly(int(lengths[0]))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.broken += 1
            return None
        return request


async def dripped(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, drop: bytes
) -> bytes:
    """Send a drop every now and then until the other side has enough of it."""

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(drop)
                await writer.drain()
                await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    got = b""
    try:
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                while piece := await reader.read(2**16):
                    got += piece
    finally:
        dripping.cancel()
    return got


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and wait until it is."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Serve connections with a handler; give the address as a URL."""
    done = []

    async def handle(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        over = asyncio.Event()
        done.append(over)
        await handler(reader, writer)
        await closed(writer)
        over.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for over in done:
            await over.wait()


Visit = Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@contextlib.asynccontextmanager
async def visits() -> AsyncIterator[Visit]:
    """Open connections to ports, and close them all in the end."""
    writers = []

    async def opened(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    yield opened
    for writer in writers:
        await closed(writer)


async def talk(port: int, raw: bytes) -> bytes:
    """Send bytes and read all that comes until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        await closed(writer)


async def ask(port: int, raw: bytes) -> Message:
    """Send one request that ends its connection, and read the answer."""
    return as_message(await talk(port, raw))


def as_message(raw: bytes) -> Message:
    head, _, body = raw.partition(b"\r\n\r\n")
    return Message(*split_head(head), raw_body=body)


def request(
    line: str = "GET /",
    *headers: str,
    body: bytes = b"",
    host: str = "shop.test",
) -> bytes:
    """Write a request that asks for the connection to be closed."""
    lines = [f"{line} HTTP/1.1", f"Host: {host}", *headers, "Connection: close"]
    if body and not any(each.lower().startswith("transfer-") for each in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
