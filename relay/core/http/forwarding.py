"""Ordinary messages, rewritten for the other side in one pass.

Nearly every request is a GET whose headers hold nothing that needs thought,
and nearly every answer is as plain. This writes the head that goes on for
those, and declines everything else: what it declines is judged by
:mod:`relay.core.http.headers` and the guard, line by line. What it writes is what
those would have written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, NamedTuple

from relay.core.http.headers import (
    HOP_BY_HOP,
    Headers,
    Line,
    Network,
    forwarded,
    is_believed,
    is_host,
    visitor_scheme_host,
)

_NAMES: Final = 2048
"""Header names whose kind is remembered, as they are spelled; any stranger may
send new ones, so there must be a bound."""

_LONGEST_NAME: Final = 64
"""Bytes of a name, or of a host, that is remembered; no field in use has more."""

_VISITORS: Final = 4096
"""Visitors whose forwarding lines are remembered: many requests come from one
connection, and from one visitor behind the same proxy in front."""

_LONGEST_GIVEN: Final = 512
"""Bytes of forwarding lines that are remembered."""

_TARGET: Final = re.compile(r'/(?!/)[!"$-~]*')
"""What ``refuse_target`` lets through, but for "%00"."""

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_FORBIDDEN: Final = bytes(byte for byte in range(32) if byte != 9) + b"\x7f"
"""Never inside a field's value (RFC 9110, 5.5)."""

_DIGITS: Final = 18
"""More than any length has, and few enough for every server's 64 bits."""

_PERSISTENCE: Final = frozenset({b"keep-alive", b"close"})
"""Values of Connection that name no other field; the parser has heeded them."""


# What becomes of a header line, by its name. Plain numbers: they are compared for
# every line of every request. Up to _LAST_KEPT a line goes on as it came.
_PASS: Final = 0
_HOST_LINE: Final = 1
_COOKIE: Final = 2
_LENGTH: Final = 3
_TYPE: Final = 4
_LAST_KEPT: Final = 4
_DROP: Final = 5
_CONNECTION: Final = 6
_GIVEN: Final = 7  # written anew, from a trusted proxy's and the connection
_CODING: Final = 8
_UNUSUAL: Final = 9  # needs thought: the message is not ordinary

_BODY_LENGTH: Final = 10  # written anew
_HOST_REPLACED: Final = 11  # the site goes by another

_HOST_LINES: Final = frozenset({_HOST_LINE, _HOST_REPLACED})
_SETTLED: Final = frozenset({_PASS, _DROP})

_ASKED: Final = {
    b"host": _HOST_LINE,
    b"connection": _CONNECTION,
    b"cookie": _COOKIE,
    b"forwarded": _GIVEN,
    b"x-forwarded-for": _GIVEN,
    b"x-forwarded-host": _GIVEN,
    b"x-forwarded-proto": _GIVEN,
    b"http2-settings": _DROP,
    # Chunks, a change of protocol, or a wait for leave to send a body.
    b"content-length": _BODY_LENGTH,
    b"transfer-encoding": _UNUSUAL,
    b"upgrade": _UNUSUAL,
    b"expect": _UNUSUAL,
}

_ANSWERED: Final = {
    b"connection": _CONNECTION,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"content-type": _TYPE,
    b"upgrade": _UNUSUAL,
}


class _Known(dict[bytes, int]):
    """The kinds of names, worked out once.

    As quick as a dictionary, and bounded in what strangers put into it.
    """

    def __init__(self, kind_of: Callable[[bytes], int]) -> None:
        super().__init__()
        self._kind_of = kind_of

    def __missing__(self, name: bytes) -> int:
        kind = self._kind_of(name)
        if len(name) <= _LONGEST_NAME:
            if len(self) >= _NAMES:
                self.clear()
            self[name] = kind
        return kind


def _asked(own: Mapping[bytes, int], name: bytes) -> int:
    lower = name.lower()
    if lower in own:
        return own[lower]
    if lower in _ASKED:
        return _ASKED[lower]
    # CGI, WSGI and PHP take "_" for "-": such a name may pose as another.
    return _DROP if lower in HOP_BY_HOP or b"_" in name else _PASS


def _asked_by_stranger(own: Mapping[bytes, int], name: bytes) -> int:
    # Nobody but a trusted proxy may say who the visitor is.
    lower = name.lower()
    if lower == b"x-real-ip" or lower.startswith(b"x-forwarded-"):
        return _DROP
    return _asked(own, name)


