"""What services and frameworks answer to a sign-up with status 200, by name."""

from __future__ import annotations

from typing import Any

import pytest

from relay.core.rules.json_verdict import Ruling
from relay.core.rules.success import Answered, Asked, judge

ASKED = Asked(
    "/register",
    "shop.test",
    {"referer": "https://shop.test/register"},
    frozenset({"email", "name"}),
)

REFUSED: list[tuple[str, Any]] = [
    ("Lumen", {"email": ["The email has already been taken."]}),
    ("Laravel status msg", {"status": "error", "message": "x"}),
    (
        "Rails jsonapi errors",
        {
            "errors": [
                {
                    "status": "422",
                    "source": {"pointer": "/data/attributes/email"},
                    "title": "is taken",
                }
            ]
        },
    ),
    (
        "Rails API status",
        {"status": {"code": 422, "message": "User couldn't be created"}},
    ),
    ("Rails alert", {"alert": "Email has already been taken"}),
    ("Django ninja", {"detail": "Email already exists"}),
    ("fastapi-users code", {"detail": "REGISTER_USER_ALREADY_EXISTS"}),
    ("FastAPI 200 msg", {"msg": "Email already registered"}),
    (
        "Flask-Security",
        {
            "meta": {"code": 400},
            "response": {"errors": ["x is already associated"], "field_errors": {}},
        },
    ),
    (
        "Flask restx",
        {"status": "fail", "message": "User already exists. Please Log in."},
    ),
    (
        "Spring resp",
        {"timestamp": "x", "status": 409, "error": "Conflict", "path": "/signup"},
    ),
    (
        "JHipster",
        {
            "type": "https://www.jhipster.tech/problem/email-already-used",
            "title": "Email is already in use!",
            "status": 400,
        },
    ),
    (
        "Nest class-validator",
        {
            "statusCode": 400,
            "message": ["email must be an email"],
            "error": "Bad Request",
        },
    ),
    ("Express msg", {"message": "User already exists"}),
    (
        "Express validator",
        {"errors": [{"type": "field", "msg": "Invalid value", "path": "email"}]},
    ),
    (
        "mongo dup",
        {"code": 11000, "keyPattern": {"email": 1}, "keyValue": {"email": "a@b"}},
    ),
    ("Sequelize", {"name": "SequelizeUniqueConstraintError", "fields": {"email": "x"}}),
    (
        "Prisma",
        {
            "name": "PrismaClientKnownRequestError",
            "code": "P2002",
            "meta": {"target": ["email"]},
        },
    ),
    (
        "Postgres",
        {
            "code": "23505",
            "detail": "Key (email)=(a) already exists.",
            "hint": None,
            "message": "duplicate key value violates unique constraint",
        },
    ),
    ("Mongoose", {"name": "ValidationError", "_message": "User validation failed"}),
    ("AdonisJS", {"errors": [{"rule": "unique", "field": "email"}]}),
    (
        "Feathers",
        {
            "name": "Conflict",
            "message": "x",
            "code": 409,
            "className": "conflict",
            "errors": [],
        },
    ),
    ("LoopBack", {"error": {"statusCode": 422, "name": "ValidationError"}}),
    ("Hono zod", {"success": False, "error": {"issues": [], "name": "ZodError"}}),
    ("Valibot", {"issues": [{"kind": "validation"}]}),
    ("conform", {"status": "error", "initialValue": {}, "error": {"email": ["x"]}}),
    (
        "conform in result",
        {"result": {"status": "error", "error": {"email": ["taken"]}}},
    ),
    ("remix-validated-form", {"fieldErrors": {"email": "x"}, "repopulateFields": {}}),
    ("next-safe-action", {"serverError": "x"}),
    (
        "ORPC",
        {"json": {"defined": True, "code": "CONFLICT", "status": 409, "message": "x"}},
    ),
    ("Astro actions", {"type": "AstroActionInputError", "issues": [{}]}),
    ("NextAuth signin", {"url": "https://shop.test/api/auth/signin?csrf=true"}),
    (
        "NextAuth creds err",
        {"error": "CredentialsSignin", "status": 401, "ok": False, "url": None},
    ),
    ("Kinde exists", {"id": "kp_1", "created": False}),
    (
        "Stytch login_or_create existing",
        {"status_code": 200, "user_id": "user-1", "user_created": False},
    ),
    ("Stytch err", {"status_code": 400, "error_type": "duplicate_email"}),
    ("Descope login", {"ok": True, "user": {"userId": "U"}, "firstSeen": False}),
    (
        "SuperTokens field",
        {
            "status": "FIELD_ERROR",
            "formFields": [{"id": "email", "error": "This email already exists."}],
        },
    ),
    ("SuperTokens general", {"status": "GENERAL_ERROR", "message": "x"}),
    ("SuperTokens not allowed", {"status": "SIGN_UP_NOT_ALLOWED", "reason": "x"}),
    (
        "SuperTokens OAuth existing",
        {"status": "OK", "createdNewRecipeUser": False, "user": {"id": "u"}},
    ),
    (
        "Ory Kratos flow again",
        {
            "id": "f",
            "type": "browser",
            "ui": {
                "messages": [{"id": 4000007, "type": "error", "text": "exists"}],
                "nodes": [],
            },
        },
    ),
    (
        "FusionAuth err",
        {"fieldErrors": {"user.email": [{"code": "[duplicate]user.email"}]}},
    ),
    ("Cognito err", {"__type": "InvalidPasswordException", "message": "x"}),
    (
        "Okta",
        {
            "errorCode": "E0000001",
            "errorSummary": "Api validation failed",
            "errorCauses": [{}],
        },
    ),
    ("Privy old", {"user": {"id": "did"}, "is_new_user": False}),
    ("Logto", {"code": "user.email_already_in_use", "message": "x"}),
    (
        "Appwrite",
        {
            "message": "A user with the same id exists",
            "code": 409,
            "type": "user_already_exists",
        },
    ),
    (
        "PocketBase",
        {
            "code": 400,
            "message": "Failed to create record.",
            "data": {"email": {"code": "validation_not_unique"}},
        },
    ),
    ("Strapi", {"data": None, "error": {"status": 400, "name": "ApplicationError"}}),
    (
        "Directus",
        {"errors": [{"message": "x", "extensions": {"code": "RECORD_NOT_UNIQUE"}}]},
    ),
    ("Ghost", {"errors": [{"type": "ValidationError"}]}),
    ("Medusa", {"type": "duplicate_error", "message": "x"}),
    ("Shopify ajax", {"status": 422, "description": "x", "message": "Cart Error"}),
    (
        "Magento",
        {"message": "A customer with the same email already exists", "errors": True},
    ),
    ("PrestaShop", {"hasError": True, "errors": ["x"]}),
    ("OpenCart err", {"error": {"warning": "Warning: E-Mail is already registered!"}}),
    (
        "Odoo",
        {
            "jsonrpc": "2.0",
            "id": None,
            "error": {"code": 200, "message": "Odoo Server Error"},
        },
    ),
    ("Frappe", {"message": [0, "Already Registered"]}),
    ("Moodle", [{"error": True, "exception": {"message": "x"}}]),
    (
        "Moodle warn",
        [{"error": False, "data": {"success": False, "warnings": [{"item": "email"}]}}],
    ),
    ("code 500", {"code": 500, "msg": "用户已存在", "data": None}),
    ("errno", {"errno": 501, "errmsg": "x"}),
    (
        "HubSpot err",
        {"status": "error", "message": "The request is not valid", "errors": [{}]},
    ),
    (
        "Netlify err",
        {
            "code": 400,
            "msg": "A user with this email address has already been registered",
        },
    ),
    ("reCAPTCHA", {"success": False, "error-codes": ["x"]}),
    ("captcha", {"captcha_required": True}),
    ("too many", {"message": "Too many requests"}),
    ("GraphQL result enum", {"data": {"register": {"result": "EMAIL_TAKEN"}}}),
    (
        "GraphQL ok null user + message",
        {"data": {"register": {"user": None, "message": "Email in use"}}},
    ),
    (
        "Relay clientMutationId",
        {
            "data": {
                "register": {"clientMutationId": "1", "errors": [{"messages": ["x"]}]}
            }
        },
    ),
    (
        "graphql-auth",
        {
            "data": {
                "register": {
                    "success": False,
                    "errors": {"email": [{"message": "x", "code": "unique"}]},
                    "token": None,
                }
            }
        },
    ),
    ("problem type only", {"type": "https://x/probs/taken", "title": "Conflict"}),
]

