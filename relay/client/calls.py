"""One call of the hook, and what its answer means. Standard library only."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from relay.client.message import Message
from relay.client.results import Result, Status
from relay.core.signing import parse_webhook_secrets, sign_webhook

PATH: Final = "/hooks/signup"

MAX_ANSWER: Final = 64 * 1024
"""Bytes; the relay's own answers are below 1 KiB."""

MAX_CALLS: Final = 32
"""Calls under way at one time in one process: behind a relay that hangs, further
registrations go to the spool at once instead of each holding a thread."""

REFUSALS: Final = frozenset({400, 409, 413, 422})
"""What the relay says of the message itself. Everything else, a wrong secret
included, is mended on the other side, and the message is then still good."""

T = TypeVar("T")


class NotTakenError(Exception):
    """The relay did not take it now; a later time may be better.

    ``mistake``: it will not before somebody mends something.
    """

    def __init__(self, reason: str, *, mistake: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.mistake = mistake


def in_thread(work: Callable[..., T], *args: Any) -> Future[T]:
    """Run work in a thread of its own, which does not keep the program alive.

    No pool: its threads would not survive a fork (gunicorn --preload), and the
    interpreter would wait for them at its end. Raises RuntimeError where the
    system has no more threads, or the interpreter ends.
    """
    future: Future[T] = Future()
    # From here on it cannot be cancelled: a visitor who leaves takes nothing along.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work(*args))
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="dub-relay-call", daemon=True).start()
    return future


@dataclass(frozen=True, slots=True)
class Hook:
    """Where the hook is, and the keys that sign for it (the first does)."""

    url: SplitResult
    keys: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def of(cls, url: str, secret: str) -> Hook:
        """Read the relay's address, prefix included, and ``whsec_…``, or a list.

        Raises ValueError, which says what is wrong and holds no secret.
        """
        parts = urlsplit(url.rstrip("/"))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url: must be http(s)://host/prefix of the relay")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("url: has no user, no query and no fragment")
        _ = parts.port  # raises ValueError for a port that is none
        path = parts.path.removesuffix(PATH) + PATH
        return cls(parts._replace(path=path), parse_webhook_secrets(secret))


class Calls:
    """Makes calls of a hook, each within a time limit that holds for all of it."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook
        self._free = threading.BoundedSemaphore(MAX_CALLS)

    def send(self, message: Message, limit: float) -> Result:
        """Send a message; raise NotTakenError after ``limit`` seconds at the latest.

        A call that was given up may still arrive: its webhook-id makes that
        harmless. In a thread, because no timeout of a socket limits the look-up
        of a name, nor an answer that drips.
        """
        if not self._free.acquire(blocking=False):
            raise NotTakenError("too many calls are under way")
        try:
            call = in_thread(self._call, message, limit)
        except RuntimeError:
            self._free.release()
            raise NotTakenError("no thread can be started") from None
        try:
            answer = call.result(limit)
        except TimeoutError:
            raise NotTakenError(f"no answer within {limit:g} s") from None
        except _http_errors() as error:
            raise NotTakenError(f"no answer ({type(error).__name__})") from None
        return _read(message, *answer)

    def _call(self, message: Message, limit: float) -> tuple[int, bytes]:
        from http import client  # noqa: PLC0415 - takes longer to load than all else

        url = self._hook.url
        kind = (
            client.HTTPSConnection if url.scheme == "https" else client.HTTPConnection
        )
        try:
            connection = kind(url.hostname or "", url.port, timeout=limit)
            headers = sign_webhook(
                self._hook.keys, message.id, int(time.time()), message.body
            )
            headers |= {"Content-Type": "application/json", "Connection": "close"}
            try:
                connection.request("POST", url.path, message.body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read(MAX_ANSWER)
            finally:
                connection.close()
        finally:
            self._free.release()


def _http_errors() -> tuple[type[Exception], ...]:
    from http import client  # noqa: PLC0415 - loaded by the call already

    return OSError, client.HTTPException, UnicodeError


def _read(message: Message, status: int, body: bytes) -> Result:
    """Tell what an answer means; raise NotTakenError where it takes nothing."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    match told:
        case {"id": str() | None as lead, "status": str(word)} if status in (200, 202):
            known = {Status.QUEUED, Status.DUPLICATE, Status.UNATTRIBUTED}
            if word in known:
                return Result(Status(word), lead_id=lead, webhook_id=message.id)
        case {"error": {"message": str(text)}}:
            reason = f"{status}: {_printable(text)}"
            if status in REFUSALS:
                return Result(Status.REFUSED, reason, webhook_id=message.id)
            raise NotTakenError(reason, mistake=400 <= status < 500 and status != 429)
        case _:
            pass
    raise NotTakenError(
        f"{status}: this is not the relay's answer; is the address right?",
        mistake=status < 500,
    )


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:300])
