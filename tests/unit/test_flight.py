"""Results of server actions in React's Flight format."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.core.rules.bodies import Copy, read_body

HEAD = b'0:{"a":"$@1","f":"","b":"dev"}\n'


def action_result(body: bytes) -> Any:
    """What a rule sees of a response with this body."""
    return read_body(Copy("text/x-component", body), asked=False).json


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (HEAD + b'1:{"ok":true,"id":"u_1"}\n', {"ok": True, "id": "u_1"}),
        (b'0:["$@1",["build",null]]\n1:{"ok":true}\n', {"ok": True}),  # Next.js 14.0
        (b'0:["$@1"]\r\n1:42', 42),
        (b'1:{"late":1}\n' + HEAD, {"late": 1}),
        (HEAD + b"1:false\n", False),
        (HEAD + b'1:"$undefined"\n', None),
        (HEAD + b'1:{"a":"$undefined","b":"$$5"}', {"a": None, "b": "$5"}),
        (HEAD + b'1:{"n":"$n42","at":"$D2026-01-01"}', {"n": "42", "at": "2026-01-01"}),
        (HEAD + b'2:T6,caf\xc3\xa9!1:{"text":"$2"}\n', {"text": "caf\xe9!"}),
        (HEAD + b'2:{"id":7}\n1:{"user":"$2"}\n', {"user": {"id": 7}}),
        (HEAD + b'1:"$@2"\n2:[1]\n', [1]),
        (HEAD + b'2:I["x",[],""]\n1:{"ok":1}\n', {"ok": 1}),
        (HEAD + b'1:E{"digest":"123"}\n', {"error": True}),
        (b'0:{"a":"$@1","f":[["$","html",null,{}]]}\n1:{"ok":1}', {"ok": 1}),
        (HEAD + b'1:{"me":"$1"}\n', {"me": None}),
        (HEAD, None),
        (b'0:["$","div",null,{}]\n', None),  # a page, no action
        (b'0:{"b":"dev"}\n1:{"ok":1}\n', None),
        (b'{"ok":true}', None),
        (b"", None),
    ],
)
def test_the_result_of_an_action(body: bytes, expected: Any) -> None:
    found = action_result(body)

    if isinstance(expected, dict) and "me" in expected:
        assert set(found) == {"me"}  # a result that holds itself ends
    else:
        assert found == expected


@given(
    st.lists(st.sampled_from([HEAD, b"1:", b"2:T9,", b'"$1"', b'["$2"]', b"\n", b"{"]))
)
@example([HEAD, b"1:", b'["$1","$1"]'])
def test_any_bytes_end(parts: list[bytes]) -> None:
    action_result(b"".join(parts))
