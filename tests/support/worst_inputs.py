"""The worst that a stranger can send to each entry point, at its limits.

By the names of the table in docs/security.md. Each is the bytes of one request that
ends its connection.
"""

from __future__ import annotations

import gzip
import hmac
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, count, islice
from typing import Final

import brotli  # type: ignore[import-untyped]  # ships no types
from backports import zstd

from tests.support.harness import API_KEY, HOOK_SECRET
from tests.support.provider_rig import by_standard, by_svix

MIB: Final = 1 << 20
SMALL: Final = 65_000
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
        *("utf-16", "utf-32", "utf-8-sig", "gb18030", "hz", "shift_jis", "cp037"),
        *("zlib", "bz2", "base64", "rot13", "uu", "raw_unicode_escape", "mbcs"),
        *("UTF_8", "utf-8;charset=punycode", '"punycode"', "x" * 3000),
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


def documents(path: str, *fields: str, size: int = MIB) -> Iterator[bytes]:
    """JSON, each of that size."""
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
        *("1e999999,", "9" * 100 + ",", "9" * 101 + ",", "0.1", "NaN,", "-", "1e"),
        *("\ufeff", ")]}'", "/*", "cb(", "\x1e1", "[]\n", '"\\ud800', "{}&&"),
    ):
        yield posted(path, "application/json", fill(text, size).encode(), *fields)
    many = json.dumps({f"k{n}": n for n in range(60_000)}).encode()[:MIB]
    rows = json.dumps({"data": [{"id": n, "ok": True} for n in range(40_000)]}).encode()
    for body in (
        many[:size],
        rows[:size],
        b"[" + b"9" * (size - 100) + b"]",
        b'{"a":' + b"1" * 4000 + b"}",
    ):
        yield posted(path, "application/json", body, *fields)


SKIPPED: Final = b"\x50\x2a\x4d\x18\x00\x00\x00\x00"
"""A frame of zstd that is to be skipped (RFC 8878, 3.1.2)."""

WIDE: Final = b"\x28\xb5\x2f\xfd\x00\xf8" + b"\x03\x00\x10a" * 100_000
"""A frame that asks for a window of two gigabytes."""


