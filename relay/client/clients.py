"""The two clients: one for synchronous code, one to be awaited."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Unpack

from relay.client.calls import (
    BadFieldError,
    Calls,
    Hook,
    Message,
    NotTakenError,
    Result,
    Signup,
    Status,
    in_thread,
    message_of,
)
from relay.client.spool import Sender, Spool, SpoolError
from relay.core.http import cookies

HELP: Final = (
    "This is no request of aiohttp, Starlette/FastAPI, Django or Flask, no WSGI "
    "environ and no ASGI scope. Pass click_id= instead."
)


class UnknownRequestError(TypeError):
    """What was given as a request is none that is known here."""


def click_of(request: object) -> str | None:
    """Return the click id of a request's visitor, None if there is no usable one."""
    return cookies.click_id(cookie_headers(request))


def cookie_headers(request: object) -> list[str]:
    """Return the values of all ``Cookie`` headers, raw, in order.

    Raises UnknownRequestError for anything that is no request.
    """
    headers = getattr(request, "headers", None)
    if (every := getattr(headers, "getall", None)) is not None:  # aiohttp
        return list(every("Cookie", []))
    if (every := getattr(headers, "getlist", None)) is not None:  # Starlette, Flask
        return list(every("Cookie"))
    plain = getattr(request, "META", request)  # Django has an environ in META
    if isinstance(plain, Mapping):
        if isinstance(plain.get("headers"), list | tuple):
            return _of_scope(plain["headers"])
        if "REQUEST_METHOD" in plain:
            return _of_environ(plain)
    raise UnknownRequestError(HELP)


def _of_scope(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """Read the headers of ASGI, whose names are lower case."""
    return [value.decode("latin-1") for name, value in headers if name == b"cookie"]


def _of_environ(environ: Mapping[str, Any]) -> list[str]:
    """Read the environ of WSGI (PEP 3333)."""
    value = environ.get("HTTP_COOKIE")
    return [value] if isinstance(value, str) else []


log = logging.getLogger("relay.client")

LIMIT_S: Final = 0.5
"""How long a registration waits for the relay: a person does not notice that."""

FLUSH_S: Final = 10.0
"""How long ``flush`` tries, if nothing else is said."""


@dataclass(frozen=True, slots=True)
class _Process:
    """What must not pass a fork: locks that nobody opens, a thread that is gone."""

    pid: int
    calls: Calls
    sender: Sender


class _Base:
    """What both clients have: the hook, the spool and the one way of a message."""

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        spool: str | os.PathLike[str] = "dub-relay.spool",
        limit: float = LIMIT_S,
    ) -> None:
        """Take the relay's address with its prefix, and its RELAY_HOOK_SECRET.

        ``spool`` is the file for what the relay does not take at once, one for
        each relay; the processes of a site share it. What an earlier process
        left in it is sent from now on. ``limit`` is in seconds.

        Raises ValueError for an address or a secret that cannot be right. A
        spool that cannot be written is logged: it is no reason not to start.
        """
        self._hook = Hook.of(url, secret)
        self._spool = Spool(Path(spool))
        self._limit = limit
        self._process = self._new_process()
        try:
            self._spool.check_writable()
            self._wake_if_waiting()
        except SpoolError as error:
            log.error("dub-relay: registrations could not be spooled: %s", error)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._hook.url.geturl()!r})"

    def _new_process(self) -> _Process:
        calls = Calls(self._hook)
        return _Process(os.getpid(), calls, Sender(self._spool, calls))

    def _here(self) -> _Process:
        """Return what belongs to this process, also after a fork."""
        if self._process.pid != os.getpid():
            self._process = self._new_process()
        return self._process

    def _wake_if_waiting(self) -> bool:
        waiting = not self._spool.is_empty()
        if waiting:
            self._here().sender.wake()
        return waiting

    def _prepare(self, request: object, fields: Signup) -> Message | Result:
        """Write the message, or say why there is none to send."""
        try:
            click = fields.get("click_id")
            if click is None and request is not None:
                click = click_of(request)
            # Checked also where no click will be: a mistake must show in tests.
            message = message_of(click or "", fields)
        except (BadFieldError, UnknownRequestError) as error:
            log.error("dub-relay: signup() was called wrongly: %s", error)
            return Result(Status.REFUSED, str(error))
        if click is None:
            log.debug("dub-relay: no click led to this registration")
            return Result(Status.UNATTRIBUTED, "the request has no click id")
        return message

    def _hand_over(self, message: Message) -> Result:
        """Send a message, or write it down; never raises."""
        try:
            # Who comes later waits behind the others: leads keep their order, and
            # nobody waits for a relay that is known to be down.
            if self._wake_if_waiting():
                return self._write_down(message, "others wait for the relay")
        except SpoolError as error:
            log.error("dub-relay: the spool cannot be read: %s", error)
        try:
            result = self._here().calls.send(message, self._limit)
        except NotTakenError as error:
            report = log.error if error.mistake else log.warning
            report("dub-relay: %s was not taken: %s", message.id, error.reason)
            return self._write_down(message, error.reason)
        if result.status is Status.REFUSED:
            log.error("dub-relay: %s was refused: %s", message.id, result.reason)
        return result

    def _write_down(self, message: Message, reason: str) -> Result:
        try:
            self._spool.append(message)
        except SpoolError as error:
            log.error("dub-relay: %s is lost: %s; %s", message.id, reason, error)
            return Result(Status.LOST, f"{reason}; {error}", webhook_id=message.id)
        self._here().sender.wake()
        return Result(Status.SPOOLED, reason, webhook_id=message.id)

    def close(self) -> None:
        """Stop sending; what waits stays for the next process. Not needed at exit."""
        self._here().sender.stop()


class Client(_Base):
    """For Django, Flask and other synchronous code. One for the whole program.

    Safe to use from any thread, and in processes forked after it was made.
    """

    def signup(self, request: object = None, **fields: Unpack[Signup]) -> Result:
        """Report to the relay that the visitor behind ``request`` has registered.

        Takes half a second at most, and one write to the disk where the relay
        did not answer in it. Raises nothing but TypeError for a wrong keyword.
        """
        message = self._prepare(request, fields)
        return message if isinstance(message, Result) else self._hand_over(message)

    def flush(self, limit: float = FLUSH_S) -> bool:
        """Send what waits, for ``limit`` seconds; True if nothing waits any more."""
        return self._here().sender.flush(limit)


class AsyncClient(_Base):
    """For FastAPI, Starlette, aiohttp and other code on asyncio.

    The loop never waits for it: the work is done in threads. A visitor who
    leaves, and so cancels the handler, does not cancel the lead.
    """

    async def signup(self, request: object = None, **fields: Unpack[Signup]) -> Result:
        """Report to the relay that the visitor behind ``request`` has registered.

        Takes half a second at most, and one write to the disk where the relay
        did not answer in it. Raises nothing but TypeError for a wrong keyword.
        """
        from asyncio import wrap_future  # noqa: PLC0415 - half of what all loads

        message = self._prepare(request, fields)
        if isinstance(message, Result):
            return message
        try:
            handing = in_thread(self._hand_over, message)
        except RuntimeError:
            return self._write_down(message, "no thread can be started")
        return await wrap_future(handing)

    async def flush(self, limit: float = FLUSH_S) -> bool:
        """Send what waits, for ``limit`` seconds; True if nothing waits any more."""
        from asyncio import wrap_future  # noqa: PLC0415 - as above

        return await wrap_future(in_thread(self._here().sender.flush, limit))
