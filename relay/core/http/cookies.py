"""The click cookie and its signed copy, at the level of header text.

Dub's own ``dub_partner_data`` cookie holds raw JSON, whose quotes and commas
make cookie parsers drop what comes after it, and doubled names are resolved
differently by each parser. So headers are scanned here by the browser's rule:
a semicolon ends a pair, wherever it stands.

Times are epoch milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import lru_cache
from itertools import islice
from typing import Final, Literal
from urllib.parse import unquote_plus

from relay.core import signing

CLICK_COOKIE: Final = "dub_id"
"""The name under which Dub's script, GTM and sites' own code read the click."""

COMPANION_COOKIE: Final = "dub_relay"
"""The relay's own HttpOnly cookie beside it."""

MAX_DAYS: Final = 400
"""Browsers cut a cookie's life to 400 days (RFC 6265bis, 5.5)."""

MAX_LANDING: Final = 200
"""Characters of a landing path that are kept; the rest is of no use to anybody,
and four bytes each, in base64, stay far below a cookie's 4096 bytes."""

Attribution = Literal["last-click", "first-click"]
"""Which of two clicks counts, as ``data-attribution-model`` of Dub's script."""

Storing = Literal["always", "consent", "never"]
"""Whether the server stores a click at a landing."""

_PURPOSE: Final = "dub-relay.companion"
_DAY_S: Final = 86_400

# Dub mints 16 of [0-9A-Za-z]; its own install check plants "test", which must
# not be sent. 64 leaves room for a longer id of tomorrow. A placeholder that nobody
# filled in is none: zeros, undefined, words that say what it should be (CLICK_ID_HERE).
_ID: Final = (
    r"(?!(?:[-_0]+|(?:test)+|undefined|infinity"
    r"|(?:[a-z]*[_-])*(?:id|here|your|placeholder|x+)(?:[_-][a-z]*)*)\W*$)"
    r"([\w-]{8,64})"
)
_CLICK_ID: Final = re.compile(_ID, re.ASCII | re.IGNORECASE)
# Mail programs put blanks, quotes and punctuation around an address.
_WRITTEN_CLICK_ID: Final = re.compile(rf'[ "]*{_ID}\W*', re.ASCII | re.IGNORECASE)
# Any character of a parameter's name may be escaped. Programs that rewrite addresses
# write "&" as "&amp;", and append a parameter as if there was none before.
CLICK_PARAMETER: Final = (
    "".join(f"(?:{char}|%{ord(char):x})" for char in "dub")
    + "(?:_|%5[fF])"
    + "".join(f"(?:{char}|%{ord(char):x})" for char in "id")
    + "="
)
"""The name of the click's parameter as it may stand in an address: an expression that
PCRE, RE2 and Go read alike."""

_ADDRESS: Final = re.compile(f"[?&;]{CLICK_PARAMETER}([^?&;#]*)")

MAX_TRIED: Final = 4
"""Signed click cookies that are tried of one request: a browser holds one for each
Domain of the host, and a stranger may send thousands, at 10 µs each."""

_LABELS: Final = 6
"""Labels of a hostname for whose parents a cookie is cleared."""

# The alphabet of itsdangerous; 3800 leaves the attributes room under 4096.
_SEALED: Final = re.compile(r"[A-Za-z0-9_.-]{1,3800}")
# Underscores are no hostname's by RFC 952, but browsers take such hosts, and
# Dub's script writes their Domain.
_HOSTNAME: Final = re.compile(r"(?:[a-z0-9_-]{1,63}\.)+[a-z0-9_-]{1,63}")
_HOSTS: Final = 256
"""Hosts whose cookie domain is remembered: a site has a few, strangers any."""
_PORT: Final = re.compile(r"[0-9]*")
_MAX_HOSTNAME: Final = 253  # RFC 1035, 2.3.4, without the root's dot