def _answered(name: bytes) -> int:
    lower = name.lower()
    if lower in _ANSWERED:
        return _ANSWERED[lower]
    if _TOKEN.fullmatch(name) is None:
        return _UNUSUAL
    return _DROP if lower in HOP_BY_HOP else _PASS


_ANSWERED_KINDS: Final = _Known(_answered)


class Shown(NamedTuple):
    """What the site learns of the visitor, and how the visitor sees the site."""

    lines: bytes
    scheme: str
    host: str


class Forwarding:
    """Writes the forwarding headers of one relay, and remembers them."""

    def __init__(
        self,
        trusted: Sequence[Network] = (),
        *,
        unix_trusted: bool = False,
        site_host: str | None = None,
        underscored: Collection[bytes] = frozenset(),
    ) -> None:
        """Believe ``trusted`` peers.

        ``site_host`` is the Host that the site gets, None: the visitor's;
        ``underscored`` are names with an underscore that pass, in lower case.
        """
        self._trusted = tuple(trusted)
        self._unix_trusted = unix_trusted
        self._host_line = f"Host: {site_host}\r\n".encode() if site_host else b""
        own = {b"host": _HOST_REPLACED} if site_host else {}
        own |= dict.fromkeys(underscored, _PASS)
        self.kinds = {
            True: _Known(partial(_asked, own)),
            False: _Known(partial(_asked_by_stranger, own)),
        }
        """What becomes of a request's lines, by whether its peer is believed."""
        self._known = lru_cache(_VISITORS)(self._show)
        self.believes = lru_cache(_VISITORS)(self._believes)

    def _believes(self, peer: str | None) -> bool:
        return is_believed(peer, self._trusted, unix_trusted=self._unix_trusted)

    def show(
        self, given: tuple[Line, ...], peer: str | None, scheme: str, host: str
    ) -> Shown:
        """Return the lines for a request; ``given`` is what came with it of them."""
        if given and sum(len(value) for _, value in given) > _LONGEST_GIVEN:
            return self._show(given, peer, scheme, host)
        return self._known(given, peer, scheme, host)

    def _show(
        self, given: tuple[Line, ...], peer: str | None, scheme: str, host: str
    ) -> Shown:
        lines = forwarded(
            given,
            peer=peer,
            scheme=scheme,
            host=host,
            trusted=self._trusted,
            unix_trusted=self._unix_trusted,
        )
        seen = visitor_scheme_host(
            given,
            peer=peer,
            scheme=scheme,
            host=host,
            trusted=self._trusted,
            unix_trusted=self._unix_trusted,
        )
        written = b"".join(b"%s: %s\r\n" % line for line in lines)
        return Shown(written + self._host_line, *seen)


@dataclass(slots=True)
class Onward:
    """An ordinary request as the site gets it.

    ``head`` is complete. ``length`` is the body's, None if there is none;
    ``cookies`` are the Cookie values, ``scheme`` and ``host`` what the visitor
    has in the address bar.
    """

    head: bytes
    length: int | None
    cookies: list[bytes]
    scheme: str
    host: str


def ordinary_request(
    method: str,
    target: str,
    headers: Headers,
    *,
    peer: str | None,
    scheme: str,
    forwarding: Forwarding,
) -> Onward | None:
    """Write the head of an ordinary request over HTTP/1.1, or None if it is none.

    A body is ordinary if one plain Content-Length says its size.
    """
    if _TARGET.fullmatch(target) is None or "%00" in target:
        return None
    out = [method.encode("ascii"), b" ", target.encode("ascii"), b" HTTP/1.1\r\n"]
    believed = forwarding.believes(peer)
    noted = _sorted(headers, forwarding.kinds[believed], out)
    if noted is None:
        return None
    hosts = [line[1] for kind, line in noted if kind in _HOST_LINES]
    if len(hosts) != 1 or not _is_host(hosts[0]):
        return None
    given: tuple[Line, ...] = ()
    if believed:
        given = tuple(line for kind, line in noted if kind == _GIVEN)
    way = forwarding.show(given, peer, scheme, hosts[0].decode("ascii"))
    out.append(way.lines)
    lengths = [line[1] for kind, line in noted if kind == _BODY_LENGTH]
    if lengths:
        if len(lengths) > 1 or not _is_length(lengths[0]):
            return None
        out.append(b"Content-Length: %d\r\n" % int(lengths[0]))
    out.append(b"\r\n")
    cookies = [line[1] for kind, line in noted if kind == _COOKIE]
    length = int(lengths[0]) if lengths else None
    return Onward(b"".join(out), length, cookies, way.scheme, way.host)