ACCEPTED: list[tuple[str, Any]] = [
    ("Laravel Breeze", {}),
    ("Sanctum token", {"token": "1|abc", "token_type": "Bearer"}),
    ("Laravel API resource", {"data": {"id": 1, "email": "a@b"}}),
    (
        "Rails API, accepted",
        {
            "status": {"code": 200, "message": "Signed up successfully."},
            "data": {"id": 1},
        },
    ),
    ("Rails notice", {"notice": "Welcome! You have signed up successfully."}),
    (
        "Flask-Security ok",
        {"meta": {"code": 200}, "response": {"user": {"authentication_token": "t"}}},
    ),
    ("Spring wrapper", {"success": True, "message": "User registered successfully"}),
    ("MERN token", {"token": "eyJ"}),
    ("conform ok", {"status": "success", "initialValue": {}}),
    ("next-safe-action ok", {"data": {"userId": "u"}}),
    ("Kinde", {"id": "kp_1", "created": True}),
    ("Stytch", {"status_code": 200, "user_id": "user-1", "user_created": True}),
    ("Descope", {"ok": True, "user": {"userId": "U"}, "firstSeen": True}),
    ("SuperTokens", {"status": "OK", "user": {"id": "u"}}),
    (
        "SuperTokens OAuth new",
        {"status": "OK", "createdNewRecipeUser": True, "user": {"id": "u"}},
    ),
    ("Ory Kratos", {"session": {"id": "s"}, "identity": {"id": "i"}}),
    ("FusionAuth", {"user": {"id": "u"}, "token": "t"}),
    ("Cognito", {"UserConfirmed": False, "UserSub": "s", "CodeDeliveryDetails": {}}),
    ("Magic", {"error": None, "didToken": "x"}),
    ("Privy", {"user": {"id": "did"}, "is_new_user": True}),
    ("Hanko", {"id": "u", "has_credential": False}),
    ("PocketBase ok", {"collectionId": "c", "id": "u", "verified": False}),
    ("Payload", {"message": "Users successfully created.", "doc": {"id": "u"}}),
    ("OpenCart", {"redirect": "https://shop.test/index.php?route=account/success"}),
    ("Frappe ok", {"message": [1, "Please check your email for verification"]}),
    ("Moodle ok", [{"error": False, "data": {"success": True, "warnings": []}}]),
    ("code 200", {"code": 200, "msg": "操作成功", "data": {"id": 1}}),
    ("errno 0", {"errno": 0, "errmsg": "成功", "data": {"id": 1}}),
    ("Salesforce", {"success": True, "errors": [], "id": "001"}),
    (
        "HubSpot forms",
        {"inlineMessage": "Thanks for submitting the form.", "errors": []},
    ),
    ("Webflow", {"msg": "ok", "code": 200}),
    ("Typeform", {"type": "completed"}),
    ("Formspree", {"next": "/thanks", "ok": True}),
    ("Netlify identity", {"id": "u", "confirmation_sent_at": "x"}),
    ("OTP sent", {"message": "OTP sent"}),
    ("a second step", {"next_step": "verify", "session": "x"}),
    ("GraphQL ok bool", {"data": {"register": True}}),
    ("GraphQL status", {"data": {"register": {"status": "OK"}}}),
    (
        "userErrors empty",
        {"data": {"customerCreate": {"customer": {"id": "gid"}, "userErrors": []}}},
    ),
]

