"""The layers of the program, read from its imports.

The core is pure, capture and delivery meet only in the outbox, one package knows
the database and few modules make calls: rules that no other test would miss.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import relay
from tests.support.import_graph import (
    Graph,
    at_start,
    cycles,
    doubles,
    graph_of,
    longest_chain,
    rolled_up,
)

PACKAGE = Path(relay.__file__).parent

TOP_MODULES = frozenset({"relay", "relay.__main__", "relay.app"})
MAX_ROOMS = 14
MAX_CHAIN = 10
"""Modules in the longest chain of imports at start, both ends counted. What a function
imports when it is called, so that others need not wait for it, is no part of it."""

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
    "relay.http.aiohttp_internals",  # what the proxy's connections need
    "relay.capture.pass_through",  # passes browsers' calls on to Dub
    "relay.operations.alerts.watcher",  # the operator's webhook
    "relay.operations.diagnostics",  # `check` tries whether upstream answers
    "relay.operations.front_check",  # and what a front server makes of probes
    "relay.sandbox",  # plays the site and Dub, webhooks included
    "relay.sandbox.demo",  # plays the visitor
)


INTERNALS = "relay.http.aiohttp_internals"
"""The one module for what aiohttp does not document."""

DOCUMENTED = frozenset(
    {
        "aiohttp.web",
        "aiohttp.abc",  # its own page of the reference
        "aiohttp.typedefs",  # types of handlers and middlewares, for annotations alone
    }
)
"""The modules of aiohttp that may be imported, beside what its top exports."""

UNDOCUMENTED_BASES = frozenset(
    {"aiohttp.base_protocol", "aiohttp.client_proto", "aiohttp.web_protocol"}
)
"""Whose classes nobody else may inherit from, wherever they are exported."""

NAMED_TUPLES = frozenset({"_asdict", "_fields", "_make", "_replace"})
"""Documented, although they begin with an underscore."""

TAKEN_PRIVATE = frozenset(
    {
        "ssl._create_unverified_context",  # PEP 476 names it as the way to opt out
    }
)


@dataclass(frozen=True)
class Module:
    """A module's dotted name and its syntax tree."""

    name: str
    tree: ast.Module
    is_package: bool = False

    @cached_property
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

    @cached_property
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


def undocumented_modules(module: Module) -> list[str]:
    """Only one module imports what aiohttp does not document."""
    if module.name == INTERNALS:
        return []
    hidden = {f"aiohttp.{each.name}" for each in pkgutil.iter_modules(aiohttp.__path__)}
    return any_within(module.references, frozenset(hidden - DOCUMENTED))


def foreign_private_attributes(module: Module) -> list[str]:
    """Nobody touches a private attribute of a foreign object, nor of a foreign base."""
    if module.name == INTERNALS:
        return []
    seen = [
        ast.unparse(node)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and is_private(node.attr)
        and ast.unparse(node.value) not in {"self", "cls", "super()"}
    ]
    classes = (node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef))
    return sorted(
        {name for name in seen if name not in TAKEN_PRIVATE}.union(
            *(private_of_bases(module, each) for each in classes)
        )
    )


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in NAMED_TUPLES


def private_of_bases(module: Module, node: ast.ClassDef) -> set[str]:
    """The private attributes of aiohttp's that a class uses by inheritance."""
    known = set().union(*(private_in_aiohttp(base) for base in bases(module, node)))
    return {
        f"{node.name}.{each.attr}"
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute)
        and each.attr in known
        and ast.unparse(each.value) in {"self", "cls", "super()"}
    } | {
        f"{node.name}.{each.name}"
        for each in node.body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        and each.name in known
    }


def undocumented_bases(module: Module) -> list[str]:
    """Only one module inherits from aiohttp's protocols."""
    if module.name == INTERNALS:
        return []
    return [
        f"{node.name}({base.__name__})"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        for base in bases(module, node)
        if base.__module__ in UNDOCUMENTED_BASES
    ]


def bases(module: Module, node: ast.ClassDef) -> Iterator[type]:
    """The classes that a class inherits from, as far as they are imported."""
    for base in node.bases:
        first, _, rest = ast.unparse(base).partition(".")
        for name in module.imports:
            if name.rpartition(".")[2] == first:
                found = resolved(".".join(filter(None, (name, rest))))
                if isinstance(found, type):
                    yield found


@cache
def resolved(name: str) -> Any:
    """What a dotted name stands for; None if it cannot be found."""
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None


