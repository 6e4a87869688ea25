"""What a consent cookie says, in the formats of the platforms and of sites."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relay.core.http.consent import MOST, PLATFORMS, parse_consent

CASES = json.loads((Path(__file__).parents[1] / "support/consents.json").read_text())


@pytest.mark.parametrize(("asked", "cookie", "yes"), CASES)
def test_a_consent_cookie_is_read(asked: str, cookie: str, yes: bool) -> None:
    name, _, value = cookie.partition("=")
    assert parse_consent(asked).verdict([("other", "yes"), (name, value)]) is yes


@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_platform_has_a_yes_and_a_no_to_marketing(platform: str) -> None:
    assert {yes for asked, _, yes in CASES if asked == platform} == {True, False}


def test_without_the_cookie_nothing_is_said() -> None:
    assert parse_consent("cookiebot").verdict([("cookieconsent", "-1")]) is None


def test_of_several_all_must_say_yes() -> None:
    cookie = parse_consent("site_consent")
    pair = ("site_consent", "yes")
    assert cookie.verdict([pair, pair]) is True
    assert cookie.verdict([pair, ("site_consent", "no")]) is False


def test_what_only_begins_like_the_cookie_is_another() -> None:
    cookie = parse_consent("iubenda")
    other = ("_iub_cs-12345678-uspr", '{"s":true,"adv":true}')
    assert cookie.verdict([other]) is None
    assert cookie.verdict([other, ("_iub_cs-12345678", '{"5":true}')]) is True


def test_what_is_longer_than_a_cookie_is_no_yes() -> None:
    value = "marketing:true," * MOST
    assert parse_consent("site_consent").verdict([("site_consent", value)]) is False


@pytest.mark.parametrize(
    ("asked", "value", "readable"),
    [
        ("cookiebot", "-1", True),
        ("cookiebot", "{necessary:true,marketing:false}", True),
        ("cookiebot", "{necessary:true,marketing:}", False),
        ("cookiebot", "{stamp:'x'}", False),
        ("cookieconsent", '{"categories":["necessary"]}', True),
        ("site_consent", "denied", True),
        ("site_consent", "perhaps", False),
        ("site_consent", "", False),
        ("site_consent", "marketing:true," * MOST, False),
        ("site_consent=1", "anything", True),
        ("site_consent:dub", '{"other":true}', False),
    ],
)
def test_what_is_no_yes_may_be_no_answer_at_all(
    asked: str, value: str, readable: bool
) -> None:
    cookie = parse_consent(asked)
    pairs = [("other", "what"), (cookie.name, value)]
    assert cookie.is_readable(pairs) is readable
    assert cookie.is_readable([("other", "what")])


@pytest.mark.parametrize("text", ["", "=yes", ":ads", "name:", "a b", "a;b", "näme"])
def test_what_is_no_cookies_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a cookie's name"):
        parse_consent(text)
