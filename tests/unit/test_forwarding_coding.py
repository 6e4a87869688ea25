"""Which content coding a client gets, and whether it has the text already."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.http.forwarding import matches, preferred_coding

OFFERED = ("br", "gzip")


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", None),
        ("br", "br"),
        ("gzip", "gzip"),
        ("deflate", None),
        ("gzip, deflate, br, zstd", "br"),
        ("br;q=0, gzip", "gzip"),
        ("br;q=0.5, gzip;q=0.8", "gzip"),
        ("*", "br"),
        ("*;q=0", None),
        ("GZIP , Br", "br"),
        ("br ; q=0 , gzip", "gzip"),
        ("br;q=nonsense", None),
        ("br;q=nan", None),
        ("br;q=0, *", "gzip"),
        ("br;q=0, gzip;q=0, identity;q=0", None),
        ("gzip, " + "x" * 5000, "gzip"),
    ],
)
def test_the_coding_follows_accept_encoding(accepted: str, coding: str | None) -> None:
    assert preferred_coding(accepted, OFFERED) == coding


@given(st.text(alphabet="brgzip,;=q0.19* é"))
def test_whatever_is_asked_for_there_is_an_answer(accepted: str) -> None:
    assert preferred_coding(accepted, OFFERED) in {None, *OFFERED}


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ([], False),
        (['"a"'], True),
        (['W/"a"'], True),
        (['"b", "a"'], True),
        (['"b"', '"a"'], True),
        (["*"], True),
        (["a"], False),
        (['"A"'], False),
        (['"b"'], False),
    ],
)
def test_a_known_text_is_known_by_its_etag_weakly(
    fields: list[str], *, known: bool
) -> None:
    assert matches(fields, '"a"') is known
