"""Serves the snippet: ``script.js`` and the seven other names of Dub's.

The sources are in ``static/snippet``: ``base.js``, and a file for each of
Dub's extensions. A variant is one function around base and the extensions its
name lists; it is minified and compressed once, when the relay starts.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

import brotli  # type: ignore[import-untyped]  # ships no types
import rjsmin
from aiohttp import web

from relay.resources import static_dir

EXTENSIONS: Final = ("site-visit", "outbound-domains", "conversion-tracking")
"""Dub's extensions in the order in which its file names list them."""

VARIANTS: Final[Mapping[str, tuple[str, ...]]] = {
    ".".join(("script", *chosen, "js")): chosen
    for size in range(len(EXTENSIONS) + 1)
    for chosen in combinations(EXTENSIONS, size)
}

NAMES: Final = tuple(VARIANTS)
"""The eight file names: one for each subset of the extensions."""

HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/javascript; charset=utf-8",
    # The name carries no version: an hour is how long an old one may live on.
    "Cache-Control": "public, max-age=3600",
    "Vary": "Accept-Encoding",
    # Pages on other hosts of the site load it too, also isolated ones (COEP).
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Encoded:
    """One variant in one content coding, with the strong ETag of these bytes."""

    body: bytes
    coding: str | None
    etag: str


class Snippet:
    """All variants, ready to be sent.

    The settings become the script's defaults, so that the cookie it writes is
    the very one that the relay's server writes: another Domain would make two.
    """

    def __init__(
        self,
        *,
        cookie_domain: str | None = None,
        cookie_days: int = 90,
        attribution: str = "last-click",
        folder: Path | None = None,
    ) -> None:
        sources = folder or static_dir() / "snippet"
        defaults = json.dumps(
            {
                "domain": cookie_domain or "",
                "days": cookie_days,
                "attribution": attribution,
            }
        )
        self._variants = {
            name: _encodings(_assemble(sources, chosen, defaults))
            for name, chosen in VARIANTS.items()
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer GET and HEAD for a variant; the file name ends the path."""
        variant = self._variants.get(request.path.rpartition("/")[2])
        if variant is None:
            raise web.HTTPNotFound
        chosen = variant[preferred_coding(request.headers.get("Accept-Encoding", ""))]
        headers = {**HEADERS, "ETag": chosen.etag}
        if chosen.coding is not None:
            headers["Content-Encoding"] = chosen.coding
        if _matches(request.headers.getall("If-None-Match", []), chosen.etag):
            headers.pop("Content-Type")
            headers.pop("Content-Encoding", None)
            return web.Response(status=304, headers=headers)
        return web.Response(body=chosen.body, headers=headers)


def _assemble(folder: Path, extensions: tuple[str, ...], defaults: str) -> str:
    """Write one variant: a single function, so that nothing leaks into the page."""
    files = [folder / "base.js", *(folder / f"{name}.js" for name in extensions)]
    parts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    body = "\n".join(parts)
    source = (
        f"(function () {{\n'use strict';\nconst defaults = {defaults};\n{body}}})();"
    )
    return str(rjsmin.jsmin(source)) + "\n"


def _encodings(script: str) -> Mapping[str | None, Encoded]:
    plain = script.encode()
    digest = hashlib.sha256(plain).hexdigest()[:20]
    bodies = {
        "br": brotli.compress(plain, mode=brotli.MODE_TEXT, quality=11),
        # mtime 0: the same source gives the same bytes, which the ETag promises.
        "gzip": gzip.compress(plain, 9, mtime=0),
        None: plain,
    }
    return {
        coding: Encoded(
            body, coding, f'"{digest}{"-" if coding else ""}{coding or ""}"'
        )
        for coding, body in bodies.items()
    }


def preferred_coding(accepted: str) -> str | None:
    """Choose br, gzip or nothing by Accept-Encoding (RFC 9110, 12.5.3)."""
    weights = dict(map(_weighed, accepted.lower().split(",")))
    anything = weights.get("*", 0.0)
    offered = [(weights.get(coding, anything), coding) for coding in ("br", "gzip")]
    weight, coding = max(offered, key=lambda pair: pair[0])
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


def _matches(fields: list[str], etag: str) -> bool:
    """Compare If-None-Match weakly, as RFC 9110, 13.1.2 has it."""
    members = [part.strip() for field in fields for part in field.split(",")]
    return any(part.removeprefix("W/") in {etag, "*"} for part in members)
