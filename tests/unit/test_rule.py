"""Sign-up rules: compiled or refused, matched, and evaluated."""

from __future__ import annotations

import tomllib
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.leads import Mode
from relay.core.rules.bodies import Copy
from relay.core.rules.documents import Document, document
from relay.core.rules.evaluation import Draft, evaluate
from relay.core.rules.paths import parse_pattern, plain_segment
from relay.core.rules.rule import RuleError, SignupRule, compile_rules, match

SECRET = "person@acme.test"

SEGMENTS = st.text(st.characters(codec="utf-8"), min_size=1).filter(
    lambda text: quote(plain_segment(quote(text, safe="")) or "") == quote(text)
)
"""Texts that stand in one segment, whichever server reads it."""

EXAMPLE = r"""
[[signup]]
method = "POST"
path = "/teams/{team}/signup"
event = "Joined"
when = "response.status < `300`"
customer_external_id = "response.json.user.id || form.email"
customer_name = "form.name"
customer_email = "form.email"
customer_avatar = "response.json.user.avatar"
mode = "deferred"
quantity = "json.seats"
metadata = { plan = "form.plan", team = "path.team" }
clear_cookie = false
known_customer = true
"""


def rule(**changes: Any) -> SignupRule:
    """The rule of a minimal table, with changes."""
    raw = {"path": "/signup", "customer_external_id": "form.id"} | changes
    (compiled,) = compile_rules([raw])
    return compiled


def doc(*notes: str, status: int | None = 200, **roots: Any) -> Document:
    """A document that is empty but for the given roots."""
    empty: dict[str, Any] = {
        **{name: {} for name in ("form", "query", "path", "headers", "cookies")},
        "json": None,
        "response": {"status": status, "headers": {}, "json": None},
    }
    return Document(empty | roots, notes)


def draft(compiled: SignupRule, found: Document) -> Draft:
    """What the rule makes of a document that it takes for a sign-up."""
    made = evaluate(compiled, found).draft
    assert made is not None
    return made


