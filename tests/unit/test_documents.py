"""Request and answer as the document that sign-up rules search."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from typing import Any

import brotli  # type: ignore[import-untyped]  # ships no types
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from relay.core.http.codings import MAX_BODY
from relay.core.rules.bodies import Copy
from relay.core.rules.documents import Document, document
from relay.core.rules.expression_tree import ROOTS

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=XX"
SECRET = "person@acme.test"


def make(**changes: Any) -> Document:
    """A document of an empty request and answer, with changes."""
    parts: dict[str, Any] = {
        "query": "",
        "path_params": {},
        "headers": [],
        "request": Copy(None, b""),
        "response_status": 200,
        "response_headers": [],
        "response": None,
    }
    return document(**(parts | changes))


def form(content_type: str, body: bytes, encoding: str | None = None) -> Any:
    """The form of a request that reads without a note."""
    made = make(request=Copy(content_type, body, encoding))
    assert made.notes == ()
    return made.values["form"]


def note(content_type: str, body: bytes | None, encoding: str | None = None) -> str:
    """The one note of a request whose body cannot be read."""
    made = make(request=Copy(content_type, body, encoding))
    (only,) = made.notes
    assert made.values["form"] == {}
    assert made.values["json"] is None
    return only


def part(name: str, value: bytes, *more: str) -> bytes:
    """One part of a multipart form with boundary XX."""
    lines = [f'Content-Disposition: form-data; name="{name}"{more[0] if more else ""}']
    head = "\r\n".join(["--XX", *lines, *more[1:], "", ""])
    return head.encode() + value + b"\r\n"


class TestDocument:
    def test_it_holds_the_whole_of_request_and_answer(self) -> None:
        made = make(
            query="ref=a&tag=1&tag=2&empty=",
            path_params={"team": "blue"},
            headers=[
                (b"Host", b"acme.test"),
                (b"X-Two", b"1"),
                (b"x-two", b"2"),
                (b"Cookie", b'a=1; b="2"'),
                (b"COOKIE", b"a=3; c=4=5"),
            ],
            request=Copy(FORM, b"email=a%40b.test"),
            response_status=201,
            response_headers=[(b"Location", b"/welcome")],
            response=Copy("application/json", b'{"user": {"id": 42}}'),
        )

        assert made == Document(
            {
                "form": {"email": "a@b.test"},
                "json": None,
                "query": {"ref": "a", "tag": ["1", "2"], "empty": ""},
                "path": {"team": "blue"},
                "headers": {
                    "host": "acme.test",
                    "x-two": "1, 2",
                    "cookie": 'a=1; b="2"; a=3; c=4=5',
                },
                "cookies": {"a": "1", "b": "2", "c": "4=5"},
                "response": {
                    "status": 201,
                    "headers": {"location": "/welcome"},
                    "cookies": {},
                    "json": {"user": {"id": 42}},
                },
            }
        )
        assert tuple(made.values) == ROOTS

    def test_an_answer_that_is_not_known_is_null(self) -> None:
        made = make(response_status=None)

        assert made.values["response"] == {
            "status": None,
            "headers": {},
            "cookies": {},
            "json": None,
        }

    def test_cookies_that_the_answer_sets_are_told_without_those_it_clears(
        self,
    ) -> None:
        made = make(
            response_headers=[
                (b"Set-Cookie", b"a=1; Path=/"),
                (b"SET-cookie", b'b="x=y"; Secure'),
                (b"Set-Cookie", b"c=; Max-Age=0"),
                (b"Set-Cookie", b"nonsense"),
                (b"Set-Cookie", b"a=2"),
            ]
        )

        assert made.values["response"]["cookies"] == {"a": "2", "b": "x=y"}

    def test_a_copy_is_described_by_its_headers(self) -> None:
        headers = [(b"CONTENT-TYPE", b"text/plain"), (b"Content-Encoding", b"br")]

        assert Copy.of(headers, b"x") == Copy("text/plain", b"x", "br")
        assert Copy.of([], None) == Copy(None, None, None)

    def test_nobodys_data_is_in_a_repr(self) -> None:
        copy = Copy(FORM, f"email={SECRET}".encode())

        assert SECRET not in repr(copy)
        assert SECRET not in repr(make(request=copy))

    def test_a_query_with_thousands_of_fields_is_left_out(self) -> None:
        made = make(query="&".join(["a=1"] * 1001))

        assert made.values["query"] == {}
        assert made.notes == ("the query could not be read: over 1000 fields",)


class TestForms:
    @pytest.mark.parametrize(
        ("content_type", "body", "expected"),
        [
            (FORM, b"a=1&b=x+y%26&c=&d", {"a": "1", "b": "x y&", "c": "", "d": ""}),
            (FORM, b"a=1&a=2", {"a": ["1", "2"]}),
            (FORM, b"", {}),
            (FORM, "a=ü".encode(), {"a": "ü"}),
            (FORM, b"a=%C3%BC", {"a": "ü"}),
            (f"{FORM}; charset=iso-8859-1", b"a=%FC\xfc", {"a": "üü"}),
            (f'{FORM}; Charset="Windows-1252"', b"a=%80", {"a": "€"}),
            (f"{FORM}; charset=unicode_escape", b"a=\\q%C3%BC", {"a": "\\qü"}),
            (f"{FORM}; charset=no\x00ne", b"a=1", {"a": "1"}),
            (FORM.upper(), b"a=1", {"a": "1"}),
            # What fetch() calls a text, or nothing; a form called JSON.
            ("text/plain;charset=UTF-8", b"a=1&b=%40&a=", {"a": ["1", ""], "b": "@"}),
            ("", b"user%5Bname%5D=x+y", {"user[name]": "x y"}),
            ("application/octet-stream", b"a=b==", {"a": "b=="}),
            ("application/json", b"a=1&b=2", {"a": "1", "b": "2"}),
            ("text/plain", b"a = 1", {}),
            ("text/plain", b"Hello, a=1", {}),
            ("text/plain", b"a", {}),
            ("", b"<a href=x>", {}),
            ("text/html", b"a=1", {}),
        ],
    )
    def test_urlencoded(self, content_type: str, body: bytes, expected: object) -> None:
        assert form(content_type, body) == expected

    def test_multipart_fields_are_read_and_files_left_out(self) -> None:
        body = b"".join(
            [
                part("name", "Zoë".encode()),
                part(
                    "latin", b"Zo\xeb", "", "Content-Type: text/plain; charset=latin1"
                ),
                part(
                    "latin",
                    b"Zo\xeb",
                    "",
                    "Content-Type: text/plain; charset=ISO-8859-1",
                ),
                part("photo", b"\x89PNG" * 10, '; filename="me.png"'),
                part("nofile", b"", '; filename=""'),
                part("tag", b"1"),
                part("tag", b"2"),
                part("empty", b""),
                b"--XX--\r\n",
            ]
        )

        assert form(MULTIPART, body) == {
            "name": "Zoë",
            "latin": ["Zoë", "Zoë"],
            "tag": ["1", "2"],
            "empty": "",
        }

    @pytest.mark.parametrize(
        ("content_type", "body", "why"),
        [
            ("multipart/form-data", b"--XX--", "malformed"),
            ("multipart/form-data; boundary=", b"--XX--", "malformed"),
            ('multipart/form-data; boundary="\ud800"', b"--XX--", "malformed"),
            (MULTIPART, b"", "malformed"),
            (MULTIPART, b"junk", "malformed"),
            (MULTIPART, part("a", b"1"), "malformed"),
            (MULTIPART, b"--XX\r\nX: y\r\n\r\n1\r\n--XX--", "malformed"),
            (MULTIPART, part("a", b"1") * 1001 + b"--XX--", "over 1000 parts"),
            (MULTIPART, part("a" * 9000, b"1") + b"--XX--", "a long header"),
            (FORM, b"&".join([b"a=1"] * 1001), "over 1000 fields"),
            (FORM, None, "over 1048576 bytes"),
            (FORM, b"a" * (MAX_BODY + 1), "over 1048576 bytes"),
        ],
    )
    def test_a_form_that_cannot_be_read_leaves_a_note(
        self, content_type: str, body: bytes | None, why: str
    ) -> None:
        found = note(content_type, body)

        assert found.startswith("the request's body could not be read: ")
        assert why in found


class TestJson:
    @pytest.mark.parametrize(
        ("content_type", "body", "expected"),
        [
            ("application/json", b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
            ("Application/JSON; charset=utf-8", b"1", 1),
            ("application/vnd.api+json", b"[]", []),
            ("text/json", b'"x"', "x"),
            ("application/json", b"\xef\xbb\xbf{}", {}),
            ("application/json", '"ü"'.encode(), "ü"),
            ("application/json; charset=iso-8859-1", b'"\xfc"', "ü"),
            ("application/json", b'"\\ud800"', "\ud800"),
            ("application/json", b"", None),
            ("application/jsonp", b"1", None),
            ("json", b"1", None),
        ],
    )
    def test_it_is_read_by_its_type(
        self, content_type: str, body: bytes, expected: object
    ) -> None:
        made = make(request=Copy(content_type, body), response=Copy(content_type, body))

        assert made.values["json"] == expected
        assert made.values["response"]["json"] == expected
        assert made.notes == ()

    @pytest.mark.parametrize(
        ("body", "why"),
        [
            (b"{", "malformed JSON"),
            (b"{'a': 1}", "malformed JSON"),
            (b"nan", "malformed JSON"),
            (b"[" * 500_000, "nested too deep"),
            (b'{"a":' * 100_000, "nested too deep"),
        ],
    )
    def test_json_that_cannot_be_read_is_null_and_noted(
        self, body: bytes, why: str
    ) -> None:
        assert why in note("application/json", body)

    def test_the_answer_is_noted_as_the_answer(self) -> None:
        made = make(response=Copy("application/json", b"<html>"))

        assert made.values["response"]["json"] is None
        assert made.notes == ("the answer's body could not be read: malformed JSON",)


def deflate_bare(body: bytes) -> bytes:
    """Deflate without zlib's wrapper."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


