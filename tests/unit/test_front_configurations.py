"""What `dub-relay front` writes, and that no sign-up slips past its expressions."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from relay.cli.main import cli
from relay.config.settings import ConfigError, load
from relay.core.http.cookies import CLICK_PARAMETER, landing_click
from relay.core.rules.paths import parse_pattern
from relay.operations.front_servers import TEMPLATES, front_configuration

FRONT = Path(__file__).resolve().parents[2] / "deploy" / "front"


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_samples_are_made_by_the_command(kind: str) -> None:
    settings = load(str(FRONT / "relay.toml"), {}, complete=False)

    made = front_configuration(kind, settings)

    assert (FRONT / TEMPLATES[kind]).read_text("utf-8") == made, (
        f"dub-relay front {kind} --config deploy/front/relay.toml"
        f" > deploy/front/{TEMPLATES[kind]}"
    )


PATTERNS = (
    *("/signup", "/a.b/{team}/join", "/signup/*", "/", "/*", "/{any}"),
    *("/api/trpc/user.create", "/anmelden/straße", "/a b"),
)
PIECES = st.sampled_from(
    [
        *("/", "signup", "sign%75p", "a.b", "axb", "x", "join", ";s=1", ".", "%2e"),
        *("api", "trpc", "user.create", "anmelden", "stra%C3%9Fe", "a%20b", ","),
    ]
)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(pieces=st.lists(PIECES, max_size=8))
def test_no_path_that_a_rule_knows_is_missed(pattern: str, pieces: list[str]) -> None:
    path = "/" + "".join(pieces)
    compiled = parse_pattern(pattern)

    if compiled.match(path) is not None:
        assert re.search(compiled.superset, unquote(path))


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/signup", "/signup"),
        ("/signup", "/signup/;jsessionid=1"),
        ("/teams/{team}/join", "/teams/blue/join/"),
        ("/signup/*", "/signup/step/2"),
        ("/api/trpc/user.create", "/api/trpc/post.list,user.create"),
    ],
)
def test_the_expression_of_a_rule_finds_its_paths(pattern: str, path: str) -> None:
    found = parse_pattern(pattern).superset

    assert re.search(found, path)
    assert not re.search(found, "/pricing")


def test_the_expression_of_a_rule_ignores_case_where_the_rule_does() -> None:
    assert re.search(parse_pattern("/Signup", ignore_case=True).superset, "/SIGNUP")


@pytest.mark.parametrize(
    "query", ["dub_id", "a=1&dub_id", "a=1&amp;dub_id", "d%75b_id"]
)
def test_no_click_that_the_relay_knows_is_missed(query: str) -> None:
    target = f"{query}=hQWlM2kPzX9aBcDe"

    assert landing_click(f"/?{target}") is not None
    assert re.search(CLICK_PARAMETER, target)


def front(*arguments: str, **environment: str) -> tuple[int, str]:
    ran = CliRunner().invoke(cli, ["front", *arguments], env=environment)
    if isinstance(ran.exception, ConfigError):
        # The program's own end turns it into exit code 2.
        return 2, str(ran.exception)
    return ran.exit_code, ran.output


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (("nginx",), {}, "RELAY_UPSTREAM: is required"),
        (
            ("nginx",),
            {"RELAY_UPSTREAM": "https://s", "RELAY_UPSTREAM_HOST": "app.test"},
            "RELAY_UPSTREAM_HOST: the way around the relay",
        ),
        (
            ("caddy", "--bypass-log", "/x.log"),
            {"RELAY_UPSTREAM": "http://s"},
            "--bypass-log: caddy cannot log",
        ),
        (
            ("traefik",),
            {"RELAY_UPSTREAM": "unix:/run/site.sock"},
            "Traefik knows no Unix sockets",
        ),
        (
            ("nginx", "--all", "--only-what-matters"),
            {"RELAY_UPSTREAM": "http://s"},
            "Give either",
        ),
        (("apache",), {}, "'apache' is not one of"),
    ],
)
def test_what_cannot_be_had_is_said(
    arguments: tuple[str, ...], environment: dict[str, str], named: str
) -> None:
    code, said = front(*arguments, **environment)

    assert code == 2
    assert named in said


def test_a_relay_that_would_not_believe_the_front_server_is_named() -> None:
    code, said = front("nginx", RELAY_UPSTREAM="http://127.0.0.1:3000")

    assert code == 0
    assert "RELAY_TRUSTED_PROXIES: is not set" in said


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_example_of_a_rule_is_a_path_of_it(pattern: str) -> None:
    compiled = parse_pattern(pattern)

    assert compiled.match(compiled.example) is not None
