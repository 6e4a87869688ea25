"""The layers of the program, read from its imports.

The core is pure, capture and delivery meet only in the outbox, one package knows
the database and few modules make calls: rules that no other test would miss.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import relay

PACKAGE = Path(relay.__file__).parent

IMPURE = frozenset(
    {
        *("asyncio", "aiohttp", "sqlite3", "socket", "threading", "subprocess"),
        *("time", "random", "secrets", "os", "logging"),
        *("urllib.request", "multiprocessing", "concurrent", "importlib"),
    }
)
"""What the core may not import: I/O, clocks, dice and the event loop."""

CLOCKS = frozenset(
    {
        *("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
        "time.time",
    }
)
"""Calls that read a clock although their module may be imported."""

CORE_EDGES = frozenset({"relay.core.clock", "relay.core.resources"})
"""The two modules of the core that touch the world: the clock with its dice, and the
folders of files. Everybody may import them but the core itself."""

DRIVERS = frozenset({"sqlite3", "aiosqlite", "asyncpg", "psycopg"})

CLIENT_PARTS = frozenset(
    {
        *("aiohttp.ClientSession", "aiohttp.ClientTimeout", "aiohttp.request"),
        *("aiohttp.ClientRequest", "aiohttp.TCPConnector", "aiohttp.UnixConnector"),
        *("aiohttp.client", "aiohttp.client_proto", "aiohttp.client_reqrep"),
        *("aiohttp.connector",),
    }
)
"""What makes calls with aiohttp; its server's own parts are everybody's."""

CALLERS = (
    "relay.delivery.dub_client",  # the only code that delivers to Dub
    "relay.proxy.upstream_connection",  # the proxy's connections to the site,
    "relay.proxy.upstream_protocol",  # their protocol,
    "relay.proxy.websocket",  # its WebSockets,
    "relay.proxy.upstream",  # and its calls
    "relay.capture.pass_through",  # passes browsers' calls on to Dub
    "relay.operations.alerts.webhook",  # the operator's webhook
    "relay.operations.diagnostics",  # `check` tries whether upstream answers
    "relay.sandbox",  # plays the site and Dub, webhooks included
    "relay.sandbox.demo",  # plays the visitor
)


@dataclass(frozen=True)
class Module:
    """A module's dotted name and its syntax tree."""

    name: str
    tree: ast.Module
    is_package: bool = False

    @property
    def imports(self) -> frozenset[str]:
        """Every module and name it imports, relative ones resolved."""
        return frozenset(self._imports())

    def _imports(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                source = self._source(node)
                yield source
                yield from (f"{source}.{alias.name}" for alias in node.names)

    def _source(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        package = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*package, *([node.module] if node.module else [])])

    @property
    def references(self) -> frozenset[str]:
        """Every dotted name in its code, such as "aiohttp.ClientSession"."""
        names = (
            ast.unparse(node)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Attribute)
        )
        return self.imports | frozenset(names)


def read(path: Path) -> Module:
    """Parse one file of the package."""
    is_package = path.name == "__init__.py"
    parts = ("relay", *path.relative_to(PACKAGE).with_suffix("").parts)
    name = ".".join(parts[:-1] if is_package else parts)
    return Module(name, ast.parse(path.read_text("utf-8")), is_package)


MODULES = [read(path) for path in sorted(PACKAGE.rglob("*.py"))]


def is_within(name: str, package: str) -> bool:
    """Tell whether a dotted name is the package or stands below it."""
    return name == package or name.startswith(f"{package}.")


def any_within(names: frozenset[str], packages: frozenset[str]) -> list[str]:
    """List the names that stand in one of the packages."""
    return sorted(
        name for name in names if any(is_within(name, package) for package in packages)
    )


# --- The rules: each lists what a module does wrong. ---


def is_pure(module: Module) -> bool:
    """Whether a module of the core is one that must be pure."""
    return is_within(module.name, "relay.core") and module.name not in CORE_EDGES


def impure_imports(module: Module) -> list[str]:
    """The core has no I/O, no clock and no dice, but for its two named edges."""
    if not is_pure(module):
        return []
    return any_within(module.imports, IMPURE)


def clock_calls(module: Module) -> list[str]:
    """The core is told the time, also where it may import datetime."""
    if not is_pure(module):
        return []
    return sorted(
        name
        for name in module.references
        if any(f".{name}".endswith(f".{clock}") for clock in CLOCKS)
    )


def core_leaving_core(module: Module) -> list[str]:
    """The core imports nothing of the rest of the program, and not its edges."""
    if not is_within(module.name, "relay.core"):
        return []
    return [
        name
        for name in any_within(module.imports, frozenset({"relay"}))
        if name != "relay" and not is_within(name, "relay.core")
    ] + any_within(module.imports, CORE_EDGES - {module.name})


def config_above_the_core(module: Module) -> list[str]:
    """The settings stand on the core alone, so that every room may have them."""
    if not is_within(module.name, "relay.config"):
        return []
    return [
        name
        for name in any_within(module.imports, frozenset({"relay"}))
        if not is_within(name, "relay.core") and not is_within(name, "relay.config")
    ]