def _sorted(
    headers: Headers, kinds: Mapping[bytes, int], out: list[bytes]
) -> list[tuple[int, Line]] | None:
    """Write the forwarded lines to ``out``; return those to look at, with kinds.

    None as soon as a line is unusual.
    """
    noted = []
    for line in headers:
        name, value = line
        kind = kinds[name]
        if kind <= _LAST_KEPT:
            out += (name, b": ", value, b"\r\n")
        if kind in _SETTLED:
            continue
        if kind == _UNUSUAL:
            return None
        if kind == _CONNECTION and value.lower() not in _PERSISTENCE:
            return None
        noted.append((kind, line))
    return noted


def _is_host(value: bytes) -> bool:
    if len(value) > _LONGEST_NAME:
        return is_host(value.decode("latin-1"))
    return _is_short_host(value)


@lru_cache(_NAMES)
def _is_short_host(value: bytes) -> bool:
    return is_host(value.decode("latin-1"))


def _is_length(value: bytes) -> bool:
    return value.isdigit() and len(value) <= _DIGITS


@dataclass(slots=True)
class Returned:
    """An ordinary answer's header lines as the visitor gets them.

    ``length`` in bytes, None if it came in chunks; ``kind`` is Content-Type.
    """

    lines: list[bytes]
    length: int | None
    kind: bytes


def ordinary_answer(headers: Headers) -> Returned | None:
    """Write the header lines of an ordinary answer, or None if it is none.

    Ordinary is: framed by one length or by chunks alone, every name a token,
    no control character in any value, no Connection that names fields.
    """
    out: list[bytes] = []
    noted = _sorted(headers, _ANSWERED_KINDS, out)
    if noted is None:
        return None
    lengths = [line[1] for kind, line in noted if kind == _LENGTH]
    codings = [line[1] for kind, line in noted if kind == _CODING]
    # Exactly one of the two, and only in its plain form.
    if len(lengths) + len(codings) != 1:
        return None
    if codings and codings[0].lower() != b"chunked":
        return None
    if lengths and not _is_length(lengths[0]):
        return None
    values = b"".join([value for _, value in headers])
    if len(values.translate(None, _FORBIDDEN)) != len(values):
        return None
    types = [line[1] for kind, line in noted if kind == _TYPE]
    return Returned(out, int(lengths[0]) if lengths else None, b",".join(types))


_CONTROLS: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\udc80-\udc9f]")
"""Control characters, and the bytes that an 8-bit terminal takes for some."""


def reason_phrase(text: str) -> bytes:
    """Return a reason phrase without control characters (RFC 9112, 4).

    ``text`` as aiohttp's parser has it: UTF-8, other bytes as surrogates.
    """
    return _CONTROLS.sub("", text).encode("utf-8", "surrogateescape")


# --- Which content coding a client wants (RFC 9110, 12.5.3). ---


def preferred_coding(accepted: str, offered: Sequence[str]) -> str | None:
    """Choose a coding by Accept-Encoding; None for the text as it is.

    Of those that the client likes alike, the first that is offered.
    """
    weights = dict(map(_weighed, accepted.lower().split(",")))
    anything = weights.get("*", 0.0)
    weighed = [(weights.get(coding, anything), coding) for coding in offered]
    weight, coding = max(weighed, key=lambda pair: pair[0])
    return coding if weight > 0 else None


def _weighed(member: str) -> tuple[str, float]:
    coding, _, parameter = member.partition(";")
    name, _, value = parameter.partition("=")
    if name.strip() != "q":
        return coding.strip(), 1.0
    try:
        return coding.strip(), float(value)
    except ValueError:
        # Not understood: this coding is then better not used.
        return coding.strip(), 0.0


def matches(if_none_match: Sequence[str], etag: str) -> bool:
    """Compare If-None-Match weakly, as RFC 9110, 13.1.2 has it."""
    members = [part.strip() for field in if_none_match for part in field.split(",")]
    return any(part.removeprefix("W/") in {etag, "*"} for part in members)
