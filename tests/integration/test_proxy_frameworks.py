"""Sign-ups as frameworks and services send them, through the proxy.

Each row is an exchange as it is seen on the wire: a rule, what the browser sends, what
the site answers, and whether that is a lead.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from backports import zstd

from tests.support.proxy_rig import Remembering, proxied
from tests.support.recording_site import Site, ask, request, says

CLICK = "dub_id=hQWlMnb8pKc2Zt5R"
EMAIL = "ada@example.com"
FORM = "application/x-www-form-urlencoded"
ENCODED = b"email=ada%40example.com&password=secret"
BY_EMAIL = "form.email"


@dataclass(frozen=True)
class Row:
    """One exchange; ``lead`` is the customer's id, None: no lead."""

    name: str
    lead: str | None
    status: int = 200
    answered: dict[str, str] = field(default_factory=dict)
    answer: Any = b""
    sent: Any = ENCODED
    kind: str = FORM
    target: str = "/register"
    path: str = "/register"
    id: str = BY_EMAIL
    asked: dict[str, str] = field(default_factory=dict)


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def as_json(name: str, lead: str | None, answer: Any, **more: Any) -> Row:
    kind = {"Content-Type": "application/json"}
    return Row(
        name, lead, answered=kind | more.pop("answered", {}), answer=answer, **more
    )


def flat(name: str, lead: str | None, answer: Any, **more: Any) -> Row:
    """Remix and React Router with single fetch."""
    kind = {"Content-Type": "text/x-script; charset=utf-8", "X-Remix-Response": "yes"}
    return Row(
        name,
        lead,
        answered=kind,
        answer=answer,
        target="/register.data",
        path="/register.data",
        **more,
    )


def kit(name: str, lead: str | None, data: Any, type_: str = "success") -> Row:
    """SvelteKit's use:enhance: 200, and the result in a text of devalue's."""
    said = {"type": type_, "status": 200, "data": json.dumps(data)}
    return as_json(name, lead, said, target="/register?/signup")


def livewire(name: str, lead: str | None, errors: Any, **effects: Any) -> Row:
    memo = {"id": "x1", "name": "register", "errors": errors}
    state = {"data": {"email": EMAIL}, "memo": memo, "checksum": "c"}
    one = {"snapshot": json.dumps(state), "effects": {"returns": [None], **effects}}
    call = {"method": "register", "params": []}
    asks = {"snapshot": "{}", "updates": {"email": EMAIL}, "calls": [call]}
    return as_json(
        name,
        lead,
        {"components": [one], "assets": []},
        sent={"_token": "t", "components": [asks]},
        kind="application/json",
        target="/livewire/update",
        path="/livewire/update",
        id="json.components[0].updates.email",
    )


def multipart(*parts: tuple[str, str]) -> str:
    start = "--x\r\nContent-Disposition: form-data; name="
    texts = [f"{start}{name}\r\n\r\n{value}\r\n" for name, value in parts]
    return "".join(texts) + "--x--\r\n"


def grpc_frame(text: bytes) -> bytes:
    return b"\x80" + len(text).to_bytes(4, "big") + text


GRPC = {"Content-Type": "application/grpc-web+proto"}
GRPC_TEXT = {"Content-Type": "application/grpc-web-text"}
HTML = {"Content-Type": "text/html; charset=utf-8"}
INERTIA = {"X-Inertia": "true", "X-Requested-With": "XMLHttpRequest"}
MESSAGE = grpc_frame(b"")[1:] + b"\x0a\x03abc"

