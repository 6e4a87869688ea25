"""Parsers of one setting's value: of text (environment) or of TOML's own types.

Every parser returns the typed value, or raises BadValueError, which says behind the
setting's name what is wrong, and what to write instead. What was written is never
quoted: a key set under the wrong name would land in a log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from relay.core.http.consent import parse_consent
from relay.core.http.headers import is_alias, is_host

T = TypeVar("T")
Word = TypeVar("Word", bound=str)
Network = IPv4Network | IPv6Network

MAX_SOCKET_PATH: Final = 107
"""Bytes in a Unix socket's path: Linux keeps 108, the final NUL among them."""

LONGEST_S: Final = 366 * 86_400.0
"""A year bounds every duration; longer is a mistake of units."""

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?(ms|s|m|h|d)?", re.ASCII)
_FLAGS: Final = {"on": True, "true": True, "1": True} | {
    "off": False,
    "false": False,
    "0": False,
}
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
_UNDERSCORED: Final = re.compile(r"(?=.*_)[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_DOMAIN: Final = re.compile(r"\.?[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*")
_WEB_HOST: Final = re.compile(r"(?:\*\.)?(?:[A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63}")
_PUBLISHABLE: Final = re.compile(r"dub_pk_[A-Za-z0-9_-]{16,64}")
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")


class BadValueError(ValueError):
    """What was written is not a value of this setting; the message says why."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen: host and port (0: any free one), or a Unix socket."""

    host: str = ""
    port: int = 0
    unix: str | None = None

    def __str__(self) -> str:
        if self.unix is not None:
            return f"unix:{self.unix}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def text(raw: object) -> str:
    """Accept a text without the blanks around it."""
    return secret_text(raw).strip()


def secret_text(raw: object) -> str:
    """Accept a text as it is: blanks may be a part of a password."""
    if not isinstance(raw, str):
        raise BadValueError("not a text. Put it in quotes.")
    return raw


def event_name(raw: object) -> str:
    """Accept the name of an event at Dub."""
    if not 1 <= len(value := text(raw)) <= 255:
        raise BadValueError("empty or too long. Use 1 to 255 characters.")
    return value


def token(raw: object) -> str:
    """Accept a bearer token: visible ASCII, all that a header may carry."""
    value = secret_text(raw)
    if not all("!" <= character <= "~" for character in value):
        raise BadValueError(
            "not one word of ASCII characters. Take out blanks and the like."
        )
    return value


def tokens(raw: object) -> tuple[str, ...]:
    """Accept bearer tokens, with commas between."""
    found = tuple(token(part.strip()) for part in comma_list(raw).split(","))
    if not all(found):
        raise BadValueError("an item of the list is empty. Remove the extra comma.")
    return found


def publishable_keys(raw: object) -> tuple[str, ...]:
    """Accept Dub's publishable keys, with commas between."""
    found = tokens(raw)
    if not all(map(_PUBLISHABLE.fullmatch, found)):
        raise BadValueError("not a publishable key. It begins with dub_pk_.")
    return found


def hostnames(raw: object) -> tuple[str, ...]:
    """Accept hosts of web pages, ``*.`` for those below one, as Dub compares them."""
    found = tuple(part.strip().lower() for part in comma_list(raw).split(","))
    if not all(map(_WEB_HOST.fullmatch, found)):
        raise BadValueError(
            "not a list of hosts. Use names such as example.com, *.example.com."
        )
    return tuple(host.removeprefix("www.") for host in found)


def comma_list(raw: object) -> str:
    """Accept a comma-separated text, or the same as a TOML array of texts."""
    if isinstance(raw, list) and all(isinstance(item, str) for item in raw):
        return ",".join(raw)
    if not isinstance(raw, str):
        raise BadValueError("not a list. Use a text with commas, or an array of texts.")
    return raw


def secrets_by(
    parse: Callable[[str], tuple[T, ...]],
) -> Callable[[object], tuple[T, ...]]:
    """Make a parser of a list of secrets from the core's own."""
    return lambda raw: parse(comma_list(raw))


def choice(*words: Word) -> Callable[[object], Word]:
    """Make a parser that accepts one of a few words."""

    def parse(raw: object) -> Word:
        value = text(raw)
        for word in words:
            if value == word:
                return word
        raise BadValueError(f"not a known choice. Use {_either(words)}.")

    return parse


def whole(low: int, high: int) -> Callable[[object], int]:
    """Make a parser of a whole number from low to high."""

    def parse(raw: object) -> int:
        written = raw.strip() if isinstance(raw, str) else raw
        if isinstance(written, str) and re.fullmatch(r"-?[0-9]{1,12}", written):
            written = int(written)
        # bool is an int to Python, but true is no number to a person.
        if not isinstance(written, int) or isinstance(written, bool):
            raise BadValueError(f"not a whole number. Use one from {low} to {high}.")
        if not low <= written <= high:
            raise BadValueError(
                f"out of range. Use a whole number from {low} to {high}."
            )
        return written

    return parse


def duration(raw: object) -> float:
    """Accept seconds as a number, or a text such as 500ms, 5s, 30m, 72h, 7d."""
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        seconds = float(raw)
    elif isinstance(raw, str) and (found := _DURATION.fullmatch(raw.strip())):
        seconds = float(found[1]) * _UNITS[found[2] or "s"]
    else:
        raise BadValueError("not a duration. Use seconds, or 500ms, 5s, 30m, 72h, 7d.")
    # Written so that NaN, which TOML has, is refused as well.
    if not 0 < seconds <= LONGEST_S:
        raise BadValueError("out of range. Use more than 0 and at most a year.")
    return seconds


def consent_cookie(raw: object) -> str:
    """Accept what :func:`relay.core.http.consent.parse_consent` reads."""
    value = text(raw)
    try:
        parse_consent(value)
    except ValueError as error:
        raise BadValueError(f"{error}.") from None
    return value


def required(raw: object) -> bool:
    """Accept the word required."""
    if text(raw) != "required":
        raise BadValueError("is required, or not set.")
    return True


def duration_or_never(raw: object) -> float:
    """Accept a duration, or 0 for never."""
    if raw in (0, "0", "0s"):
        return 0.0
    return duration(raw)


def duration_up_to(limit_s: float) -> Callable[[object], float]:
    """Make a parser of a duration with a limit in seconds."""

    def parse(raw: object) -> float:
        if (seconds := duration(raw)) > limit_s:
            raise BadValueError(f"too long. Use at most {limit_s:g} s.")
        return seconds

    return parse


def listen(raw: object) -> Listen:
    """Accept host:port, [IPv6]:port or unix:/path."""
    value = text(raw)
    if value.startswith("unix:"):
        return Listen(unix=_socket_path(value))
    host, _, port = value.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise BadValueError("not an address. Use host:port, [IPv6]:port or unix:/path.")
    if host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1]):
        return Listen(host[1:-1], int(port))
    if not _HOST.fullmatch(host):
        raise BadValueError("no host before the port. Use such as 127.0.0.1:8080.")
    return Listen(host, int(port))