@cache
def private_in_aiohttp(kind: type) -> frozenset[str]:
    """The private attributes that aiohttp's classes bring into a class."""
    found: set[str] = set()
    for each in kind.__mro__:
        if each.__module__.partition(".")[0] == "aiohttp":
            found |= set(vars(each))
            found |= set(re.findall(r"\bself\.(_\w+)", inspect.getsource(each)))
    return frozenset(filter(is_private, found))


RULES: tuple[Callable[[Module], list[str]], ...] = (
    impure_imports,
    clock_calls,
    core_leaving_core,
    config_above_the_core,
    shortcuts,
    drivers_outside_the_outbox,
    stray_callers,
    undocumented_modules,
    foreign_private_attributes,
    undocumented_bases,
)


@pytest.mark.parametrize("rule", RULES)
def test_no_module_breaks_a_rule(rule: Callable[[Module], list[str]]) -> None:
    broken = {module.name: wrong for module in MODULES if (wrong := rule(module))}

    assert broken == {}, rule.__doc__


# --- The rules of the house: each lists what all modules together do wrong. ---


House = Sequence[Module]


def imports_between(house: House) -> Graph:
    return graph_of({module.name: module.tree for module in house})


def imports_at_start(house: House) -> Graph:
    return graph_of({module.name: module.tree for module in house}, at_start)


def room(name: str) -> str:
    """The room of a module: the folder in relay/; what stands at the top is its own."""
    return ".".join(name.split(".")[:2])


def outside_the_sandbox(house: House) -> Iterator[Module]:
    return (each for each in house if not is_within(each.name, "relay.sandbox"))


def top_modules(house: House) -> list[str]:
    """At the top of relay/ stand three modules, no more and no less."""
    packages = {module.name for module in house if module.is_package} - {"relay"}
    found = {each.name for each in house if each.name.count(".") < 2} - packages
    return sorted(found ^ TOP_MODULES)


def too_many_rooms(house: House) -> list[str]:
    """The house has few rooms."""
    rooms = {room(each.name) for each in house if room(each.name) not in TOP_MODULES}
    return [f"{len(rooms)} rooms"] if len(rooms) > MAX_ROOMS else []


def cycles_of_modules(house: House) -> list[str]:
    """No module imports itself through others."""
    return [" <> ".join(cycle) for cycle in cycles(imports_between(house))]


def cycles_of_packages(house: House) -> list[str]:
    """No folder imports itself through others; a folder within one is another."""
    packages = {module.name for module in house if module.is_package}

    def folder(name: str) -> str:
        own = name in packages or name in TOP_MODULES
        return name if own else name.rpartition(".")[0]

    found = cycles(rolled_up(imports_between(house), folder))
    return [" <> ".join(cycle) for cycle in found]


def cycles_of_rooms(house: House) -> list[str]:
    """No room imports itself through others."""
    found = cycles(rolled_up(imports_between(house), room))
    return [" <> ".join(cycle) for cycle in found]


def long_chains(house: House) -> list[str]:
    """What Python loads before a module, one upon the other, is bounded."""
    length = len(longest_chain(imports_at_start(house)))
    return [f"{length} modules"] if length > MAX_CHAIN else []


def names_of_files_twice(house: House) -> list[str]:
    """A file's name says which one is meant."""
    files = (
        (module.name.rpartition(".")[2], module.name)
        for module in outside_the_sandbox(house)
        if not module.is_package and not module.name.endswith(".__main__")
    )
    return [f"{name}: {', '.join(at)}" for name, at in doubles(files).items()]


