"""Finds the click in a request of aiohttp, Starlette, Django or Flask.

Nothing of theirs is imported: each is known by what its requests offer. Their
parsed cookies are not asked, because the quotes and commas of Dub's
``dub_partner_data`` make parsers drop what follows, and doubled names are
resolved differently by each. The raw headers go through the relay's own rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from relay.core.http import cookies

HELP: Final = (
    "This is no request of aiohttp, Starlette/FastAPI, Django or Flask, no WSGI "
    "environ and no ASGI scope. Pass click_id= instead."
)


class UnknownRequestError(TypeError):
    """What was given as a request is none that is known here."""


def click_of(request: object) -> str | None:
    """Give the click id of a request's visitor, None if there is no usable one."""
    headers = cookie_headers(request)
    found = cookies.click_id(headers)
    if found is None and any("," in header for header in headers):
        # PEP 3333 has one value a name: servers join repeated headers by commas.
        found = cookies.click_id(part for h in headers for part in h.split(","))
    return found


def cookie_headers(request: object) -> list[str]:
    """Give the values of all ``Cookie`` headers, raw, in order.

    Raises UnknownRequestError for anything that is no request.
    """
    headers = getattr(request, "headers", None)
    if (every := getattr(headers, "getall", None)) is not None:  # aiohttp
        return list(every("Cookie", []))
    if (every := getattr(headers, "getlist", None)) is not None:  # Starlette, Flask
        return list(every("Cookie"))
    plain = getattr(request, "META", request)  # Django has an environ in META
    if isinstance(plain, Mapping):
        if isinstance(plain.get("headers"), list | tuple):
            return _of_scope(plain["headers"])
        if "REQUEST_METHOD" in plain:
            return _of_environ(plain)
    raise UnknownRequestError(HELP)


def _of_scope(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """Read the headers of ASGI, whose names are lower case."""
    return [value.decode("latin-1") for name, value in headers if name == b"cookie"]


def _of_environ(environ: Mapping[str, Any]) -> list[str]:
    """Read the environ of WSGI (PEP 3333)."""
    value = environ.get("HTTP_COOKIE")
    return [value] if isinstance(value, str) else []