REFUSALS = [
    Row(
        "Next.js 14.0 action",
        None,
        200,
        {"Content-Type": "text/x-component"},
        '0:["$@1",["dev",null]]\n1:{"errors":{"email":["taken"]},"message":null}\n',
        asked={"Next-Action": "7f" * 20},
    ),
    Row(
        "Next.js action without a result",
        None,
        200,
        {"Content-Type": "text/x-component"},
        '0:{"a":"$@1","f":"","b":"dev"}\n1:"$undefined"\n',
        asked={"Next-Action": "7f" * 20},
    ),
    Row("Laravel back()", None, 302, {"Location": "http://shop.test/register"}),
    Row("Laravel Inertia back()", None, 303, {"Location": "/register"}, asked=INERTIA),
    as_json(
        "Laravel 200 with errors",
        None,
        {"message": "x", "errors": {"email": ["taken"]}},
    ),
    Row("Rails Turbo", None, 422, HTML, "<form>"),
    Row("Rails 6", None, 200, HTML, "<!doctype html><form>"),
    Row(
        "Rails Turbo stream",
        None,
        200,
        {"Content-Type": "text/vnd.turbo-stream.html"},
        '<turbo-stream action="replace" target="form">',
    ),
    Row(
        "Devise with another form",
        None,
        303,
        {"Location": "/users/sign_up"},
        asked={"Referer": "http://shop.test/users/sign_up"},
        target="/users",
        path="/users",
    ),
    Row("Django form", None, 200, HTML, "<!DOCTYPE html><ul class=errorlist>"),
    as_json(
        "Django form in JSON", None, {"html": "<form>Email confirmation sent?</form>"}
    ),
    as_json(
        "Django form.errors.as_json", None, {"email": [{"message": "x", "code": "y"}]}
    ),
    Row("allauth headless, taken", None, 400, {}, {"status": 400, "errors": [{}]}),
    as_json(
        "Symfony form",
        None,
        {"code": 400, "message": "Validation Failed", "errors": {}},
    ),
    Row("WordPress", None, 200, HTML, '<div id="login_error">'),
    as_json("WordPress ajax", None, {"success": False, "data": "<p>taken</p>"}),
    as_json(
        "Drupal ajax",
        None,
        [
            {
                "command": "insert",
                "method": "replaceWith",
                "data": "<form class=error>",
            },
            {"command": "settings", "settings": {"x": 1}},
        ],
    ),
    as_json(
        "ASP.NET ModelState",
        None,
        {"Email": ["taken"]},
        sent=b"Email=ada%40example.com",
        id="form.Email",
    ),
    as_json("ASP.NET flag", None, {"IsSuccess": False, "Data": None, "Message": "x"}),
    as_json("ABP", None, {"result": None, "success": False, "error": {"code": 0}}),
    Row(
        "Next.js action with state",
        None,
        200,
        {"Content-Type": "text/x-component"},
        '0:{"a":"$@1","f":"","b":"x"}\n1:{"error":"Email taken"}\n',
        asked={"Next-Action": "7f" * 20},
    ),
    Row(
        "Next.js action back to its form",
        None,
        303,
        {"Content-Type": "text/x-component", "x-action-redirect": "/register;push"},
    ),
    as_json("Next.js route handler", None, {"error": "Email already in use"}),
    flat("Remix data", None, [{"_1": 2}, "data", {"_3": 4}, "error", "Email taken"]),
    flat(
        "Remix errors",
        None,
        [
            {"_1": 2},
            "data",
            {"_3": 4},
            "errors",
            {"_5": 6},
            "email",
            [7],
            "Email taken",
        ],
    ),
    flat(
        "Remix error response",
        None,
        [
            {"_1": 2},
            "error",
            ["ErrorResponse", 3, 409, "Conflict"],
            "x",
        ],
    ),
    flat(
        "Remix redirect back",
        None,
        [
            {"_1": 2, "_3": 4, "_5": 6},
            "redirect",
            "/register",
            "status",
            302,
            "revalidate",
            True,
        ],
        status=202,
    ),
    kit("SvelteKit success: false", None, [{"success": 1, "message": 2}, False, "x"]),
    kit("SvelteKit error", None, [{"error": 1}, "Email taken"]),
    kit(
        "SvelteKit superforms",
        None,
        [
            {"form": 1},
            {"id": 2, "valid": 3, "errors": 4},
            "a",
            False,
            {"email": 5},
            [6],
            "x",
        ],
    ),
    kit("SvelteKit fail", None, [{"email": 1, "missing": 2}, "a@b", True], "failure"),
    as_json("Nuxt error", None, {"error": True, "statusCode": 409, "message": "x"}),
    as_json("Supabase", None, {"id": "u", "email": EMAIL, "identities": []}),
    as_json(
        "Supabase anonymous",
        None,
        {"access_token": "t", "user": {"id": "u", "identities": []}},
    ),
    Row(
        "Supabase's template",
        None,
        303,
        {"Location": "/login?message=Could not authenticate user"},
    ),
    Row(
        "Supabase's template 2",
        None,
        303,
        {"Location": "/sign-up?error=User%20already%20registered"},
    ),
    as_json("Firebase, a log-in", None, {"localId": "u", "isNewUser": False}),
    as_json(
        "Firebase, other provider", None, {"email": EMAIL, "needConfirmation": True}
    ),
    as_json(
        "Firebase callable",
        None,
        {"error": {"status": "ALREADY_EXISTS", "message": "x"}},
    ),
    as_json(
        "Clerk",
        None,
        {"response": {"status": "missing_requirements"}, "client": {"id": "c"}},
    ),
    as_json(
        "Auth0",
        None,
        {"name": "BadRequestError", "code": "user_exists", "description": "x"},
    ),
    as_json(
        "WorkOS",
        None,
        {"code": "user_creation_error", "errors": [{"code": "email_not_available"}]},
    ),
    as_json("Better Auth", None, {"code": "USER_ALREADY_EXISTS", "message": "x"}),
    Row("Keycloak", None, 200, HTML, "<!DOCTYPE html><span id=input-error-email>"),
    Row(
        "Keycloak expired",
        None,
        302,
        {"Location": "https://app.test/cb?error=temporarily_unavailable&state=x"},
    ),
    as_json(
        "Apollo",
        None,
        {"data": {"signUp": {"code": "400", "success": False, "user": None}}},
    ),
    as_json(
        "Apollo persisted query",
        None,
        {"errors": [{"message": "PersistedQueryNotFound"}]},
    ),
    as_json(
        "Relay union",
        None,
        {"data": {"signUp": {"__typename": "EmailTakenError", "field": "email"}}},
    ),
    as_json(
        "Strawberry",
        None,
        {
            "data": {
                "register": {
                    "__typename": "OperationInfo",
                    "messages": [{"kind": "VALIDATION", "message": "x"}],
                }
            }
        },
    ),
    as_json(
        "Saleor",
        None,
        {
            "data": {
                "accountRegister": {
                    "errors": [{"field": "email", "code": "UNIQUE"}],
                    "user": None,
                }
            }
        },
    ),
    as_json(
        "Hasura action",
        None,
        {"errors": [{"extensions": {"code": "exists"}, "message": "x"}]},
    ),
    as_json(
        "tRPC 10",
        None,
        {"error": {"message": "x", "code": -32603, "data": {"httpStatus": 409}}},
    ),
    as_json(
        "tRPC 11 with superjson",
        None,
        {"error": {"json": {"message": "x", "code": -32009}}},
    ),
    Row(
        "tRPC batch",
        None,
        207,
        {"Content-Type": "application/json"},
        [{"error": {"message": "x", "code": -32603}}],
        target="/api/trpc/signup?batch=1",
        path="/api/trpc/signup",
    ),
    Row(
        "gRPC-web in headers",
        None,
        200,
        GRPC | {"grpc-status": "6", "grpc-message": "x"},
    ),
    Row(
        "gRPC-web in a trailer",
        None,
        200,
        GRPC,
        grpc_frame(b"grpc-status:6\r\ngrpc-message:x\r\n"),
    ),
    Row(
        "gRPC-web as text",
        None,
        200,
        GRPC_TEXT,
        base64.b64encode(grpc_frame(b"grpc-status:6\r\n")),
    ),
    Row("htmx again", None, 200, HTML, "<form hx-post=/register>"),
    Row(
        "htmx event",
        None,
        204,
        {"HX-Trigger": '{"toast":{"level":"error","text":"x"}}'},
    ),
    Row("htmx event by name", None, 204, {"HX-Trigger": "signup-failed"}),
    Row("Turbo frame", None, 200, HTML, '<turbo-frame id="f">'),
    Row(
        "Unpoly validation", None, 200, HTML, "<form>", asked={"X-Up-Validate": "email"}
    ),
    Row(
        "Unpoly back", None, 303, {"Location": "/register"}, asked={"X-Up-Version": "3"}
    ),
    livewire("Livewire 3", None, {"email": ["taken"]}, html="<div>"),
    livewire("Livewire 3 draws", None, [], html="<div>"),
    livewire("Livewire 3 back", None, [], redirect="/livewire/update"),
    as_json(
        "Livewire 2",
        None,
        {
            "effects": {"html": "<div>", "dirty": ["email"]},
            "serverMemo": {"errors": {"email": ["taken"]}, "checksum": "c"},
        },
    ),
    Row(
        "Inertia page",
        None,
        200,
        {"Content-Type": "application/json", "X-Inertia": "true"},
        {
            "component": "Register",
            "props": {"errors": {"email": "x"}},
            "url": "/register",
        },
    ),
    Row(
        "Inertia location back",
        None,
        409,
        {"X-Inertia-Location": "http://shop.test/register"},
        asked=INERTIA,
    ),
    Row(
        "Phoenix LiveView",
        None,
        302,
        {"Location": "/users/register"},
        target="/users/log_in?_action=registered",
        path="/users/log_in",
        asked={"Referer": "http://shop.test/users/register"},
    ),
    Row("a page of its own that says it", None, 302, {"Location": "/login?exists=1"}),
    Row(
        "a flash that says it",
        None,
        302,
        {"Location": "/login?flash=email-already-taken"},
    ),
    as_json("an address that is known", None, {"exists": True}),
    as_json("SweetAlert", None, {"icon": "error", "title": "x"}),
    as_json("Bootstrap", None, {"alert": {"type": "danger", "text": "x"}}),
]

