"""Serves the snippet: ``script.js`` and the seven other names of Dub's.

The built files are in ``static/snippet/dist``. They get the relay's settings
and are compressed once, when the relay starts. Each stands at two addresses:
the stable name, and one that holds a hash of its text and never changes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Final

import brotli  # type: ignore[import-untyped]  # ships no types
from aiohttp import web

from relay.config.settings import Settings
from relay.core.http.cookies import Attribution
from relay.core.http.forwarding import matches, preferred_coding
from relay.core.resources import static_dir
from relay.http.raw_responses import FixedAnswer

EXTENSIONS: Final = ("site-visit", "outbound-domains", "conversion-tracking")
"""Dub's extensions in the order in which its file names list them."""

NAMES: Final = tuple(
    ".".join(("script", *chosen, "js"))
    for size in range(len(EXTENSIONS) + 1)
    for chosen in combinations(EXTENSIONS, size)
)
"""The eight file names: one for each subset of the extensions."""

EXTRAS: Final = "script.extras.js"
"""What a script fetches from beside it where a tag asks for more: it needs
no settings. The address never changes, so that a page of any age finds it."""

TOKEN: Final = "__DUB_RELAY_DEFAULTS__"  # noqa: S105 - a placeholder, no secret
"""Stands once in each built file, where an array of settings is wanted."""

STABLE: Final = "public, max-age=3600"
"""The name carries no version: an hour is how long an old text may live on."""

IMMUTABLE: Final = "public, max-age=31536000, immutable"
"""A year, the most that RFC 9111's predecessor allowed; the text cannot change."""

CODINGS: Final = ("br", "gzip")
"""What is ready, the shortest first."""

WINDOW_BITS: Final = 16
"""Of brotli: 64 KiB, for files of ten. Its usual 4 MiB are memory that stays."""

HASH_DIGITS: Final = 16
"""64 bits of SHA-384: nobody needs to fear a chance twin of their own script;
what guards against a made one is the integrity attribute."""

_CACHED_HEADER: Final = 256
"""Characters of an Accept-Encoding worth remembering; browsers send some 25."""


KEPT_ENCODINGS: Final = 32
"""Texts whose compressed forms are kept. Compressing all of them takes 0.2 s, which a
program that makes several relays, as the tests do, need not spend for each."""


class BrokenSnippetError(Exception):
    """A built file of the snippet is missing or holds no place for settings."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One script in one content coding, and the two answers there are."""

    etag: str
    whole: FixedAnswer
    unchanged: FixedAnswer


@dataclass(frozen=True, slots=True)
class Script:
    """One variant's text, by its hash and the integrity value of a tag."""

    name: str
    text: bytes

    @property
    def hashed_name(self) -> str:
        """The name under which exactly this text is served, or nothing."""
        digits = hashlib.sha384(self.text).hexdigest()[:HASH_DIGITS]
        return f"{self.name.removesuffix('js')}{digits}.js"

    @property
    def integrity(self) -> str:
        """The value of a script tag's integrity attribute (W3C SRI)."""
        return f"sha384-{b64encode(hashlib.sha384(self.text).digest()).decode()}"


