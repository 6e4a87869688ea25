"""The default test: what a site's response says about a sign-up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.rules.json_verdict import Ruling, judge_json
from relay.core.rules.success import Answered, Asked, Verdict, judge

YES, NO, OPEN = Ruling.ACCEPTED, Ruling.REFUSED, Ruling.UNDECIDED

FORM = "https://shop.test/register"


def judged(
    status: int = 200,
    headers: dict[str, str] | None = None,
    json: Any = None,
    *,
    target: str = "/register",
    referer: str | None = FORM,
    asked: dict[str, str] | None = None,
    body: bytes | None = None,
    cookies: dict[str, str] | None = None,
    names: frozenset[str] = frozenset({"email", "name"}),
) -> Verdict:
    """The verdict on a response to a form on FORM that posts to target."""
    lines = {**({"referer": referer} if referer else {}), **(asked or {})}
    return judge(
        Asked(target, "shop.test", lines, names),
        Answered(status, headers or {}, json, cookies or {}, body),
    )


def to(location: str, status: int = 302, **more: Any) -> Verdict:
    return judged(status, {"location": location}, **more)


@pytest.mark.parametrize("status", [400, 401, 403, 409, 422, 429, 500, 503])
def test_an_error_status_is_a_refusal(status: int) -> None:
    assert judged(status).outcome is NO


@pytest.mark.parametrize("status", [201, 204, 205])
def test_created_and_no_content_are_clear(status: int) -> None:
    assert judged(status).outcome is YES


@pytest.mark.parametrize("status", [307, 308])
def test_what_is_sent_again_elsewhere_is_no_sign_up_yet(status: int) -> None:
    assert to("/register/", status).outcome is NO


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/register", NO),  # Laravel's back(), Inertia, Rails
        ("/register/", NO),
        ("/Register", NO),
        ("register", NO),
        ("./register", NO),
        ("/x/../register", NO),
        ("https://shop.test/register", NO),
        ("https://www.shop.test/register", NO),
        ("//shop.test/register", NO),
        ("/register;jsessionid=1", NO),
        ("/regist%65r", NO),
        ("/register#form", NO),
        ("/register?error=taken", NO),
        ("?errors=1", NO),
        ("/login?error=CredentialsSignin", NO),  # Auth.js
        ("/api/auth/error?error=Verification", NO),
        ("/auth/error", NO),
        ("/#error=access_denied&error_code=otp_expired", NO),  # Supabase
        ("/register?error", NO),  # Spring
        ("/login?error", NO),
        ("/register?success", YES),
        ("/register?success=1", YES),
        ("/register?registered=true", YES),
        ("/register?checkemail=registered", YES),  # WordPress
        ("/register?message=Check+your+email", YES),
        ("/register?message=E-Mail+ist+vergeben", OPEN),
        ("/login?message=Could+not+authenticate+user", NO),  # Supabase's template
        ("/login?flash=email_already_taken", NO),
        ("/login?exists", NO),
        ("/login?user_exists=1", NO),
        ("/login?alreadyRegistered=true", NO),
        ("/login?exists=false", YES),
        ("/login?next=/errors/taken", YES),
        ("/register?step=2", OPEN),
        ("http://127.0.0.1:3000/register", OPEN),  # a site that does not know its name
        ("/register?success=0", NO),
        ("/welcome?status=failed", NO),
        ("/login?code=EMAIL_EXISTS", NO),  # Firebase's names of errors
        ("/login?code=user_already_exists", NO),
        ("/welcome?type=error", NO),
        ("/callback?code=4%2F0AX4XfWhZq&state=xyzzy", YES),  # OAuth's
        ("/callback?code=splat", YES),
        ("/welcome?code=ok", YES),
        ("/welcome", YES),
        ("/welcome?success=1&status=ok", YES),
        ("/", YES),
        ("/login", YES),
        ("/login?registered=1", YES),
        ("/login?error=0", YES),
        ("/dashboard", YES),
        ("https://app.shop.test/", YES),
        ("https://app.shop.test/onboarding", YES),
        ("/errors-and-omissions", NO),
        ("http://[", OPEN),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_counts_by_where_it_leads(
    location: str, expected: Ruling, status: int
) -> None:
    assert to(location, status).outcome is expected


@pytest.mark.parametrize(
    ("target", "referer", "location", "expected"),
    [
        ("/users", "https://shop.test/users/sign_up", "/users/sign_up", NO),  # Devise
        ("/api/join", "https://shop.test/plans/pro", "/plans/pro", NO),
        ("/api/join", "https://shop.test/plans/pro?x=1", "/plans/pro?x=1", NO),
        ("/join", "https://www.shop.test/pricing", "https://www.shop.test/pricing", NO),
        ("/join", "https://shop.test/", "/", OPEN),
        ("/", "https://shop.test/", "/", NO),
        ("/join", "https://other.test/", "/", YES),
        ("/account", "https://shop.test/account/register", "/account", OPEN),  # Shopify
        ("/api/join", "https://shop.test/", "/register", OPEN),
        ("/api/join", "https://shop.test/", "/welcome", YES),
        ("/users", None, "/users/sign_up", OPEN),
        ("/users", None, "/welcome", YES),
        ("/join", "not a url", "/welcome", YES),
        ("/join", "http://[", "/welcome", OPEN),
    ],
)
def test_back_to_the_page_of_the_form_is_a_refusal(
    target: str, referer: str | None, location: str, expected: Ruling
) -> None:
    assert to(location, target=target, referer=referer).outcome is expected


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {"hx-redirect": "/welcome"}, YES),
        (200, {"hx-redirect": "/register"}, NO),
        (200, {"hx-location": '{"path": "/register", "target": "#x"}'}, NO),
        (303, {"x-action-redirect": "/welcome;push"}, YES),  # Next.js 15
        (303, {"x-action-redirect": "/register;replace"}, NO),
        (204, {"x-remix-redirect": "/register"}, NO),
        (200, {"refresh": "0; url=/welcome"}, YES),
        (200, {"refresh": "3;URL='/register'"}, NO),
        (409, {"x-inertia-location": "https://pay.test/checkout"}, YES),
        (409, {"x-inertia-location": "/register"}, NO),
        (409, {"x-inertia": "true"}, NO),
        (304, {}, OPEN),
        (300, {}, OPEN),
    ],
)
def test_redirects_of_scripts_count_too(
    status: int, headers: dict[str, str], expected: Ruling
) -> None:
    assert judged(status, headers).outcome is expected


@pytest.mark.parametrize("name", ["precognition", "x-up-validate"])
def test_a_check_of_the_fields_is_no_sign_up(name: str) -> None:
    assert judged(204, asked={name: "true"}).outcome is NO


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("text/html", None, OPEN),
        ("text/html; charset=utf-8", b"<!doctype html>...", OPEN),
        ("application/xhtml+xml", b"<?xml ...", OPEN),
        ("text/vnd.turbo-stream.html", b"<turbo-stream>", OPEN),
        ("text/plain", b"<html>", OPEN),
        ("", b"<html>", OPEN),
        ("text/x-component", b'1:{"ok":true}', OPEN),
        ("text/x-script", None, OPEN),
        ("application/xml", None, OPEN),
        ("text/plain", b"OK", YES),
        ("text/plain", b"Email already taken", NO),
        ("text/plain", b"E-Mail-Adresse vergeben", OPEN),
        ("text/plain", None, OPEN),
        ("", None, YES),
        ("", b"", YES),
    ],
)
def test_a_body_that_is_not_json(
    kind: str, body: bytes | None, expected: Ruling
) -> None:
    headers = {"content-type": kind} if kind else {}
    assert judged(200, headers, body=body).outcome is expected


def test_an_empty_response_is_clear_whatever_its_type() -> None:
    headers = {"content-type": "text/plain", "content-length": "0"}
    assert judged(200, headers).outcome is YES


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wordpress_logged_in_5f3a", OPEN),  # WooCommerce, on its account page
        ("remember_web_59ba36addc2b2f9401580f014c7f58ea4e30989d", OPEN),  # Laravel
        (".AspNetCore.Identity.Application", OPEN),
        ("sb-abc-auth-token", OPEN),
        ("__Secure-authjs.session-token", OPEN),
        ("laravel_session", NO),
        ("XSRF-TOKEN", NO),
        ("flash", NO),
        ("sessionid", NO),
        ("PHPSESSID", NO),
        ("connect.sid", NO),
    ],
)
def test_a_cookie_of_who_is_logged_in_leaves_the_way_back_open(
    name: str, expected: Ruling
) -> None:
    assert to("/register", cookies={name: "x"}).outcome is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"data": {"flows": [{"id": "verify_email", "is_pending": True}]}}, OPEN),
        ({"data": {"flows": [{"id": "login"}, {"id": "signup"}]}}, NO),
        ({"data": {"flows": None}}, NO),
        ({"data": []}, NO),
        (None, NO),
    ],
)
def test_401_is_a_refusal_but_where_an_address_is_to_be_verified(
    value: Any, expected: Ruling
) -> None:
    """django-allauth's headless API answers an accepted sign-up so."""
    assert judged(401, {}, value).outcome is expected


