"""What a proxy must and must not do with headers and request targets.

Headers are pairs of bytes as aiohttp's ``raw_headers`` gives them: order, case
and repeats are kept, since a site may depend on each.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final

Line = tuple[bytes, bytes]
"""One header: name and value."""

Headers = Sequence[Line]
"""Header lines in their order, as they came."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNKNOWN: Final = "unknown"
"""The visitor's address when there is none, as RFC 7239, 6.2 writes it."""

_ADDRESSES: Final = 4096
"""Addresses that are remembered once read: each is needed several times for one
request, and reading one takes longer than all the rest of its headers."""

LONGEST_ADDRESS: Final = 128
"""Characters of an address with brackets, port and zone; longer text is none, and is
not remembered."""

MAX_HOPS: Final = 32
"""Members of X-Forwarded-For that are looked at, from the right: more proxies stand in
no row, and each member costs."""

_X_FORWARDED: Final = frozenset(
    {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
)

# A pair of an element of Forwarded, and what ends it; an element may be empty.
_PAIR: Final = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~\w-]+)=("(?:[^"\\]|\\.)*"|[^ \t;,"]*)[ \t]*(;|,|$)""",
    re.ASCII,
)
_ESCAPED: Final = re.compile(r"\\(.)")

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        # Meant for the next proxy, which the site is not.
        b"proxy-authorization",
        # Not a standard field, but clients send it (RFC 9110, 7.6.1).
        b"proxy-connection",
        # No field at all: CGI would read it as HTTP_PROXY (httpoxy, CVE-2016-5385).
        b"proxy",
        b"te",
        # Trailers are never passed on.
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields of one connection, never passed on (RFC 9110, 7.6.1), in lower case."""

# A visitor may name any field in Connection. RFC 9110, 7.6.1 forbids naming one
# that is meant for all recipients; obeying all the same would let a visitor
# take away what the site decides by: who asks, from where, and the framing.
_PROTECTED: Final = frozenset(
    {
        b"authorization",
        b"cache-control",
        b"cookie",
        b"forwarded",
        b"host",
        b"origin",
        b"referer",
        b"set-cookie",
        b"x-real-ip",
    }
)
_PROTECTED_PREFIXES: Final = (b"content-", b"sec-", b"x-forwarded-")

_SET_HERE: Final = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
)

_HOST: Final = re.compile(
    r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_NOT_VISIBLE: Final = re.compile(r"[^!-~]")


def without_hop_by_hop(headers: Headers) -> list[Line]:
    """The headers to pass on, in either direction (RFC 9110, 7.6.1).

    Left out are ``Connection``, the fields that it names, and
    :data:`HOP_BY_HOP`. A field that concerns the site is kept even if named:
    ``Connection: cookie`` must not log anybody out.
    """
    named = {name.lower().encode("latin-1") for name in _members(headers, "connection")}
    dropped = HOP_BY_HOP | {name for name in named if not _is_protected(name)}
    return [line for line in headers if line[0].lower() not in dropped]


def _is_protected(name: bytes) -> bool:
    return name in _PROTECTED or name.startswith(_PROTECTED_PREFIXES)


def without_aliases(
    headers: Headers, kept: Collection[bytes] = frozenset()
) -> list[Line]:
    """Request headers without names that hold an underscore, but those ``kept``.

    CGI, WSGI and PHP read ``X_Forwarded_For`` and ``X-Forwarded-For`` as one.
    ``kept`` is in lower case.
    """
    return [line for line in headers if b"_" not in line[0] or line[0].lower() in kept]


def is_alias(name: str) -> bool:
    """Whether a name with underscores may pose as a field that a server acts on."""
    read_as = name.lower().replace("_", "-").encode()
    return read_as in HOP_BY_HOP or _is_protected(read_as)


def _members(headers: Headers, name: str) -> list[str]:
    """Members of a comma-separated field, over all its lines.

    As latin-1, so that every byte can go out as it came in.
    """
    wanted = name.encode()
    joined = b",".join(value for key, value in headers if key.lower() == wanted)
    stripped = (part.strip(" \t") for part in joined.decode("latin-1").split(","))
    return [part for part in stripped if part]


def _last_members(headers: Headers, name: str) -> list[str]:
    """The last :data:`MAX_HOPS` of :func:`_members`, in order."""
    wanted = name.encode()
    joined = b",".join(value for key, value in headers if key.lower() == wanted)
    parts = joined.decode("latin-1").rsplit(",", MAX_HOPS)[-MAX_HOPS:]
    return [part for each in parts if (part := each.strip(" \t"))]


def client(
    headers: Headers,
    peer: str | None,
    trusted: Sequence[Network],
    *,
    unix_trusted: bool = False,
) -> str:
    """The visitor's address, or :data:`UNKNOWN`.

    It is the peer's, unless the peer is a trusted proxy; then
    ``X-Forwarded-For`` is walked from the right, past trusted proxies, to the
    first address that is none. ``peer`` is None on a unix socket, where only
    ``unix_trusted`` makes it trusted. What stands further left is hearsay.
    """
    return _walk(headers, peer, trusted, unix_trusted=unix_trusted)[0]


def _walk(
    headers: Headers,
    peer: str | None,
    trusted: Sequence[Network],
    *,
    unix_trusted: bool,
) -> tuple[str, int]:
    """The visitor's address, and how many trusted proxies have vouched for it."""
    address = _address(peer or "")
    nearest = UNKNOWN if address is None else str(address)
    if not is_believed(peer, trusted, unix_trusted=unix_trusted):
        return nearest, 0
    hops = 1
    for text in reversed(_chain(headers)):
        address = _address(text)
        if address is None:
            break  # nobody can say who is behind this one
        nearest = str(address)
        if not _is_trusted(address, trusted):
            break
        hops += 1
    return nearest, hops


def is_believed(
    peer: str | None, trusted: Sequence[Network], *, unix_trusted: bool = False
) -> bool:
    """Whether a peer may say who the visitor is. Who has no address may not."""
    if peer is None:
        return unix_trusted
    address = _address(peer)
    return address is not None and _is_trusted(address, trusted)


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)


