"""``[[hook]]`` tables and ``[hooks.NAME]``: what is compiled, refused and verified."""

from __future__ import annotations

import base64
import hmac
import tomllib
from pathlib import Path
from typing import Any

import pytest

from relay.config.reference import HOOK_EXAMPLE
from relay.config.settings import ConfigError, Settings, load
from relay.core.leads import Mode
from relay.core.providers import PROVIDERS, schemes
from relay.core.providers.account import Ignored, NewAccount, PayloadError
from relay.core.rules.documents import Document
from relay.core.rules.hook_compiler import compile_hooks
from relay.core.rules.hook_events import events, read
from relay.core.rules.hook_rules import HookRule
from relay.core.rules.rule import RuleError
from relay.core.signing import (
    BadSignatureError,
    MissingHeaderError,
    SignatureMismatchError,
)

SECRET = "a-secret-CANARY-0123456789"
PLAIN = {
    "path": "crm",
    "scheme": "bearer",
    "secret": SECRET,
    "customer_external_id": "json.id",
}
NAMES = {row.name for row in PROVIDERS}


def rule(**changes: Any) -> HookRule:
    [made] = compile_hooks([PLAIN | changes], NAMES)
    return made


def call(json: Any, **more: Any) -> Document:
    return Document({"json": json, "form": {}, "query": {}, "headers": {}, **more})


def lead(made: HookRule, json: Any, message_id: str = "") -> NewAccount:
    found = read(made, call(json), message_id)
    assert isinstance(found, NewAccount), found
    return found


def settings_of(text: str, folder: Path, **environ: str) -> Settings:
    path = folder / "relay.toml"
    path.write_text(text)
    return load(str(path), environ, complete=False)


class TestReading:
    def test_a_call_is_mapped_field_by_field(self) -> None:
        made = rule(
            event="Qualified Lead",
            mode="wait",
            customer_email="json.mail",
            quantity="json.seats",
            metadata={"plan": "json.plan", "source": "'crm'"},
            click="json.click",
            id="json.event",
        )

        found = lead(
            made,
            {
                "id": 7,
                "mail": "",
                "seats": "3",
                "plan": "pro",
                "click": " c ",
                "event": 9,
            },
        )

        assert found.person == {
            "eventName": "Qualified Lead",
            "mode": "wait",
            "customerExternalId": "7",
            "eventQuantity": 3,
            "metadata": {"plan": "pro", "source": "crm"},
        }
        assert (found.trusted, found.writable) == ((), ("c",))
        assert found.event_id == "9"
        assert not found.earlier_click

    def test_without_an_id_of_its_own_a_call_has_that_of_its_signature(self) -> None:
        assert lead(rule(), {"id": "u_1"}, "msg_1").event_id == "msg_1"
        assert lead(rule(id="json.no"), {"id": "u_1"}, "msg_1").event_id == "msg_1"

    def test_what_when_refuses_is_ignored(self) -> None:
        made = rule(when="json.kind == 'new'")

        assert isinstance(read(made, call({"id": 1, "kind": "old"}), ""), Ignored)
        assert lead(made, {"id": 1, "kind": "new"}).kind == "Sign Up"

    def test_a_call_may_bring_a_list_of_events(self) -> None:
        made = rule(each="json.events", when="query.step == 'new'")
        query = {"query": {"step": "new"}}
        body = {"events": [{"id": 1}, {"id": 2}]}

        found = [read(made, it, "") for it in events(made, call(body, **query))]

        people = [it.person for it in found if isinstance(it, NewAccount)]
        assert [it["customerExternalId"] for it in people] == ["1", "2"]

    def test_without_each_the_call_is_the_event(self) -> None:
        assert events(rule(), call([1, 2])) == [call([1, 2])]

    @pytest.mark.parametrize("json", [None, {}, "text", 1])
    def test_where_each_finds_no_list_the_call_is_refused(self, json: Any) -> None:
        with pytest.raises(PayloadError, match="each found no list: json"):
            events(rule(each="json"), call(json))

    @pytest.mark.parametrize(
        ("changes", "json", "why"),
        [
            ({}, {"id": ""}, "customer_external_id found no id: json.id"),
            ({}, None, "customer_external_id"),
            ({"id": "json.event"}, {"id": 1, "event": "a b"}, "id: must find"),
            ({"when": "abs(json.id)"}, {"id": "x"}, "when: abs"),
            ({"click": "abs(json.id)"}, {"id": "x"}, "click: abs"),
        ],
    )
    def test_what_decides_and_fails_is_reported_without_its_values(
        self, changes: dict[str, Any], json: Any, why: str
    ) -> None:
        with pytest.raises(PayloadError, match=why):
            read(rule(**changes), call(json), "")

    def test_what_only_describes_and_fails_is_left_out_with_a_note(self) -> None:
        made = rule(metadata={"n": "abs(json.id)"}, customer_email="abs(json.id)")

        found = lead(made, {"id": "u_1"})

        assert "metadata" not in found.person
        assert len(found.notes) == 2
        assert "u_1" not in " ".join(found.notes)