FLIGHT = {"Content-Type": "text/x-component", "Transfer-Encoding": "chunked"}
FLIGHT_HEAD = '0:{"a":"$@1","f":"","b":"dev"}\n'

ACCEPTED = [
    Row(
        "Next.js action with a result",
        "u_1",
        200,
        FLIGHT,
        FLIGHT_HEAD + '1:{"success":true,"user":{"id":"u_1"}}\n',
        id="response.json.user.id",
        asked={"Next-Action": "7f" * 20},
    ),
    Row("Laravel", EMAIL, 302, {"Location": "http://shop.test/home"}),
    Row("Laravel Inertia", EMAIL, 303, {"Location": "/dashboard"}, asked=INERTIA),
    Row(
        "Inertia location",
        EMAIL,
        409,
        {"X-Inertia-Location": "https://pay.test/c/1"},
        asked=INERTIA,
    ),
    Row("Rails Turbo", EMAIL, 303, {"Location": "/"}),
    Row("Devise, JSON", EMAIL, 201, {"Content-Type": "application/json"}, {"id": 1}),
    Row(
        "Rails nested",
        EMAIL,
        302,
        {"Location": "/welcome"},
        sent=b"user%5Bemail%5D=ada%40example.com",
        id='form."user[email]"',
    ),
    Row("Django", EMAIL, 302, {"Location": "/accounts/confirm-email/"}),
    Row(
        "dj-rest-auth",
        EMAIL,
        201,
        {"Content-Type": "application/json"},
        {"detail": "Verification e-mail sent."},
    ),
    as_json(
        "allauth ajax", EMAIL, {"location": "/", "form": {"fields": {}, "errors": []}}
    ),
    Row("Symfony", EMAIL, 303, {"Location": "/register/check-email"}),
    Row(
        "WordPress",
        EMAIL,
        302,
        {"Location": "wp-login.php?checkemail=registered"},
        target="/wp-login.php?action=register",
        path="/wp-login.php",
    ),
    as_json("WordPress ajax", EMAIL, {"success": True, "data": {"user_id": 7}}),
    as_json(
        "Drupal ajax", EMAIL, [{"command": "redirect", "url": "/user/7"}], status=201
    ),
    Row(
        "ASP.NET Identity",
        EMAIL,
        302,
        {"Location": "/Identity/Account/RegisterConfirmation?email=ada%40e.test"},
        sent=b"Input.Email=ada%40example.com&__RequestVerificationToken=x",
        id='form."Input.Email"',
    ),
    Row(
        "ASP.NET Identity API",
        EMAIL,
        200,
        {},
        sent={"email": EMAIL, "password": "x"},
        kind="application/json",
        id="json.email",
    ),
    as_json(
        "ABP",
        EMAIL,
        {
            "result": {"canLogin": True},
            "success": True,
            "error": None,
            "unAuthorizedRequest": False,
            "__abp": True,
        },
    ),
    Row(
        "Next.js action",
        EMAIL,
        303,
        {"Content-Type": "text/x-component", "x-action-redirect": "/welcome;push"},
        sent=[{"email": EMAIL, "password": "x"}],
        kind="text/plain;charset=UTF-8",
        id="json[0].email",
        asked={"Next-Action": "7f" * 20},
    ),
    flat("Remix", EMAIL, [{"_1": 2}, "data", {"_3": 4}, "ok", True]),
    flat(
        "Remix redirect",
        EMAIL,
        [
            {"_1": 2, "_3": 4, "_5": 6},
            "redirect",
            "/welcome",
            "status",
            302,
            "revalidate",
            True,
        ],
        status=202,
    ),
    kit("SvelteKit", EMAIL, [{"success": 1}, True]),
    kit(
        "SvelteKit superforms",
        EMAIL,
        [{"form": 1}, {"id": 2, "valid": 3, "errors": 4}, "a", True, {}],
    ),
    as_json(
        "SvelteKit redirect",
        EMAIL,
        {"type": "redirect", "status": 303, "location": "/app"},
    ),
    as_json("Nuxt", EMAIL, {"ok": True}),
    as_json(
        "Supabase",
        "u",
        {"user": {"id": "u", "identities": [{"id": "i"}]}, "session": None},
        id="response.json.user.id",
    ),
    Row(
        "Supabase's template",
        EMAIL,
        303,
        {"Location": "/register?message=Check email to continue sign in process"},
    ),
    as_json(
        "Firebase",
        "u",
        {"idToken": "t", "localId": "u", "isNewUser": True},
        id="response.json.localId",
    ),
    as_json(
        "Clerk",
        "user_1",
        {"response": {"status": "complete", "created_user_id": "user_1"}},
        id="response.json.response.created_user_id",
    ),
    as_json(
        "Auth0",
        "58",
        {"_id": "58", "email_verified": False, "email": EMAIL},
        id='response.json."_id"',
    ),
    Row(
        "WorkOS",
        "user_1",
        201,
        {"Content-Type": "application/json"},
        {"object": "user", "id": "user_1", "email_verified": False},
        id="response.json.id",
    ),
    as_json(
        "Better Auth",
        "u",
        {"token": None, "user": {"id": "u", "emailVerified": False}},
        id="response.json.user.id",
    ),
    Row(
        "Keycloak",
        EMAIL,
        302,
        {"Location": "https://app.test/cb?state=s&session_state=t&code=c"},
    ),
    as_json(
        "Apollo",
        "u",
        {"data": {"signUp": {"success": True, "user": {"id": "u"}}}},
        id="response.json.data.signUp.user.id",
    ),
    as_json(
        "Relay",
        "VXNlcjox",
        {
            "data": {
                "signUp": {"__typename": "SignUpSuccess", "user": {"id": "VXNlcjox"}}
            }
        },
        id="response.json.data.signUp.user.id",
    ),
    as_json(
        "Strawberry",
        "u",
        {"data": {"register": {"__typename": "UserType", "id": "u"}}},
        id="response.json.data.register.id",
    ),
    as_json(
        "tRPC batch",
        "u",
        [{"result": {"data": 1}}, {"result": {"data": {"id": "u"}}}],
        target="/api/trpc/cart,signup?batch=1",
        path="/api/trpc/signup",
        id="response.json.result.data.id",
    ),
    Row(
        "tRPC stream",
        "u",
        200,
        {"Content-Type": "application/jsonl", "Transfer-Encoding": "chunked"},
        '{"0":[[0],[null,0,0]]}\n[0,0,[[{"result":0}],["result",0,1]]]\n[1,0,[[{"data":{"id":"u"}}]]]\n',
        target="/api/trpc/signup?batch=1",
        path="/api/trpc/signup",
        id="response.json.result.data.id",
    ),
    Row(
        "gRPC-web",
        EMAIL,
        200,
        GRPC,
        MESSAGE + grpc_frame(b"grpc-status:0\r\n"),
        kind="application/grpc-web+proto",
        sent=b"\0\0\0\0\0",
        id=f"'{EMAIL}'",
    ),
    Row(
        "gRPC-web as text",
        EMAIL,
        200,
        GRPC_TEXT,
        base64.b64encode(MESSAGE) + base64.b64encode(grpc_frame(b"grpc-status: 0\r\n")),
    ),
    Row("htmx", EMAIL, 200, {"HX-Redirect": "/welcome"} | HTML),
    Row(
        "htmx event",
        EMAIL,
        204,
        {"HX-Trigger": '{"toast":{"level":"success","text":"x"}}'},
    ),
    Row("Unpoly overlay", EMAIL, 200, {"X-Up-Accept-Layer": "null"}),
    livewire("Livewire 3", EMAIL, [], redirect="http://shop.test/dashboard"),
    Row(
        "Phoenix",
        EMAIL,
        302,
        {"Location": "/"},
        target="/users/log_in?_action=registered",
        path="/users/log_in",
        asked={"Referer": "http://shop.test/users/register"},
    ),
]