class TestCompiling:
    def test_the_example_of_the_documentation_compiles_as_written(self) -> None:
        (compiled,) = compile_rules(tomllib.loads(EXAMPLE)["signup"])

        assert compiled.label == "POST /teams/{team}/signup"
        assert (compiled.event, compiled.mode) == ("Joined", Mode.DEFERRED)
        assert (compiled.clear_cookie, compiled.known_customer) == (False, True)
        assert {name: each.text for name, each in compiled.fields.items()} == {
            "customerExternalId": "response.json.user.id || form.email",
            "customerName": "form.name",
            "customerEmail": "form.email",
            "customerAvatar": "response.json.user.avatar",
            "eventQuantity": "json.seats",
        }
        assert {name: each.text for name, each in compiled.metadata.items()} == {
            "plan": "form.plan",
            "team": "path.team",
        }

    def test_what_is_not_said_has_a_default(self) -> None:
        compiled = rule()

        assert compiled.label == "POST /signup"
        assert (compiled.event, compiled.mode) == ("Sign Up", Mode.ASYNC)
        assert compiled.when is None
        assert (compiled.clear_cookie, compiled.known_customer) == (True, False)
        assert [*compiled.fields] == ["customerExternalId"]
        assert compiled.metadata == {}

    def test_a_method_is_taken_in_any_case(self) -> None:
        assert rule(method="put").method == "PUT"

    def test_no_rules_are_rules_too(self) -> None:
        assert compile_rules([]) == ()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"custmer_name": "form.a"},
                'custmer_name: there is no such setting; did you mean "customer_name"?',
            ),
            ({"zzz\nzzz": "x"}, "zzz zzz: there is no such setting"),
            ({"path": None}, "path: is required"),
            ({"customer_external_id": None}, "customer_external_id: is required"),
            ({"customer_external_id": 1}, "customer_external_id: must be text"),
            ({"customer_name": ["form.a"]}, "customer_name: must be text"),
            (
                {"customer_name": "form."},
                "customer_name: not JMESPath: it ends too early",
            ),
            ({"customer_name": ""}, "customer_name: not JMESPath: "),
            ({"quantity": 3}, "quantity: must be text"),
            ({"when": "sha265(form.a)"}, "when: there is no sha265(); "),
            ({"when": "user.ok"}, 'when: the document has no "user"'),
            ({"metadata": "form.a"}, "metadata: must be a table"),
            ({"metadata": {"plan": 1}}, "metadata.plan: must be text"),
            ({"metadata": {"plan": {"a": "form.a"}}}, "metadata.plan: must be text"),
            ({"metadata": {"plan": "form["}}, "metadata.plan: not JMESPath: "),
            ({"clear_cookie": "yes"}, "clear_cookie: must be true or false"),
            ({"known_customer": 1}, "known_customer: must be true or false"),
            ({"mode": "later"}, "mode: must be one of async, wait, deferred"),
            ({"mode": 1}, "mode: must be text"),
            ({"event": "  "}, "event: must have 1 to 255 characters"),
            ({"event": "\U0001f600" * 128}, "event: must have 1 to 255 characters"),
            ({"method": "PO ST"}, "method: must be an HTTP method, such as POST"),
            ({"path": "signup"}, "path: must start with /"),
            ({"path": "/a?b"}, "path: must not hold a query or a fragment"),
            ({"path": "/a#b"}, "path: must not hold a query or a fragment"),
            ({"path": "/a/*/b"}, "path: may have a * only as its last segment"),
            ({"path": "/a*"}, "path: may have a * only as its last segment"),
            ({"path": "/{a}/{a}"}, "path: has two placeholders of one name"),
            ({"path": "/{a"}, "path: needs a whole segment for a {placeholder}"),
            ({"path": "/x{a}"}, "path: needs a whole segment for a {placeholder}"),
            ({"path": "/{a-b}"}, "path: needs a whole segment for a {placeholder}"),
        ],
    )
    def test_a_mistake_is_one_line_that_names_the_key(
        self, changes: dict[str, Any], message: str
    ) -> None:
        raw = {"path": "/signup", "customer_external_id": "form.id"} | changes
        raw = {key: value for key, value in raw.items() if value is not None}

        with pytest.raises(RuleError) as caught:
            compile_rules([{"path": "/", "customer_external_id": "form.id"}, raw])

        assert str(caught.value).startswith(f"signup[1].{message}")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("raw", "message"),
        [
            ({"path": "/"}, "signup: must be a list of tables ([[signup]])"),
            ("x", "signup: must be a list of tables ([[signup]])"),
            (None, "signup: must be a list of tables ([[signup]])"),
            (["x"], "signup[0]: must be a table"),
        ],
    )
    def test_what_is_no_list_of_tables_is_refused(
        self, raw: object, message: str
    ) -> None:
        with pytest.raises(RuleError) as caught:
            compile_rules(raw)

        assert str(caught.value) == message

    @given(
        st.lists(
            st.dictionaries(
                st.sampled_from(["path", "when", "event", "metadata", "method", "x"]),
                st.none()
                | st.text()
                | st.integers()
                | st.dictionaries(st.text(), st.text()),
            )
        )
    )
    def test_any_configuration_compiles_or_is_a_rule_error(self, raw: object) -> None:
        try:
            compile_rules(raw)
        except RuleError as error:
            problems = error.problems
        else:
            problems = ("compiled",)
        assert {len(line.splitlines()) for line in problems} == {1}

    def test_all_mistakes_of_all_rules_are_found_at_once(self) -> None:
        metadata = {"plan": "form.", "team": "path.team"}
        first = {"pth": "/a", "when": "a b", "metadata": metadata}
        second = {"path": "/b", "customer_external_id": "form.id", "mode": "soon"}

        with pytest.raises(RuleError) as caught:
            compile_rules([first, second])

        named = [line.partition(": ")[0] for line in caught.value.problems]
        assert named == [
            "signup[0].pth",
            "signup[0].path",
            "signup[0].when",
            "signup[0].customer_external_id",
            "signup[0].metadata.plan",
            "signup[1].mode",
        ]