UNDECIDED: list[tuple[str, Any]] = [
    ("Fortify two factor", {"two_factor": False}),
    ("ZSA", [None, {"code": "CONFLICT", "message": "x"}]),
    ("ZSA ok", [{"id": "u"}, None]),
    ("code of its own", {"code": 10001, "msg": "邮箱已存在", "data": None}),
    ("GraphQL node null", {"data": {"createUser": None}}),
    ("GraphQL false", {"data": {"register": False}}),
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(value, expected, id=f"{expected}: {name}")
        for expected, rows in (
            (Ruling.REFUSED, REFUSED),
            (Ruling.ACCEPTED, ACCEPTED),
            (Ruling.UNDECIDED, UNDECIDED),
        )
        for name, value in rows
    ],
)
def test_json_of_a_service(value: Any, expected: Ruling) -> None:
    response = Answered(200, {"content-type": "application/json"}, value)

    assert judge(ASKED, response).outcome is expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/signup-success", Ruling.ACCEPTED),
        ("/thank-you", Ruling.ACCEPTED),
        ("/register/confirm", Ruling.ACCEPTED),
        ("/login?msg=registered", Ruling.ACCEPTED),
        ("/register#success", Ruling.ACCEPTED),
        ("/?signup=success", Ruling.ACCEPTED),
        ("/?modal=signup&error=1", Ruling.REFUSED),
        ("/users/new?errors[email]=taken", Ruling.REFUSED),
        ("/login?status=registered", Ruling.ACCEPTED),
        ("/login?status=409", Ruling.REFUSED),
        ("/login?err=3", Ruling.REFUSED),
        ("/oops", Ruling.ACCEPTED),
        ("/500", Ruling.REFUSED),
        ("/404", Ruling.REFUSED),
        ("/error.html", Ruling.REFUSED),
        ("/register-error", Ruling.REFUSED),
        ("/signup/failed", Ruling.REFUSED),
        ("/register/step2", Ruling.ACCEPTED),
        ("/auth/verify?email=a", Ruling.ACCEPTED),
        ("/auth?mode=login&reason=account_exists", Ruling.REFUSED),
        ("/login?verified=false", Ruling.ACCEPTED),
    ],
)
def test_a_redirect_says_it_in_its_own_words(location: str, expected: Ruling) -> None:
    response = Answered(302, {"location": location}, None)

    assert judge(ASKED, response).outcome is expected