def _address(text: str) -> Address | None:
    """An IP address; a port, brackets and a zone are taken off."""
    return _read_address(text) if len(text) <= LONGEST_ADDRESS else None


@lru_cache(_ADDRESSES)
def _read_address(text: str) -> Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket shows an IPv4 peer as ::ffff:192.0.2.1.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def visitor_scheme_host(
    headers: Headers,
    *,
    peer: str | None,
    scheme: str,
    host: str,
    trusted: Sequence[Network],
    unix_trusted: bool = False,
) -> tuple[str, str]:
    """Scheme and host as the visitor's browser has them in its address bar.

    ``scheme`` and ``host`` are those of the request that reached the relay;
    trusted proxies may correct them by ``X-Forwarded-Proto`` and ``-Host``, or by
    ``Forwarded`` where they send nothing else.
    """
    _, hops = _walk(headers, peer, trusted, unix_trusted=unix_trusted)
    told_scheme = _vouched(headers, "proto", hops).lower()
    told_host = _vouched(headers, "host", hops)
    return (
        told_scheme if told_scheme in {"http", "https"} else scheme,
        told_host if is_host(told_host) else host,
    )


def _vouched(headers: Headers, name: str, hops: int) -> str:
    """The ``proto`` or ``host`` that the outermost trusted proxy has written, or "".

    Each proxy in a chain may append one; what is further left a visitor wrote.
    """
    if not hops:
        return ""
    if _is_forwarded_alone(headers):
        vouched = _elements(headers)[-hops:]
        return next((each[name] for each in vouched if name in each), "")
    members = _last_members(headers, f"x-forwarded-{name}")
    return members[-min(hops, len(members))] if members else ""


def _chain(headers: Headers) -> list[str]:
    """Return the last addresses of those that a request came from, the nearest last."""
    if _is_forwarded_alone(headers):
        return [each.get("for", UNKNOWN) for each in _elements(headers)]
    return _last_members(headers, "x-forwarded-for")


def _is_forwarded_alone(headers: Headers) -> bool:
    names = {line[0].lower() for line in headers}
    return b"forwarded" in names and not names & _X_FORWARDED


def _elements(headers: Headers) -> list[dict[str, str]]:
    """Read ``Forwarded`` (RFC 7239, 4): its last elements; none if one is malformed."""
    joined = b",".join(value for name, value in headers if name.lower() == b"forwarded")
    text = joined.decode("latin-1").strip(" \t")
    elements: list[dict[str, str]] = [{}]
    at = 0
    while at < len(text):
        found = _PAIR.match(text, at)
        if found is None:
            return []
        name, value, end = found.groups()
        if value.startswith('"'):
            value = _ESCAPED.sub(r"\1", value[1:-1])
        elements[-1].setdefault(name.lower(), value)
        if end == ",":
            elements.append({})
        at = found.end()
    return elements[-MAX_HOPS:]