class TestContentCodings:
    @pytest.mark.parametrize("coding", [*PACKERS])
    def test_a_compressed_body_is_read(self, coding: str) -> None:
        packed = PACKERS[coding](b"a=1&" + b"b=2&" * 400)

        assert form(FORM, packed, coding.upper())["a"] == "1"

    def test_deflate_comes_bare_as_well(self) -> None:
        assert form(FORM, deflate_bare(b"a=1"), "deflate") == {"a": "1"}

    def test_two_codings_are_undone_in_turn(self) -> None:
        packed = brotli.compress(gzip.compress(b"a=1"))

        assert form(FORM, packed, "gzip, identity , br,") == {"a": "1"}

    @pytest.mark.parametrize("coding", [*PACKERS])
    def test_a_body_of_just_the_limit_is_read(self, coding: str) -> None:
        body = b"a=" + b"x" * (MAX_BODY - 2)

        assert form(FORM, PACKERS[coding](body), coding)["a"] == "x" * (MAX_BODY - 2)

    @pytest.mark.parametrize("coding", [*PACKERS])
    def test_one_byte_more_is_not_read(self, coding: str) -> None:
        packed = PACKERS[coding](bytes(MAX_BODY + 1))

        assert "over 1048576 bytes" in note(FORM, packed, coding)

    @pytest.mark.parametrize("coding", [*PACKERS])
    def test_a_small_body_that_holds_too_much_takes_no_memory(
        self, coding: str
    ) -> None:
        huge = bytes(64 * MAX_BODY)
        packed = (
            brotli.compress(huge, quality=1)
            if coding == "br"
            else PACKERS[coding](huge)
        )

        tracemalloc.start()
        try:
            assert "over 1048576 bytes" in note(FORM, packed, coding)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8 * MAX_BODY

    @pytest.mark.parametrize("coding", [*PACKERS])
    def test_garbage_is_not_read(self, coding: str) -> None:
        assert "malformed compressed" in note(FORM, b"garbage \xff", coding)

    @pytest.mark.parametrize("coding", ["gzip", "br"])
    def test_half_a_body_is_not_read(self, coding: str) -> None:
        packed = PACKERS[coding](bytes(range(256)) * 4)

        assert "ends too early" in note(FORM, packed[:-12], coding)
        assert "ends too early" in note(FORM, b"", coding)

    @pytest.mark.parametrize("coding", ["compress", "gzip, compress", "\ud800"])
    def test_an_unknown_coding_is_said(self, coding: str) -> None:
        packed = gzip.compress(b"a=1")

        assert "not supported" in note(FORM, packed, coding)

    def test_a_long_chain_of_codings_is_not_followed(self) -> None:
        assert "over 2 content codings" in note(FORM, b"", "gzip, gzip, gzip")


