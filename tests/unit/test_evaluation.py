"""What rules make of a sign-up and its response: by default, together, in doubt."""

from __future__ import annotations

from typing import Any

import pytest

from relay.core.rules.bodies import Copy
from relay.core.rules.documents import Document, answered, asked_document
from relay.core.rules.evaluation import Beside, Judgement, decide, evaluate
from relay.core.rules.json_verdict import Ruling
from relay.core.rules.rule import SignupRule, compile_rules, match
from relay.core.rules.success import Asked

FORM = "application/x-www-form-urlencoded"
JSON = [(b"Content-Type", b"application/json")]
HTML = [(b"Content-Type", b"text/html")]


def rules(*tables: dict[str, Any]) -> tuple[SignupRule, ...]:
    return compile_rules([{"path": "/signup"} | table for table in tables])


def exchange(
    body: str = "email=ada%40a.test",
    *,
    query: str = "",
    kind: str = FORM,
    status: int = 200,
    headers: list[tuple[bytes, bytes]] | None = None,
    answer: bytes = b"",
) -> Document:
    """The document of a request and its response."""
    asked = asked_document(
        query=query,
        path_params={},
        headers=[],
        request=Copy(kind, body.encode()),
    )
    lines = headers or []
    return answered(asked, status, lines, Copy.of(lines, answer))


def judged(table: dict[str, Any], document: Document, **beside: Any) -> Judgement:
    (rule,) = rules(table)
    return evaluate(rule, document, Beside(Asked("/signup", "shop.test"), **beside))


BY_FORM = {"customer_external_id": "form.email"}
BY_ANSWER = {"customer_external_id": "response.json.user.id"}
BY_EITHER = {"customer_external_id": "response.json.user.id || form.email"}


# -- the default test, in a rule


def test_a_refusal_makes_no_draft() -> None:
    found = exchange(headers=JSON, answer=b'{"success": false}')
    made = judged(BY_FORM, found)

    assert (made.draft, made.verdict.outcome) == (None, Ruling.REFUSED)


def test_what_is_undecided_makes_no_draft() -> None:
    made = judged(BY_FORM, exchange(headers=HTML, answer=b"<form>"))

    assert (made.draft, made.verdict.outcome) == (None, Ruling.UNDECIDED)


def test_a_when_of_the_operators_decides_alone() -> None:
    found = exchange(headers=HTML, answer=b"<form>")
    made = judged({**BY_FORM, "when": "response.status == `200`"}, found)

    assert made.draft is not None
    assert made.draft.problem is None


def test_an_id_of_the_response_counts_only_when_it_is_there() -> None:
    there = exchange(headers=JSON, answer=b'{"user": {"id": 7}}')
    gone = exchange(headers=JSON, answer=b'{"message": "Thanks"}')

    assert judged(BY_ANSWER, there).accepted
    made = judged(BY_ANSWER, gone)
    assert (made.draft, made.verdict.outcome) == (None, Ruling.UNDECIDED)
    assert made.verdict.when == "response.json.user.id"


def test_an_id_of_the_response_decides_what_is_undecided() -> None:
    lines = [*HTML, (b"X-User-Id", b"u_7")]
    table = {"customer_external_id": 'response.headers."x-user-id"'}

    assert judged(table, exchange(headers=lines, answer=b"<p>")).accepted
    assert not judged(table, exchange(headers=HTML, answer=b"<p>")).accepted


def test_an_id_of_the_response_does_not_undo_a_refusal() -> None:
    found = exchange(headers=JSON, answer=b'{"ok": false, "user": {"id": 7}}')

    assert judged(BY_ANSWER, found).verdict.outcome is Ruling.REFUSED


def test_a_response_that_cannot_be_read_is_kept_with_its_reason() -> None:
    found = exchange(status=201, headers=JSON, answer=b"{")
    made = judged(BY_ANSWER, found, unreadable=True)

    assert made.draft is not None
    assert made.draft.problem == "customer_external_id found no id in this sign-up"


def test_a_response_that_cannot_be_read_leaves_a_lead_for_a_person() -> None:
    found = exchange(headers=JSON, answer=b"{")
    made = judged(BY_FORM, found, unreadable=True)

    assert made.draft is not None
    assert "could not be read" in (made.draft.problem or "")
    assert made.draft.fields["customerExternalId"] == "ada@a.test"


def test_an_id_of_the_request_stands_in_if_the_site_accepts() -> None:
    accepted = exchange(status=302, headers=[(b"Location", b"/welcome")])
    refused = exchange(headers=JSON, answer=b'{"error": "taken"}')

    made = judged(BY_EITHER, accepted).draft
    assert made is not None
    assert made.fields["customerExternalId"] == "ada@a.test"
    assert judged(BY_EITHER, refused).draft is None