class TestCompiling:
    def test_the_example_shows_every_key_of_its_scheme(self) -> None:
        (table,) = tomllib.loads(HOOK_EXAMPLE)["hook"]
        secret = {key: it for key, it in table.items() if key != "secret_env"}

        [made] = compile_hooks([secret | {"secret": SECRET}], NAMES)

        assert (made.path, made.mode) == ("hubspot", Mode.DEFERRED)
        assert SECRET not in repr(made)

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            (
                {"evnt": "x"},
                'hook[0].evnt: there is no such setting; did you mean "event"?',
            ),
            ({"path": "clerk"}, "hook[0].path: is the relay's own: take another name"),
            ({"path": "signup"}, "hook[0].path: is the relay's own: take another name"),
            (
                {"path": "a b"},
                "hook[0].path: must be a name below hooks/, such as hubspot",
            ),
            (
                {"path": "../x"},
                "hook[0].path: must be a name below hooks/, such as hubspot",
            ),
            (
                {"scheme": "jwt"},
                "hook[0].scheme: must be one of standard-webhooks, hmac, bearer, basic",
            ),
            (
                {"algorithm": "sha1"},
                "hook[0].algorithm: means nothing to the scheme bearer",
            ),
            ({"scheme": "hmac"}, "hook[0].header: is required"),
            (
                {"scheme": "hmac", "header": "x", "algorithm": "md5"},
                "hook[0].algorithm: must be one of sha256, sha1, sha512",
            ),
            ({"header": "a b"}, "hook[0].header: must be the name of a header"),
            (
                {"customer_external_id": "response.json.id"},
                'hook[0].customer_external_id: the document has no "response"',
            ),
            ({"click": "json."}, "hook[0].click: not JMESPath: it ends too early"),
            ({"mode": "later"}, "hook[0].mode: must be one of async, wait, deferred"),
        ],
    )
    def test_a_mistake_is_named_in_a_line(
        self, changes: dict[str, Any], line: str
    ) -> None:
        with pytest.raises(RuleError) as caught:
            compile_hooks([PLAIN | changes], NAMES)

        assert str(caught.value).splitlines() == [line]

    @pytest.mark.parametrize(
        "changes",
        [
            {"scheme": "basic"},
            {"scheme": "standard-webhooks"},
            {"secret": f"{SECRET},,x"},
            {"secret": 7},
        ],
    )
    def test_a_wrong_secret_is_not_quoted(self, changes: dict[str, Any]) -> None:
        with pytest.raises(RuleError, match=r"hook\[0\].secret") as caught:
            compile_hooks([PLAIN | changes], NAMES)

        assert "CANARY" not in str(caught.value)


HOOK = """
[[hook]]
path = "crm"
scheme = "bearer"
customer_external_id = "json.id"
"""


class TestSettings:
    def test_tables_of_one_path_have_one_list(self) -> None:
        with pytest.raises(RuleError) as caught:
            compile_hooks([PLAIN | {"each": "json"}, PLAIN], NAMES)

        assert str(caught.value) == "hook[1].each: must be the same in all of crm"

    @pytest.mark.parametrize("place", ["secret", "secret_env", "secret_file"])
    def test_a_secret_stands_in_the_file_the_environment_or_a_file_of_its_own(
        self, place: str, tmp_path: Path
    ) -> None:
        (tmp_path / "key").write_text(f"{SECRET}\n")
        where = {"secret": SECRET, "secret_env": "CRM", "secret_file": tmp_path / "key"}
        text = f'{HOOK}{place} = "{where[place]}"'

        settings = settings_of(text, tmp_path, CRM=SECRET)

        [made] = settings.hook
        assert made.keys == (SECRET.encode(),)
        assert SECRET not in repr(settings)

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            ("", "hook[0].secret: set one of secret, secret_env and secret_file"),
            ('secret = "x"\nsecret_env = "Y"', "not secret and secret_env"),
            ('secret_env = "NOWHERE"', "hook[0].secret_env: NOWHERE is not set"),
            ('secret_file = "/no/such"', "/no/such cannot be read: No such file"),
            ("secret_env = 7", "hook[0].secret_env: must be text"),
        ],
    )
    def test_a_secret_that_is_not_there_is_an_error_that_names_the_table(
        self, lines: str, said: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "relay.toml"
        path.write_text(HOOK + lines)
        environ = {"DUB_API_KEY": "dub_x", "RELAY_SECRET": "0123456789abcdef"}

        with pytest.raises(ConfigError) as caught:
            load(str(path), environ)

        [line] = str(caught.value).splitlines()
        assert said in line
        assert "the table at line 2" in line

    def test_a_command_that_calls_nobody_needs_no_secret(self, tmp_path: Path) -> None:
        [made] = settings_of(f'{HOOK}secret_env = "NOWHERE"', tmp_path).hook

        assert made.keys == ()
        with pytest.raises(BadSignatureError):
            made.verify(made.keys, {"authorization": "Bearer x"}, b"", 0)

    def test_a_providers_leads_take_what_its_table_adds(self, tmp_path: Path) -> None:
        settings = settings_of(
            """
            [hooks.clerk]
            event = "Joined"
            mode = "deferred"
            quantity = "json.data.public_metadata.seats"
            metadata = { plan = "json.data.public_metadata.plan" }
            """,
            tmp_path,
        )

        added = settings.additions["clerk"]
        assert (added.event, added.mode) == ("Joined", Mode.DEFERRED)
        assert "stripe" not in settings.additions

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('[hooks.clerk]\nquantity = "json."', "hooks.clerk.quantity: not JMESPath"),
            ('[hooks.clerk]\nmode = "x"', "hooks.clerk.mode: must be one of"),
            ('[hooks.clerk]\nevnt = "x"', "hooks.clerk.evnt: unknown setting"),
            ('[hooks.nobody]\nevent = "x"', "hooks.nobody.event: unknown setting"),
            ("hook = 7", "hook: not a table"),
        ],
    )
    def test_a_mistake_there_is_named(
        self, text: str, said: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match=said):
            settings_of(text, tmp_path)