def is_click_id(value: str) -> bool:
    """Whether this can be a click id of Dub's: 8 to 64 of ``[A-Za-z0-9_-]``.

    A placeholder cannot: ``undefined``, zeros, ``CLICK_ID_HERE``.
    """
    return _CLICK_ID.fullmatch(value) is not None


def landing_click(target: str) -> str | None:
    """Return the first click id in a request target, None if there is none.

    The names and values are those that a form has in its address (URL, 5.1), however
    a mail program has mangled it: ``&amp;dub_id=``, ``dub%5Fid=``, ``?x=1?dub_id=``,
    ``;dub_id=``, a blank, a quote, a slash or punctuation behind it.
    """
    for found in _ADDRESS.finditer(target):
        read = _WRITTEN_CLICK_ID.fullmatch(unquote_plus(found[1]))
        if read is not None:
            return read[1]
    return None


def pairs(cookie_headers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Every name and value of all ``Cookie`` headers, in the browser's order.

    A value is all that follows the first "="; if it stands wholly in double
    quotes they are taken off. What has no "=" is no pair. Never raises.

    A semicolon between quotes ends a pair as well: no browser can send it as
    part of a value (RFC 6265bis, 5.6), and a parser that believes in quotes
    lets one odd cookie swallow the click that follows it.
    """
    for header in cookie_headers:
        for pair in header.split(";"):
            name, equals, value = pair.partition("=")
            if equals:
                yield name.strip(" \t"), _unquoted(value.strip(" \t"))


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value


def values(cookie_headers: Iterable[str], name: str) -> list[str]:
    """All values of the cookie with exactly this name, in order."""
    likely = (header for header in cookie_headers if name in header)
    return [value for known, value in pairs(likely) if known == name]


def usable(
    cookie_headers: Iterable[str], name: str, is_usable: Callable[[str], bool]
) -> list[str]:
    """Return the usable values of a cookie, in the browser's order.

    Some servers join the cookies of HTTP/2 by commas instead of semicolons (RFC 9113,
    8.2.3), and a header that came twice. Commas are tried where semicolons show
    nothing: they stand in values, too.
    """
    headers = list(cookie_headers)
    found = [value for value in values(headers, name) if is_usable(value)]
    if found or not any("," in header for header in headers):
        return found
    parts = (part for header in headers for part in header.split(","))
    return [value for value in values(parts, name) if is_usable(value)]


def click_id(cookie_headers: Iterable[str]) -> str | None:
    """Return the newest usable click id of a request's cookies.

    Browsers list cookies of one path in the order of their making (RFC 6265, 5.4).
    """
    found = usable(cookie_headers, CLICK_COOKIE, is_click_id)
    return found[-1] if found else None


def newest_click(clicks: Sequence[str], signed: SignedCookie | None) -> str | None:
    """Return which click of several cookies counts; None if none does.

    The newest that is proven wins: the relay signed it, and a neighbour's subdomain
    cannot have. One that a sign-up has taken counts no more.
    """
    if signed is not None and signed.used:
        clicks = [click for click in clicks if click != signed.click_id]
    elif signed is not None and signed.click_id in clicks:
        return signed.click_id
    return clicks[-1] if clicks else None


@lru_cache(_HOSTS)
def cookie_domain(host: str, configured: str | None = None) -> str | None:
    """The Domain under which the click cookie belongs, or None for host-only.

    As Dub's script: "." and the host without "www."; ``host`` may carry a port.
    None for localhost, IP addresses, single labels (a browser refuses them all)
    and for anything that is no hostname. A ``configured`` domain simply wins.
    """
    if configured:
        return domain_attribute(configured)
    name, _, port = host.partition(":")
    if not _PORT.fullmatch(port):
        return None
    return domain_attribute(name.lower().removeprefix("www."))


@lru_cache(_HOSTS)
def cookie_domains(host: str, configured: str | None = None) -> tuple[str | None, ...]:
    """Return every Domain under which a browser may hold a cookie of this host.

    The one it is written for, that of the host, those of its parents, and None for
    host-only: older settings, and a site's own code, may have written any of them.
    """
    own = cookie_domain(host, configured)
    labels = host.partition(":")[0].lower().rstrip(".").split(".")[-_LABELS:]
    parents = [domain_attribute(".".join(labels[at:])) for at in range(len(labels) - 1)]
    return tuple(dict.fromkeys((own, *filter(None, parents), None)))


def domain_attribute(name: str) -> str | None:
    """A hostname as a Domain attribute that a browser takes (".acme.test").

    None if there is no such: not a hostname, an IP address, a single label,
    localhost. Names beyond ASCII are turned into their IDNA form.
    """
    ascii_name = _ascii(name.lower().removeprefix(".").removesuffix("."))
    if not _HOSTNAME.fullmatch(ascii_name) or len(ascii_name) > _MAX_HOSTNAME:
        return None
    last = ascii_name.rpartition(".")[2]
    # A last label that is a number makes it an IPv4 address (WHATWG URL, 3.5).
    if last.isdigit() or last.startswith("0x") or last == "localhost":
        return None
    return "." + ascii_name


def _ascii(name: str) -> str:
    """The IDNA form of a name, or "" if it has none."""
    if name.isascii():
        return name
    try:
        return name[: _MAX_HOSTNAME + 1].encode("idna").decode()
    except UnicodeError:
        return ""


def write_click(click_id: str, *, domain: str | None, days: int, now: int) -> str:
    """The Set-Cookie value that writes ``dub_id`` just as Dub's script does.

    Readable by scripts, SameSite=Lax, not Secure, the value raw. Raises
    ValueError for an id or a domain that must not stand there: nothing that a
    visitor sends can add an attribute.
    """
    if not is_click_id(click_id):
        raise ValueError("not a click id")
    life = _lifetime(days, now)
    return _set_cookie(CLICK_COOKIE, click_id, domain, *life, "SameSite=Lax")


def clear_click(*domains: str | None) -> tuple[str, ...]:
    """Return the Set-Cookie values that remove ``dub_id``: for each Domain, host-only.

    A browser keeps them apart, and a site's own code may have written any.
    """
    return _clear(CLICK_COOKIE, *domains)


def clear_signed_cookie(*domains: str | None) -> tuple[str, ...]:
    """Return those that remove the signed click cookie, in all its forms as well."""
    return _clear(COMPANION_COOKIE, *domains)


@lru_cache(_HOSTS)
def _clear(name: str, *domains: str | None) -> tuple[str, ...]:
    domains = tuple(dict.fromkeys((*domains, None)))
    gone = (f"Expires={formatdate(0, usegmt=True)}", "Max-Age=0", "SameSite=Lax")
    return tuple(_set_cookie(name, "", each, *gone) for each in domains)


def write_signed_cookie(
    sealed: str, *, domain: str | None, days: int, now: int, secure: bool
) -> str:
    """Return the Set-Cookie value of the signed click cookie, hidden from scripts.

    ``sealed`` comes from :func:`seal`; ValueError if it cannot have.
    """
    if not _SEALED.fullmatch(sealed):
        raise ValueError("not a sealed click cookie")
    flags = ("SameSite=Lax", "HttpOnly", *(("Secure",) if secure else ()))
    life = _lifetime(days, now)
    return _set_cookie(COMPANION_COOKIE, sealed, domain, *life, *flags)


def _lifetime(days: int, now: int) -> tuple[str, str]:
    """Expires and Max-Age of a cookie that lives so many days from now."""
    if days < 1:
        raise ValueError("a cookie lives at least one day")
    seconds = min(days, MAX_DAYS) * _DAY_S
    expires = formatdate(now // 1000 + seconds, usegmt=True)
    return f"Expires={expires}", f"Max-Age={seconds}"


def _set_cookie(name: str, value: str, domain: str | None, *attributes: str) -> str:
    parts = [f"{name}={value}"]
    if domain is not None:
        checked = domain_attribute(domain)
        if checked is None:
            raise ValueError("not a cookie domain")
        parts.append(f"Domain={checked}")
    return "; ".join([*parts, "Path=/", *attributes])


@dataclass(frozen=True, slots=True)
class SignedCookie:
    """What the relay itself remembers of a visitor's click.

    ``first_seen`` and ``last_seen`` are epoch milliseconds; ``landing`` is the
    path of the first page, without its query. ``used``: a sign-up has taken
    this click, so nothing may restore it. ``before`` is the first click that others
    have replaced, for a page whose script lets the first one count.
    """

    click_id: str
    first_seen: int
    last_seen: int
    landing: str
    used: bool = False
    before: str | None = None


def landed(
    previous: SignedCookie | None,
    click_id: str,
    now: int,
    landing: str,
    attribution: Attribution = "last-click",
) -> SignedCookie:
    """The signed click cookie after a visitor has landed with a click id.

    The same click again keeps its first sight and whether it was used. Another
    click replaces it, unless the first click counts and is still unused.
    """
    if previous is not None:
        kept = attribution == "first-click" and not previous.used
        if kept or previous.click_id == click_id:
            return replace(previous, last_seen=now)
    before = None
    if previous is not None and not previous.used:
        before = previous.before or previous.click_id
    return SignedCookie(click_id, now, now, _landing_path(landing), before=before)


def first_of(signed_cookie: SignedCookie, now: int) -> SignedCookie:
    """The signed click cookie of a visitor whose first click counts."""
    if signed_cookie.before is None or signed_cookie.used:
        return signed_cookie
    first = signed_cookie.before
    return replace(signed_cookie, click_id=first, last_seen=now, before=None)


def use(signed_cookie: SignedCookie, now: int) -> SignedCookie:
    """The signed click cookie after a sign-up has taken its click."""
    return replace(signed_cookie, last_seen=now, used=True)


def _landing_path(target: str) -> str:
    path = re.split(r"[?#]", target, maxsplit=1)[0][:MAX_LANDING]
    return path.encode("utf-8", "replace").decode()


def seal(signed_cookie: SignedCookie, secrets: Sequence[str], now: int) -> str:
    """Sign a click: a cookie value that only a holder of a secret can make."""
    content: dict[str, str | int | bool] = {
        "c": signed_cookie.click_id,
        "f": signed_cookie.first_seen,
        "l": signed_cookie.last_seen,
        "p": _landing_path(signed_cookie.landing),
        "u": signed_cookie.used,
    }
    if signed_cookie.before is not None:
        content["b"] = signed_cookie.before
    return signing.sign_json(content, secrets, _PURPOSE, now)


def is_sealed(value: str) -> bool:
    """Whether this has the form of what :func:`seal` returns; that proves nothing."""
    return _SEALED.fullmatch(value) is not None


def newest_signed(
    sealed: Iterable[str], secrets: Sequence[str], now: int, max_age_s: int
) -> SignedCookie | None:
    """Return the genuine one that was seen last; only :data:`MAX_TRIED` are tried."""
    tried = islice(dict.fromkeys(sealed), MAX_TRIED)
    found = [unseal(value, secrets, now, max_age_s) for value in tried]
    genuine = [one for one in found if one is not None]
    return max(genuine, key=lambda one: one.last_seen, default=None)


def unseal(
    value: str, secrets: Sequence[str], now: int, max_age_s: int
) -> SignedCookie | None:
    """Read a sealed signed click cookie, or None for anything wrong with it.

    Wrong is: not ours, altered, older than ``max_age_s`` seconds, from the
    future, or without a usable click id.
    """
    try:
        content = signing.verify_json(
            value, secrets, _PURPOSE, now, max_age_s=max_age_s
        )
    except signing.BadSignatureError:
        return None
    match content:
        case {
            "c": str(click),
            "f": int(first),
            "l": int(last),
            "p": str(landing),
            "u": bool(used),
        } if is_click_id(click):
            before = content.get("b")
            known = before if isinstance(before, str) and is_click_id(before) else None
            return SignedCookie(click, first, last, landing, used, known)
    return None
