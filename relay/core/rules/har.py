"""HAR files, in which browsers keep what their network panel shows.

The format is the W3C's draft "HTTP Archive (HAR) format". Bodies stand in it decoded,
whatever the headers say of a content coding.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from relay.core.http.headers import Headers, Line


class TryoutError(Exception):
    """The file is no saved sign-up; one line that says why."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and the site's answer, as the proxy would have seen them."""

    method: str
    target: str
    headers: Headers
    body: bytes
    status: int
    response_headers: Headers
    response_body: bytes | None
    """None where it was not recorded."""


_DECODED: Final = frozenset({b"content-encoding", b"content-length"})


def read_har(said: Mapping[str, Any]) -> list[Exchange]:
    """Return the exchanges of a HAR; raise :class:`TryoutError` if it is none."""
    try:
        found = [_entry(each) for each in said["log"]["entries"] if _is_whole(each)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise TryoutError(f"the HAR is malformed ({type(error).__name__})") from error
    if not found:
        raise TryoutError("the HAR has no request with a response")
    return found


def _is_whole(entry: Mapping[str, Any]) -> bool:
    """Whether a response came: browsers write status 0 for one that did not."""
    url = str(entry["request"]["url"])
    return url.startswith(("http://", "https://")) and entry["response"]["status"] > 0


def _entry(entry: Mapping[str, Any]) -> Exchange:
    request, response = entry["request"], entry["response"]
    url = urlsplit(request["url"])
    query = f"?{url.query}" if url.query else ""
    lines = [*_lines(request)]
    names = {name.lower() for name, _ in lines}
    if b"host" not in names:
        lines.append((b"Host", url.netloc.encode()))
    if b"cookie" not in names and request.get("cookies"):
        pairs = (f"{each['name']}={each['value']}" for each in request["cookies"])
        lines.append((b"Cookie", "; ".join(pairs).encode()))
    posted = request.get("postData") or {}
    if not posted.get("text") and posted.get("params"):
        # Its fields alone are there, and are written as the plain kind of form.
        lines = [line for line in lines if line[0].lower() != b"content-type"]
        lines.append((b"Content-Type", b"application/x-www-form-urlencoded"))
    elif b"content-type" not in names and posted.get("mimeType"):
        lines.append((b"Content-Type", str(posted["mimeType"]).encode()))
    return Exchange(
        method=str(request["method"]).upper(),
        target=f"{url.path or '/'}{query}",
        headers=lines,
        body=_posted(posted),
        status=int(response["status"]),
        response_headers=[*_lines(response)],
        response_body=_content(response.get("content") or {}),
    )


def _lines(message: Mapping[str, Any]) -> Iterator[Line]:
    """Return a message's header lines, without HTTP/2's own and the codings."""
    for each in message.get("headers", ()):
        name = str(each["name"]).encode()
        if not name.startswith(b":") and name.lower() not in _DECODED:
            # Chrome joins repeated Set-Cookie lines by line breaks.
            for value in str(each["value"]).split("\n"):
                yield name, value.encode()


def _posted(data: Mapping[str, Any]) -> bytes:
    if data.get("text"):
        return _content(data)
    pairs = [(each["name"], each.get("value", "")) for each in data.get("params", ())]
    return urlencode(pairs).encode()


def _content(content: Mapping[str, Any]) -> bytes:
    text = str(content.get("text") or "")
    if content.get("encoding") == "base64":
        return _unbased(text)
    return text.encode("utf-8", "surrogatepass")


def _unbased(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error as error:
        raise ValueError("not base64") from error