@pytest.mark.parametrize(
    ("status", "trigger", "expected"),
    [
        (204, '{"toast": {"level": "error"}}', NO),
        (204, '{"showMessage": {"type": "danger", "text": "x"}}', NO),
        (200, "signup-error, closed", NO),
        (204, '{"toast": {"level": "success"}}', YES),
        (204, "registered", YES),
        (204, '{"error"', YES),  # no JSON: nothing that htmx would read
        (204, "", YES),
    ],
)
def test_an_event_of_htmx_may_name_an_error(
    status: int, trigger: str, expected: Ruling
) -> None:
    assert judged(status, {"hx-trigger": trigger}).outcome is expected


@pytest.mark.parametrize(
    ("kind", "headers", "body", "expected"),
    [
        ("application/grpc-web+proto", {"grpc-status": "6"}, b"", NO),
        ("application/grpc-web+proto", {"grpc-status": "0"}, b"", YES),
        ("application/grpc-web", {}, b"\x80\0\0\0\x0fgrpc-status:16\r\n", NO),
        ("application/grpc-web+proto", {}, b"\0\0\0\0\1x", OPEN),
        ("application/grpc-web-text", {}, b"gAAAAA9ncnBjLXN0YXR1czo2DQo=", NO),
        ("application/grpc-web-text", {}, b"AAAA=gAAAAA9ncnBjLXN0YXR1czowDQo=", YES),
        ("application/octet-stream", {}, b"grpc-status:6", OPEN),
    ],
)
def test_grpc_says_it_in_its_own_status(
    kind: str, headers: dict[str, str], body: bytes, expected: Ruling
) -> None:
    headers = {"content-type": kind, **headers}
    assert judged(200, headers, body=body).outcome is expected