content_types = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=())),
    st.sampled_from([FORM, MULTIPART, "application/json"]),
    st.sampled_from(
        ["utf-8", "iso-2022-jp", "shift_jis", "gb18030", "iso-8859-16", "windows-1258"]
    ).flatmap(
        lambda charset: st.sampled_from(
            [f"{FORM}; charset={charset}", f"application/json; charset={charset}"]
        )
    ),
)
bodies = st.one_of(
    st.none(),
    st.binary(),
    st.lists(
        st.sampled_from(
            [
                b"--XX",
                b"--",
                b"\r\n",
                b"\n",
                b'Content-Disposition: form-data; name="a"',
                b"Content-Type: text/plain; charset=x",
                b"Content-Length: 1",
                b" ",
                b"a",
                b"\xff",
                b'{"a":',
                b"}",
                b"&",
                b"%",
            ]
        )
    ).map(b"".join),
)
codings = st.none() | st.text() | st.sampled_from(["gzip", "deflate", "br", "gzip,br"])
copies = st.builds(Copy, content_types, bodies, codings)
lines = st.lists(st.tuples(st.binary(), st.binary()))


class TestGarbage:
    @given(
        query=st.text(),
        headers=lines,
        request=copies,
        response_headers=lines,
        response=st.none() | copies,
    )
    def test_nothing_raises_on_any_bytes(self, **parts: Any) -> None:
        made = make(**parts)

        assert tuple(made.values) == ROOTS
        assert isinstance(made.values["form"], dict)
        json.dumps(made.values, allow_nan=False)

    @given(st.sampled_from([*PACKERS]), st.binary())
    def test_any_body_survives_packing(self, coding: str, body: bytes) -> None:
        plain = make(request=Copy(FORM, body))

        assert make(request=Copy(FORM, PACKERS[coding](body), coding)) == plain

    @given(st.dictionaries(st.text(min_size=1), st.text()))
    def test_multipart_gives_back_what_was_put_in(self, fields: dict[str, str]) -> None:
        fields = {
            name: value
            for name, value in fields.items()
            if name.isalnum() and name.isascii() and "\n--XX" not in value
        }
        body = b"".join(part(name, value.encode()) for name, value in fields.items())

        assert form(MULTIPART, body + b"--XX--") == fields