# -- several rules on one path


def test_the_first_rule_whose_when_holds_wins() -> None:
    both = rules(
        {**BY_FORM, "event": "Trial", "when": "form.plan == 'trial'"},
        {**BY_FORM, "event": "Sign Up"},
    )
    found = match(both, "POST", "/signup")
    welcome = [(b"Location", b"/welcome")]

    for body, event in (("plan=trial", "Trial"), ("plan=pro", "Sign Up")):
        document = exchange(f"email=a&{body}", status=302, headers=welcome)
        _, made = decide(found, document)
        assert made.draft is not None
        assert made.draft.fields["eventName"] == event


def test_a_when_that_fails_gives_way_to_a_rule_that_holds() -> None:
    both = rules({**BY_FORM, "when": "lower(response.status)"}, BY_FORM)
    found = match(both, "POST", "/signup")

    rule, made = decide(found, exchange(status=201))
    assert (rule, made.accepted) == (both[1], True)
    rule, made = decide(found, exchange(status=500))
    assert rule == both[0]
    assert made.draft is not None
    assert made.draft.problem == "when: lower() cannot take a value of type number"


def test_each_rule_has_its_own_placeholders() -> None:
    both = compile_rules(
        [
            {"path": "/{a}/join", "when": "`false`", "customer_external_id": "path.a"},
            {"path": "/{b}/{c}", "customer_external_id": "path.b"},
        ]
    )

    _, made = decide(match(both, "POST", "/blue/join"), exchange(status=201))
    assert made.draft is not None
    assert made.draft.fields["customerExternalId"] == "blue"


# -- names that the site may read otherwise


@pytest.mark.parametrize(
    "body",
    [
        "email=victim&email=attacker",
        "email=victim&+email=attacker",
        "email=victim&%20email=attacker",
        "email=victim&%09email=attacker",
        "email=victim&EMAIL=attacker",
        "email=victim&Email=attacker",
        "email=victim&email%20=attacker",
        "email=victim&email%00x=attacker",
        "email=victim&%EF%BB%BFemail=attacker",
        "email=victim&email[]=attacker",
        "email=victim&email[0]=attacker",
        "email=victim&email%5B%5D=attacker",
    ],
)
def test_an_ambiguous_id_is_kept_as_rejected_with_the_reason(body: str) -> None:
    made = judged(BY_FORM, exchange(body, status=201)).draft

    assert made is not None
    assert made.problem is not None
    assert made.problem.startswith("the request has form.email more than once")


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("user_email", "user.email"),
        ("user_email", "user+email"),
        ("user_email", "user[email"),
        ("user.email", "user_email"),
        ("user[email]", "User[email]"),
    ],
)
def test_names_are_compared_as_php_and_others_make_them(name: str, twin: str) -> None:
    table = {"customer_external_id": f'form."{name}"'}
    made = judged(table, exchange(f"{name}=victim&{twin}=attacker", status=201)).draft

    assert made is not None
    assert made.problem is not None


def test_the_query_is_another_place_of_the_same_name() -> None:
    found = exchange("email=victim", query="email=attacker", status=201)
    made = judged(BY_FORM, found).draft

    assert made is not None
    assert made.problem is not None


@pytest.mark.parametrize(
    "text",
    [
        '{"user": {"email": "victim", "Email": "attacker"}}',
        '{"user": {"email": "victim"}, "USER": {"email": "attacker"}}',
        '{"user": {"email": "victim", "email": "attacker"}}',
        '{"user": {"email": "victim"}, "user": {"email": "attacker"}}',
    ],
)
def test_json_names_that_come_twice_are_ambiguous(text: str) -> None:
    table = {"customer_external_id": "json.user.email"}
    made = judged(table, exchange(text, kind="application/json", status=201)).draft

    assert made is not None
    assert made.problem is not None


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ("email=ada&name=a&name=b", ""),
        ("email=ada&emails=x", ""),
        ("email=ada&e-mail=x", ""),
        ("email=ada", "email=ada"),
        ("email=ada&email_confirm=x", "plan=a&plan=b"),
    ],
)
def test_other_names_are_not_ambiguous(body: str, query: str) -> None:
    made = judged(BY_FORM, exchange(body, query=query, status=201)).draft

    assert made is not None
    assert made.problem is None


def test_an_id_of_the_sites_own_is_not_in_doubt() -> None:
    found = exchange(
        "email=a&Email=b", status=201, headers=JSON, answer=b'{"user": {"id": "u_1"}}'
    )
    made = judged(BY_EITHER, found).draft

    assert made is not None
    assert made.problem is None