def names_of_classes_twice(house: House) -> list[str]:
    """A public class's name says which one is meant."""
    classes = (
        (node.name, module.name)
        for module in outside_the_sandbox(house)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    return [f"{name}: {', '.join(at)}" for name, at in doubles(classes).items()]


HOUSE_RULES: tuple[Callable[[House], list[str]], ...] = (
    top_modules,
    too_many_rooms,
    cycles_of_modules,
    cycles_of_packages,
    cycles_of_rooms,
    long_chains,
    names_of_files_twice,
    names_of_classes_twice,
)


@pytest.mark.parametrize("rule", HOUSE_RULES)
def test_the_house_breaks_no_rule(rule: Callable[[House], list[str]]) -> None:
    assert rule(MODULES) == [], (rule.__doc__, longest_chain(imports_at_start(MODULES)))


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


RESPONSE = "from aiohttp import web\nclass A(web.StreamResponse):\n    def a(self):\n"
LISTENER = (
    "from relay.http.listener import Listener\nclass A(Listener):\n    def a(self):\n"
)
PROTOCOL = "class A(web.RequestHandler):\n    pass"


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
        (
            undocumented_modules,
            "relay.proxy.a",
            "from aiohttp.http import HeadersParser",
        ),
        (undocumented_modules, "relay.server.a", "from aiohttp import http_parser"),
        (undocumented_modules, "relay.a", "import aiohttp\naiohttp.helpers.sentinel"),
        (foreign_private_attributes, "relay.proxy.a", "request._task"),
        (foreign_private_attributes, "relay.a", "self.request._match_info"),
        (foreign_private_attributes, "relay.a", RESPONSE + "        self._eof_sent"),
        (foreign_private_attributes, "relay.a", RESPONSE + "        super()._start()"),
        (foreign_private_attributes, "relay.a", LISTENER + "        self._messages"),
        (undocumented_bases, "relay.a", "from aiohttp import web\n" + PROTOCOL),
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
        ("relay.outbox.backends.sqlite", "import sqlite3"),
        ("relay.sandbox.site", "from aiohttp import ClientSession"),
        ("relay.proxy.a", "from aiohttp import StreamReader, web"),
        ("relay.proxy.a", "message._replace(should_close=True)"),
        ("relay.proxy.a", RESPONSE + "        self._own"),
        (INTERNALS, "from aiohttp.web_protocol import RequestHandler"),
        (INTERNALS, "visitor._messages"),
    ],
)
def test_a_rule_lets_pass_what_it_does_not_forbid(name: str, source: str) -> None:
    module = Module(name, ast.parse(source))

    assert [rule(module) for rule in RULES] == [[]] * len(RULES)


def test_relative_imports_are_read_from_a_packages_own_folder() -> None:
    source = ast.parse("from .worker import Worker\nfrom ..core import leads")

    package = Module("relay.delivery", source, is_package=True)

    assert {"relay.delivery.worker", "relay.core"} <= package.imports


# --- The rules of the house can fail. ---


def a_house(**sources: str) -> House:
    """A house that breaks no rule, with more modules: dots are written as "__"."""
    sound = {"app": "", "main": "", "core": "", "core__leads": "", "sandbox": ""}
    named = {
        f"relay.{name.replace('__', '.')}": source
        for name, source in (sound | sources).items()
    }
    named = {"relay": "", "relay.__main__": named.pop("relay.main"), **named}
    return [
        Module(
            name,
            ast.parse(source),
            is_package=name in {"relay.core", "relay.sandbox"}
            or any(is_within(each, name) and each != name for each in named),
        )
        for name, source in named.items()
    ]


def test_a_sound_house_breaks_no_rule() -> None:
    house = a_house(
        app="import relay.core.leads\nfrom relay.core import leads",
        core__leads="from relay.core import missing",
        sandbox__leads="class A: pass",
        core__other="class A: pass\nclass _B: pass",
        core__third="class _B: pass",
    )

    assert [rule(house) for rule in HOUSE_RULES] == [[]] * len(HOUSE_RULES)


@pytest.mark.parametrize(
    ("rule", "sources"),
    [
        (top_modules, {"stray": ""}),
        (too_many_rooms, {f"room{number}__a{number}": "" for number in range(13)}),
        (
            cycles_of_modules,
            {
                "core__a": "from relay.core.b import B",
                "core__b": "def f():\n    import relay.core.c",
                "core__c": (
                    "from typing import TYPE_CHECKING\n"
                    "if TYPE_CHECKING:\n    from relay.core import a"
                ),
            },
        ),
        (
            cycles_of_packages,
            {
                "core": "",
                "core__a": "from relay.core.parts.b import B",
                "core__parts": "",
                "core__parts__b": "from relay.core import leads",
            },
        ),
        (
            cycles_of_rooms,
            {
                "http": "",
                "http__a": "from relay.core.b import B",
                "core__b": "",
                "core__c": "from relay.http.d import D",
                "http__d": "",
            },
        ),
        (
            long_chains,
            {f"core__m{at}": f"import relay.core.m{at + 1}" for at in range(11)},
        ),
        (names_of_files_twice, {"http": "", "http__leads": ""}),
        (
            names_of_classes_twice,
            {"core__a": "class A: pass", "core__b": "def f():\n    class A: pass"},
        ),
    ],
)
def test_a_rule_of_the_house_notices_what_it_forbids(
    rule: Callable[[House], list[str]], sources: dict[str, str]
) -> None:
    assert len(rule(a_house(**sources))) == 1


def test_ten_modules_may_stand_in_a_chain_and_a_cycle_counts_once() -> None:
    chain = {f"core__m{at}": f"import relay.core.m{at + 1}" for at in range(9)}

    assert long_chains(a_house(**chain, core__m9="import relay.core.m9")) == []
    assert long_chains(a_house(**chain, core__m9="import relay.core.m8")) == []
    assert long_chains(a_house(**chain, core__m9="import relay.core.leads")) != []