READ = [
    Row(
        "JSON as text/plain",
        "7",
        201,
        {"Content-Type": "text/plain"},
        {"id": 7},
        id="response.json.id",
    ),
    Row("JSON as text/html", "7", 200, HTML, {"id": 7.0}, id="response.json.id"),
    Row("JSON without a type", "7", 200, {}, {"id": 7}, id="response.json.id"),
    Row(
        "JSON behind Angular's guard",
        "7",
        200,
        {"Content-Type": "application/json"},
        ')]}\',\n{"id": 42, "user": {"id": 7.0}, "x": NaN}',
        id="response.json.user.id",
    ),
    Row(
        "zstd both ways",
        "7",
        200,
        {"Content-Encoding": "zstd"},
        zstd.compress(b'{"id": 7}'),
        sent=zstd.compress(b'{"email": "a"}'),
        kind="application/json",
        asked={"Content-Encoding": "zstd"},
        id="response.json.id",
    ),
    Row("a form as text/plain", EMAIL, 204, kind="text/plain;charset=UTF-8"),
    Row("a form without a type", EMAIL, 204, kind=""),
    Row("a form as JSON", EMAIL, 204, kind="application/json"),
    Row("JSON as a form", EMAIL, 204, sent={"email": EMAIL}, id="json.email"),
    Row(
        "JSON in a field",
        EMAIL,
        204,
        sent=b"payload=%7B%22email%22%3A%22ada%40example.com%22%7D",
        id="parse_json(form.payload).email",
    ),
    Row(
        "GraphQL upload",
        EMAIL,
        204,
        kind="multipart/form-data; boundary=x",
        sent=multipart(
            ('"operations"', '{"query":"m","variables":{"email":"ada@example.com"}}'),
            ('"0"; filename="a.png"', "PNG"),
        ),
        id="parse_json(form.operations).variables.email",
    ),
    Row(
        "Next.js action's form",
        EMAIL,
        303,
        {"x-action-redirect": "/welcome;push"},
        kind="multipart/form-data; boundary=x",
        sent=multipart(('"1_email"', EMAIL), ('"0"', '["$K1"]')),
        id='form."1_email"',
    ),
    Row("windows-1252", "Zoë", 204, sent=b"email=Zo%EB"),
    Row("_charset_", "東京", 204, sent=b"_charset_=Shift_JIS&email=%93%8C%8B%9E"),
    Row(
        "the response's charset",
        "Жук",
        200,
        {"Content-Type": "text/plain; charset=windows-1251"},
        b"ok",
        sent=b"email=%C6%F3%EA",
    ),
    Row("a trailing slash", EMAIL, 204, target="/register/"),
    Row("a path parameter", EMAIL, 204, target="/register;jsessionid=1?x=1"),
    Row("an escape", EMAIL, 204, target="/re%67ister"),
    Row("dot segments are another path", None, 204, target="/./register"),
    Row("capitals are another path", None, 204, target="/Register"),
]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=f"{said}: {row.name}")
        for said, rows in (
            ("refused", REFUSALS),
            ("accepted", ACCEPTED),
            ("read", READ),
        )
        for row in rows
    ],
)
async def test_an_exchange_is_a_lead_if_the_site_says_so(row: Row) -> None:
    body = _bytes(row.answer)
    lines = [f"HTTP/1.1 {row.status} X"]
    lines += [f"{name}: {value}" for name, value in row.answered.items()]
    if "Transfer-Encoding" in row.answered:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    elif row.status != 204:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "", ""]).encode()
    asked = {"Referer": "http://shop.test/register", **row.asked}
    asked |= {"Content-Type": row.kind} if row.kind else {}
    signups = Remembering()
    rule = {"path": row.path, "customer_external_id": row.id}
    async with (
        Site(says(head + body)).listening() as site,
        proxied(site.url, [rule], signups) as port,
    ):
        got = await ask(
            port,
            request(
                f"POST {row.target}",
                f"Cookie: {CLICK}",
                *(f"{name}: {value}" for name, value in asked.items()),
                body=_bytes(row.sent),
            ),
        )

    leads = [lead["fields"].get("customerExternalId") for lead in signups.named("take")]
    assert got.status == row.status
    assert leads == ([row.lead] if row.lead else [])
