"""Dub's errors, as its clients compare them."""

import pytest

from relay.core.dub import errors
from relay.core.dub.errors import (
    CODES,
    doc_url,
    error_body,
)

DOCS = "https://dub.co/docs/api-reference/errors#"


def test_every_code_has_the_status_that_the_sdks_expect() -> None:
    assert dict(CODES) == {
        "bad_request": 400,
        "unauthorized": 401,
        "forbidden": 403,
        "exceeded_limit": 403,
        "not_found": 404,
        "conflict": 409,
        "invite_pending": 409,
        "invite_expired": 410,
        "unprocessable_entity": 422,
        "rate_limit_exceeded": 429,
        "internal_server_error": 500,
    }


@pytest.mark.parametrize(
    ("code", "fragment"),
    [
        ("unauthorized", "unauthorized"),
        ("bad_request", "bad-request"),
        ("not_found", "not-found"),
        ("unprocessable_entity", "unprocessable-entity"),
        # Only the first underscore is replaced ...
        ("rate_limit_exceeded", "rate-limit_exceeded"),
        # ... except where Dub wrote the address out.
        ("internal_server_error", "internal-server-error"),
    ],
)
def test_the_documentation_address_is_made_as_dub_makes_it(
    code: str, fragment: str
) -> None:
    assert doc_url(code) == DOCS + fragment


def test_an_error_has_dubs_envelope() -> None:
    assert error_body("not_found", "Nothing here.") == {
        "error": {
            "code": "not_found",
            "message": "Nothing here.",
            "doc_url": DOCS + "not-found",
        }
    }


def test_a_code_that_the_sdks_do_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="teapot"):
        error_body("teapot", "short and stout")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (errors.click_not_found("c1"), "Click event not found for clickId: c1"),
        (errors.link_not_found("c1"), "Link not found for clickId: c1"),
        (
            errors.link_elsewhere("l1", "clickId c1"),
            "Link l1 for clickId c1 does not belong to the workspace",
        ),
        (errors.customers_link_not_found("cus_1"), "Link not found for customer cus_1"),
        (
            errors.link_disabled("l1", "customer cus_1", "sale"),
            "Link l1 for customer cus_1 is disabled, sale not tracked",
        ),
        (
            errors.link_disabled("l1", "clickId c1", "lead"),
            "Link l1 for clickId c1 is disabled, lead not tracked",
        ),
        (errors.NEED_HIGHER_PLAN, "Unauthorized: Need higher plan."),
        (errors.EXTERNAL_ID_REQUIRED, "customerExternalId is required"),
    ],
)
def test_messages_are_dubs_letter_by_letter(message: str, expected: str) -> None:
    assert message == expected