def prefix(raw: object) -> str:
    """Accept a path to live under, without the slash at its end."""
    value = text(raw).rstrip("/")
    if not _PREFIX.fullmatch(value):
        raise BadValueError('not a plain path. Use such as /_dub, and not "/" alone.')
    return value


def upstream(raw: object) -> str:
    """Accept the site's origin, http(s)://host[:port] or unix:/path."""
    value = text(raw)
    if value.startswith("unix:"):
        return f"unix:{_socket_path(value)}"
    parts = _http_url(value, "http://host:port or unix:/path")
    if parts.path not in ("", "/"):
        raise BadValueError(
            "a URL with a path. Use the origin alone, http://host:port."
        )
    return f"{parts.scheme}://{parts.netloc}"


def upstreams(raw: object) -> tuple[str, ...]:
    """Accept the origins of a site's instances, with commas or as a TOML array."""
    found = tuple(upstream(item) for item in _items(comma_list(raw)))
    if not found:
        raise BadValueError("an empty list. Use http://host:port or unix:/path.")
    return found


def host(raw: object) -> str:
    """Accept a host as of a URL, perhaps with a port."""
    value = text(raw)
    if not is_host(value):
        raise BadValueError(
            "not a host. Use such as my-app.vercel.app, without https:// and path."
        )
    return value


def underscore_headers(raw: object) -> tuple[str, ...]:
    """Accept header names with an underscore, with commas or as a TOML array."""
    return tuple(map(_underscore_header, _items(comma_list(raw))))


def _underscore_header(name: str) -> str:
    if not _UNDERSCORED.fullmatch(name):
        raise BadValueError(
            "not the name of a header with an underscore; others pass as they are."
        )
    if is_alias(name):
        raise BadValueError(
            "a name that sites read as a field of their own, such as X-Forwarded-For:"
            " any visitor could send it. Remove it."
        )
    return name