def shortcuts(module: Module) -> list[str]:
    """Capture and delivery meet in the outbox and nowhere else."""
    for one, other in (("capture", "delivery"), ("delivery", "capture")):
        if is_within(module.name, f"relay.{one}"):
            return any_within(module.imports, frozenset({f"relay.{other}"}))
    return []


def drivers_outside_the_outbox(module: Module) -> list[str]:
    """Only the outbox knows which database it stands on."""
    if is_within(module.name, "relay.outbox"):
        return []
    return any_within(module.imports, DRIVERS)


def stray_callers(module: Module) -> list[str]:
    """Calls over the network are made in few, named places."""
    if any(is_within(module.name, caller) for caller in CALLERS):
        return []
    return any_within(module.references, CLIENT_PARTS)


RULES: tuple[Callable[[Module], list[str]], ...] = (
    impure_imports,
    clock_calls,
    core_leaving_core,
    config_above_the_core,
    shortcuts,
    drivers_outside_the_outbox,
    stray_callers,
)


@pytest.mark.parametrize("rule", RULES)
def test_no_module_breaks_a_rule(rule: Callable[[Module], list[str]]) -> None:
    broken = {module.name: wrong for module in MODULES if (wrong := rule(module))}

    assert broken == {}, rule.__doc__


def test_the_modules_of_every_layer_were_read() -> None:
    names = {module.name for module in MODULES}

    layers = {"relay", "relay.core", "relay.capture", "relay.delivery", "relay.outbox"}
    assert layers <= names
    assert {
        "relay.core.leads",
        "relay.core.dub.retry",
        "relay.core.dub.track_lead",
    } <= names


# --- The rules can fail. ---


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (impure_imports, "relay.core.a", "import asyncio"),
        (impure_imports, "relay.core.a", "import os.path as p"),
        (impure_imports, "relay.core.a", "from time import time"),
        (impure_imports, "relay.core.a", "from urllib import request"),
        (impure_imports, "relay.core.a", "from urllib.request import urlopen"),
        (impure_imports, "relay.core.a", "def f():\n    import random"),
        (clock_calls, "relay.core.a", "datetime.now(UTC)"),
        (clock_calls, "relay.core.a", "datetime.datetime.utcnow()"),
        (clock_calls, "relay.core.a", "clock = date.today"),
        (clock_calls, "relay.core.a", "from time import time"),
        (core_leaving_core, "relay.core.a", "from relay.core.clock import iso"),
        (core_leaving_core, "relay.core.a", "from relay.core import clock"),
        (core_leaving_core, "relay.core.a", "from ..outbox import contract"),
        (core_leaving_core, "relay.core.a", "from . import clock"),
        (config_above_the_core, "relay.config.a", "import relay.outbox.contract"),
        (shortcuts, "relay.capture.a", "from relay.delivery import worker"),
        (shortcuts, "relay.capture.a", "from ..delivery.client import DubClient"),
        (shortcuts, "relay.delivery.a", "import relay.capture.intake"),
        (drivers_outside_the_outbox, "relay.app", "import sqlite3"),
        (drivers_outside_the_outbox, "relay.capture.a", "from asyncpg import connect"),
        (stray_callers, "relay.app", "from aiohttp import ClientSession"),
        (stray_callers, "relay.app", "import aiohttp\naiohttp.ClientSession()"),
        (stray_callers, "relay.capture.a", "from aiohttp.client import request"),
    ],
)
def test_a_rule_notices_what_it_forbids(
    rule: Callable[[Module], list[str]], name: str, source: str
) -> None:
    assert rule(Module(name, ast.parse(source)))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("relay.core.a", "from datetime import UTC, datetime\ndatetime.fromtimestamp"),
        ("relay.core.a", "from urllib.parse import urlsplit"),
        ("relay.core.a", "from . import leads\nfrom .leads import Lead"),
        ("relay.core.a", "from relay.core import leads"),
        ("relay.config.a", "from relay.config import values"),
        ("relay.config.a", "from relay.core import signing"),
        ("relay.capture.a", "from relay.outbox.contract import Outbox"),
        ("relay.capture.a", "import asyncio, time\nfrom aiohttp import web"),
        ("relay.delivery.dub_client", "import aiohttp\naiohttp.ClientSession()"),
        ("relay.outbox.sqlite", "import sqlite3"),
        ("relay.sandbox.site", "from aiohttp import ClientSession"),
    ],
)
def test_a_rule_lets_pass_what_it_does_not_forbid(name: str, source: str) -> None:
    module = Module(name, ast.parse(source))

    assert [rule(module) for rule in RULES] == [[]] * len(RULES)


def test_relative_imports_are_read_from_a_packages_own_folder() -> None:
    source = ast.parse("from .worker import Worker\nfrom ..core import leads")

    package = Module("relay.delivery", source, is_package=True)

    assert {"relay.delivery.worker", "relay.core"} <= package.imports
