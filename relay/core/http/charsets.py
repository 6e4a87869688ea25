"""Charsets, by the labels of the Encoding Standard (WHATWG), and texts of unsure ones.

An allow-list, because a label comes from outside and Python's codec table also holds
codecs that are no charsets, that take quadratic time (punycode, idna), or that warn.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

FALLBACK: Final = "windows-1252"
"""What browsers take a page for that names no charset; it has a sign for each byte, so
that two different texts stay different."""

_UTF8: Final = "utf-8"
_STATEFUL: Final = "iso-2022-jp"

_LABELS: Final[Mapping[str, str]] = {
    "utf-8": "utf8 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8",
    FALLBACK: (
        "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100"
        " iso8859-1 iso88591 iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii x-cp1252"
    ),
    "ibm866": "866 cp866 csibm866",
    "iso-8859-2": "csisolatin2 iso8859-2 iso88592 iso_8859-2 iso-ir-101 l2 latin2",
    "iso-8859-3": "csisolatin3 iso8859-3 iso88593 iso_8859-3 iso-ir-109 l3 latin3",
    "iso-8859-4": "csisolatin4 iso8859-4 iso88594 iso_8859-4 iso-ir-110 l4 latin4",
    "iso-8859-5": "csisolatincyrillic cyrillic iso8859-5 iso88595 iso_8859-5",
    "iso-8859-6": "arabic asmo-708 csisolatinarabic iso8859-6 iso88596 iso_8859-6",
    "iso-8859-7": "csisolatingreek greek greek8 iso8859-7 iso88597 iso_8859-7",
    "iso-8859-8": (
        "csisolatinhebrew hebrew iso8859-8 iso88598 iso_8859-8 visual"
        " iso-8859-8-i iso-8859-8-e csiso88598i csiso88598e logical"
    ),
    "iso-8859-10": "csisolatin6 iso8859-10 iso885910 iso-ir-157 l6 latin6",
    "iso-8859-13": "iso8859-13 iso885913",
    "iso-8859-14": "iso8859-14 iso885914",
    "iso-8859-15": "csisolatin9 iso8859-15 iso885915 iso_8859-15 l9",
    "iso-8859-16": "",
    "koi8-r": "cskoi8r koi koi8 koi8_r",
    "koi8-u": "koi8-ru",
    "macintosh": "csmacintosh mac x-mac-roman",
    "x-mac-cyrillic": "x-mac-ukrainian",
    "windows-874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620",
    "windows-1250": "cp1250 x-cp1250",
    "windows-1251": "cp1251 x-cp1251",
    "windows-1253": "cp1253 x-cp1253",
    "windows-1254": (
        "cp1254 x-cp1254 csisolatin5 iso-8859-9 iso8859-9 iso88599 iso_8859-9 l5 latin5"
    ),
    "windows-1255": "cp1255 x-cp1255",
    "windows-1256": "cp1256 x-cp1256",
    "windows-1257": "cp1257 x-cp1257",
    "windows-1258": "cp1258 x-cp1258",
    "gb18030": (
        "gbk gb2312 gb_2312 gb_2312-80 chinese csgb2312 csiso58gb231280 iso-ir-58 x-gbk"
    ),
    "big5": "big5-hkscs cn-big5 csbig5 x-x-big5",
    "euc-jp": "cseucpkdfmtjapanese x-euc-jp",
    _STATEFUL: "csiso2022jp",
    "shift_jis": "csshiftjis ms932 ms_kanji shift-jis sjis windows-31j x-sjis",
    "euc-kr": (
        "cseuckr csksc56011987 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601"
        " windows-949 iso-ir-149"
    ),
}

_NAMES: Final = {
    label: name for name, labels in _LABELS.items() for label in (name, *labels.split())
}

_CODECS: Final[Mapping[str, str]] = {
    # The Standard's charsets are the ones that Windows extended.
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "big5": "big5hkscs",
    _STATEFUL: "iso2022_jp",
    "ibm866": "cp866",
    "macintosh": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic",
    **{f"windows-{page}": f"cp{page}" for page in (874, *range(1250, 1259))},
}

# Python leaves five bytes without a sign; browsers take them for control characters.
_SIGNS: Final = "".join(
    bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(256)
)

_MARKS: Final = (
    (codecs.BOM_UTF8, _UTF8),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Text(NamedTuple):
    """A text and the charset that it was read in, by the Standard's name."""

    value: str
    charset: str


def charset_of(label: str | None) -> str | None:
    """Return the charset that a label names; None if browsers do not know it."""
    return _NAMES.get(label.strip("\t\n\f\r ").lower()) if label else None


def read_text(data: bytes, labels: Iterable[str | None] = ()) -> Text:
    """Read a text whose charset is not sure. No bytes raise.

    By its byte order mark; else in UTF-8 where it is valid; else in the first of the
    labelled charsets in which it is; else in FALLBACK.
    """
    for mark, charset in _MARKS:
        if data.startswith(mark):
            return Text(data[len(mark) :].decode(charset, "replace"), charset)
    known = [name for each in labels if (name := charset_of(each)) is not None]
    # Its bytes are ASCII, and so valid in UTF-8, too.
    stateful = b"\x1b" in data and _STATEFUL in known
    for charset in (*([_STATEFUL] if stateful else []), _UTF8, *known):
        if (text := decode(data, charset)) is not None:
            return Text(text, charset)
    return Text(decode(data, FALLBACK) or "", FALLBACK)


def decode(data: bytes, charset: str) -> str | None:
    """Decode in one of the Standard's charsets; None where the bytes are not valid."""
    if charset == FALLBACK:
        return codecs.charmap_decode(data, "strict", _SIGNS)[0]
    try:
        return data.decode(_CODECS.get(charset, charset))
    except UnicodeDecodeError:
        return None
