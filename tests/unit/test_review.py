"""What is said of rules before any sign-up, and the rules for candidates."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from relay.core.rules.bodies import Copy
from relay.core.rules.candidates import (
    Candidate,
    candidate,
    fold_path,
    merged,
    observe,
    suggest,
)
from relay.core.rules.documents import document
from relay.core.rules.review import near, review
from relay.core.rules.rule import SignupRule, compile_rules, match

ID = {"customer_external_id": "response.json.id"}
NEVER = "it is never reached"


def rules(*tables: dict[str, Any]) -> tuple[SignupRule, ...]:
    return compile_rules([ID | table for table in tables])


@pytest.mark.parametrize(
    ("first", "second", "hidden"),
    [
        ({"path": "/a"}, {"path": "/a"}, True),
        ({"path": "/a"}, {"path": "/a/"}, True),
        ({"path": "/a"}, {"path": "/A"}, False),
        ({"path": "/a", "ignore_case": True}, {"path": "/A"}, True),
        ({"path": "/A"}, {"path": "/a", "ignore_case": True}, False),
        ({"path": "/a"}, {"path": "/a", "method": "PUT"}, False),
        ({"path": "/{x}"}, {"path": "/a"}, True),
        ({"path": "/a"}, {"path": "/{x}"}, False),
        ({"path": "/*"}, {"path": "/a/b"}, True),
        ({"path": "/a/*"}, {"path": "/a/b/*"}, True),
        ({"path": "/a/*"}, {"path": "/a"}, False),
        ({"path": "/a/b"}, {"path": "/a/*"}, False),
        ({"path": "/a"}, {"path": "/a", "when": "form.x"}, False),
        ({"path": "/a", "when": "form.x"}, {"path": "/a"}, False),
        ({"path": "/a", "when": "form.x"}, {"path": "/a", "when": "form.x"}, True),
        ({"path": "/a", "when": "form.x"}, {"path": "/a", "when": "form.y"}, False),
        ({"path": "/a", "when": "`true`"}, {"path": "/a", "when": "form.y"}, True),
        ({"path": "/a", "when": "`false`"}, {"path": "/a"}, False),
        ({"path": "/a"}, {"path": "/a", "customer_external_id": "form.id"}, False),
        ({"path": "/a", "customer_external_id": "form.id"}, {"path": "/a"}, True),
    ],
)
def test_a_rule_that_can_never_be_reached_is_named(
    first: dict[str, Any], second: dict[str, Any], *, hidden: bool
) -> None:
    one, other = review(rules(first, second))

    assert not any(NEVER in each for each in one.warnings)
    assert any(NEVER in each for each in other.warnings) is hidden


@pytest.mark.parametrize(
    ("expression", "alone"),
    [
        ("response.json.user.id", False),
        ("response.json.user.id || form.email", True),
        ("form.email", True),
        ("sha256(form.email)", True),
        ("not_null(response.json.id, json.email)", True),
        ("response.json.ok && form.email", False),
        ("join('-', [response.json.id, form.plan])", False),
        ("response.json.users[?email == 'x'].id | [0]", False),
        ('response.headers."x-id" || response.json.id', False),
        ("cookies.uid", True),
        ("'constant'", True),
    ],
)
def test_an_id_that_the_request_alone_can_make_is_warned_of(
    expression: str, *, alone: bool
) -> None:
    (one,) = review(rules({"path": "/a", "customer_external_id": expression}))

    assert any("request alone" in each for each in one.warnings) is alone


def test_a_review_says_what_decides() -> None:
    one, other = review(rules({"path": "/a"}, {"path": "/b", "when": "form.x"}))

    assert (one.decided_by, other.decided_by) == ("the default test", "when = form.x")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/SignUp", "set ignore_case = true"),
        ("/./signup", "spelled as a site may read otherwise"),
        ("//signup", "spelled as a site may read otherwise"),
        ("/x/../SIGNUP", "spelled as a site may read otherwise"),
        ("/x%2f..%2fsignup", "spelled as a site may read otherwise"),
        ("/login", None),
    ],
)
def test_a_path_that_nearly_fits_says_why_not(path: str, said: str | None) -> None:
    found = near(rules({"path": "/signup"}), "POST", path)

    assert said in found if said and found else found is said


# -- candidates


@pytest.mark.parametrize(
    ("path", "folded"),
    [
        ("/api/v1/signup", "/api/v1/signup"),
        ("/users/123/join", "/users/{id}/join"),
        ("/users/123/orders/456", "/users/{id}/orders/{id2}"),
        ("/t/550e8400-e29b-41d4-a716-446655440000", "/t/{id}"),
        ("/t/64b7f0c2a1d3e4f5a6b7c8d9/x", "/t/{id}/x"),
        ("/t/01HZX3K5N8Q2R4T6V8W0Y2A4C6", "/t/{id}"),
        ("/u/ada%40example.com/x", "/u/{id}/x"),
        ("/u/ada@example.com/x", "/u/{id}/x"),
        ("/signup;jsessionid=ABC", "/signup"),
        ("/signup/", "/signup/"),
        ("/./signup", "/./signup"),
        ("/auth/oauth2/callback", "/auth/oauth2/callback"),
        ("/_next/x.php", "/_next/x.php"),
        ("/users/ada/join", "/users/{id}/join"),
        ("/users/register", "/users/register"),
        ("/users/sign_up", "/users/sign_up"),
        ("/teams/blue/signup", "/teams/{id}/signup"),
        ("/users/new", "/users/new"),
        ("/users", "/users"),
        ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/*"),
        ("/x%00y", "/{id}"),
        ("/" + "a" * 40, "/{id}"),
        ("/", "/"),
    ],
)
def test_parts_that_name_one_thing_are_folded(path: str, folded: str) -> None:
    assert fold_path(path) == folded


def seen(
    kind: str, body: bytes, *, query: str = "", answer: bytes = b""
) -> dict[str, Any]:
    found = observe(
        document(
            query=query,
            path_params={},
            headers=[],
            request=Copy(kind, body),
            response_status=201,
            response_headers=[],
            response=Copy("application/json", answer),
        )
    )
    return {**found, "types": [kind], "statuses": ["201"], "pages": False}


FORM = "application/x-www-form-urlencoded"


def test_names_are_kept_and_values_never() -> None:
    found = seen(
        FORM,
        b"email=ada%40a.test&user[name]=Ada&empty=&ada%40a.test=1&hunter2&8400123456=x",
        query="ref=secret&hunter2",
        answer=b'{"user": {"id": "secret", "tags": [{"k": 1}]}, "a@a.t": {"a": 1}}',
    )

    assert found["fields"] == ["form.email", 'form."user[name]"', "query.ref"]
    assert found["answers"] == ["response.json.user.id", "response.json.user.tags[0].k"]


@pytest.mark.parametrize(
    "name",
    [
        *("1_email", "0-email", "users[0].email", "Input.Email", "user[0][email]"),
        "ctl00$Main$Email",
    ],
)
def test_names_as_frameworks_write_them_are_kept(name: str) -> None:
    found = seen(FORM, f"{name}=a%40a.test".encode())

    assert found["fields"] == [f'form."{name}"']
    assert (
        of("POST", "/join", found).likelihood
        > of("POST", "/join", seen(FORM, b"")).likelihood
    )


@pytest.mark.parametrize("name", ["12345_a", "1_$ACTION_ID_7f3a7f3a7f3a7f3a", "1email"])
def test_names_that_may_be_values_are_not(name: str) -> None:
    assert seen(FORM, f"{name}=x".encode())["fields"] == []


def test_ids_that_a_response_sets_beside_its_body_are_kept() -> None:
    found = observe(
        document(
            query="",
            path_params={},
            headers=[],
            request=Copy(FORM, b"email=a"),
            response_status=302,
            response_headers=[
                (b"Location", b"/welcome"),
                (b"X-User-Id", b"u_1"),
                (b"X-Request-Id", b"r"),
                (b"Set-Cookie", b"user_id=u_1"),
                (b"Set-Cookie", b"session=s"),
            ],
            response=None,
        )
    )

    ids = ['response.headers."x-user-id"', "response.cookies.user_id"]
    assert found["answers"] == ids


def test_names_of_json_are_expressions_the_outer_first() -> None:
    found = seen(
        "application/json", b'{"user": {"email": "a"}, "plan": "pro", "n": null}'
    )

    assert found["fields"] == ["json.plan", "json.user.email"]


def test_a_body_that_is_no_form_shows_nothing() -> None:
    assert seen(FORM, b"hunter2")["fields"] == []
    assert seen("application/octet-stream", b"\x00\xff")["fields"] == []


def test_names_are_bounded() -> None:
    body = "&".join(f"n{chr(97 + n % 26)}{chr(97 + n // 26)}=1" for n in range(500))

    assert len(seen(FORM, body.encode())["fields"]) == 40


def of(method: str, path: str, shown: dict[str, Any]) -> Candidate:
    return candidate(f"{method} {path}", shown, 3, 1, 2)


SUGGESTIONS = [
    (
        of(
            "POST",
            "/api/register",
            seen(
                "application/json",
                b'{"email": "a", "password": "x", "fullName": "A"}',
                answer=b'{"id": "request", "user": {"id": "u", "email": "a"}}',
            ),
        ),
        {
            "path": "/api/register",
            "customer_external_id": "response.json.user.id",
            "customer_email": "json.email",
            "customer_name": "json.fullName",
        },
    ),
    (
        of("PUT", "/t/{id}/join", seen(FORM, b"user[email]=a&user[first_name]=b")),
        {
            "method": "PUT",
            "path": "/t/{id}/join",
            "customer_external_id": 'form."user[email]"',
            "customer_email": 'form."user[email]"',
            "customer_name": 'form."user[first_name]"',
        },
    ),
    (
        of("GET", "/auth/callback", seen("", b"", query="code=x&state=y")),
        {
            "method": "GET",
            "path": "/auth/callback",
            "customer_external_id": "response.json.id",
        },
    ),
]


@pytest.mark.parametrize(("found", "expected"), SUGGESTIONS)
def test_a_candidates_rule_is_valid_and_matches_it(
    found: Candidate, expected: dict[str, Any]
) -> None:
    (table,) = tomllib.loads(suggest(found))["signup"]
    compiled = compile_rules([table])

    assert table == expected
    assert match(compiled, found.method, found.path.replace("{id}", "42"))


def test_a_rule_by_the_request_alone_says_so() -> None:
    text = suggest(of("POST", "/join", seen(FORM, b"email=a")))

    assert "request" in text
    assert "alone" in text


def test_the_likeliest_sign_up_comes_first() -> None:
    shown = seen("application/json", b'{"email": "a", "password": "b"}')
    paths = ["/api/register", "/api/profile", "/api/login"]
    likely = [of("POST", path, shown).likelihood for path in paths]

    assert likely == sorted(likely, reverse=True)
    assert len(set(likely)) == 3


def test_what_two_requests_have_shown_is_joined() -> None:
    one = seen(FORM, b"email=a")
    other = {**seen("application/json", b'{"email": "a"}'), "statuses": ["422"]}

    both = merged(one, other)
    assert both["fields"] == ["form.email", "json.email"]
    assert both["types"] == [FORM, "application/json"]
    assert both["statuses"] == ["201", "422"]
