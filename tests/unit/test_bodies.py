"""Bodies as the world sends them: content decides, a label only hints."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_from_bytes

import brotli  # type: ignore[import-untyped]  # ships no types
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from relay.core.http import charsets
from relay.core.http.urlencoded import MAX_ESCAPES
from relay.core.rules.bodies import Copy
from relay.core.rules.documents import Document, answered, asked_document
from relay.core.rules.evaluation import evaluate
from relay.core.rules.json_text import MAX_VALUES
from relay.core.rules.preview import parse_exchanges, try_all
from relay.core.rules.rule import compile_rules

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
USER = b'{"user": {"id": 42}}'


def asked(kind: str | None, body: bytes, coding: str | None = None) -> Document:
    """The document of a request alone."""
    request = Copy(kind, body, coding)
    return asked_document(query="", path_params={}, headers=[], request=request)


def answer(kind: str | None, body: bytes, coding: str | None = None) -> Any:
    """The JSON of a response, which reads without a note."""
    lines = [(b"Content-Type", kind.encode())] if kind else []
    made = answered(asked(None, b""), 200, lines, Copy(kind, body, coding))
    assert made.notes == ()
    return made.values["response"]["json"]


@pytest.mark.parametrize(
    "kind",
    [
        *("text/html; charset=utf-8", "text/plain", "application/javascript", None, ""),
        *("application/octet-stream", "application/csp-report", "text/json", "x", ";"),
        *("application/vnd.acme.v2+json", "application/xml", "binary/octet-stream"),
    ],
)
class TestJsonUnderAnyLabel:
    def test_of_a_response(self, kind: str | None) -> None:
        assert answer(kind, USER) == {"user": {"id": 42}}

    def test_of_a_request(self, kind: str | None) -> None:
        made = asked(kind, b'\n [{"email": "a"}]')

        assert made.values["json"] == [{"email": "a"}]
        assert made.notes == ()


def test_json_under_a_forms_label_is_json() -> None:
    """As curl -d sends it."""
    made = asked(FORM, b'{"email": "a@b.test"}')

    assert made.values["json"] == {"email": "a@b.test"}
    assert made.values["form"] == {}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<!doctype html>{}"),
        ("text/html", b"[if IE]> {<html>"),
        ("text/plain", b"{name}, welcome"),
        ("application/javascript", b"function f(a) { return [] }"),
        (None, b"\x00\x01{}"),
        ("image/png", b"{}"),
        ("text/event-stream", b"{}"),
    ],
)
def test_what_is_no_json_is_none(kind: str | None, body: bytes) -> None:
    assert answer(kind, body) is None


@pytest.mark.parametrize(
    "guard",
    [
        *(b")]}'\n", b")]}',\n", b")]}\n", b"while(1);", b"while (true);", b"for(;;);"),
        *(b"for (;;);\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf)]}'\n", b" \n\t", b"{}&& "),
        *(b"])}while(1);</x>", b"throw 1; <don't be evil>", b"&&&START&&&", b"/**/ "),
    ],
)
@pytest.mark.parametrize("kind", [JSON, "text/html", "application/javascript"])
def test_json_behind_what_guards_it(guard: bytes, kind: str) -> None:
    assert answer(kind, guard + USER) == {"user": {"id": 42}}


@pytest.mark.parametrize(
    "body",
    [
        b'cb({"id": 1});',
        b'/**/jQuery123_4({"id": 1})',
        b"/**/ typeof cb === 'function' && cb({\"id\": 1});",
        b'a.b["c"]({"id": 1})\n',
    ],
)
def test_jsonp(body: bytes) -> None:
    assert answer("application/javascript", body) == {"id": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42.0", 42),
        ("-7.000", -7),
        ("1e3", 1000),
        ("42.5", 42.5),
        ("12345678901234567890.0", 12345678901234567890),
        ("1e400", None),
        ("NaN", None),
        ("-Infinity", None),
        ("9" * 5000, None),
    ],
)
def test_numbers(text: str, value: object) -> None:
    found = answer(JSON, f'{{"id": {text}, "ok": true}}'.encode())

    assert found == {"id": value, "ok": True}
    assert type(found["id"]) is type(value)


def test_an_id_of_42_point_0_makes_the_lead_of_42() -> None:
    (rule,) = compile_rules(
        [{"path": "/s", "customer_external_id": "response.json.id"}]
    )
    made = answered(asked(None, b""), 201, [], Copy(JSON, b'{"id": 42.0, "x": NaN}'))

    judged = evaluate(rule, made)

    assert judged.draft is not None
    assert judged.draft.fields["customerExternalId"] == "42"


@pytest.mark.parametrize(
    "charset", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_json_in_unicodes_other_encodings(charset: str) -> None:
    assert answer(JSON, '{"name": "Zoë"}'.encode(charset)) == {"name": "Zoë"}


@pytest.mark.parametrize(
    ("kind", "name", "noted"),
    [
        (f"{JSON}; charset=iso-8859-1", "Zoë".encode("latin-1"), ()),
        (JSON, "Zoë".encode("cp1252"), ("windows-1252",)),
        (f"{JSON}; charset=no-such", "Zoë".encode("cp1252"), ("windows-1252",)),
    ],
)
def test_json_that_is_no_utf_8(kind: str, name: bytes, noted: tuple[str, ...]) -> None:
    made = asked(kind, b'{"name": "' + name + b'"}')

    assert made.values["json"] == {"name": "Zoë"}
    assert len(made.notes) == len(noted)
    assert all(each in note for each, note in zip(noted, made.notes, strict=True))


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        (JSON, b'{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ("application/x-ndjson", b'{"a": 1}\r\n\r\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ("application/jsonl", b'{"a": 1}\n', [{"a": 1}]),
        ("application/stream+json", b"1\n2\n", [1, 2]),
        ("application/json-seq", b"\x1e[1]\n\x1e[2]\n", [[1], [2]]),
        ("text/plain", b'{"a":\n 1}{"a": 2}', [{"a": 1}, {"a": 2}]),
    ],
)
def test_lines_of_json_are_a_list(kind: str, body: bytes, value: object) -> None:
    assert answer(kind, body) == value


@pytest.mark.parametrize("body", [b'{"a": 1}\n{"a"', b'{"a": 1} x', b"{}}", b")]}'"])
def test_half_a_line_is_reported(body: bytes) -> None:
    made = asked(JSON, body)

    assert made.values["json"] is None
    assert "malformed JSON" in made.notes[0]


def test_names_twice_are_noted_for_any_label() -> None:
    made = asked("text/plain", b'{"id": 1, "id": 2}')

    assert made.repeated == {"id"}


def percent(text: str, charset: str) -> bytes:
    """A text as a form of a page in that charset sends it."""
    return quote_from_bytes(text.encode(charset)).encode()


CHARSETS = [
    *(("shift_jis", "cp932", "髙橋①"), ("euc-jp", "euc_jp", "山田")),
    *(("iso-2022-jp", "iso2022_jp", "山田太郎"), ("gbk", "gbk", "王小明")),
    *(("gb18030", "gb18030", "王小明"), ("big5", "big5", "王小明")),
    *(("euc-kr", "cp949", "김똠방"), ("ks_c_5601-1987", "cp949", "김철수")),
    *(("windows-1251", "cp1251", "Зоя"), ("koi8-r", "koi8_r", "Зоя")),
    *(("iso-8859-2", "iso8859_2", "Łukasz"), ("iso-8859-9", "cp1254", "Şule")),
    *(("windows-1252", "cp1252", "Zoë €"), ("latin1", "cp1252", "Zoë €")),
    *(("macintosh", "mac_roman", "Zoë"), ("ibm866", "cp866", "Зоя")),
]


@pytest.mark.parametrize(("label", "codec", "name"), CHARSETS)
class TestCharsetsOfForms:
    def test_named_by_the_type(self, label: str, codec: str, name: str) -> None:
        made = asked(f"{FORM}; charset={label}", b"name=" + percent(name, codec))

        assert made.values["form"] == {"name": name}
        assert made.notes == ()

    def test_named_by_the_field(self, label: str, codec: str, name: str) -> None:
        body = f"_charset_={label}&name=".encode() + percent(name, codec)
        made = asked(FORM, body)

        assert made.values["form"]["name"] == name
        assert [each for each in made.notes if "the form was read as" in each]

    def test_named_by_the_field_of_a_multipart_form(
        self, label: str, codec: str, name: str
    ) -> None:
        made = asked(
            "multipart/form-data; boundary=XX",
            b'--XX\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\n'
            + label.encode()
            + b'\r\n--XX\r\nContent-Disposition: form-data; name="name"\r\n\r\n'
            + name.encode(codec)
            + b"\r\n--XX--\r\n",
        )

        assert made.values["form"]["name"] == name

    def test_named_by_the_response(self, label: str, codec: str, name: str) -> None:
        made = asked(FORM, b"name=" + percent(name, codec))
        lines = [(b"Content-Type", f"text/html; charset={label}".encode())]

        whole = answered(made, 302, lines, None)

        if label == "iso-2022-jp":
            # Its bytes are ASCII; only what the request says shows it.
            return
        assert whole.values["form"] == {"name": name}
        (note,) = whole.notes
        assert note.startswith(f"the form was read as {charsets.charset_of(label)}")


def test_a_form_that_nothing_names_is_windows_1252_and_two_people_stay_two() -> None:
    one = asked(FORM, b"id=Zo%EB&x=%81")
    other = asked(FORM, b"id=Zo%EA&x=%8D")

    assert one.values["form"]["id"] == "Zoë"
    assert one.values["form"] != other.values["form"]
    assert one.notes == ("the form was read as windows-1252: it is not UTF-8",)


def test_utf_8_counts_whatever_names_another() -> None:
    made = asked(f"{FORM}; charset=iso-8859-1", b"name=Zo%C3%AB&_charset_=shift_jis")

    assert made.values["form"]["name"] == "Zoë"


@pytest.mark.parametrize(
    "label", ["punycode", "idna", "unicode_escape", "utf-7", "rot13", "zlib", "no\x00"]
)
def test_codecs_that_are_no_charsets_are_not_used(label: str) -> None:
    body = b"name=Zo%EB&_charset_=" + label.encode()
    made = asked(f"{FORM}; charset={label}", body)

    assert made.values["form"]["name"] == "Zoë"
    assert charsets.charset_of(label) is None


@given(st.binary(max_size=64), st.sampled_from([each[0] for each in CHARSETS]))
def test_no_bytes_raise(body: bytes, label: str) -> None:
    text, charset = charsets.read_text(body, (label, None, "x"))

    assert isinstance(text, str)
    assert charset


def part(headers: str, content: bytes) -> bytes:
    return f"--XX\r\n{headers}\r\n\r\n".encode("latin-1") + content + b"\r\n"


MULTIPART = "multipart/form-data; boundary=XX"
NAME = 'Content-Disposition: form-data; name="name"'
FILE = 'Content-Disposition: form-data; name="photo"; filename="{}"'
END = b"--XX--\r\n"


@pytest.mark.parametrize(
    "other",
    [
        part(f"{FILE.format('')}\r\nContent-Type: application/octet-stream", b""),
        part(FILE.format("me.jpg"), b"\xff" * 100),
        part(FILE.format("Zo\xeb.jpg"), b"--XX"),
        part('Content-Disposition: form-data; filename="a"', b"x"),
        part(
            'Content-Disposition: form-data; name="files"\r\n'
            "Content-Type: multipart/mixed; boundary=YY",
            b'--YY\r\nContent-Disposition: file; filename="a"\r\n\r\nx\r\n--YY--',
        ),
        part("Content-Disposition: form-data; name=photo; filename*=UTF-8''a", b"x"),
    ],
)
def test_files_are_left_out_wherever_they_stand(other: bytes) -> None:
    for body in (other + part(NAME, b"Ada") + END, part(NAME, b"Ada") + other + END):
        made = asked(MULTIPART, body)

        assert made.notes == ()
        assert made.values["form"].get("name") == "Ada"
        assert "photo" not in made.values["form"]


def test_a_part_of_json_is_a_field_though_it_has_a_files_name() -> None:
    head = f"{FILE.format('blob')}\r\nContent-Type: application/json"
    made = asked(MULTIPART, part(head, b'{"a": 1}') + END)

    assert made.values["form"] == {"photo": '{"a": 1}'}


def test_a_boundary_that_was_forgotten_shows_in_the_first_line() -> None:
    made = asked("multipart/form-data", part(NAME, b"Ada") + END)

    assert made.values["form"] == {"name": "Ada"}


def test_files_are_not_counted() -> None:
    photo = part(FILE.format("me.jpg"), b"\xff\r\n--X" * 700_000)
    for body in (photo + part(NAME, b"Ada") + END, part(NAME, b"Ada") + photo + END):
        made = asked(MULTIPART, body)

        assert made.values["form"] == {"name": "Ada"}
        assert made.notes == ()


@pytest.mark.parametrize("kind", [FORM, JSON, "text/plain", None, "multipart/mixed"])
def test_a_multipart_form_under_another_label(kind: str | None) -> None:
    made = asked(kind, part(NAME, b"Ada") + END)

    assert made.values["form"] == {"name": "Ada"}
    assert made.notes == ()


def test_json_under_a_multipart_label() -> None:
    """As scripts send it that set the type by hand."""
    made = asked("multipart/form-data", b'{"name": "Ada"}')

    assert made.values["json"] == {"name": "Ada"}


def bare(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("zstd", zstd.compress),
        ("ZSTD", lambda body: zstd.compress(body[:9]) + zstd.compress(body[9:])),
        ("gzip, zstd", lambda body: zstd.compress(gzip.compress(body))),
        ("zstd,br", lambda body: brotli.compress(zstd.compress(body))),
        ("deflate", bare),
        ("deflate", zlib.compress),
        ("identity", bytes),
        ("gzip", bytes),
        ("br", bytes),
        ("zstd", bytes),
        ("deflate", bytes),
        ("utf-8", bytes),
        ("br", gzip.compress),
        ("gzip", zstd.compress),
        (None, gzip.compress),
        (None, zstd.compress),
    ],
)
def test_codings(coding: str | None, pack: Callable[[bytes], bytes]) -> None:
    assert answer(JSON, pack(USER), coding) == {"user": {"id": 42}}
    assert asked("text/html", pack(USER), coding).values["json"] is not None
    made = asked(FORM, pack(b"email=a%40b.test&name=Ada"), coding)
    assert made.values["form"] == {"email": "a@b.test", "name": "Ada"}


def wide_frame() -> bytes:
    """A zstd frame (RFC 8878, 3.1.1) whose window is 16 MB, with one raw block."""
    content = b'{"id": 1}'
    block = (len(content) << 3 | 1).to_bytes(3, "little")
    return struct.pack("<I", 0xFD2FB528) + b"\x00" + bytes([14 << 3]) + block + content


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (zstd.compress(b"{}" * 10)[:-4], "ends too early"),
        (zstd.compress(b"{}")[:5] + b"\xff" * 40, "malformed compressed"),
        (zstd.compress(b"") * 1000, "frames"),
        (zstd.compress(b"a" * (1 << 24)), "over 1048576 bytes"),
        (wide_frame(), "malformed compressed"),
    ],
)
def test_zstd_in_its_bounds(body: bytes, why: str) -> None:
    (note,) = asked(JSON, body, "zstd").notes

    assert why in note


def test_a_window_of_eight_megabytes_is_read() -> None:
    packed = wide_frame().replace(bytes([14 << 3]), bytes([13 << 3]), 1)

    assert answer(JSON, packed, "zstd") == {"id": 1}


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        (JSON, b"[" + b"0," * MAX_VALUES + b"0]", "values"),
        # One behind the other, of which no comma or bracket shows how many they are.
        (JSON, b'""' * (MAX_VALUES + 1), "values"),
        ("application/x-ndjson", b"1\n" * (MAX_VALUES + 1), "values"),
        (FORM, b"a=" + b"x%41" * (MAX_ESCAPES + 1), "escapes"),
        (FORM, b"a=1&" * 1000, "fields"),
    ],
)
def test_what_would_take_long_is_not_begun(kind: str, body: bytes, why: str) -> None:
    (note,) = asked(kind, body).notes

    assert why in note


def test_a_megabyte_of_percent_signs_is_what_it_is() -> None:
    assert asked(FORM, b"a=" + b"%" * 1000).values["form"] == {"a": "%" * 1000}


@given(
    st.sampled_from([None, JSON, FORM, MULTIPART, "text/html", "application/jsonl"]),
    st.binary(max_size=200),
    st.sampled_from([None, "gzip", "br", "zstd", "deflate", "gzip, zstd", "x"]),
)
def test_any_body_makes_a_document(
    kind: str | None, body: bytes, coding: str | None
) -> None:
    made = answered(asked(kind, body, coding), 200, [], Copy(kind, body, coding))

    json.dumps(made.values, allow_nan=False)


def test_an_avatar_of_a_megabyte_is_left_out_and_noted() -> None:
    (rule,) = compile_rules(
        [
            {
                "path": "/s",
                "customer_external_id": "form.id",
                "customer_avatar": "form.avatar",
            }
        ]
    )
    for length, kept in ((2048, True), (2049, False), (1_000_000, False)):
        made = asked(FORM, b"id=1&avatar=" + b"x" * length)
        judged = evaluate(rule, answered(made, 201, [], None))

        assert judged.draft is not None
        assert judged.draft.problem is None
        assert ("customerAvatar" in judged.draft.fields) is kept
        assert len(judged.draft.notes) == (not kept)


def test_the_beginning_of_a_multipart_form_shows_its_first_fields() -> None:
    body = part(NAME, b"Ada") + part(FILE.format("me.jpg"), b"\xff" * 999)[:500]
    request = Copy(MULTIPART, body, is_whole=False)

    made = asked_document(query="", path_params={}, headers=[], request=request)

    assert made.values["form"] == {"name": "Ada"}


def test_names_in_headers_stay_different_in_any_charset() -> None:
    lines = [(b"X-User", b"Zo\xeb"), (b"Set-Cookie", b"user=Zo\xea")]

    response = answered(asked(None, b""), 200, lines, None).values["response"]

    assert response["headers"]["x-user"] == "Zoë"
    assert response["cookies"]["user"] == "Zoê"


def test_check_try_reads_a_har_by_the_same_code() -> None:
    entry = {
        "request": {
            "method": "POST",
            "url": "https://acme.test/s",
            "headers": [
                {"name": "Cookie", "value": "dub_id=hQWlM2kPzX9aBcDe"},
                {"name": "Content-Type", "value": FORM},
            ],
            "postData": {"mimeType": FORM, "text": "name=%8ER%93c"},
        },
        "response": {
            "status": 200,
            "headers": [
                {"name": "Content-Type", "value": "text/html; charset=Shift_JIS"},
                {"name": "Content-Encoding", "value": "zstd"},
            ],
            "content": {"text": ")]}'\n" + '{"user": {"id": 42.0}}'},
        },
    }
    rules = compile_rules(
        [
            {
                "path": "/s",
                "customer_external_id": "response.json.user.id",
                "customer_name": "form.name",
            }
        ]
    )

    said = try_all(rules, parse_exchanges(json.dumps({"log": {"entries": [entry]}})))

    assert said.lead is not None
    assert said.lead["customerExternalId"] == "42"
    assert said.lead["customerName"] == "山田"
    assert said.notes == ("the form was read as shift_jis: it is not UTF-8",)