REFUSED: list[tuple[str, Any]] = [
    ("SvelteKit success: false", {"type": "success", "data": '[{"ok":1},false]'}),
    ("Remix", [{"_1": 2}, "data", {"_3": 4}, "error", "Taken"]),
    ("Remix sanitized", [{"_1": 2}, "error", ["SanitizedError", 3, 4], "a", "b"]),
    ("a log-in", {"user": {"id": 1}, "isNewUser": False}),
    ("known", {"exists": True}),
    ("toast", {"toast": {"variant": "destructive", "title": "x"}}),
    ("flag", {"success": False}),
    ("flag with a text", {"success": False, "message": "Welcome"}),
    ("flag in words", {"success": "false"}),
    ("flag in numbers", {"success": 0}),
    ("ok", {"ok": False, "data": {"user": {"id": 1}}}),
    (
        "ASP.NET Identity",
        {"succeeded": False, "errors": [{"code": "DuplicateUserName"}]},
    ),
    ("camel case", {"isSuccess": False}),
    ("snake case", {"is_valid": False, "validation_messages": {"3": "Taken"}}),
    ("CodeIgniter", {"status": False, "message": "x"}),
    ("error text", {"error": "Email taken"}),
    ("error object", {"error": {"message": "EMAIL_EXISTS", "code": 400}}),
    ("error true", {"error": True, "message": "x"}),
    ("errors list", {"errors": ["Email has already been taken"]}),
    ("errors object", {"errors": {"email": ["taken"]}}),
    ("success and errors", {"success": True, "errors": ["x"]}),
    ("Zod flatten", {"errors": {"formErrors": [], "fieldErrors": {"email": ["bad"]}}}),
    ("JSend fail", {"status": "fail", "data": {"email": "taken"}}),
    ("JSend error", {"status": "error", "message": "x"}),
    ("SvelteKit fail", {"type": "failure", "status": 400, "data": "[{}]"}),
    ("SvelteKit error", {"type": "error", "error": {"message": "x"}}),
    ("Nuxt, Nest", {"statusCode": 409, "message": "Conflict"}),
    ("RFC 9457", {"type": "about:blank", "title": "Conflict", "status": 409}),
    ("status as text", {"status": "422", "detail": "x"}),
    ("business code", {"code": 40901, "msg": "x", "data": None}),
    ("negative code", {"code": -1, "msg": "x"}),
    ("WordPress ajax", {"success": False, "data": [{"code": "email_exists"}]}),
    (
        "Contact Form 7",
        {"status": "validation_failed", "invalid_fields": [{"field": "e"}]},
    ),
    ("WooCommerce", {"result": "failure", "messages": "<ul>"}),
    ("Mailchimp", {"result": "error", "msg": "is already subscribed"}),
    ("Discourse", {"success": False, "errors": {"email": ["x"]}, "values": {}}),
    ("Auth.js", {"url": "https://shop.test/api/auth/error?error=CredentialsSignin"}),
    ("GraphQL", {"data": None, "errors": [{"message": "x"}]}),
    ("GraphQL payload", {"data": {"signUp": {"user": None, "errors": [{"m": "x"}]}}}),
    (
        "Shopify",
        {"data": {"customerCreate": {"customerUserErrors": [{"code": "TAKEN"}]}}},
    ),
    ("GraphQL union", {"data": {"signUp": {"__typename": "EmailTakenError"}}}),
    ("Relay", {"data": {"register": {"error": {"field": "email"}, "me": None}}}),
    ("Spring", {"message": "Error: Username is already taken!"}),
    ("tRPC", {"error": {"json": {"message": "x", "code": -32603}}}),
    ("tRPC result", {"result": {"data": {"json": {"success": False}}}}),
    ("tRPC batch", [{"error": {"message": "x", "code": -32600}}]),
    ("JSON-RPC", {"jsonrpc": "2.0", "id": 1, "error": {"code": 200, "message": "x"}}),
    ("Supabase", {"id": "u", "email": "a@b.c", "identities": []}),
    (
        "Supabase and a session",
        {"user": {"id": "u", "identities": []}, "session": None},
    ),
    ("Supabase in a session", {"user": {"id": "u", "identities": []}}),
    ("supabase-js", {"data": {"user": {"id": "u", "identities": []}, "session": None}}),
    ("supabase-js error", {"data": {"user": None}, "error": {"status": 422}}),
    (
        "Clerk",
        {"response": {"object": "sign_up_attempt", "status": "missing_requirements"}},
    ),
    ("Clerk errors", {"errors": [{"code": "form_identifier_exists"}]}),
    ("Firebase", {"error": {"code": 400, "message": "EMAIL_EXISTS"}}),
    ("Auth0", {"code": "invalid_signup", "description": "Invalid sign up"}),
    ("Better Auth", {"code": "USER_ALREADY_EXISTS", "message": "User already exists"}),
    ("Parse", {"code": 202, "error": "Account already exists"}),
    (
        "Cognito",
        {"__type": "UsernameExistsException", "message": "User already exists"},
    ),
    ("ASP.NET page method", {"d": {"success": False}}),
    ("Symfony", {"violations": [{"propertyPath": "email"}]}),
    (
        "next-safe-action",
        {"data": None, "validationErrors": {"email": {"_errors": ["x"]}}},
    ),
    ("Inertia page", {"component": "Register", "props": {"errors": {"email": "x"}}}),
    ("Django form.errors", {"email": ["This field is required."]}),
    ("Django get_json_data", {"email": [{"message": "Taken", "code": "unique"}]}),
    ("DRF", {"non_field_errors": ["x"]}),
    ("only a message", {"message": "User already exists"}),
    ("only a message 2", {"msg": "Invalid email address"}),
    ("false", False),
    ("text", "Email already registered"),
    ("wrapped", {"signup": {"success": False}}),
    (
        "SvelteKit redirect back",
        {"type": "redirect", "status": 303, "location": "/register"},
    ),
]