def flag(raw: object) -> bool:
    """Accept true or false, in the environment also on or off."""
    value = _FLAGS.get(raw.strip().lower()) if isinstance(raw, str) else raw
    if not isinstance(value, bool):
        raise BadValueError("neither yes nor no. Use on or off.")
    return value


def api_url(raw: object) -> str:
    """Accept an http(s) URL, a path allowed, without the slash at its end."""
    return _http_url(text(raw), "such as https://api.dub.co").geturl().rstrip("/")


def front_url(raw: object) -> str:
    """Accept the http(s) address of a server, without a path."""
    use = "such as https://www.example.com"
    parts = _http_url(text(raw), use)
    if parts.path not in {"", "/"}:
        raise BadValueError(f"not an address without a path. Use {use}.")
    return f"{parts.scheme}://{parts.netloc}/"


def webhook_url(raw: object) -> str:
    """Accept an http(s) URL to post to; its path and query may be what guards it."""
    use = "such as https://ops.example.com/relay"
    return _http_url(text(raw), use, query=True).geturl()


def database(raw: object) -> str:
    """Accept sqlite:///file, sqlite:////absolute/file or postgresql://..."""
    value = text(raw)
    if value.startswith("sqlite:///") and not _is_memory(value):
        return value
    if value.startswith(("postgresql://", "postgres://")) and _parts(value):
        return value
    raise BadValueError(
        "not a database. Use sqlite:///relay.db or postgresql://user@host/name."
    )


def cookie_domain(raw: object) -> str:
    """Accept a cookie's Domain, such as .example.com, in lower case."""
    value = text(raw)
    if not _DOMAIN.fullmatch(value):
        raise BadValueError("not a domain. Use such as .example.com.")
    return value.lower()


def header_name(raw: object) -> str:
    """Read the name of a header field (RFC 9110, 5.1)."""
    name = text(raw)
    if not re.fullmatch(r"[!#$%&'*+.^`|~0-9A-Za-z-]+", name):
        raise BadValueError("not the name of a header. Use such as X-Forwarded-User.")
    return name


def networks(raw: object) -> tuple[Network, ...]:
    """Accept CIDRs and single addresses, with commas or as a TOML array."""
    try:
        return tuple(ip_network(item) for item in _items(comma_list(raw)))
    except BadValueError:
        raise
    except ValueError as error:
        # ip_network's own words quote what was written.
        raise BadValueError(
            "not a list of CIDRs. Use such as 10.0.0.0/8, without host bits set."
        ) from error


def masked_url(url: object) -> str:
    """Show a database's URL without its password and its query."""
    parts = urlsplit(str(url))
    if parts.scheme == "sqlite":
        return str(url)
    user, _, host = parts.netloc.rpartition("@")
    shown = f"{user.partition(':')[0]}:***@" if ":" in user else f"{user}@"
    query = "?***" if parts.query else ""
    return f"{parts.scheme}://{shown if user else ''}{host}{parts.path}{query}"


def _items(value: str) -> Iterable[str]:
    return filter(None, (item.strip() for item in value.split(",")))


def _either(words: tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + f" or {words[-1]}"


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_memory(url: str) -> bool:
    """Refuse a database that would be lost with the process, or has no name."""
    return url in ("sqlite:///", "sqlite:///:memory:") or url.endswith("/")


def _socket_path(value: str) -> str:
    path = value.removeprefix("unix:")
    if not path.startswith("/") or len(path.encode()) > MAX_SOCKET_PATH:
        raise BadValueError(
            f"not a socket. Use unix: and an absolute path of {MAX_SOCKET_PATH} bytes"
            " at most."
        )
    return path


def _parts(value: str) -> SplitResult | None:
    """Split a URL; None where it has blanks, or a port that is none."""
    if any(character <= " " or character == "\x7f" for character in value):
        return None
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return None
    return None if port == 0 else parts


def _http_url(value: str, use: str, *, query: bool = False) -> SplitResult:
    parts = _parts(value)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadValueError(f"not a URL. Use {use}.")
    if "@" in parts.netloc or parts.fragment or (parts.query and not query):
        extra = "user, password" + ("" if query else ", query")
        raise BadValueError(f"a URL with {extra} or fragment. Take them out.")
    return parts


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite URL, None for any other database."""
    prefix = "sqlite:///"
    return Path(url.removeprefix(prefix)) if url.startswith(prefix) else None
