"""What a visitor sends, read in limits of size and time, and work that outlives him."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import parse_qsl

from aiohttp import web

from relay.http.responses import RefusedError

PATIENCE_S: Final = 10.0
"""How long a whole body may take: a phone on a bad line sends 64 KiB in that."""

FORM_CHARSETS: Final = frozenset({"", "utf-8", "utf8", "us-ascii"})
"""Charsets of a form of the relay's own pages, which are UTF-8. The name comes from
outside, and Python's codecs include some that are slow, or no charset."""

MAX_PARAMETERS: Final = 256
"""Characters behind a media type; a charset and a boundary have 100 at most."""

_CHARSET: Final = re.compile(r'charset\s*=\s*"?([^\s;"]*)', re.IGNORECASE)

MAX_FIELDS: Final = 64
"""Fields of a form; the relay's own have five at most."""

INLINE: Final = 16_384
"""Bytes of a form that are parsed where it was read; more by another thread."""

_FORM: Final = web.RequestKey("form", dict[str, str])

T = TypeVar("T")


class RequestBodyError(Exception):
    """The visitor's body broke off, was malformed (400), or did not come (408)."""

    def __init__(self, reason: str, *, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class Readable(Protocol):
    """A body that comes in pieces, as aiohttp's StreamReader."""

    async def readany(self) -> bytes:
        """Return the next bytes, b"" at the end."""


async def read_visitor(stream: Readable, patience: float) -> bytes:
    """Return the next bytes of a visitor's body, b"" at its end.

    Raises RequestBodyError also when nothing has come for so many seconds.
    aiohttp's server does not report a malformed chunk in the middle of a body to its
    reader; this is what ends such a request, too.
    """
    try:
        async with asyncio.timeout(patience):
            return await stream.readany()
    except TimeoutError as error:
        raise RequestBodyError("the request's body stopped", status=408) from error
    except web.HTTPRequestTimeout as error:
        raise RequestBodyError("the request's body is too slow", status=408) from error
    except Exception as error:
        raise RequestBodyError("the request's body broke off") from error


async def read_small(
    request: web.Request, limit: int, patience: float = PATIENCE_S
) -> bytes:
    """Read a body of at most ``limit`` bytes within ``patience`` seconds.

    Raises RefusedError: 413 for more, 408 where it takes longer, 400 where it
    breaks off.
    """
    too_long = RefusedError(413, f"The body may have {limit} bytes at most.")
    if (request.content_length or 0) > limit:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(patience):
            while data := await read_visitor(request.content, patience):
                body += data
                if len(body) > limit:
                    raise too_long
    except (TimeoutError, RequestBodyError) as error:
        status = error.status if isinstance(error, RequestBodyError) else 408
        raise RefusedError(status, "The body did not come whole.") from None
    return bytes(body)


async def read_form(request: web.Request, limit: int) -> dict[str, str]:
    """Read a form of the relay's own pages, once a request: the first of each name.

    What its head says is checked before a byte of the body is read. Raises
    RefusedError: 415 for another type, 400 for a charset that no page sends or for too
    many fields, else as :func:`read_small`.
    """
    if _FORM in request:
        return request[_FORM]
    kind, charset = content_type(request)
    if kind != "application/x-www-form-urlencoded":
        raise RefusedError(415, "The form must be application/x-www-form-urlencoded.")
    if charset not in FORM_CHARSETS:
        raise RefusedError(400, "The form's charset must be UTF-8.")
    body = await read_small(request, limit)
    if len(body) > INLINE:
        form = await asyncio.to_thread(_fields, body)
    else:
        form = _fields(body)
    request[_FORM] = form
    return form


def content_type(request: web.BaseRequest) -> tuple[str, str]:
    """Return the media type and the charset of a body, in lower case, "" for none.

    Raises RefusedError(400) for a field that is longer than any browser's. aiohttp's
    own properties use the parser of e-mail, which takes 40 s for a field of 32 KiB
    with nothing but semicolons.
    """
    kind, _, rest = request.headers.get("Content-Type", "").partition(";")
    if len(rest) > MAX_PARAMETERS:
        raise RefusedError(400, "The Content-Type is too long.")
    found = _CHARSET.search(rest)
    return kind.strip().lower(), found[1].lower() if found else ""


def _fields(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            body.decode("utf-8", "replace"),
            keep_blank_values=True,
            errors="replace",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise RefusedError(400, f"The form has over {MAX_FIELDS} fields.") from None
    return dict(reversed(pairs))


class Tasks:
    """Work that goes on when the visitor has left; awaited when all ends."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work of its own; a reference is kept, or it might vanish."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def finish(self, timeout: float) -> None:  # noqa: ASYNC109 - gives up, cancels nothing
        """Wait for what is under way, for so many seconds at most."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout)