ACCEPTED: list[tuple[str, Any]] = [
    ("a new user", {"user": {"id": 1}, "isNewUser": True}),
    ("unknown", {"exists": False, "id": 1}),
    ("a page beside a user", {"html": "<p>", "user": {"id": 1}}),
    ("Remix", [{"_1": 2}, "data", {"_3": 4, "_5": 6}, "id", 7, "at", ["D", 1]]),
    ("flag", {"success": True}),
    ("ok", {"ok": True, "error": None}),
    ("user", {"user": {"id": "u_1"}}),
    ("id", {"id": 42}),
    ("no errors", {"errors": [], "user": {"id": 1}}),
    ("empty errors", {"errors": {}, "id": 1}),
    ("hollow errors", {"errors": {"email": [], "name": ""}, "id": 1}),
    ("error false", {"error": False, "id": 1}),
    ("error zero", {"error": 0, "errorCode": "0", "id": 1}),
    ("errmsg ok", {"errcode": 0, "errmsg": "ok", "uid": 4}),
    ("JSend", {"status": "success", "data": None}),
    ("status 201", {"status": 201, "message": "x"}),
    ("business code", {"code": 0, "msg": "成功", "data": {"id": 1}}),
    ("SvelteKit", {"type": "success", "status": 200, "data": "[]"}),
    ("SvelteKit redirect", {"type": "redirect", "status": 303, "location": "/welcome"}),
    ("Auth.js", {"url": "https://shop.test/welcome"}),
    ("GraphQL", {"data": {"signUp": {"user": {"id": 1}, "errors": []}}}),
    ("GraphQL alone", {"data": {"signUp": {"token": "t"}}}),
    ("tRPC", {"result": {"data": {"json": {"id": "u"}}}}),
    ("tRPC batch", [{"result": {"data": {"id": "u"}}}]),
    ("Supabase", {"id": "u", "identities": [{"id": "i"}], "session": None}),
    ("supabase-js", {"data": {"user": {"id": "u"}, "session": None}, "error": None}),
    ("Better Auth", {"token": None, "user": {"id": "u"}}),
    ("Clerk", {"response": {"status": "complete", "created_user_id": "user_1"}}),
    ("Firebase", {"kind": "identitytoolkit#SignupNewUserResponse", "localId": "u"}),
    ("Contact Form 7", {"status": "mail_sent", "message": "Thank you"}),
    ("a default", {"user": {"id": 1}, "isDefault": True, "default": True}),
    ("a pending user", {"id": 1, "status": "pending", "active": False}),
    ("only a message", {"message": "Account created. Please verify your address."}),
    ("welcome", {"message": "Welcome!"}),
    ("please", {"message": "Signup success! Please login."}),
    ("Slack clone", {"data": {"register": {"ok": True, "errors": None}}}),
    ("empty object", {}),
    ("true", True),
    ("text", "ok"),
    ("inertia location", {"redirect": "/welcome"}),
]

