"""Batches of tRPC: a rule's path names the procedure, and sees that call alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.rules.bodies import Copy
from relay.core.rules.documents import answered, asked_document
from relay.core.rules.evaluation import Judgement, decide
from relay.core.rules.json_verdict import Ruling
from relay.core.rules.rule import compile_rules, match
from relay.core.rules.trpc import narrowed

RULE: Mapping[str, Any] = {
    "path": "/api/trpc/user.signup",
    "customer_external_id": "response.json.result.data.id",
    "customer_email": "json.email",
}
ASKED = {"0": {"item": 7}, "1": {"email": "a@b.test"}}
DONE = {"result": {"data": {"id": "u_1"}}}
CART = {"result": {"data": {"id": "cart_9"}}}
REFUSED = {"error": {"message": "taken", "code": -32009, "data": {"httpStatus": 409}}}


def judged(
    said: object,
    target: str = "/api/trpc/cart.add,user.signup?batch=1",
    asked: object = ASKED,
    status: int = 200,
    rule: Mapping[str, Any] = RULE,
) -> Judgement | None:
    """What a rule makes of a call; ``said`` is the JSON, or the lines' bytes."""
    path, _, query = target.partition("?")
    found = match(compile_rules([rule]), "POST", path, query)
    if not found:
        return None
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    made = asked_document(
        query=query,
        path_params=found[0].params,
        headers=[],
        request=Copy("application/json", json.dumps(asked).encode()),
    )
    whole = answered(made, status, [], Copy("application/json", body))
    return decide(found, whole)[1]


def fields(made: Judgement | None) -> Mapping[str, object]:
    assert made is not None
    assert made.draft is not None
    assert made.draft.problem is None
    return made.draft.fields


@pytest.mark.parametrize(
    ("target", "asked", "said"),
    [
        ("cart.add,user.signup?batch=1", ASKED, [CART, DONE]),
        ("cart.add%2Cuser.signup?x=1&batch=1", ASKED, [CART, DONE]),
        ("user.signup,cart.add?batch=1", {"0": ASKED["1"]}, [DONE, CART]),
        ("user.signup?batch=1", {"0": ASKED["1"]}, [DONE]),
        ("user.signup", ASKED["1"], DONE),
        ("user.signup?batch=0", ASKED["1"], DONE),
    ],
)
def test_the_call_is_found_wherever_it_stands(
    target: str, asked: object, said: object
) -> None:
    made = fields(judged(said, f"/api/trpc/{target}", asked))

    assert made["customerExternalId"] == "u_1"
    assert made["customerEmail"] == "a@b.test"


def lines(*parts: object, wrapped: bool = False) -> bytes:
    texts = (json.dumps({"json": each} if wrapped else each) for each in parts)
    return "\n".join(texts).encode() + b"\n"


STREAM: Sequence[object] = (
    {"0": [[0], [None, 0, 0]], "1": [[0], [None, 0, 1]]},
    [1, 0, [[{"result": 0}], ["result", 0, 2]]],
    [2, 0, [[{"data": 0}], ["data", 0, 3]]],
    [0, 0, [[CART]]],
    [3, 0, [[{"id": "u_1"}]]],
)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_streamed_result_is_put_together(wrapped: bool) -> None:
    made = fields(judged(lines(*STREAM, wrapped=wrapped)))

    assert made["customerExternalId"] == "u_1"


def test_superjson_keeps_its_wrapper_as_without_a_batch() -> None:
    rule = {
        **RULE,
        "customer_external_id": "response.json.result.data.json.id",
        "customer_email": "json.json.email",
    }
    asked = {"0": {}, "1": {"json": ASKED["1"]}}
    said = [CART, {"result": {"data": {"json": {"id": "u_1"}}}}]

    assert fields(judged(said, asked=asked, rule=rule))["customerEmail"] == "a@b.test"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ([CART, REFUSED], 207),
        ([CART, REFUSED], 200),
        (REFUSED, 500),
        (lines({"0": [[0], [None, 0, 0]], "1": [[REFUSED]]}), 200),
        (
            lines(
                {"0": [[CART]], "1": [[0], [None, 0, 1]]},
                [1, 0, [[{"result": 0}], ["result", 0, 2]]],
                [2, 1, {"message": "taken"}],
            ),
            200,
        ),
    ],
)
def test_a_refused_call_makes_no_lead_though_another_is_taken(
    said: object, status: int
) -> None:
    made = judged(said, status=status)

    assert made is not None
    assert made.draft is None
    assert made.verdict.outcome is not Ruling.ACCEPTED


@pytest.mark.parametrize(
    "target",
    [
        "/api/trpc/cart.add,user.signup",
        "/api/trpc/cart.add,user.signups?batch=1",
        "/api/cart.add,user.signup?batch=1",
        "/api/trpc/cart.add,%2e%2e?batch=1",
        "/api/trpc/user.signup/a,b?batch=1",
    ],
)
def test_other_paths_are_other_paths(target: str) -> None:
    assert judged([CART, DONE], target) is None


def test_a_placeholder_sees_the_whole_batch() -> None:
    rule = {
        "path": "/api/trpc/{names}",
        "customer_external_id": "response.json[1].result.data.id",
        "metadata": {"names": "path.names"},
    }
    made = fields(judged([CART, DONE], rule=rule))

    assert made["metadata"] == {"names": "cart.add,user.signup"}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 4)
    | st.sampled_from(["a", "1", "json"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["0", "1", "json", "a"]), inner, max_size=3)
    ),
)


@given(JSON, JSON)
def test_any_json_is_narrowed_to_some(asked: object, said: object) -> None:
    values = {"json": asked, "response": {"json": said}}

    json.dumps(narrowed(values, 1))


def test_parts_that_refer_in_circles_end() -> None:
    said = [
        {"1": [[0], [None, 0, 1]]},
        [1, 0, [[{"a": 0, "b": 0}], ["a", 0, 1], ["b", 0, 2]]],
        [2, 0, [[{"a": 0}], ["a", 0, 1]]],
    ]

    narrow = narrowed({"json": {}, "response": {"json": said}}, 1)

    assert narrow["response"]["json"] == {"a": None, "b": {"a": None}}
