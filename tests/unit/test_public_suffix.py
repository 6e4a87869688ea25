"""Public suffixes, by the list's own text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publicsuffixlist import PublicSuffixList

from relay.http.public_suffix import is_public_suffix, rules

LIBRARY = PublicSuffixList()
RULES = [
    line.removeprefix("!").removeprefix("*.")
    for line in rules().splitlines()
    if line and not line.startswith("//")
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("com", True),
        ("gov.uk", True),
        ("www.gov.uk", False),
        ("github.io", True),
        ("ada.github.io", False),
        ("xn--55qx5d.cn", True),
        ("a.ck", True),
        ("www.ck", False),
        ("ck", True),
        ("unknown", True),
        ("corp.internal", False),
        ("xn--.cn", False),
    ],
)
def test_a_public_suffix(name: str, expected: bool) -> None:
    assert is_public_suffix(name) is expected


@given(st.sampled_from(RULES), st.sampled_from(["", "a.", "www.", "a.b."]))
def test_it_says_what_the_library_says(rule: str, below: str) -> None:
    name = below + rule.encode("idna").decode()

    assert is_public_suffix(name) is LIBRARY.is_public(name)
