"""The worst that a stranger can send to each entry point, at its limits.

By the names of the table in docs/security.md. Each is the bytes of one request that
ends its connection.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Final

import brotli  # type: ignore[import-untyped]  # ships no types

MIB: Final = 1 << 20
FIELD: Final = 32_000
"""Bytes of a field that is just accepted."""

FORM: Final = "application/x-www-form-urlencoded"
CLICK: Final = "Cookie: dub_id=hQWlM2kPzX9aBcDe"
OWN: Final = ("Origin: http://shop.test", "Sec-Fetch-Site: same-origin")
SESSION: Final = "dub_relay_session=a.b.c;"
CLIENT: Final = "Authorization: Bearer dub_pk_x"


def request(line: str, *fields: str | bytes, body: bytes = b"") -> bytes:
    """Write a request for shop.test."""
    lines = [f"{line} HTTP/1.1".encode(), b"Host: shop.test", b"Connection: close"]
    lines += [
        each.encode("latin-1") if isinstance(each, str) else each for each in fields
    ]
    if body or line.startswith("POST"):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def posted(path: str, kind: str, body: bytes, *fields: str) -> bytes:
    return request(f"POST {path}", f"Content-Type: {kind}", *fields, body=body)


def fill(text: str, size: int = FIELD) -> str:
    """Repeat a text up to a size."""
    return (text * (size // len(text) + 1))[:size]


def heads(path: str = "/page") -> Iterator[bytes]:
    """Heads that are expensive to look at, each at its limit."""
    twice = ("a", "b")
    yield request(f"GET {path}?" + fill("dub_id=x&a=%", 15_000))
    yield request(f"GET {path}?" + fill("&dub_id=", 15_000))
    yield request(f"GET {path}" + fill("/%2e", 15_000))
    for cookie in (
        "dub_relay=x.y.z; ",
        ";",
        "a=b;",
        '"=";',
        "dub_id=;",
        "dub_relay=a.b.c;",
    ):
        yield request(
            f"GET {path}", *(f"Cookie: {fill(cookie, 30_000)}" for _ in twice)
        )
    for name in (
        *("Accept", "Accept-Encoding", "Connection", "Forwarded", "If-None-Match"),
        *("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Upgrade"),
        *(
            "Content-Type",
            "Range",
            "Expect",
            "TE",
            "Referer",
            "Origin",
            "Authorization",
        ),
    ):
        for text in (",", ";", "a,", 'a;q="', "10.0.0.1, ", '\\"', "%", "text/html;"):
            yield request(f"GET {path}", f"{name}: {fill(text)}")
    yield request(f"GET {path}", *(f"X-{n}: a" for n in range(120)))
    yield request(f"GET {path}", *(f"Cookie: dub_relay=x.y.{n}" for n in range(120)))
    yield request(f"GET {path}", f"{fill('N', 30_000)}: a")


def forms(path: str, *fields: str) -> Iterator[bytes]:
    """Forms, each of 1 MiB or of what it may be."""
    for text in (
        "%",
        "%4",
        "%41",
        "a=b&",
        "&",
        "=",
        "a&",
        "a[b]=c&",
        "+",
        "é",
        "%f0%9f",
        ";",
    ):
        yield posted(path, FORM, fill(text, MIB).encode("utf-8")[:MIB], *fields)
    for charset in (
        "punycode",
        "idna",
        "unicode_escape",
        "utf-7",
        "nosuch",
        "iso-2022-jp",
    ):
        yield posted(
            path, f"{FORM}; charset={charset}", b"a=" + b"-" * 300_000, *fields
        )
    for kind in (
        f"{FORM}{fill(';')}",
        f"{FORM};{fill(chr(34) + ';')}",
        f"{FORM};{fill('a=b;')}",
    ):
        yield posted(path, kind, b"a=b", *fields)


def multiparts(path: str, *fields: str) -> Iterator[bytes]:
    kind = "multipart/form-data; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="id"\r\n'
    for body in (
        (part + b"\r\nx\r\n") * 9000 + b"--b--",
        part + b"Content-Type: text/plain; charset=punycode\r\n\r\n" + b"-" * 300_000,
        part + b"\r\n" + b"\r\n--" * 200_000,
        part + b"\r\n" + b"\r" * 900_000,
        part + b"X: " + b"a;" * 400_000,
        b"--b" * 300_000,
        b"-" * MIB,
    ):
        yield posted(path, kind, body[:MIB], *fields)
    yield posted(
        path, "multipart/form-data; boundary=" + fill("b"), b"--b" * 9000, *fields
    )


def documents(path: str, *fields: str) -> Iterator[bytes]:
    """JSON, each of 1 MiB."""
    for text in (
        "[",
        '{"a":',
        "[1,",
        '"',
        "1",
        '"\\u0041',
        '{"a":1,',
        "\\",
        "[[],",
        "-1e9,",
    ):
        yield posted(path, "application/json", fill(text, MIB).encode(), *fields)
    many = json.dumps({f"k{n}": n for n in range(60_000)}).encode()[:MIB]
    rows = json.dumps({"data": [{"id": n, "ok": True} for n in range(40_000)]}).encode()
    for body in (
        many,
        rows[:MIB],
        b"[" + b"9" * 900_000 + b"]",
        b'{"a":' + b"1" * 4000 + b"}",
    ):
        yield posted(path, "application/json", body, *fields)


def compressed(path: str, *fields: str) -> Iterator[bytes]:
    """Bodies that are small, and large once they are decompressed."""
    big = b"a=b&" * (64 * MIB // 4)
    for coding, body in (
        ("gzip", gzip.compress(big)),
        ("deflate", zlib.compress(big)),
        ("br", brotli.compress(big, quality=1)),
        ("gzip", gzip.compress(b"") * 50_000),
        ("gzip, gzip", gzip.compress(gzip.compress(big))),
        (fill("gzip,"), gzip.compress(b"a=b")),
        ("gzip", b"\x1f\x8b" + b"\xff" * 900_000),
        ("br", b"\xff" * 900_000),
    ):
        yield posted(path, FORM, body[:MIB], f"Content-Encoding: {coding}", *fields)


def unsigned(path: str) -> Iterator[bytes]:
    """Hooks whose signature is none, and whose lists of them are long."""
    stamp = "webhook-timestamp: 1790000000"
    lists = [fill("v1,aaaa "), fill("v1,"), fill(" "), fill("é"), fill("t=1,v1=ab,")]
    for given in lists:
        for name in (
            "webhook-signature",
            "svix-signature",
            "Stripe-Signature",
            "Dub-Signature",
        ):
            fields = (f"{name}: {given}", "webhook-id: a", stamp, "svix-id: a")
            yield request(
                f"POST {path}", *fields, "svix-timestamp: 1790000000", body=b"{}"
            )
    yield request(
        f"POST {path}",
        "webhook-id: a",
        stamp,
        "webhook-signature: v1,x",
        body=b"[" * MIB,
    )
    yield posted(path, "application/json" + fill(";"), b"{}", "webhook-signature: v1,x")


def planting(path: str) -> Iterator[bytes]:
    cookies = f"Cookie: {fill('dub_relay=x.y.z; ')}"
    for kind in ("application/json", "application/json" + fill(";", 20_000)):
        for body in (b"{}", b"[" * 1000, b"[" * MIB):
            yield posted(path, kind, body, *OWN, cookies)


def senders(count: int) -> Iterator[str]:
    """Return addresses of as many visitors, as a trusted proxy names them."""
    return (f"X-Forwarded-For: 198.51.100.{number}" for number in range(count))


def signing_in(path: str) -> Iterator[bytes]:
    """Sign-ins, each from an address of its own: none is refused for its number."""
    address = senders(250)
    for charset in ("punycode", "idna", "unicode_escape", "utf-7", "nosuch", "utf-8"):
        for size in (300_000, 4_080):
            body = b"password=" + b"-" * size
            yield posted(path, f"{FORM}; charset={charset}", body, next(address))
    for text in ("%", "a=b&", "&", "%f0%9f"):
        for size in (MIB, 4_090):
            yield posted(path, FORM, fill(text, size).encode(), next(address))
    yield posted(path, f"{FORM}{fill(';')}", b"password=a", next(address))
    part = b'--b\r\nContent-Disposition: form-data; name="password"\r\n'
    named = part + b"Content-Type: text/plain; charset=punycode\r\n\r\n"
    for body in (named + b"-" * 300_000, named + b"-" * 3_900, b"--b" * 1_300):
        yield posted(path, "multipart/form-data; boundary=b", body, next(address))


PUBLISHABLE: Final = "Authorization: Bearer dub_pk_sandboxsandboxsandbox00"


def worst() -> Mapping[str, Iterator[bytes]]:
    """Return everything, by entry point."""
    own = "/_dub"
    dashboard = f"{own}/dashboard"
    return {
        "any page of the site": chain(
            heads(), forms("/form", CLICK), documents("/form", CLICK)
        ),
        "a sign-up": chain(
            heads("/signup"),
            forms("/signup", CLICK),
            multiparts("/signup", CLICK),
            documents("/signup", CLICK),
            compressed("/signup", CLICK),
        ),
        "`hooks/signup`": unsigned(f"{own}/hooks/signup"),
        "`hooks/<provider>`, a `[[hook]]`": unsigned(f"{own}/hooks/clerk"),
        "`hooks/dub`": unsigned(f"{own}/hooks/dub"),
        "`track/lead`, `track/sale`": chain(
            documents(f"{own}/track/lead", "Authorization: Bearer dub_wrong"),
            documents(f"{own}/track/sale", "Authorization: Bearer dub_wrong"),
            [request(f"POST {own}/track/lead", f"Authorization: Bearer {fill('a')}")],
        ),
        "`track/click`, `track/open`": chain(
            documents(f"{own}/track/click"), forms(f"{own}/track/open", CLIENT)
        ),
        "`track/lead/client`, `track/sale/client`": chain(
            documents(f"{own}/track/lead/client", PUBLISHABLE),
            documents(f"{own}/track/sale/client", PUBLISHABLE),
            [request(f"POST {own}/track/lead/client", f"Authorization: {fill('a')}")],
        ),
        "`cookie`, `ticket`": chain(
            planting(f"{own}/cookie"),
            [request(f"GET {own}/ticket", *OWN, f"Referer: {fill('http://[')}")],
        ),
        "`script*.js`": heads(f"{own}/script.js"),
        "`dashboard/sign-in`": signing_in(f"{dashboard}/sign-in"),
        "the rest of the dashboard": chain(
            heads(f"{dashboard}/"),
            [posted(f"{dashboard}/act", FORM, b"%" * MIB)],
            [request(f"GET {dashboard}/", f"Cookie: {fill(SESSION)}")],
        ),
        "`livez`, `readyz`, `openapi.json`": chain(
            heads(f"{own}/livez"), heads(f"{own}/readyz"), heads(f"{own}/openapi.json")
        ),
        "`metrics`": islice(heads(f"{own}/metrics"), 3),
    }
