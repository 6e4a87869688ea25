"""What reads a sample of the documentation, by its language: the real thing, if here.

Each check raises an AssertionError that holds what the reader said, and skips the
test where the reader is not on this machine.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import re
import shutil
import subprocess
import tomllib
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import tree_sitter_go
import tree_sitter_php
import tree_sitter_ruby
import yaml
from tree_sitter import Language, Parser

from relay.config.settings import load
from tests.support.samples import TOP, Sample
from tests.support.servers import DEPLOY, FETCHED, NGINX, certificate, program

KUBERNETES_VERSION: Final = "1.33"


@dataclass(frozen=True)
class Case:
    """A sample with its placeholders filled in, an empty folder, and a relay."""

    sample: Sample
    text: str
    folder: Path
    relay: str

    def written(self, name: str, text: str | None = None) -> Path:
        """Write it (or another text) into a file."""
        path = self.folder / name
        path.write_text(self.text if text is None else text)
        return path


def ran(*command: object, folder: Path, stdin: str | None = None) -> None:
    """Run a reader; it must find nothing wrong."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The relay's own


def check_toml(case: Case) -> None:
    """Load it as the relay's configuration, in which keys may be missing."""
    if case.sample.file and "relay" not in case.sample.file:
        tomllib.loads(case.text)  # another program's
        return
    load(str(case.written("relay.toml")), {}, complete=False)


def check_env(case: Case) -> None:
    """Load it as the relay's environment."""
    lines = [re.sub(r"\s#.*", "", it).strip() for it in case.text.splitlines()]
    load(None, dict(it.split("=", 1) for it in lines if it), complete=False)


# Data


def check_json(case: Case) -> None:
    json.loads(case.text)


def check_yaml(case: Case) -> None:
    """Hold every document against who reads it, known by its keys."""
    for document in yaml.safe_load_all(case.text):
        assert isinstance(document, dict), "no mapping"
        for key, check in YAML.items():
            if key in document:
                check(case, document)


def _kubernetes(_: Case, document: Mapping[str, Any]) -> None:
    group = document["apiVersion"].rpartition("/")[0]
    builtin = group.endswith(".k8s.io") and not group.startswith("kustomize.")
    if "." in group and not builtin:
        return  # an operator's own, whose schema is nowhere to be had
    kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


def _prometheus(case: Case, _: Mapping[str, Any]) -> None:
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", case.folder)
    path = case.written("prometheus.yml")
    ran(program("promtool"), "check", "config", path, folder=case.folder)


def _rules(case: Case, _: Mapping[str, Any]) -> None:
    path = case.written("rules.yml")
    ran(program("promtool"), "check", "rules", path, folder=case.folder)


def _adapter(_: Case, document: Mapping[str, Any]) -> None:
    """No package brings prometheus-adapter: the metrics that it asks for are ours."""
    there = (TOP / "docs" / "metrics.md").read_text()
    for rule in document["rules"]:
        name, _, _ = rule["seriesQuery"].partition("{")
        assert f"`{name}`" in there, f"there is no metric {name}"


YAML: Final = {
    "apiVersion": _kubernetes,
    "scrape_configs": _prometheus,
    "groups": _rules,
    "rules": _adapter,
}


# Programs' source


def check_python(case: Case) -> None:
    """Compile it as asyncio's console does, and look for all that it imports."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(case.text, str(case.sample), "exec", flags)
    compile(tree, str(case.sample), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"


BABEL: Final = """
const [parser, ...plugins] = process.argv.slice(1);
require(parser).parse(require("node:fs").readFileSync(0, "utf8"), {
  sourceType: "unambiguous", plugins,
  allowReturnOutsideFunction: true, allowAwaitOutsideFunction: true,
});
"""


def _script(*plugins: str) -> Callable[[Case], None]:
    """Parse it by Babel's parser, as Next.js brings it."""

    def check(case: Case) -> None:
        parser = FETCHED / "node_modules/next/dist/compiled/babel/parser.js"
        if not parser.exists():
            pytest.skip("NO NEXT.JS HERE: the JavaScript of the docs was not parsed")
        node = (program("node"), "-e", BABEL, parser, *plugins)
        ran(*node, folder=case.folder, stdin=case.text)

    return check


