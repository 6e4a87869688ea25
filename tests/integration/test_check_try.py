"""`dub-relay check --try`: what the rules would make of a saved sign-up."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from relay.core.rules.rule import compile_rules
from tests.support.harness import RelayProcess

pytestmark = pytest.mark.process

RULES = """
[[signup]]
path = "/signup"
customer_external_id = "response.json.id || form.email"
customer_email = "form.email"
customer_name = "form.name"
"""

SAVED: dict[str, Any] = {
    "request": {
        "method": "POST",
        "target": "/signup?ref=x",
        "headers": {
            "Content-Type": "application/x-www-form-urlencoded",
            "Cookie": ["sid=1", "dub_id=hQWlM2kPzX9aBcDe"],
        },
        "body": "email=ada%40example.com&name=Ada",
    },
    "response": {
        "status": 201,
        "headers": {"Content-Type": "application/json"},
        "body": {"id": "u_1"},
    },
}


async def tried(folder: Path, saved: object, *options: str) -> tuple[int, str, str]:
    path = folder / "saved.json"
    path.write_text(saved if isinstance(saved, str) else json.dumps(saved))
    relay = RelayProcess(folder, config=RULES)
    return await relay.run("check", "--try", str(path), *options)


def changed(**parts: Any) -> dict[str, Any]:
    return {name: SAVED[name] | parts.get(name, {}) for name in ("request", "response")}


async def test_the_lead_is_printed(tmp_path: Path) -> None:
    code, out, err = await tried(tmp_path, SAVED, "--json")

    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "rule": "POST /signup",
        "lead": {
            "clickId": "hQWlM2kPzX9aBcDe",
            "eventName": "Sign Up",
            "customerExternalId": "u_1",
            "customerName": "Ada",
            "customerEmail": "ada@example.com",
            "mode": "async",
        },
        "notes": [],
        "reason": None,
    }


async def test_people_read_lines(tmp_path: Path) -> None:
    code, out, _ = await tried(tmp_path, SAVED)

    assert code == 0
    assert out.splitlines()[0] == "rule  POST /signup"
    assert out.splitlines()[1].startswith('lead  {"clickId"')


@pytest.mark.parametrize(
    ("saved", "reason"),
    [
        (changed(request={"target": "/login"}), "no rule matches POST /login"),
        (changed(response={"status": 422}), "none  HTTP 422"),
        (changed(request={"headers": {}}), "no dub_id cookie"),
        (
            changed(request={"body": ""}, response={"body": "{}"}),
            "customer_external_id found no id",
        ),
    ],
)
async def test_a_reason_says_why_there_is_none(
    tmp_path: Path, saved: dict[str, Any], reason: str
) -> None:
    code, out, _ = await tried(tmp_path, saved)

    assert code == 1
    assert reason in out


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ("{", "is not JSON"),
        ([], "must be an object"),
        ({"request": {}}, "response: must be an object"),
        (changed(request={"target": 1}), "request.target: must be text"),
        (changed(response={"status": "200"}), "response.status: must be a number"),
        (changed(request={"url": "/x"}), "key that is unknown"),
        (changed(request={"headers": {"a": 1}}), "request.headers.a: must be text"),
        (changed(request={"body_base64": "%"}), "body_base64: is not base64"),
    ],
)
async def test_a_file_that_is_wrong_is_wrong_usage(
    tmp_path: Path, saved: object, told: str
) -> None:
    code, out, err = await tried(tmp_path, saved)

    assert (code, out) == (2, "")
    assert told in err


DOCS = Path(__file__).resolve().parents[2] / "docs" / "signup-rules.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)


async def test_the_saved_sign_up_of_the_docs_is_one(tmp_path: Path) -> None:
    (saved,) = blocks("json")

    code, out, _ = await tried(tmp_path, saved, "--json")

    assert code == 0
    assert json.loads(out)["lead"]["customerExternalId"] == "u_1"


def test_the_recipes_of_the_docs_compile() -> None:
    recipes = blocks("toml")

    assert len(recipes) == 9
    for recipe in recipes:
        assert compile_rules(tomllib.loads(recipe)["signup"])