def compressed(path: str, *fields: str) -> Iterator[bytes]:
    """Bodies that are small, and large once they are decompressed."""
    big = b"a=b&" * (64 * MIB // 4)
    for coding, body in (
        ("gzip", gzip.compress(big)),
        ("deflate", zlib.compress(big)),
        ("br", brotli.compress(big, quality=1)),
        ("gzip", gzip.compress(b"") * 50_000),
        ("gzip, gzip", gzip.compress(gzip.compress(big))),
        ("br, gzip", gzip.compress(brotli.compress(big, quality=1))),
        ("gzip, zstd", zstd.compress(gzip.compress(big))),
        ("zstd", zstd.compress(big)),
        ("zstd", zstd.compress(b"a") * 50_000),
        ("zstd", SKIPPED * 100_000),
        ("zstd", WIDE),
        (fill("gzip,"), gzip.compress(b"a=b")),
        ("gzip", b"\x1f\x8b" + b"\xff" * 900_000),
        ("br", b"\xff" * 900_000),
    ):
        yield posted(path, FORM, body[:MIB], f"Content-Encoding: {coding}", *fields)


def chunked(path: str, *fields: str) -> Iterator[bytes]:
    """Bodies in pieces, as many as the parser of HTTP takes at once, and more.

    What passes to the site may have any number of them: 8 ms for 100 KB.
    """
    head = [f"Content-Type: {FORM}", "Transfer-Encoding: chunked", *fields]
    start = request(f"PUT {path}", *head).replace(b"PUT ", b"POST ", 1)
    for piece in (
        b"1\r\n=\r\n",
        b"1;%s\r\n=\r\n" % (b"a" * 1000),
        b"000000000000001\r\n&\r\n",
        b"2\r\n%4\r\n",
    ):
        yield start + piece * (MIB // 2 // len(piece)) + b"0\r\n\r\n"
    yield start + b"1\r\n=\r\n0\r\n" + b"X: a\r\n" * 100 + b"\r\n"


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


Signed = Callable[[str], Mapping[str, str]]
"""Returns the headers that a body comes with from who may send it."""

DUB_SECRET: Final = "whsec_of_dub"
CLERK_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MAPPED_SECRET: Final = "a secret of some service"

_numbers = count()


def by_site(body: str) -> Mapping[str, str]:
    return by_standard(HOOK_SECRET, f"msg_{next(_numbers)}", body, time.time())


def by_clerk(body: str) -> Mapping[str, str]:
    return by_svix(CLERK_SECRET, f"msg_{next(_numbers)}", body, time.time())


def by_dub(body: str) -> Mapping[str, str]:
    digest = hmac.new(DUB_SECRET.encode(), body.encode(), "sha256")
    return {"Dub-Signature": digest.hexdigest()}


def by_service(body: str) -> Mapping[str, str]:
    digest = hmac.new(MAPPED_SECRET.encode(), body.encode(), "sha256")
    return {"X-Signature": digest.hexdigest()}


def by_token(_: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {API_KEY}"}


def told(
    path: str, signed: Signed, fields: Callable[[object], object]
) -> Iterator[bytes]:
    """What is proved to come from who may send it, and is the worst he can say.

    ``fields`` puts a value into the place of a document that a visitor fills.
    """
    for text in ("[", "[[],", '{"a":', "1e9,", "-0.0,", '"\\u0041', "9", "[1.5e3,"):
        body = fill(text, MIB - 1)
        yield posted(path, "application/json", body.encode(), *said(signed, body))
    long = "é" * 500_000
    for value in (
        {f"k{number}": number for number in range(40_000)},
        [[number] for number in range(90_000)],
        [2**70] * 40_000,
        [1.5e300] * 90_000,
        "%41" * 340_000,
        long,
        "\ud800" * 170_000,
        json.loads("[" * 500 + "]" * 500),
        [{"id": number, "email_address": "a@b.c"} for number in range(20_000)],
    ):
        body = json.dumps(fields(value), ensure_ascii=value is not long)
        assert len(body.encode()) <= MIB
        yield posted(path, "application/json", body.encode(), *said(signed, body))


def said(signed: Signed, body: str) -> Iterator[str]:
    return (f"{name}: {value}" for name, value in signed(body).items())


def a_lead(value: object) -> object:
    return {
        "clickId": "hQWlM2kPzX9aBcDe",
        "eventName": "Sign Up",
        "customerExternalId": f"u_{next(_numbers)}",
        "customerName" if isinstance(value, str) else "metadata": value,
    }


def a_user(value: object) -> object:
    user = f"user_{next(_numbers)}"
    place = "first_name" if isinstance(value, str) else "email_addresses"
    data = {"id": user, "unsafe_metadata": {"dubTicket": "a.b.c"}, place: value}
    return {"type": "user.created", "object": "event", "data": data}


def an_event(value: object) -> object:
    customer = {"id": "c", "externalId": f"u_{next(_numbers)}", "name": value}
    data = {"eventName": "Sign Up", "customer": customer, "click": {"id": "c"}}
    return {"id": "evt_1", "event": "lead.created", "data": data}


def planting(path: str) -> Iterator[bytes]:
    cookies = f"Cookie: {fill('dub_relay=x.y.z; ')}"
    for kind in ("application/json", "application/json" + fill(";", 20_000)):
        for body in (b"{}", b"[" * 1000, b"[" * MIB):
            yield posted(path, kind, body, *OWN, cookies)


def senders(count: int) -> Iterator[str]:
    """Return addresses of as many visitors, as a trusted proxy names them."""
    return (f"X-Forwarded-For: 198.51.100.{number}" for number in range(count))


def from_many(*requests: Iterator[bytes]) -> Iterator[bytes]:
    """Send each from an address of its own: none is refused for its number."""
    for raw, sender in zip(chain(*requests), senders(250), strict=False):
        line, _, rest = raw.partition(b"\r\n")
        yield b"\r\n".join((line, sender.encode(), rest))


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
            heads(), forms("/form", CLICK), documents("/form", CLICK), chunked("/form")
        ),
        "a sign-up": chain(
            heads("/signup"),
            forms("/signup", CLICK),
            multiparts("/signup", CLICK),
            documents("/signup", CLICK),
            compressed("/signup", CLICK),
            chunked("/signup", CLICK),
        ),
        "`hooks/signup`": chain(
            unsigned(f"{own}/hooks/signup"),
            told(f"{own}/hooks/signup", by_site, a_lead),
            chunked(f"{own}/hooks/signup"),
        ),
        "`hooks/<provider>`, a `[[hook]]`": chain(
            unsigned(f"{own}/hooks/clerk"),
            told(f"{own}/hooks/clerk", by_clerk, a_user),
            unsigned(f"{own}/hooks/mapped"),
            told(f"{own}/hooks/mapped", by_service, a_lead),
        ),
        "`hooks/dub`": chain(
            unsigned(f"{own}/hooks/dub"), told(f"{own}/hooks/dub", by_dub, an_event)
        ),
        "`track/lead`, `track/sale`": chain(
            documents(f"{own}/track/lead", "Authorization: Bearer dub_wrong"),
            documents(f"{own}/track/sale", "Authorization: Bearer dub_wrong"),
            [request(f"POST {own}/track/lead", f"Authorization: Bearer {fill('a')}")],
            told(f"{own}/track/lead", by_token, a_lead),
            told(f"{own}/track/sale", by_token, a_lead),
        ),
        "`track/click`, `track/open`": chain(
            documents(f"{own}/track/click"),
            from_many(documents(f"{own}/track/click", size=SMALL)),
            forms(f"{own}/track/open", CLIENT),
        ),
        "`track/lead/client`, `track/sale/client`": chain(
            documents(f"{own}/track/lead/client", PUBLISHABLE),
            documents(f"{own}/track/sale/client", PUBLISHABLE),
            from_many(
                documents(f"{own}/track/lead/client", PUBLISHABLE, size=SMALL),
                documents(f"{own}/track/sale/client", PUBLISHABLE, size=SMALL),
            ),
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