class TestPaths:
    @pytest.mark.parametrize(
        ("pattern", "path", "expected"),
        [
            ("/signup", "/signup", {}),
            ("/signup", "/signup/", {}),
            ("/signup/", "/signup", {}),
            ("/signup", "/signup//", None),
            ("/signup", "/signup;jsessionid=1", {}),
            ("/signup", "/signup;a=1/", {}),
            ("/signup", "/./signup", None),
            ("/signup/", "/signup/", {}),
            ("/signup", "/Signup", None),
            ("/signup", "/sign%75p", {}),
            ("/signup", "//signup", None),
            ("/signup", "/x/../signup", None),
            ("/", "/", {}),
            ("/", "", None),
            ("/inscripción", "/inscripci%C3%B3n", {}),
            ("/inscripci%C3%B3n", "/inscripci%c3%b3n", {}),
            ("/teams/{team}/signup", "/teams/blue/signup", {"team": "blue"}),
            ("/teams/{team}/signup", "/teams/a%20b/signup/", {"team": "a b"}),
            ("/teams/{team}/signup", "/teams/a;v=1/signup", {"team": "a"}),
            ("/teams/{team}/signup", "/teams/a%3Bb/signup", {"team": "a;b"}),
            ("/teams/{team}/signup", "/teams/%FF/signup", {"team": "\ufffd"}),
            ("/teams/{team}/signup", "/teams//signup", None),
            ("/teams/{team}/signup", "/teams/a/b/signup", None),
            ("/{a}/{b}", "/1/2", {"a": "1", "b": "2"}),
            ("/signup/*", "/signup/x", {}),
            ("/signup/*", "/signup/x/y/", {}),
            ("/signup/*", "/signup/", {}),
            ("/signup/*", "/signup", None),
            ("/signup/*", "/signupx/y", None),
            ("/{a}/*", "/1/2/3", {"a": "1"}),
            ("/*", "/", {}),
            ("/*", "/anything/at/all", {}),
        ],
    )
    def test_a_path_is_exact_but_for_placeholders_and_what_lies_below(
        self, pattern: str, path: str, expected: dict[str, str] | None
    ) -> None:
        assert parse_pattern(pattern).match(path) == expected

    @given(st.text(), st.text())
    def test_any_path_can_be_compared(self, pattern: str, path: str) -> None:
        try:
            parsed = parse_pattern(pattern)
        except ValueError:
            return
        found = parsed.match(path)
        assert found is None or all(found.values())

    @given(SEGMENTS, SEGMENTS)
    def test_placeholders_give_back_any_text(self, one: str, two: str) -> None:
        path = f"/{quote(one, safe='')}/x/{quote(two, safe='')}"

        assert parse_pattern("/{one}/x/{two}").match(path) == {"one": one, "two": two}

    @pytest.mark.parametrize(
        "path",
        [
            "/signup/../search",
            "/signup/./x",
            "/signup/..",
            "/signup/%2e%2e/search",
            "/signup/.%2e/search",
            "/signup/%2E./search",
            "/signup/%2e/search",
            "/signup/%252e%252e/search",
            "/signup/%25252e./search",
            "/signup/..;/search",
            "/signup/..;a=b/search",
            "/signup/..%3b/search",
            "/signup/.;/search",
            "/signup/..%2fsearch",
            "/signup/a%2fb",
            "/signup/a%2Fb",
            "/signup/a%252fb",
            "/signup/a%5cb",
            "/signup/a\\b",
            "/signup/..%5csearch",
            "/signup/x%00/y",
            "/signup/x%0ay",
            "/signup/%c0%ae%c0%ae/search",
            "/signup/a%c0%afb",
        ],
    )
    @pytest.mark.parametrize("pattern", ["/signup/*", "/signup/{a}", "/{a}/{b}/{c}"])
    def test_what_a_site_may_read_as_another_path_matches_nothing(
        self, pattern: str, path: str
    ) -> None:
        assert parse_pattern(pattern).match(path) is None

    @pytest.mark.parametrize("path", ["/a/../b", "/a%2Fb", "/a/%2e"])
    def test_a_pattern_that_could_never_match_is_refused(self, path: str) -> None:
        with pytest.raises(ValueError, match="no request matches"):
            parse_pattern(path)

    def test_letters_are_compared_as_a_rules_key_says(self) -> None:
        pattern = parse_pattern("/SignUp/{team}", ignore_case=True)

        assert pattern.match("/signup/Blue") == {"team": "Blue"}
        assert parse_pattern("/SignUp").match("/signup") is None