UNDECIDED: list[tuple[str, Any]] = [
    ("a page in JSON", {"html": "<form>Your confirmation was sent? Welcome</form>"}),
    ("pages in JSON", {"fragments": {"#form": " <form>", "#x": "<p>"}}),
    ("Drupal's commands", [{"command": "insert", "data": "<form>"}]),
    ("Remix in circles", [{"_1": 0}, "data"]),
    ("Remix without data", [{"_1": -5}, "data"]),
    ("SvelteKit without a type that says it", {"type": "x", "data": "[[0]]"}),
    ("a message in another language", {"message": "E-Mail ist vergeben"}),
    ("status zero", {"status": 0}),
    ("unknown code", {"code": 1001, "msg": "邮箱已存在", "data": None}),
    ("null data", {"data": {"signUp": None}}),
    ("nothing", {"user": None, "session": None}),
    ("Inertia page", {"component": "Register", "props": {"errors": {}}}),
    ("empty list", []),
    ("mixed batch", [{"result": {"data": {"id": 1}}}, {"error": {"message": "x"}}]),
    ("zero", 0),
    ("valid input", {"valid": True}),
    ("PHP's result", {"result": 1}),
    ("GraphQL without a user", {"data": {"register": {"user": None, "errors": None}}}),
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(value, expected, id=f"{expected}: {name}")
        for expected, rows in ((NO, REFUSED), (YES, ACCEPTED), (OPEN, UNDECIDED))
        for name, value in rows
    ],
)
def test_json_as_frameworks_send_it(value: Any, expected: Ruling) -> None:
    headers = {"content-type": "application/json"}
    assert judged(200, headers, value).outcome is expected


