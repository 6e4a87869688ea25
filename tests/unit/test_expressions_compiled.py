"""Plain expressions find what jmespath finds, for any document."""

from __future__ import annotations

import warnings
from typing import Any

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.rules.expressions import direct

names = st.sampled_from(["a", "b", "c"])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([0.0, 1.0, 1.5]),
    st.sampled_from(["", "x", "1"]),
)
documents = st.dictionaries(
    names,
    st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=2), st.dictionaries(names, inner, max_size=3)
        ),
        max_leaves=8,
    ),
)

literals = st.sampled_from(
    ["`0`", "`1`", "`true`", "`false`", "`null`", "`[]`", "`{}`", "`[0]`", "'x'", "''"]
)
paths = st.lists(names, min_size=1, max_size=4).map(".".join)
comparisons = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
expressions = st.recursive(
    st.one_of(paths, literals),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["||", "&&"]), inner),
        st.tuples(inner, comparisons, inner),
    ).map(lambda parts: f"({' '.join(parts)})"),
    max_leaves=6,
)


def outcome(search: Any, document: dict[str, Any]) -> Any:
    try:
        found = search(document)
    except TypeError:
        return TypeError
    return type(found), found


@given(expressions, documents)
def test_it_finds_what_jmespath_finds(text: str, document: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        parsed = jmespath.compile(text)

    search = direct(parsed.parsed)

    assert search is not None
    assert outcome(search, document) == outcome(parsed.search, document)


@pytest.mark.parametrize(
    "text", ["a[0]", "a.b[?c]", "lower(a)", "a | b", "!(a)", "@", "{x: a}", "a || b[]"]
)
def test_what_is_not_plain_is_left_to_jmespath(text: str) -> None:
    assert direct(jmespath.compile(text).parsed) is None
