"""JMESPath in sign-up rules: mistakes at start, and one kind of failure later."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.rules.expressions import (
    EvaluationError,
    Expression,
    ExpressionError,
    compile_expression,
    did_you_mean,
    is_empty,
    is_plain,
    is_true,
)

ROOTS = ("form", "json", "response")
SECRET = "person@acme.test"


def search(text: str, **document: Any) -> Any:
    """Compile and search in one go."""
    return compile_expression(text, ROOTS).search(document)


class TestCompiling:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "not JMESPath: Invalid JMESPath expression: cannot be empty."),
            ("form.", "not JMESPath: it ends too early"),
            ("form..a", "not JMESPath: unexpected '.' at column 6"),
            ("form.a b", "not JMESPath: unexpected 'b' at column 8"),
            ("form = 1", "not JMESPath: Unknown token '=' at column 6"),
            ("form.'x'", "not JMESPath: unexpected 'x' at column 6"),
            ("form.User-Agent", "not JMESPath: "),
            ("form[" + "9" * 5000 + "]", "not JMESPath: Exceeds the limit"),
            ("(" * 5000, "not JMESPath: "),
            ("||".join(["form"] * 5000), "not JMESPath: "),
            ("sha265(form.a)", 'there is no sha265(); did you mean "sha256"?'),
            ("nonsense(form.a)", "there is no nonsense()"),
            ("form.a | [?nonsense(@)]", "there is no nonsense()"),
            ("lower()", "lower() takes 1 arguments, not 0"),
            ("lower(form.a, form.b)", "lower() takes 1 arguments, not 2"),
            ("merge()", "merge() takes 1 arguments, not 0"),
            ("fom.name", 'the document has no "fom"; did you mean "form"?'),
            ("user.id", 'the document has no "user"'),
            ("form.a || jsn.b", 'the document has no "jsn"; did you mean "json"?'),
            ("lower(jsn.b)", 'the document has no "jsn"; did you mean "json"?'),
            ("{a: form.a, b: x}", 'the document has no "x"'),
            ("!x", 'the document has no "x"'),
            ("!form.a", '"!" needs parentheses, as in !(form.a)'),
            ("form.b && !form.a[0]", '"!" needs parentheses'),
            ("form.b || !form.a[?x]", '"!" needs parentheses'),
            ("x[0]", 'the document has no "x"'),
            ("x[1:2].form", 'the document has no "x"'),
            ("x[].form", 'the document has no "x"'),
            ("x | form", 'the document has no "x"'),
        ],
    )
    def test_a_mistake_is_found_at_start(self, text: str, reason: str) -> None:
        with pytest.raises(ExpressionError) as caught:
            compile_expression(text, ROOTS)

        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "text",
        [
            "response.json.user.id || form.email",
            "response.status < `400`",
            "form.plan == `pro`",
            "form.plan == 'pro' && json.seats > `3`",
            "json.items[?kind == 'x'].{id: id, name: name} | [0]",
            "sort_by(json.items, &rank)[0].id",
            "merge(form, json)",
            "not_null(form.a, form.b, form.c)",
            'form."user[email]"',
            "json.*.id",
            "json.items[0:2]",
            "!(form.a) && !form",
            "!form | @",
            "@",
            "`1`",
        ],
    )
    def test_what_rules_need_compiles(self, text: str) -> None:
        assert compile_expression(text, ROOTS).text == text

    @given(st.text("form.json|&()[]{}*@`'\"?:,<>=! 019-\\"))
    def test_any_text_compiles_or_is_an_expression_error(self, text: str) -> None:
        try:
            compiled = compile_expression(text, ROOTS)
        except ExpressionError:
            return
        assert isinstance(compiled, Expression)

    def test_a_near_name_is_offered_and_a_far_one_is_not(self) -> None:
        assert did_you_mean("custmer", ["customer", "x"]) == (
            '; did you mean "customer"?'
        )
        assert did_you_mean("zzz", ["customer"]) == ""


class TestSearching:
    def test_sha256_and_lower_are_there(self) -> None:
        digest = hashlib.sha256(SECRET.encode()).hexdigest()

        assert search("sha256(lower(form.email))", form={"email": SECRET.upper()}) == (
            digest
        )
        assert search("sha256(form.email)", form={}) is None
        assert search("lower(form.email)", form={}) is None

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("sha256(json.n)", "sha256() cannot take a value of type number"),
            ("lower(json.list)", "lower() cannot take a value of type array"),
            ("contains(json.email, json.n)", "it failed with TypeError"),
            ("json.email < json.n", "it failed with TypeError"),
            ("ceil(to_number('inf'))", "it failed with OverflowError"),
            ("json.list[::0]", "it failed with ValueError"),
            ("sha256(json.surrogate)", "it failed with UnicodeEncodeError"),
            ("to_number('nan')", "its result is not a JSON value"),
            ("[to_number('inf')]", "its result is not a JSON value"),
            ("&form", "its result is not a JSON value"),
            ("json.deep", "its result is not a JSON value"),
            ("keys(json.email)", "keys() cannot take a value of type string"),
        ],
    )
    def test_what_fails_says_how_without_the_persons_data(
        self, text: str, reason: str
    ) -> None:
        deep: Any = SECRET
        for _ in range(40):
            deep = [deep]
        json = {"n": 3, "list": [SECRET], "email": SECRET, "surrogate": "\ud800"}

        with pytest.raises(EvaluationError) as caught:
            search(text, json=json | {"deep": deep})

        assert reason in str(caught.value)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_a_result_too_deep_for_the_stack_is_a_failure_like_any_other(
        self,
    ) -> None:
        deep: Any = {}
        for _ in range(100_000):
            deep = [deep]

        with pytest.raises(EvaluationError):
            search("to_string(json)", json=deep)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class TestValues:
    @pytest.mark.parametrize("value", [None, "", "  \t", [], {}])
    def test_null_and_blank_and_empty_count_as_nothing(self, value: object) -> None:
        assert is_empty(value)

    @pytest.mark.parametrize("value", [0, False, 0.0, "x", [None], {"a": None}])
    def test_everything_else_is_a_value(self, value: object) -> None:
        assert not is_empty(value)

    @given(json_values)
    def test_truth_is_jmespaths_own(self, value: object) -> None:
        truthy = compile_expression("json && `1` || `2`", ROOTS)

        assert is_true(value) is (truthy.search({"json": value}) == 1)

    def test_zero_is_true_and_false_is_not(self) -> None:
        assert is_true(0)
        assert is_true(0.0)
        assert not is_true(value=False)

    def test_plain_values_are_finite_json_of_limited_depth(self) -> None:
        assert is_plain({"a": [1, 1.5, "x", True, None]})
        assert not is_plain([float("nan")])
        assert not is_plain({"a": float("inf")})
        assert not is_plain(object())
        assert is_plain([[]], depth=2)
        assert not is_plain([[]], depth=1)
        assert not is_plain({"a": {}}, depth=1)

    @given(json_values)
    def test_a_result_is_plain_or_the_search_fails(self, value: object) -> None:
        document = {"json": value}
        expression = compile_expression("json", ROOTS)

        if is_plain(value):
            assert expression.search(document) == value
        else:
            with pytest.raises(EvaluationError):
                expression.search(document)
