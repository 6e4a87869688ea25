"""HAR files of browsers, read and replayed through the rules."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from relay.core.rules.har import Exchange, TryoutError
from relay.core.rules.preview import parse_exchanges, try_all
from relay.core.rules.rule import compile_rules

RULES = compile_rules(
    [{"path": "/signup", "customer_external_id": "response.json.user.id"}]
)
COOKIE = {"name": "Cookie", "value": "dub_id=hQWlM2kPzX9aBcDe"}
ANSWER = '{"user": {"id": "u_1"}}'


def entry(
    url: str = "https://shop.test/signup?plan=pro",
    *,
    request: dict[str, Any] | None = None,
    response: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An entry as Chrome writes it, with changes."""
    asked: dict[str, Any] = {
        "method": "POST",
        "url": url,
        "httpVersion": "h2",
        "headers": [
            {"name": ":method", "value": "POST"},
            {"name": "content-type", "value": "application/json"},
            COOKIE,
        ],
        "cookies": [],
        "postData": {"mimeType": "application/json", "text": '{"email": "a"}'},
    }
    answered: dict[str, Any] = {
        "status": 200,
        "headers": [
            {"name": "content-type", "value": "application/json"},
            {"name": "content-encoding", "value": "br"},
            {"name": "set-cookie", "value": "a=1\nb=2"},
        ],
        "content": {"mimeType": "application/json", "text": ANSWER},
    }
    return {"request": asked | (request or {}), "response": answered | (response or {})}


def har(*entries: dict[str, Any]) -> str:
    return json.dumps({"log": {"version": "1.2", "entries": entries}})


def read(made: dict[str, Any]) -> Exchange:
    (exchange,) = parse_exchanges(har(made))
    return exchange


def test_a_sign_up_in_a_har_makes_its_lead() -> None:
    verdict = try_all(RULES, parse_exchanges(har(entry())))

    assert verdict.lead is not None
    assert verdict.lead["customerExternalId"] == "u_1"
    assert verdict.lead["clickId"] == "hQWlM2kPzX9aBcDe"


def test_bodies_stand_in_it_decoded() -> None:
    content = {"text": base64.b64encode(ANSWER.encode()).decode(), "encoding": "base64"}
    exchange = read(entry(response={"content": content}))

    assert exchange.response_body == ANSWER.encode()
    names = [name.lower() for name, _ in exchange.response_headers]
    assert names == [b"content-type", b"set-cookie", b"set-cookie"]


def test_what_stands_beside_the_headers_is_used_where_they_lack_it() -> None:
    bare = {
        "headers": [],
        "cookies": [{"name": "dub_id", "value": "hQWlM2kPzX9aBcDe"}],
        "postData": {
            "mimeType": "multipart/form-data",
            "params": [{"name": "email", "value": "a@b.c"}],
        },
    }
    exchange = read(entry(request=bare))

    assert (b"Host", b"shop.test") in exchange.headers
    assert (b"Cookie", b"dub_id=hQWlM2kPzX9aBcDe") in exchange.headers
    assert exchange.body == b"email=a%40b.c"
    assert exchange.target == "/signup?plan=pro"


def test_the_sign_up_is_found_among_other_requests() -> None:
    other = entry("https://shop.test/", request={"method": "GET", "postData": None})
    refused = entry(response={"content": {"text": '{"error": "taken"}'}})
    blocked = entry("data:,x", response={"status": 0})

    verdict = try_all(RULES, parse_exchanges(har(other, blocked, refused, entry())))
    assert verdict.lead is not None
    verdict = try_all(RULES, parse_exchanges(har(other, refused)))
    assert verdict.reason == "JSON that says it is refused: error"
    verdict = try_all((), parse_exchanges(har(other, entry())))
    assert verdict.reason is not None
    assert "POST /signup" in verdict.reason


def test_a_har_without_cookies_says_why_there_is_no_click() -> None:
    headers = [{"name": "content-type", "value": "application/json"}]
    verdict = try_all(RULES, [read(entry(request={"headers": headers}))])

    assert "browsers leave cookies out of a HAR" in (verdict.reason or "")


@pytest.mark.parametrize(
    "content",
    [
        '{"log": {}}',
        '{"log": {"entries": []}}',
        '{"log": {"entries": [1]}}',
        '{"log": {"entries": [{"request": {}}]}}',
        '{"log": null}',
        har(entry("data:,x")),
        har(entry(response={"content": {"text": "a", "encoding": "base64"}})),
        "[" * 100_000,
    ],
)
def test_what_is_no_har_is_said_to_be_none(content: str) -> None:
    with pytest.raises(TryoutError):
        parse_exchanges(content)
