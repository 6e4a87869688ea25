"""The sample files for Traefik: no package brings Traefik, so they are only read.

What can be checked without it: that they are TOML, that all names they use are
defined, and that the rules mean the relay's own paths.
"""

from __future__ import annotations

import re
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "traefik"


@pytest.fixture
def static() -> dict[str, Any]:
    return tomllib.loads((FOLDER / "traefik.toml").read_text())


@pytest.fixture
def dynamic() -> dict[str, Any]:
    http: dict[str, Any] = tomllib.loads((FOLDER / "in-front.toml").read_text())["http"]
    return http


def test_every_name_is_defined(static: dict[str, Any], dynamic: dict[str, Any]) -> None:
    for router in dynamic["routers"].values():
        assert router["service"] in dynamic["services"]
        assert set(router["entryPoints"]) <= set(static["entryPoints"])
        assert set(router.get("middlewares", ())) <= set(dynamic["middlewares"])
        assert router["tls"]["certResolver"] in static["certificatesResolvers"]
    redirected = static["entryPoints"]["web"]["http"]["redirections"]["entryPoint"]
    assert redirected["to"] in static["entryPoints"]
    assert Path(static["providers"]["file"]["filename"]).name == "in-front.toml"


def test_visitors_headers_are_not_believed(static: dict[str, Any]) -> None:
    for entry_point in static["entryPoints"].values():
        assert "forwardedHeaders" not in entry_point


def test_what_is_the_operators_alone_is_hidden(dynamic: dict[str, Any]) -> None:
    internal = dynamic["routers"]["internal"]
    (pattern,) = re.findall(r"PathRegexp\(`(.*?)`\)", internal["rule"])
    for path in ("livez", "readyz", "metrics"):
        assert re.match(pattern, f"/_dub/{path}")
    assert not re.match(pattern, "/_dub/cookie")
    assert internal["priority"] > len(dynamic["routers"]["relay"]["rule"])
    allowed = dynamic["middlewares"]["here-only"]["ipAllowList"]["sourceRange"]
    assert all(ip_network(each).is_loopback for each in allowed)


def test_the_relay_is_where_its_settings_say(dynamic: dict[str, Any]) -> None:
    (server,) = dynamic["services"]["relay"]["loadBalancer"]["servers"]
    assert f"RELAY_LISTEN={server['url'].removeprefix('http://')} " in (
        FOLDER / "in-front.toml"
    ).read_text().replace("\n", " ")
