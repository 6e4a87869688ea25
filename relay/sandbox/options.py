"""What a sandbox is set to, apart from its faults; ``/sandbox/options``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from relay.sandbox.faults import KnobError


@dataclass(slots=True)
class Options:
    """The lasting options, changed while the sandbox runs.

    ``fresh`` makes every click a new one (the real Dub gives one visitor the
    same id for an hour). ``count_bots`` records the clicks of bots, headless
    browsers among them. ``require_signature`` refuses calls without a good
    ``Relay-Signature``. ``allowed_hostnames`` is the workspace's list; empty
    allows all. With ``webhook_url``, ``lead.created`` is posted there, signed
    with ``webhook_secret``.
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


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise KnobError("true or false")
    return value


def _hosts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(it, str) for it in value):
        raise KnobError("a list of host names")
    return tuple(value)


def _url(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not is_web_address(value):
        raise KnobError("an http address, or null")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise KnobError("a text")
    return value


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "fresh": _flag,
    "count_bots": _flag,
    "require_signature": _flag,
    "allowed_hostnames": _hosts,
    "webhook_url": _url,
    "webhook_secret": _text,
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