class _Tags(HTMLParser):
    """Tags that are opened and not closed, and what scripts they load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(
        self, tag: str, attributes: list[tuple[str, str | None]]
    ) -> None:
        if tag not in ("meta", "link", "input", "img", "br"):
            self.open.append(tag)
        if tag == "script" and (source := dict(attributes).get("src")):
            self.scripts.append(source)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another"


def check_html(case: Case) -> None:
    """Every tag is closed, and the relay serves every script of its own."""
    tags = _Tags()
    tags.feed(case.text)
    assert tags.open == []
    for source in tags.scripts:
        url = source if "://" in source else f"{case.relay}{source}"
        if url.startswith(f"{case.relay}/_dub/"):
            with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own
                assert answer.headers.get_content_type() == "text/javascript"


def _grammar(language: object) -> Callable[[Case], None]:
    """Parse it by Tree-sitter's grammar: what the language comes with is large."""

    def check(case: Case) -> None:
        tree = Parser(Language(language)).parse(case.text.encode())
        assert not tree.root_node.has_error, str(tree.root_node)

    return check


# Servers' configuration


def check_nginx(case: Case) -> None:
    """Let nginx read it: as servers, or as what stands in one."""
    made = certificate(case.folder)
    text = re.sub(r"(?<=ssl_certificate )[^;]+", str(made.path), case.text)
    text = re.sub(r"(?<=ssl_certificate_key )[^;]+", str(made.key), text)
    if not re.search(r"^\s*server\s*\{", text, re.MULTILINE):
        text = f"server {{\n{text}\n}}\n"
    site = case.written("site.conf", text)
    config = case.written("nginx.conf", NGINX.format(folder=case.folder, site=site))
    command = (program("nginx"), "-t", "-e", "stderr", "-p", case.folder, "-c", config)
    ran(*command, folder=case.folder)


def check_caddyfile(case: Case) -> None:
    """Let Caddy read it: as sites, or as what stands in one."""
    first = case.text.split(maxsplit=1)[0]
    whole = first == "{" or "." in first or ":" in first
    text = case.text if whole else f":8000 {{\n{case.text}\n}}\n"
    command = (program("caddy"), "adapt", "--adapter=caddyfile", "--config")
    ran(*command, case.written("Caddyfile", text), folder=case.folder)


def check_ini(case: Case) -> None:
    """Let systemd verify a unit, or what is laid over one; read any other file."""
    if not re.search(r"^\[(Unit|Service|Socket|Timer)\]", case.text, re.MULTILINE):
        configparser.ConfigParser(strict=False).read_string(case.text)
        return
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NO SYSTEMD HERE: the unit was not verified")
    text = re.sub(r"(?<=ExecStart=)\S+", "/bin/true", case.text)
    kind = next((it for it in ("socket", "timer") if f"[{it.title()}]" in text), "")
    if not kind and "ExecStart=" not in text:
        text += "\n[Service]\nExecStart=/bin/true\n"
    unit = case.written(f"sample.{kind or 'service'}", text)
    if kind:
        case.written("sample.service", "[Service]\nExecStart=/bin/true\n")
    verify = ("systemd-analyze", "--no-pager", "verify", str(unit))
    said = subprocess.run(verify, capture_output=True, text=True, check=False).stderr
    assert said == ""  # it forgives a value that it ignores


def check_text(case: Case) -> None:
    """Only a person reads it: a diagram, a list, what something prints."""
    assert case.text.strip()


CHECKS: Final[Mapping[str, Callable[[Case], None]]] = {
    "toml": check_toml,
    "env": check_env,
    "json": check_json,
    "yaml": check_yaml,
    "python": check_python,
    "js": _script(),
    "jsx": _script("jsx"),
    "ts": _script("typescript"),
    "tsx": _script("jsx", "typescript"),
    "html": check_html,
    "php": _grammar(tree_sitter_php.language_php_only()),
    "ruby": _grammar(tree_sitter_ruby.language()),
    "go": _grammar(tree_sitter_go.language()),
    "nginx": check_nginx,
    "caddyfile": check_caddyfile,
    "ini": check_ini,
    "text": check_text,
}
"""By the word behind the fence."""