class TestMatching:
    RULES = compile_rules(
        [
            {"path": path, "method": method, "customer_external_id": "form.id"}
            for method, path in [
                ("POST", "/a/b"),
                ("POST", "/a/{x}"),
                ("PUT", "/a/*"),
            ]
        ]
    )

    @pytest.mark.parametrize(
        ("method", "path", "expected"),
        [
            ("POST", "/a/b", ("POST /a/b", {})),
            ("POST", "/a/c", ("POST /a/{x}", {"x": "c"})),
            ("PUT", "/a/b", ("PUT /a/*", {})),
            ("GET", "/a/b", None),
            ("post", "/a/b", None),
            ("POST", "/b", None),
        ],
    )
    def test_the_first_rule_of_the_method_and_path_wins(
        self, method: str, path: str, expected: tuple[str, dict[str, str]] | None
    ) -> None:
        found = match(self.RULES, method, path)

        first = (found[0].rule.label, found[0].params) if found else None
        assert first == expected


class TestEvaluating:
    def test_a_form_sign_up_becomes_dubs_fields(self) -> None:
        (compiled,) = compile_rules(tomllib.loads(EXAMPLE)["signup"])
        found = document(
            query="",
            path_params={"team": "blue"},
            headers=[],
            request=Copy(
                "application/x-www-form-urlencoded",
                b"name=Zo%C3%AB&email=zoe%40acme.test&plan=pro",
            ),
            response_status=201,
            response_headers=[],
            response=Copy("application/json", b'{"user": {"id": 42, "avatar": ""}}'),
        )

        assert evaluate(compiled, found).draft == Draft(
            {
                "eventName": "Joined",
                "mode": "deferred",
                "customerExternalId": "42",
                "customerName": "Zoë",
                "customerEmail": "zoe@acme.test",
                "metadata": {"plan": "pro", "team": "blue"},
            }
        )

    @pytest.mark.parametrize(
        ("when", "status", "expected"),
        [
            ("response.status < `400`", 200, True),
            ("response.status < `400`", 399, True),
            ("response.status < `400`", 400, False),
            ("response.status < `400`", None, False),
            ("response.json.ok", 200, False),
            ("!(response.json.error)", 500, True),
            ("`0`", 200, True),
            ("''", 200, False),
        ],
    )
    def test_when_says_what_is_a_sign_up(
        self, when: str, status: int | None, *, expected: bool
    ) -> None:
        judged = evaluate(rule(when=when), doc(form={"id": "u"}, status=status))

        assert (judged.draft is not None) is expected
        assert judged.accepted is expected

    @pytest.mark.parametrize("value", [None, "", "  ", [], {}])
    def test_without_an_id_there_is_a_problem_to_keep(self, value: object) -> None:
        made = draft(
            rule(customer_name="form.name"), doc(form={"id": value, "name": "N"})
        )

        assert made.problem == "customer_external_id found no id in this sign-up"
        assert made.fields["customerName"] == "N"
        assert "customerExternalId" not in made.fields

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("u_1", "u_1"),
            (42, "42"),
            (0, "0"),
            (-7, "-7"),
            (2**63, "9223372036854775808"),
        ],
    )
    def test_an_id_may_be_a_whole_number(self, value: object, expected: str) -> None:
        made = draft(rule(), doc(form={"id": value}))

        assert made.fields["customerExternalId"] == expected
        assert made.problem is None
        assert made.notes == ()

    @pytest.mark.parametrize(
        "value",
        [
            *(4.5, True, False, ["u_1"], {"id": 1}, 10**100),
            pytest.param(10**5000, id="more digits than str() takes"),
        ],
    )
    def test_but_nothing_else_than_text(self, value: object) -> None:
        made = draft(rule(), doc(form={"id": value}))

        assert made.problem == "customer_external_id found no id in this sign-up"
        assert made.notes == ("customerExternalId was left out: it is not text.",)

    def test_names_may_be_numbers_and_addresses_may_not(self) -> None:
        compiled = rule(
            customer_name="json.name",
            customer_email="json.email",
            customer_avatar="json.avatar",
        )
        made = draft(
            compiled,
            doc(form={"id": "u"}, json={"name": 7, "email": 7, "avatar": [1]}),
        )

        assert made.fields["customerName"] == "7"
        assert made.notes == (
            "customerEmail was left out: it is not text.",
            "customerAvatar was left out: it is not text.",
        )

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("3", 3),
            (" 12 ", 12),
            (3, 3),
            (2.5, 2.5),
            ("3.5", "3.5"),
            ("-1", "-1"),
            ("\u0663", "\u0663"),
            ("9" * 10, "9" * 10),
            (["3"], ["3"]),
        ],
    )
    def test_a_quantity_in_digits_is_a_number(
        self, value: object, expected: object
    ) -> None:
        made = draft(rule(quantity="form.n"), doc(form={"id": "u", "n": value}))

        assert made.fields["eventQuantity"] == expected

    def test_metadata_keeps_any_json_that_is_not_empty(self) -> None:
        metadata = {key: f"json.{key}" for key in ("zero", "no", "list", "nil", "void")}
        made = draft(
            rule(metadata=metadata),
            doc(
                form={"id": "u"},
                json={"zero": 0, "no": False, "list": [1, {}], "nil": None, "void": {}},
            ),
        )

        assert made.fields["metadata"] == {"zero": 0, "no": False, "list": [1, {}]}

    def test_metadata_that_is_all_empty_is_left_out(self) -> None:
        made = draft(rule(metadata={"a": "form.a"}), doc(form={"id": "u"}))

        assert "metadata" not in made.fields

    def test_an_expression_that_fails_costs_its_field_and_leaves_a_note(self) -> None:
        compiled = rule(customer_name="sha256(json.n)", metadata={"m": "lower(json.n)"})
        made = draft(compiled, doc("earlier", form={"id": "u"}, json={"n": 3}))

        assert made.fields == {
            "eventName": "Sign Up",
            "mode": "async",
            "customerExternalId": "u",
        }
        assert made.problem is None
        assert made.notes == (
            "earlier",
            "customerName was left out: sha256() cannot take a value of type number.",
            "metadata.m was left out: lower() cannot take a value of type number.",
        )

    def test_an_id_that_fails_is_a_problem(self) -> None:
        made = draft(rule(customer_external_id="lower(json.n)"), doc(json={"n": 3}))

        assert made.problem == "customer_external_id found no id in this sign-up"
        (note,) = made.notes
        assert note.startswith("customerExternalId was left out: lower() cannot take")

    def test_a_when_that_fails_is_a_problem_and_loses_nothing(self) -> None:
        made = draft(rule(when="lower(response.status) == 'x'"), doc(form={"id": "u"}))

        assert made.problem == "when: lower() cannot take a value of type number"
        assert made.fields["customerExternalId"] == "u"

    def test_a_when_that_fails_is_told_before_a_missing_id(self) -> None:
        made = draft(rule(when="lower(response.status)"), doc())

        assert made.problem == "when: lower() cannot take a value of type number"

    def test_nobodys_data_is_in_notes_or_a_repr(self) -> None:
        compiled = rule(
            customer_name="abs(form.email)", customer_email="length(`1`) || form.email"
        )
        made = draft(compiled, doc(form={"id": SECRET, "email": SECRET}))

        assert len(made.notes) == 2
        assert SECRET not in repr(made)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=20,
        )
    )
    def test_any_document_makes_a_draft(self, value: object) -> None:
        every = dict.fromkeys(
            ("customer_external_id", "customer_name", "customer_email", "quantity"),
            "sha256(json) || json",
        )
        text = rule(when="`1`", metadata={"m": "json"}, **every)
        bare = rule(when="`1`", **dict.fromkeys(every, "json"))
        for compiled in (text, bare):
            made = draft(compiled, doc(json=value))
            found = made.fields.get("customerExternalId")
            assert (found is None) is (made.problem is not None)
            assert found is None or isinstance(found, str)