class Snippet:
    """All variants, ready to be sent.

    The settings become the script's defaults, so that the cookie it writes is
    the very one that the relay's server writes: another Domain would make two.
    Raises BrokenSnippetError.
    """

    def __init__(
        self,
        *,
        prefix: str = "/_dub",
        cookie_domain: str | None = None,
        cookie_days: int = 90,
        attribution: Attribution = "last-click",
        fixed: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        sources = folder or static_dir() / "snippet" / "dist"
        # As build.mjs takes them. "": by the visited host, as Dub's script does.
        defaults = (cookie_domain or "", cookie_days, attribution, prefix, fixed or {})
        self._prefix = prefix
        self._scripts = {
            name: Script(name, _with_defaults(_read(sources / name), name, defaults))
            for name in NAMES
        }
        self._served = dict(_served(self._scripts.values()))
        extras = Script(EXTRAS, _read(sources / EXTRAS).encode())
        self._served[EXTRAS] = _answers(_encodings(extras.text), STABLE)
        self.extras_integrity: Final = extras.integrity

    @classmethod
    def of(cls, settings: Settings) -> Snippet:
        """Make the snippet of a relay with these settings."""
        return cls(
            prefix=settings.prefix,
            cookie_domain=settings.cookie_domain,
            cookie_days=settings.cookie_days,
            attribution=settings.attribution,
            fixed=dict(_fixed(settings)),
        )

    @property
    def names(self) -> Sequence[str]:
        """All file names that are served, below the prefix."""
        return tuple(self._served)

    def tag(self, name: str = NAMES[0]) -> str:
        """Write the script tag with the unchanging address and its integrity."""
        script = self._scripts[name]
        return (
            f'<script defer src="{self._prefix}/{script.hashed_name}"'
            f' integrity="{script.integrity}" crossorigin="anonymous"></script>'
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer GET and HEAD for a script; the file name ends the path."""
        codings = self._served.get(request.path.rpartition("/")[2])
        if codings is None:
            raise web.HTTPNotFound
        headers = request.headers
        chosen = codings[_chosen_coding(headers.get("Accept-Encoding", ""))]
        if "If-None-Match" in headers and matches(
            headers.getall("If-None-Match"), chosen.etag
        ):
            return chosen.unchanged.to(request)
        return chosen.whole.to(request)


def _fixed(settings: Settings) -> Iterator[tuple[str, str]]:
    """Return the options that no tag changes, as a tag's dataset has them."""
    if settings.browser_consent or settings.cookie_landing == "consent":
        yield "consent", "required"
        if settings.cookie_consent is not None:
            yield "consentCookie", settings.cookie_consent
    if settings.cookie_gpc:
        yield "gpc", ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BrokenSnippetError(f"{path} cannot be read: {error.strerror}") from error


def _with_defaults(text: str, name: str, defaults: Sequence[object]) -> bytes:
    """Put the settings into a built file."""
    if text.count(TOKEN) != 1:
        raise BrokenSnippetError(f"{name} must hold {TOKEN} exactly once")
    # JSON in ASCII is JavaScript, too.
    return text.replace(TOKEN, json.dumps(defaults, separators=(",", ":"))).encode()


def _served(
    scripts: Iterable[Script],
) -> Iterator[tuple[str, Mapping[str | None, Encoded]]]:
    for script in scripts:
        bodies = _encodings(script.text)
        yield script.name, _answers(bodies, STABLE, script.hashed_name)
        yield script.hashed_name, _answers(bodies, IMMUTABLE)


@lru_cache(maxsize=KEPT_ENCODINGS)
def _encodings(text: bytes) -> Mapping[str | None, bytes]:
    return {
        "br": brotli.compress(
            text, mode=brotli.MODE_TEXT, quality=11, lgwin=WINDOW_BITS
        ),
        # mtime 0: the same text gives the same bytes on every relay.
        "gzip": gzip.compress(text, 9, mtime=0),
        None: text,
    }


def _answers(
    bodies: Mapping[str | None, bytes], caching: str, location: str | None = None
) -> Mapping[str | None, Encoded]:
    return {
        coding: _encoded(body, coding, caching, location)
        for coding, body in bodies.items()
    }


def _encoded(
    body: bytes, coding: str | None, caching: str, location: str | None
) -> Encoded:
    # Of the very bytes that are sent: strong, as RFC 9110, 8.8.1 means it.
    etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    unchanged = {
        "Cache-Control": caching,
        "Vary": "Accept-Encoding",
        "ETag": etag,
        # Pages on other hosts of the site load it too, with an integrity value
        # (which needs CORS) and also in isolation (COEP).
        "Access-Control-Allow-Origin": "*",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }
    if location is not None:
        unchanged["Content-Location"] = location
    headers = {
        **unchanged,
        "Content-Length": str(len(body)),
        "Content-Type": "text/javascript; charset=utf-8",
        "X-Content-Type-Options": "nosniff",
    }
    if coding is not None:
        headers["Content-Encoding"] = coding
    return Encoded(etag, FixedAnswer(200, headers, body), FixedAnswer(304, unchanged))


def _chosen_coding(accepted: str) -> str | None:
    if len(accepted) > _CACHED_HEADER:
        return preferred_coding(accepted, CODINGS)
    return _remembered_coding(accepted)


@lru_cache(maxsize=256)
def _remembered_coding(accepted: str) -> str | None:
    return preferred_coding(accepted, CODINGS)