def test_created_decides_what_json_leaves_open() -> None:
    assert judged(201, {}, {"message": "E-Mail"}).outcome is YES
    assert judged(201, {}, {"success": False}).outcome is NO


@pytest.mark.parametrize(
    ("verdict", "when"),
    [
        (judged(200, {"content-type": "text/html"}), "response.status == `302`"),
        (
            judged(
                200, {"content-type": "text/html"}, cookies={"csrf": "x", "sid": "y"}
            ),
            'response.cookies."sid"',
        ),
        (
            to("/register?step=2"),
            "contains(response.headers.location || '', 'step=')",
        ),
        (judged(200, {}, {"status": 0}), 'response.json."status" == `0`'),
    ],
)
def test_an_undecided_response_names_the_when_that_decides(
    verdict: Verdict, when: str
) -> None:
    assert verdict.outcome is OPEN
    assert (verdict.when or "").startswith(when)


SECRET = "ada@example.com"


@pytest.mark.parametrize(
    "verdict",
    [
        to(f"/register?{SECRET}=1"),
        to(f"/register?email={SECRET}"),
        to(f"/error?error={SECRET}"),
        judged(200, {}, {SECRET: [SECRET]}),
        judged(200, {}, {"error": SECRET}),
        judged(200, {"content-type": "text/plain"}, body=SECRET.encode()),
        judged(200, {"content-type": "text/html"}, cookies={SECRET: SECRET}),
    ],
)
def test_no_value_is_in_a_verdict(verdict: Verdict) -> None:
    assert SECRET not in repr(verdict)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.text() | st.sampled_from(["error", "data", "status", "success"]),
                inner,
            )
        ),
        max_leaves=30,
    )
)
def test_any_json_is_judged(value: Any) -> None:
    assert judge_json(value)[0] in Ruling


@given(st.text(), st.text(), st.integers(100, 599))
def test_any_redirect_is_judged(location: str, referer: str, status: int) -> None:
    assert to(location, status, referer=referer).outcome in Ruling
