"""One call of the hook, and what its answer means. Standard library only."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal, Required, TypedDict, TypeVar
from urllib.parse import SplitResult, urlsplit

from relay.core.dub.track_lead import (
    InvalidFieldError,
    sanitise,
)
from relay.core.signing import parse_webhook_secrets, sign_webhook

MAX_BODY: Final = 1024 * 1024
"""Bytes that the relay's hook reads at most."""


class Signup(TypedDict, total=False):
    """The keyword arguments of ``signup``: Dub's fields, in Python's spelling."""

    customer_external_id: Required[str]
    """Your own stable id of the new user, 1 to 100 characters."""
    event_name: str
    """1 to 255 characters; "Sign Up" if not given."""
    customer_name: str | None
    customer_email: str | None
    customer_avatar: str | None
    click_id: str | None
    """Instead of the request's cookie. "": this customer's earlier click."""
    mode: Literal["async", "wait", "deferred"]
    event_quantity: int | None
    metadata: Mapping[str, Any] | None


class BadFieldError(Exception):
    """A field that the integrator writes is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Message:
    """A hook's body under its webhook-id; the same bytes each time it is sent."""

    id: str
    body: bytes = field(repr=False)


_NAMES: Final = {
    "customer_external_id": "customerExternalId",
    "event_name": "eventName",
    "customer_name": "customerName",
    "customer_email": "customerEmail",
    "customer_avatar": "customerAvatar",
    "click_id": "clickId",
    "mode": "mode",
    "event_quantity": "eventQuantity",
    "metadata": "metadata",
}


def message_of(click_id: str, fields: Signup) -> Message:
    """Write the message, with an id of its own.

    Raises BadFieldError for what the relay would refuse, so that a mistake
    shows in the first test and not once the relay is back; and TypeError, as
    any function does, for an argument that there is none of. What a person
    typed is never wrong: the relay leaves it out.
    """
    if unknown := sorted(fields.keys() - _NAMES.keys()):
        raise TypeError(f"signup() got an unexpected keyword argument {unknown[0]!r}")
    document: dict[str, object] = {"eventName": "Sign Up"}
    document |= {
        _NAMES[name]: value for name, value in fields.items() if value is not None
    }
    document["clickId"] = click_id
    try:
        sanitise(document)
        body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    except InvalidFieldError as error:
        raise BadFieldError(error.issue.text) from None
    except (TypeError, ValueError, RecursionError) as error:
        # The error's own text may quote the value.
        raise BadFieldError(f"metadata: is no JSON ({type(error).__name__})") from None
    if len(body) > MAX_BODY:
        raise BadFieldError("all fields together are over 1 MiB")
    return Message(f"msg_{secrets.token_hex(12)}", body)


# --- What became of a registration that was reported. ---


class Status(StrEnum):
    """The one word for it."""

    QUEUED = "queued"
    """The relay has the lead on its disk, and will deliver it."""
    DUPLICATE = "duplicate"
    """This customer and event, or this very message, was taken before."""
    UNATTRIBUTED = "unattributed"
    """No click led to this registration. There is nothing to do."""
    SPOOLED = "spooled"
    """The relay gave no good answer; the local file has it, and it is sent later."""
    REFUSED = "refused"
    """A mistake of the integration, which a repetition would not mend."""
    LOST = "lost"
    """Neither the relay nor the local file took it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What happened, why, and under which ids. It holds nothing personal.

    ``lead_id`` is the relay's (``lead_…``); ``webhook_id`` is that of the
    message, as the relay's log and the spool know it.
    """

    status: Status
    reason: str = ""
    lead_id: str | None = None
    webhook_id: str | None = None

    @property
    def safe(self) -> bool:
        """Whether nothing was lost: it is taken, waits on the disk, or is no lead."""
        return self.status not in (Status.REFUSED, Status.LOST)


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
    """Return what an answer means; raise NotTakenError where it takes nothing."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    match said:
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