def is_host(text: str) -> bool:
    """Whether this can be a Host: a name or an address, and perhaps a port."""
    return _HOST.fullmatch(text) is not None


def with_forwarded(
    headers: Headers,
    *,
    peer: str | None,
    scheme: str,
    host: str,
    trusted: Sequence[Network],
    unix_trusted: bool = False,
) -> list[Line]:
    """The request's headers, with what :func:`forwarded` sets in place of theirs.

    From a peer that is not trusted, no other ``X-Forwarded-*`` and no
    ``X-Real-IP`` is passed on either.
    """
    believed = is_believed(peer, trusted, unix_trusted=unix_trusted)
    kept = [
        line
        for line in headers
        if (name := line[0].lower()) not in _SET_HERE
        and (believed or not (name.startswith(b"x-forwarded-") or name == b"x-real-ip"))
    ]
    return kept + forwarded(
        headers,
        peer=peer,
        scheme=scheme,
        host=host,
        trusted=trusted,
        unix_trusted=unix_trusted,
    )


def forwarded(
    headers: Headers,
    *,
    peer: str | None,
    scheme: str,
    host: str,
    trusted: Sequence[Network],
    unix_trusted: bool = False,
) -> list[Line]:
    """``X-Forwarded-For``, ``-Proto``, ``-Host`` and ``Forwarded`` for the site.

    A trusted peer's values are kept and the peer is appended; anybody else's
    are replaced. Drop the incoming ones (:func:`with_forwarded` does): where
    nothing is known, as with a unix peer, nothing is set. A host that
    :func:`is_host` refuses is left out.
    """
    address = _address(peer or "")
    believed = is_believed(peer, trusted, unix_trusted=unix_trusted)
    said = _chain(headers) if believed else []
    earlier = _last_members(headers, "forwarded") if believed else []
    chain = said + ([] if address is None else [str(address)])
    seen_scheme, seen_host = visitor_scheme_host(
        headers,
        peer=peer,
        scheme=scheme,
        host=host,
        trusted=trusted,
        unix_trusted=unix_trusted,
    )
    if earlier:
        elements = [*earlier, _element(str(address or UNKNOWN), host, scheme)]
    else:
        first, *others = chain or [UNKNOWN]
        elements = [
            _element(first, seen_host, seen_scheme),
            *(f"for={_node(text)}" for text in others),
        ]
    lines = [
        ("X-Forwarded-For", ", ".join(chain)),
        ("X-Forwarded-Proto", seen_scheme),
        ("X-Forwarded-Host", seen_host if is_host(seen_host) else ""),
        ("Forwarded", ", ".join(elements)),
    ]
    return [(name.encode(), text.encode("latin-1")) for name, text in lines if text]


def _element(node: str, host: str, scheme: str) -> str:
    """One proxy's element of ``Forwarded`` (RFC 7239, 4)."""
    parts = [f"for={_node(node)}"]
    if is_host(host):
        parts.append(f"host={_quoted(host)}")
    return ";".join([*parts, f"proto={scheme}"])


def _node(text: str) -> str:
    """An address as RFC 7239, 6 writes it: IPv6 in brackets and quotes."""
    address = _address(text)
    if address is None:
        return UNKNOWN
    return f'"[{address}]"' if address.version == 6 else str(address)


def _quoted(text: str) -> str:
    return text if _TOKEN.fullmatch(text) else f'"{text}"'


def refuse_target(target: str, method: str = "GET") -> str | None:
    """Why a request target must not reach the site, or None if it may.

    aiohttp's parser lets all of these through, and servers behind disagree on
    what they mean. Dot segments, doubled slashes further on and backslashes
    pass: they are the site's business, byte for byte.
    """
    if target == "*" and method == "OPTIONS":
        return None  # asks about the server as a whole (RFC 9112, 3.2.4)
    faults = (
        # It could name another host, which would win over Host (RFC 9112, 3.2.2).
        (not target.startswith("/"), "the target must be a path"),
        (target.startswith("//"), "the target could be read as another host"),
        (_NOT_VISIBLE.search(target), "the target must be percent-encoded"),
        ("#" in target, "the target holds a fragment"),
        ("%00" in target, "the target holds a NUL"),
    )
    return next((reason for found, reason in faults if found), None)
