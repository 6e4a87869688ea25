"""Hop-by-hop headers, X-Forwarded-*, and request targets."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.http import headers

Lines = list[tuple[bytes, bytes]]

names = st.from_regex(rb"[A-Za-z_-]{1,12}", fullmatch=True) | st.sampled_from(
    [b"Connection", b"X-Forwarded-For", b"Forwarded", b"X-Real-IP", b"TE"]
)
lines = st.lists(st.tuples(names, st.binary()))

END_TO_END = [
    (b"Host", b"acme.test"),
    (b"cookie", b"a=1"),
    (b"Cookie", b"b=2"),
    (b"X-Custom", b" kept \xff as it came"),
    (b"X-Custom", b"twice"),
    (b"Content-Length", b"3"),
]


class TestHopByHop:
    def test_fields_of_the_connection_are_dropped_and_the_rest_is_kept(self) -> None:
        hop = [
            (b"Connection", b"keep-alive"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Proxy-Connection", b"keep-alive"),
            (b"TE", b"trailers"),
            (b"Trailer", b"X-Checksum"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Upgrade", b"h2c"),
            (b"Proxy-Authenticate", b"Basic"),
            (b"PROXY-AUTHORIZATION", b"Basic x"),
        ]
        mixed = [line for pair in zip(hop, END_TO_END, strict=False) for line in pair]

        assert headers.without_hop_by_hop(mixed + hop[6:]) == END_TO_END

    def test_fields_that_connection_names_are_dropped_whatever_their_case(
        self,
    ) -> None:
        given: Lines = [
            (b"CONNECTION", b"close, X-One"),
            (b"x-one", b"1"),
            (b"connection", b",, \tx-TWO ,"),
            (b"X-Two", b"2"),
            (b"X-Three", b"3"),
        ]

        assert headers.without_hop_by_hop(given) == [(b"X-Three", b"3")]

    @pytest.mark.parametrize(
        "name",
        [
            b"Cookie",
            b"Set-Cookie",
            b"Authorization",
            b"Host",
            b"Content-Length",
            b"Content-Type",
            b"X-Forwarded-For",
            b"X-Forwarded-Proto",
            b"Forwarded",
            b"X-Real-IP",
            b"Origin",
            b"Sec-Fetch-Site",
            b"Cache-Control",
        ],
    )
    def test_a_visitor_cannot_take_away_what_concerns_the_site(
        self, name: bytes
    ) -> None:
        given = [(b"Connection", b"close, " + name.lower()), (name, b"x")]

        assert headers.without_hop_by_hop(given) == [(name, b"x")]

    @given(lines)
    def test_what_is_left_is_in_its_order_and_stays(self, given: Lines) -> None:
        kept = headers.without_hop_by_hop(given)
        rest = iter(given)

        assert all(line in rest for line in kept)
        assert headers.without_hop_by_hop(kept) == kept

    def test_names_with_an_underscore_are_dropped(self) -> None:
        given = [(b"X_Forwarded_For", b"7.7.7.7"), (b"X-A", b"a_b"), (b"_", b"")]

        assert headers.without_aliases(given) == [(b"X-A", b"a_b")]


TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


def came(*chain: str) -> Lines:
    """Headers with one X-Forwarded-For line for each argument."""
    return [(b"X-Forwarded-For", each.encode("latin-1")) for each in chain]


class TestClient:
    @pytest.mark.parametrize(
        ("peer", "chain", "expected"),
        [
            # Nobody trusted: the peer, whatever the headers say.
            ("192.0.2.1", ["198.51.100.9"], "192.0.2.1"),
            ("2001:db8::1", [], "2001:db8::1"),
            # A trusted peer tells; what is left of an untrusted address is hearsay.
            ("10.0.0.1", ["198.51.100.9"], "198.51.100.9"),
            ("10.0.0.1", ["6.6.6.6, 198.51.100.9"], "198.51.100.9"),
            ("10.0.0.1", ["6.6.6.6", "198.51.100.9, 10.0.0.7"], "198.51.100.9"),
            ("10.0.0.1", ["198.51.100.9", "10.0.0.7"], "198.51.100.9"),
            ("fd00::1", ["2001:db8::9"], "2001:db8::9"),
            # All trusted: the outermost.
            ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", [], "10.0.0.1"),
            ("10.0.0.1", [" , "], "10.0.0.1"),
            # What is no address ends the walk.
            ("10.0.0.1", ["198.51.100.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", ["198.51.100.9, nonsense, 10.0.0.7"], "10.0.0.7"),
            ("10.0.0.1", ["198.51.100.9, \xff"], "10.0.0.1"),
            # Ports, brackets, zones, and IPv4 in IPv6.
            ("10.0.0.1", ["198.51.100.9:4711"], "198.51.100.9"),
            ("10.0.0.1", ["[2001:db8::9]:4711"], "2001:db8::9"),
            ("::ffff:10.0.0.1", ["::ffff:198.51.100.9"], "198.51.100.9"),
            ("fe80::1%eth0", [], "fe80::1"),
            # A peer without an address is trusted by nobody.
            ("@", ["198.51.100.9"], "unknown"),
            ("", ["198.51.100.9"], "unknown"),
            (None, ["198.51.100.9"], "unknown"),
        ],
    )
    def test_it_is_found_from_the_right(
        self, peer: str | None, chain: list[str], expected: str
    ) -> None:
        assert headers.client(came(*chain), peer, TRUSTED) == expected

    def test_a_unix_socket_can_be_trusted_explicitly(self) -> None:
        given = came("198.51.100.9")

        assert headers.client(given, None, [], unix_trusted=True) == "198.51.100.9"
        assert headers.client([], None, [], unix_trusted=True) == "unknown"
        assert headers.client(given, "192.0.2.1", [], unix_trusted=True) == "192.0.2.1"

    @given(lines, st.none() | st.text())
    def test_nothing_raises(self, given: Lines, peer: str | None) -> None:
        everyone = [ip_network("0.0.0.0/0"), ip_network("::/0")]

        assert headers.client(given, peer, everyone)


def forwarded(
    given: Lines, peer: str | None, *, host: str = "acme.test", unix: bool = False
) -> dict[str, str]:
    """What is set for a request over http, as text."""
    found = headers.forwarded(
        given, peer=peer, scheme="http", host=host, trusted=TRUSTED, unix_trusted=unix
    )
    assert len(dict(found)) == len(found)
    return {name.decode(): value.decode("latin-1") for name, value in found}


SPOOFED: Lines = [
    (b"X-Forwarded-For", b"6.6.6.6"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"told.test"),
    (b"Forwarded", b"for=6.6.6.6"),
]


class TestForwarded:
    def test_a_strangers_values_are_replaced(self) -> None:
        assert forwarded(SPOOFED, "192.0.2.1") == {
            "X-Forwarded-For": "192.0.2.1",
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Host": "acme.test",
            "Forwarded": "for=192.0.2.1;host=acme.test;proto=http",
        }

    def test_a_trusted_peers_values_are_kept_and_the_peer_is_appended(self) -> None:
        assert forwarded(SPOOFED, "10.0.0.1") == {
            "X-Forwarded-For": "6.6.6.6, 10.0.0.1",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "told.test",
            "Forwarded": "for=6.6.6.6, for=10.0.0.1;host=acme.test;proto=http",
        }

    def test_forwarded_is_made_of_the_older_headers_where_it_is_missing(self) -> None:
        given = [*SPOOFED[:3], *came("[2001:db8::1]:99, hidden")]

        assert forwarded(given, "10.0.0.1")["Forwarded"] == (
            'for=6.6.6.6;host=told.test;proto=https, for="[2001:db8::1]", '
            "for=unknown, for=10.0.0.1"
        )

    def test_what_needs_quotes_gets_them(self) -> None:
        assert forwarded([], "2001:db8::1", host="acme.test:8080")["Forwarded"] == (
            'for="[2001:db8::1]";host="acme.test:8080";proto=http'
        )

    def test_a_unix_peer_has_no_address_to_tell(self) -> None:
        assert forwarded(SPOOFED, None) == {
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Host": "acme.test",
            "Forwarded": "for=unknown;host=acme.test;proto=http",
        }

    def test_a_trusted_unix_peer_is_believed(self) -> None:
        found = forwarded(SPOOFED, None, unix=True)

        assert found["X-Forwarded-For"] == "6.6.6.6"
        assert found["X-Forwarded-Proto"] == "https"
        assert found["Forwarded"] == (
            "for=6.6.6.6, for=unknown;host=acme.test;proto=http"
        )

    @pytest.mark.parametrize("host", ["", "a b", "a@evil", 'a"b', "a\r\nX: y", "a,b"])
    def test_a_host_that_is_none_is_not_passed_on(self, host: str) -> None:
        found = forwarded([], "192.0.2.1", host=host)

        assert "X-Forwarded-Host" not in found
        assert found["Forwarded"] == "for=192.0.2.1;proto=http"

    def test_with_forwarded_leaves_one_of_each(self) -> None:
        extra: Lines = [
            (b"X-Real-IP", b"6.6.6.6"),
            (b"X-Forwarded-Port", b"443"),
            (b"x-forwarded-proto", b"gopher"),
        ]
        given = [(b"Host", b"acme.test"), *SPOOFED, *extra, (b"A", b"1")]

        def names_for(peer: str) -> list[bytes]:
            found = headers.with_forwarded(
                given, peer=peer, scheme="http", host="acme.test", trusted=TRUSTED
            )
            return [name for name, _ in found]

        ours = [
            b"X-Forwarded-For",
            b"X-Forwarded-Proto",
            b"X-Forwarded-Host",
            b"Forwarded",
        ]
        assert names_for("192.0.2.1") == [b"Host", b"A", *ours]
        assert names_for("10.0.0.1") == [
            *(b"Host", b"X-Real-IP", b"X-Forwarded-Port", b"A"),
            *ours,
        ]

    @given(
        given=lines,
        peer=st.none() | st.text() | st.just("10.0.0.1"),
        host=st.text(),
        unix=st.booleans(),
    )
    def test_nothing_raises_or_breaks_a_line(
        self, given: Lines, peer: str | None, host: str, *, unix: bool
    ) -> None:
        clean = [(name, value) for name, value in given if b"\n" not in value]
        found = headers.with_forwarded(
            clean,
            peer=peer,
            scheme="http",
            host=host,
            trusted=TRUSTED,
            unix_trusted=unix,
        )

        assert all(b"\n" not in value for _, value in found)


class TestVisitor:
    @pytest.mark.parametrize(
        ("peer", "chain", "proto", "expected"),
        [
            ("192.0.2.1", [], ["https"], "http"),
            ("10.0.0.1", [], ["https"], "https"),
            ("10.0.0.1", [], ["HTTPS"], "https"),
            ("10.0.0.1", [], ["gopher"], "http"),
            ("10.0.0.1", [], [], "http"),
            # One proxy vouches for the last member only.
            ("10.0.0.1", ["198.51.100.9"], ["https, http"], "http"),
            # Two: the outer one wrote the last but one.
            ("10.0.0.1", ["198.51.100.9, 10.0.0.2"], ["https", "http"], "https"),
            ("10.0.0.1", ["198.51.100.9, 10.0.0.2"], ["https"], "https"),
        ],
    )
    def test_the_scheme_is_what_the_outermost_trusted_proxy_says(
        self, peer: str, chain: list[str], proto: list[str], expected: str
    ) -> None:
        given = came(*chain) + [(b"X-Forwarded-Proto", p.encode()) for p in proto]

        assert headers.visitor_scheme_host(
            given, peer=peer, scheme="http", host="acme.test", trusted=TRUSTED
        ) == (expected, "acme.test")

    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            ("told.test:8443", "told.test:8443"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("a b", "acme.test"),
            ("a/b", "acme.test"),
            ("told.test:x", "acme.test"),
        ],
    )
    def test_the_host_too_if_it_can_be_one(self, told: str, expected: str) -> None:
        _, host = headers.visitor_scheme_host(
            [(b"X-Forwarded-Host", told.encode())],
            peer="10.0.0.1",
            scheme="http",
            host="acme.test",
            trusted=TRUSTED,
        )

        assert host == expected


class TestForwardedAlone:
    """A trusted proxy that sends only ``Forwarded`` (RFC 7239)."""

    @pytest.mark.parametrize(
        ("sent", "address", "scheme", "host"),
        [
            (["for=198.51.100.9"], "198.51.100.9", "http", "acme.test"),
            (
                ["for=198.51.100.9;proto=https;host=shop.test"],
                *("198.51.100.9", "https", "shop.test"),
            ),
            (
                ['For="[2001:db8::1]:4711" ; Proto="https" ; Host="shop.test:8443"'],
                *("2001:db8::1", "https", "shop.test:8443"),
            ),
            # The outermost trusted proxy wrote the last but one; a visitor the first.
            (
                ["for=6.6.6.6;proto=ftp, for=198.51.100.9;proto=https, for=10.0.0.2"],
                *("198.51.100.9", "https", "acme.test"),
            ),
            (
                ["for=198.51.100.9;proto=https", "for=10.0.0.2;proto=http"],
                *("198.51.100.9", "https", "acme.test"),
            ),
            (['for="a\\"b, for=1.1.1.1"'], "10.0.0.1", "http", "acme.test"),
            (["for=unknown;proto=https"], "10.0.0.1", "https", "acme.test"),
            (["for=_hidden"], "10.0.0.1", "http", "acme.test"),
            (["for=198.51.100.9;proto"], "10.0.0.1", "http", "acme.test"),
            ([""], "10.0.0.1", "http", "acme.test"),
        ],
    )
    def test_it_is_believed_as_the_older_headers_are(
        self, sent: list[str], address: str, scheme: str, host: str
    ) -> None:
        given = [(b"Forwarded", each.encode()) for each in sent]
        peer = "10.0.0.1"

        assert headers.client(given, peer, TRUSTED) == address
        assert headers.visitor_scheme_host(
            given, peer=peer, scheme="http", host="acme.test", trusted=TRUSTED
        ) == (scheme, host)

    def test_nobody_else_is_believed_nor_where_the_older_headers_came_too(self) -> None:
        given = [(b"Forwarded", b"for=198.51.100.9;proto=https")]
        older = [*given, (b"X-Forwarded-For", b"203.0.113.5")]

        assert headers.client(given, "192.0.2.1", TRUSTED) == "192.0.2.1"
        assert headers.client(older, "10.0.0.1", TRUSTED) == "203.0.113.5"

    def test_the_site_gets_the_older_headers_too(self) -> None:
        given = [(b"Forwarded", b"for=198.51.100.9;proto=https;host=shop.test")]

        passed = dict(
            headers.with_forwarded(
                given, peer="10.0.0.1", scheme="http", host="a.test", trusted=TRUSTED
            )
        )

        assert passed[b"X-Forwarded-For"] == b"198.51.100.9, 10.0.0.1"
        assert passed[b"X-Forwarded-Proto"] == b"https"
        assert passed[b"X-Forwarded-Host"] == b"shop.test"

    @given(lines, st.binary(max_size=200))
    def test_nothing_in_it_raises(self, others: Lines, text: bytes) -> None:
        headers.client([*others, (b"Forwarded", text)], "10.0.0.1", TRUSTED)


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            ("", "path"),
            ("x", "path"),
            ("*", "path"),
            ("http://evil.test/x", "path"),
            ("evil.test:443", "path"),
            ("?a=1", "path"),
            ("//evil.test/x", "another host"),
            ("/x#f", "fragment"),
            ("/%00", "NUL"),
            ("/x?a=%00", "NUL"),
            ("/a b", "percent-encoded"),
            ("/a\tb", "percent-encoded"),
            ("/a\r\nX: y", "percent-encoded"),
            ("/\x7f", "percent-encoded"),
            ("/é", "percent-encoded"),
            ("/\udcff", "percent-encoded"),
        ],
    )
    def test_what_servers_disagree_on_is_refused(
        self, target: str, reason: str
    ) -> None:
        assert reason in (headers.refuse_target(target) or "")

    @pytest.mark.parametrize(
        "target",
        ["/", "/a/../b/%2e%2e/c", "/a//b", "/a\\b", "/%2500", "/%zz", "/?a=//b&c=[]|^"],
    )
    def test_what_is_the_sites_business_passes(self, target: str) -> None:
        assert headers.refuse_target(target) is None

    def test_a_star_asks_about_the_server(self) -> None:
        assert headers.refuse_target("*", "OPTIONS") is None
        assert headers.refuse_target("*x", "OPTIONS") is not None

    @given(st.text())
    def test_what_passes_is_a_visible_ascii_path(self, target: str) -> None:
        if headers.refuse_target(target) is None:
            assert target.startswith("/")
            assert target.isascii()
            assert target.isprintable()


def test_of_a_long_chain_of_proxies_the_nearest_hops_count() -> None:
    chain = b", ".join(b"10.0.%d.%d" % (n // 250, n % 250) for n in range(5000))
    came = [(b"X-Forwarded-For", b"203.0.113.9, " + chain)]

    seen = headers.client(came, "10.0.0.1", [ip_network("10.0.0.0/8")])

    assert seen != "203.0.113.9"


def test_the_proxy_header_never_reaches_a_site() -> None:
    lines = [(b"PROXY", b"http://evil.test"), (b"Accept", b"*/*")]

    assert headers.without_hop_by_hop(lines) == lines[1:]
