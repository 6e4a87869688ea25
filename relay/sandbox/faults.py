"""Faults and options. A fault hits calls to the API for as long as asked; options last.

A fault is a JSON object such as ``{"status": 503, "count": 3}``. Without
``count`` it lasts until it is cleared; with it, it is used up by that many
calls, and faults with the same knob follow each other in the order they came.
``step`` narrows a fault to ``"deferred"`` or ``"record"`` calls of track/lead,
``path`` to paths that begin with it; without a path it hits ``/track/``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

KEY_STATES: Final = ("valid", "revoked", "expired", "no-membership", "wrong-role")
PLANS: Final = ("business", "free")
CUTS: Final = ("before", "after", "mid-body")
STEPS: Final = ("deferred", "record")
PATH: Final = "/track/"

_LONGEST_S: Final = 3600.0
"""An hour of hanging is for ever to any client."""


class KnobError(ValueError):
    """A knob that does not exist, or does not take this value; one sentence."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One knob: its check and what it does, in words for the page."""

    check: Callable[[Any], bool]
    takes: str
    does: str


def _seconds(value: Any) -> bool:
    return _number(value) and 0 <= value <= _LONGEST_S


def _number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _one_of(options: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in options


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _text(value: Any) -> bool:
    # It may end up in a header: no line breaks, nothing beyond latin-1.
    return isinstance(value, str) and value.isprintable() and value.isascii()


KNOBS: Final[Mapping[str, Knob]] = {
    "status": Knob(
        _whole(200, 599), "a status", "answer with it and do nothing; see work"
    ),
    "code": Knob(_text, "a code of Dub's", "the code in the answer with status"),
    "message": Knob(_text, "a text", "the message in the answer with status"),
    "work": Knob(_flag, "true", "do the work all the same, then answer with status"),
    "html": Knob(_flag, "true", "answer with a page of HTML (status: 502)"),
    "retry_after": Knob(
        _text, "a text", 'the Retry-After of every error; "" leaves it out'
    ),
    "hang": Knob(
        _seconds, "seconds", "do nothing, answer nothing, close after that long"
    ),
    "slow": Knob(_seconds, "seconds", "do the work, answer that much later"),
    "cut": Knob(
        _one_of(CUTS),
        " | ".join(CUTS),
        "close the connection before or after the work, or inside the answer",
    ),
    "crash": Knob(_flag, "true", "fail with 500 just after the dedupe key was claimed"),
    "avatar_fails": Knob(_flag, "true", "the avatar that a call brings is not fetched"),
    "key": Knob(_one_of(KEY_STATES), " | ".join(KEY_STATES), "what the key is worth"),
    "plan": Knob(_one_of(PLANS), " | ".join(PLANS), "free: 403, need higher plan"),
    "rate": Knob(
        _whole(0, 10**9), "calls a minute, to /events a second", "429 beyond it"
    ),
    "click_delay": Knob(_seconds, "seconds", "younger clicks are not found (404)"),
    "events_lag": Knob(_seconds, "seconds", "a lead stands in /events that late"),
    "analytics": Knob(_flag, "true or false", "false: /events is refused (403)"),
    "lead_delay": Knob(_seconds, "seconds", "a sale finds an async lead that late"),
}
"""Every knob. The check, the page and the error for an unknown one read it."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the faults make of one call; the defaults are a healthy Dub."""

    status: int | None = None
    code: str | None = None
    message: str | None = None
    work: bool = False
    html: bool = False
    retry_after: str | None = None
    hang: float | None = None
    slow: float = 0.0
    cut: str | None = None
    crash: bool = False
    avatar_fails: bool = False
    key: str = "valid"
    plan: str = "business"
    rate: int | None = None
    click_delay: float = 0.0
    lead_delay: float = 0.0
    events_lag: float = 0.0
    analytics: bool = True
    named: str = ""


@dataclass(slots=True)
class Fault:
    """One fault as it was posted; ``left`` counts the calls it still hits."""

    id: int
    knobs: Mapping[str, Any]
    left: int | None = None
    step: str | None = None
    path: str = PATH

    def hits(self, path: str, step: str | None) -> bool:
        """Return whether a call is one of those it was meant for."""
        return path.startswith(self.path) and self.step in (None, step)

    def json(self) -> dict[str, Any]:
        """Write it as it was posted, with what is left of it."""
        narrowed = {"step": self.step, "path": self.path, "count": self.left}
        shown = {key: value for key, value in narrowed.items() if value is not None}
        if self.path == PATH:
            del shown["path"]
        return {"id": self.id, **self.knobs, **shown}


@dataclass(slots=True)
class Faults:
    """The faults that stand, in the order they came."""

    standing: list[Fault] = field(default_factory=list)
    _last_id: int = 0

    def add(self, posted: object) -> Fault:
        """Take a fault from parsed JSON; raise KnobError naming what is wrong."""
        fault = self._read(posted)
        if fault.left is None:
            self._replace(fault)
        self.standing.append(fault)
        return fault

    def clear(self) -> None:
        """Remove every fault."""
        self.standing.clear()

    def take(self, path: str, step: str | None) -> Conditions:
        """Return the conditions of one call, and use the counted faults up."""
        lasting: dict[str, Any] = {}
        counted: dict[str, Any] = {}
        for fault in self.standing:
            if not fault.hits(path, step):
                continue
            if fault.left is None:
                lasting.update(fault.knobs)
            elif not counted.keys() & fault.knobs.keys():
                counted.update(fault.knobs)
                fault.left -= 1
        self.standing = [fault for fault in self.standing if fault.left != 0]
        knobs = lasting | counted
        named = ", ".join(f"{name} {_shown(value)}" for name, value in knobs.items())
        return Conditions(**knobs, named=named)

    def _replace(self, fault: Fault) -> None:
        """Drop the lasting faults that this one says anew: a knob has one place."""
        self.standing = [
            old
            for old in self.standing
            if old.left is not None
            or (old.step, old.path) != (fault.step, fault.path)
            or not old.knobs.keys() <= fault.knobs.keys()
        ]

    def _read(self, posted: object) -> Fault:
        if not isinstance(posted, dict):
            raise KnobError('a fault is a JSON object, as in {"status": 503}')
        knobs = dict(posted)
        count = _taken(knobs, "count", _whole(1, 10**9), "a whole number from 1")
        step = _taken(knobs, "step", _one_of(STEPS), " | ".join(STEPS))
        path = _taken(knobs, "path", _text, "the beginning of a path")
        if not knobs:
            raise KnobError(f"no knob is turned; there are: {', '.join(KNOBS)}")
        for name, value in knobs.items():
            _check(name, value)
        if "html" in knobs:
            knobs.setdefault("status", 502)
        self._last_id += 1
        return Fault(self._last_id, knobs, count, step, path or PATH)


def _taken(
    knobs: dict[str, Any], name: str, check: Callable[[Any], bool], takes: str
) -> Any:
    value = knobs.pop(name, None)
    if value is not None and not check(value):
        raise KnobError(f"{name} takes {takes}")
    return value


def _check(name: str, value: Any) -> None:
    knob = KNOBS.get(name)
    if knob is None:
        raise KnobError(f"there is no knob {name!r}; there are: {', '.join(KNOBS)}")
    if not knob.check(value):
        raise KnobError(f"{name} takes {knob.takes}")


def _shown(value: Any) -> str:
    return "" if value is True else str(value)


# --- Options: ``/sandbox/options``. ---


@dataclass(slots=True)
class Options:
    """The lasting options, changed while the sandbox runs.

    ``fresh`` makes every click a new one (the real Dub gives one visitor the
    same id for an hour). ``count_bots`` records the clicks of bots, headless
    browsers among them. ``require_signature`` refuses calls without a good
    ``Relay-Signature``. ``allowed_hostnames`` is the workspace's list; empty
    allows all. With ``webhook_url``, ``lead.created`` and ``sale.created`` are posted
    there, signed with ``webhook_secret``.
    """

    fresh: bool = False
    count_bots: bool = False
    require_signature: bool = False
    allowed_hostnames: tuple[str, ...] = ()
    webhook_url: str | None = None
    webhook_secret: str = ""

    def json(self) -> dict[str, Any]:
        """Write the options; whether there is a secret, but not which."""
        shown = asdict(self)
        shown["webhook_secret"] = bool(self.webhook_secret)
        return shown

    def change(self, posted: object) -> None:
        """Take changes from parsed JSON, all or none; raise KnobError."""
        if not isinstance(posted, dict):
            raise KnobError('options are a JSON object, as in {"fresh": true}')
        values = {name: _read(name, value) for name, value in posted.items()}
        for name, value in values.items():
            setattr(self, name, value)


def _as_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise KnobError("true or false")
    return value


def _as_hosts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(it, str) for it in value):
        raise KnobError("a list of host names")
    return tuple(value)


def _as_url(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not is_web_address(value):
        raise KnobError("an http address, or null")
    return value


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise KnobError("a text")
    return value


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "fresh": _as_flag,
    "count_bots": _as_flag,
    "require_signature": _as_flag,
    "allowed_hostnames": _as_hosts,
    "webhook_url": _as_url,
    "webhook_secret": _as_text,
}


def _read(name: str, value: Any) -> Any:
    reader = _READERS.get(name)
    if reader is None:
        names = ", ".join(_READERS)
        raise KnobError(f"there is no option {name!r}; there are: {names}")
    try:
        return reader(value)
    except KnobError as error:
        raise KnobError(f"{name} takes {error}") from None


def is_web_address(text: str) -> bool:
    """Return whether a text is an absolute http or https address."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
