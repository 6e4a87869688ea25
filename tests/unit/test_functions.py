"""The relay's own functions of JMESPath, and the bound on an expression's work."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.rules.documents import Document
from relay.core.rules.evaluation import evaluate
from relay.core.rules.expressions import EvaluationError, compile_expression
from relay.core.rules.functions import MAX_STEPS
from relay.core.rules.rule import compile_rules

NAMES = ("parse_json", "last", "url_path", "url_query", "jwt_claims")


def found(expression: str, value: object) -> Any:
    """What an expression finds, with the value as ``form.x``."""
    compiled = compile_expression(expression, ("form",))
    return compiled.search({"form": {"x": value}})


def jwt(claims: object, *, padded: bool = False) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).decode()
        for each in ({"alg": "none"}, claims)
    ]
    return ".".join(each if padded else each.rstrip("=") for each in (*parts, "sig"))


OPERATIONS = '{"query": "mutation", "variables": {"input": {"email": "a@b.test"}}}'
PLACE = "https://acme.test:8080/users/u%2042/welcome?id=7&tag=a&tag=b&n=Zo%C3%AB#top"


@pytest.mark.parametrize(
    ("expression", "value", "expected"),
    [
        ("parse_json(form.x).variables.input.email", OPERATIONS, "a@b.test"),
        ("parse_json(form.x)[0].id", ")]}'\n" + '[{"id": 42.0}]', 42),
        ("parse_json(form.x)", "null", None),
        ("split(form.x, '|')[1]", "a|b|c", "b"),
        ("split(form.x, ', ')", "", [""]),
        ("last(split(form.x, '/'))", "/users/42", "42"),
        ("last(form.x)", [1, 2, 3], 3),
        ("last(form.x)", [], None),
        ("url_path(form.x)", PLACE, "/users/u 42/welcome"),
        ("url_path(form.x)", "/users/42?a=/b", "/users/42"),
        ("url_path(form.x)", "//acme.test/a", "/a"),
        ("url_path(form.x)", "https://acme.test", ""),
        ("url_path(form.x)", "a@b", "a@b"),
        ("url_path(form.x)", "http://[::1/a", "/a"),
        ("url_query(form.x).id", PLACE, "7"),
        ("url_query(form.x).tag", PLACE, ["a", "b"]),
        ("url_query(form.x).n", PLACE, "Zoë"),
        ("url_query(form.x)", "/a", {}),
        ("url_query(form.x)", "?a+b=%zz&c", {"a b": "%zz", "c": ""}),
        ("jwt_claims(form.x).sub", jwt({"sub": "u_1"}), "u_1"),
        ("jwt_claims(form.x).sub", jwt({"sub": "u_12"}, padded=True), "u_12"),
        ("jwt_claims(form.x).name", "Bearer " + jwt({"name": "Zoë?>"}), "Zoë?>"),
        ("last(split(url_path(form.x), '/'))", "/u/7?x", "7"),
    ],
)
def test_what_they_return(expression: str, value: object, expected: object) -> None:
    assert found(expression, value) == expected


@pytest.mark.parametrize("name", NAMES)
def test_null_is_null(name: str) -> None:
    assert found(f"{name}(form.y)", None) is None
    assert found("split(form.y, ',')", None) is None


@pytest.mark.parametrize(
    ("expression", "value", "why"),
    [
        ("parse_json(form.x)", "{", "parse_json() was given malformed JSON"),
        ("parse_json(form.x)", "[" * 100_000, "nested too deep"),
        ("parse_json(form.x)", "[" * 40_000, "nested too deep"),
        ("parse_json(form.x)", ["{}"], "cannot take a value of type array"),
        ("split(form.x, '')", "a", "a separator that is not empty"),
        ("split(form.x, 'a')", "a" * 5000, "over 1000 pieces"),
        ("last(form.x)", "abc", "cannot take a value of type string"),
        ("url_query(form.x)", "?" + "a&" * 5000, "over 1000 fields"),
        ("url_path(form.x)", "/" + "a%41" * 50_000, "over 30000 escapes"),
        ("jwt_claims(form.x)", "a.b", "no JWT"),
        ("jwt_claims(form.x)", "a.!!.c", "no JWT"),
        ("jwt_claims(form.x)", jwt(["sub"]), "no JWT"),
        ("jwt_claims(form.x)", "a.b.c.d.e", "an encrypted token"),
        ("jwt_claims(form.x)", "a.\xff.c", "no JWT"),
    ],
)
def test_what_they_cannot_take_is_said(
    expression: str, value: object, why: str
) -> None:
    with pytest.raises(EvaluationError) as caught:
        found(expression, value)

    assert why in str(caught.value)


@given(st.sampled_from(NAMES), st.text(max_size=60) | st.just("\ud800.\udfff.x"))
def test_any_text_ends_in_a_value_or_in_words(name: str, text: str) -> None:
    try:
        value = found(f"{name}(form.x)", [text] if name == "last" else text)
    except EvaluationError as error:
        value = str(error)
    json.dumps(value, allow_nan=False)


def test_a_rule_may_read_a_jwt_of_the_response() -> None:
    (rule,) = compile_rules(
        [
            {
                "path": "/s",
                "customer_external_id": "jwt_claims(response.json.token).sub",
            }
        ]
    )

    assert rule.reads_answer
    assert not rule.customer.by_request


class TestTheBound:
    ITEMS: Final = [{"id": number} for number in range(20_000)]

    @pytest.mark.parametrize(
        "expression",
        [
            "form.x[?id == `7`].id | [0]",
            "form.x[*].id",
            "max_by(form.x, &id)",
            "map(&to_string(id), form.x)",
            "sort_by(form.x, &id)[0]",
        ],
    )
    def test_it_ends_a_walk_through_a_large_document(self, expression: str) -> None:
        with pytest.raises(EvaluationError) as caught:
            found(expression, self.ITEMS)

        assert f"over {MAX_STEPS} steps" in str(caught.value)
        assert expression in str(caught.value)

    def test_what_is_near_is_found_in_a_large_document(self) -> None:
        assert found("form.x[7].id", self.ITEMS) == 7
        assert found("last(form.x).id", self.ITEMS) == 19_999

    def test_each_search_begins_anew(self) -> None:
        compiled = compile_expression("form.x[?id == `7`].id | [0]", ("form",))
        for _ in range(3):
            assert compiled.search({"form": {"x": self.ITEMS[:1000]}}) == 7

    def test_the_lead_says_which_expression_it_was(self) -> None:
        (rule,) = compile_rules(
            [
                {
                    "path": "/s",
                    "when": "form.x[?id == `7`]",
                    "customer_external_id": "form.id",
                }
            ]
        )
        values = {"form": {"x": self.ITEMS, "id": "u_1"}, "query": {}, "json": None}

        judged = evaluate(rule, Document(values))

        assert judged.draft is not None
        assert judged.draft.problem is not None
        assert "when: it takes over 10000 steps" in judged.draft.problem
        assert "form.x[?id == `7`]" in judged.draft.problem
