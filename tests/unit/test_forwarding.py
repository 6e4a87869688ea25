"""What the fast path writes is what the general functions would have written."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.http import headers as general
from relay.core.http.forwarding import (
    Forwarding,
    ordinary_answer,
    ordinary_request,
)
from relay.core.http.headers import Headers

NAMES = st.sampled_from(
    (
        *(b"Accept", b"cookie", b"X-Forwarded-For", b"x-forwarded-PORT", b"Forwarded"),
        *(b"X-Real-IP", b"Keep-Alive", b"TE", b"X_Y", b"HTTP2-Settings", b"Connection"),
        *(b"__Token", b"__token"),
        *(b"X-Forwarded-Proto", b"X-Forwarded-Host", b"Proxy-Authorization", b"x-a"),
        *(b"Content-Length", b"Upgrade", b"Expect", b"Trailer"),
    )
)
VALUES = st.sampled_from(
    (
        *(b"1", b"close", b"keep-alive", b"x-a", b"https", b"evil.test", b""),
        *(b"caf\xe9", b"198.51.100.7", b"198.51.100.7, 10.0.0.1"),
        b"for=198.51.100.7",
    )
)
LINES = st.lists(st.tuples(NAMES, VALUES), max_size=8)
UNDERSCORED = frozenset({b"__token"})
TRUSTED = [ip_network("10.0.0.0/8")]


def the_general_way(
    target: str, lines: Headers, peer: str | None, site_host: bytes | None = None
) -> bytes:
    kept = general.without_aliases(general.without_hop_by_hop(lines), UNDERSCORED)
    kept = [line for line in kept if line[0].lower() != b"http2-settings"]
    out = general.with_forwarded(
        kept, peer=peer, scheme="http", host="shop.test", trusted=TRUSTED
    )
    if site_host:
        kept = [line for line in out if line[0].lower() != b"host"]
        out = [*kept, (b"Host", site_host)]
    head = b"".join(b"%s: %s\r\n" % line for line in out)
    return b"GET %s HTTP/1.1\r\n%s\r\n" % (target.encode(), head)


@given(
    lines=LINES,
    peer=st.sampled_from(["10.0.0.9", "192.0.2.1", None]),
    site_host=st.sampled_from([None, "app.test"]),
)
def test_an_ordinary_request_is_written_as_ever(
    lines: list[tuple[bytes, bytes]], peer: str | None, site_host: str | None
) -> None:
    lines = [(b"Host", b"shop.test"), *lines]

    forwarding = Forwarding(TRUSTED, site_host=site_host, underscored=UNDERSCORED)
    onward = ordinary_request(
        "GET", "/a?b", lines, peer=peer, scheme="http", forwarding=forwarding
    )

    if onward is not None and onward.length is None:
        assert onward.head == the_general_way(
            "/a?b", lines, peer, site_host.encode() if site_host else None
        )
        seen = general.visitor_scheme_host(
            lines, peer=peer, scheme="http", host="shop.test", trusted=TRUSTED
        )
        assert (onward.scheme, onward.host) == seen
        assert onward.cookies == [v for n, v in lines if n.lower() == b"cookie"]


@given(target=st.text(st.characters(max_codepoint=0x100), max_size=12))
def test_no_target_is_ordinary_that_is_refused(target: str) -> None:
    onward = ordinary_request(
        "GET",
        target,
        [(b"Host", b"a")],
        peer=None,
        scheme="http",
        forwarding=Forwarding(),
    )

    assert (onward is None) is (general.refuse_target(target) is not None)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [(b"Host", b"a"), (b"host", b"b")],
        [(b"Host", b"a b")],
        [(b"Host", b"a"), (b"Content-Length", b"1"), (b"Content-Length", b"1")],
        [(b"Host", b"a"), (b"Content-Length", b"+1")],
        [(b"Host", b"a"), (b"Content-Length", b"1" * 19)],
        [(b"Host", b"a"), (b"Transfer-Encoding", b"chunked")],
        [(b"Host", b"a"), (b"Upgrade", b"websocket")],
        [(b"Host", b"a"), (b"Expect", b"100-continue")],
        [(b"Host", b"a"), (b"Connection", b"close, x")],
    ],
)
def test_what_needs_thought_is_not_ordinary(lines: Headers) -> None:
    assert (
        ordinary_request(
            "GET", "/", lines, peer=None, scheme="http", forwarding=Forwarding()
        )
        is None
    )


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [(b"Content-Length", b"1"), (b"Content-Length", b"1")],
        [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Content-Length", b"+1")],
        [(b"Content-Length", b"")],
        [(b"Content-Length", b"1" * 19)],
        [(b"Content-Length", b"1"), (b"X", b"a\x00b")],
        [(b"Content-Length", b"1"), (b"X", b"a\rb")],
        [(b"Content-Length", b"1"), (b"X", b"a\x7fb")],
        [(b"Content-Length", b"1"), (b"X(y)", b"a")],
        [(b"Content-Length", b"1"), (b"", b"a")],
        [(b"Content-Length", b"1"), (b"Connection", b"x")],
        [(b"Content-Length", b"1"), (b"Upgrade", b"h2c")],
    ],
)
def test_an_answer_that_needs_thought_is_not_ordinary(lines: Headers) -> None:
    assert ordinary_answer(lines) is None


def test_the_length_of_a_body_is_written_anew() -> None:
    lines = [(b"content-length", b"005"), (b"Host", b"a"), (b"X", b"y")]

    onward = ordinary_request(
        "POST", "/", lines, peer=None, scheme="http", forwarding=Forwarding()
    )

    assert onward is not None
    assert onward.length == 5
    assert onward.head.startswith(b"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n")
    assert onward.head.endswith(b"Content-Length: 5\r\n\r\n")


def test_an_ordinary_answer_keeps_its_lines() -> None:
    returned = ordinary_answer(
        [
            (b"content-TYPE", b"text/html"),
            (b"Keep-Alive", b"5"),
            (b"Connection", b"Keep-Alive"),
            (b"X-Tab", b"a\tb\xe9"),
            (b"Content-Length", b"5"),
        ]
    )

    assert returned is not None
    assert b"".join(returned.lines) == (
        b"content-TYPE: text/html\r\nX-Tab: a\tb\xe9\r\nContent-Length: 5\r\n"
    )
    assert (returned.length, returned.kind) == (5, b"text/html")
