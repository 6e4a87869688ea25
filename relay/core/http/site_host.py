"""A site that goes by another Host than its visitors ask for.

Platforms that serve many sites choose by Host, and by TLS' server name. Such a site
writes its own name into redirects and cookies: a browser would leave the relay, or
refuse the cookie. Both are put right, as by nginx's ``proxy_redirect`` and
``proxy_cookie_domain``.
"""

from __future__ import annotations

import re
from typing import Final

from relay.core.http.headers import Headers

_TARGETS: Final = {
    b"location": rb"\A[ \t]*",
    b"content-location": rb"\A[ \t]*",
    b"refresh": rb"\A[^;,]*[;,][ \t]*url[ \t]*=[ \t]*[\"']?",
}
"""Fields that name a URL, and what stands before it."""

_ENDS: Final = rb"(?=[?#\"']|\Z|(/)(?![/\\]))(?!.*\t)"
"""Behind a host: what is left is a path to every browser, as "//x" and "/\\x" are not.
A tab is skipped by them."""


class SiteHost:
    """The name by which the relay asks for the site."""

    def __init__(self, name: str) -> None:
        """``name`` is a host, perhaps with a port, that ``is_host`` accepts."""
        self.name = name
        host, _, port = name.partition("]" if name.startswith("[") else ":")
        self.server_name = host.removeprefix("[")
        """What TLS asks for and checks."""
        bare = host + "]" * name.startswith("[")
        ports = re.escape(f":{port.removeprefix(':')}") if port else "(?::(?:80|443))?"
        literal = re.escape(bare).encode()
        url = rb"(?:https?:)?//" + literal + ports.encode() + _ENDS
        self._urls = {
            field: re.compile(rb"(" + before + rb")" + url, re.IGNORECASE)
            for field, before in _TARGETS.items()
        }
        domain = rb";[ \t]*domain[ \t]*=[ \t]*\.?" + literal + rb"[ \t]*(?=;|\Z)"
        self._domain = re.compile(domain, re.IGNORECASE)

    def returned(self, headers: Headers) -> Headers:
        """Return an answer's headers as they are right for the visitor's host.

        A URL of the site's own name becomes a path; a cookie for that name becomes
        one of the host that the visitor asked for.
        """
        return [(name, self._rewritten(name.lower(), value)) for name, value in headers]

    def _rewritten(self, name: bytes, value: bytes) -> bytes:
        if name == b"set-cookie":
            return self._domain.sub(b"", value)
        if name in self._urls:
            return self._urls[name].sub(_without_host, value)
        return value


def _without_host(url: re.Match[bytes]) -> bytes:
    return url[1] if url[2] else url[1] + b"/"