BODY = b'{"a":1}'


def encoded(raw: bytes, encoding: str) -> str:
    return raw.hex() if encoding == "hex" else base64.b64encode(raw).decode()


class TestSchemes:
    @pytest.mark.parametrize("algorithm", schemes.ALGORITHMS)
    @pytest.mark.parametrize("encoding", schemes.ENCODINGS)
    @pytest.mark.parametrize("prefix", ["", "sha256="])
    def test_an_hmac_is_verified_by_any_of_the_keys(
        self, algorithm: str, encoding: str, prefix: str
    ) -> None:
        verify = schemes.hmac_header("x-sign", algorithm, encoding, prefix)
        right = encoded(hmac.digest(b"two", BODY, algorithm), encoding)

        verify([b"one", b"two"], {"x-sign": prefix + right}, BODY, 0)

        with pytest.raises(SignatureMismatchError):
            verify([b"one"], {"x-sign": prefix + right}, BODY, 0)
        with pytest.raises(SignatureMismatchError):
            verify([b"two"], {"x-sign": prefix + right}, BODY + b" ", 0)
        with pytest.raises(SignatureMismatchError):
            verify([], {"x-sign": prefix + right}, BODY, 0)
        for wrong in ({}, {"x-sign": f"{prefix}zé"}, {"x-sign": ""}):
            with pytest.raises(MissingHeaderError):
                verify([b"two"], wrong, BODY, 0)

    def test_hex_is_read_in_either_case_and_base64_without_its_padding(self) -> None:
        made = hmac.digest(b"key", BODY, "sha256")
        by_hex = schemes.hmac_header("x", "sha256", "hex", "")
        by_base64 = schemes.hmac_header("x", "sha256", "base64", "")

        by_hex([b"key"], {"x": made.hex().upper()}, BODY, 0)
        by_base64([b"key"], {"x": base64.b64encode(made).decode().rstrip("=")}, BODY, 0)

    def test_a_bearer_stands_behind_its_word_elsewhere_alone(self) -> None:
        usual, own = schemes.bearer("authorization"), schemes.bearer("x-key")

        for written in ("Bearer two", "bearer  two "):
            usual([b"one", b"two"], {"authorization": written}, BODY, 0)
        own([b"two"], {"x-key": "two"}, BODY, 0)
        with pytest.raises(MissingHeaderError, match="Bearer"):
            usual([b"two"], {"authorization": "two"}, BODY, 0)
        for verify, headers in (
            (usual, {"authorization": "Bearer three"}),
            (own, {"x-key": "Bearer two"}),
        ):
            with pytest.raises(SignatureMismatchError):
                verify([b"two"], headers, BODY, 0)
        with pytest.raises(MissingHeaderError):
            own([b"two"], {}, BODY, 0)

    def test_basic_is_a_user_and_a_password_in_utf_8(self) -> None:
        [key] = schemes.user_and_password("ada:pässword:with:colons")
        given = base64.b64encode("ada:pässword:with:colons".encode()).decode()

        schemes.basic([key], {"authorization": f"basic {given}"}, BODY, 0)
        with pytest.raises(SignatureMismatchError):
            schemes.basic([b"ada:x"], {"authorization": f"Basic {given}"}, BODY, 0)
        for wrong in ("Basic !", f"Bearer {given}", given):
            with pytest.raises(MissingHeaderError):
                schemes.basic([key], {"authorization": wrong}, BODY, 0)
        with pytest.raises(ValueError, match="user:password"):
            schemes.user_and_password("ada")
