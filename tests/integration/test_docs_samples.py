"""Every sample of the documentation is run, or at least read by what it is for.

A block that no handler knows fails here, and says what to do. Shell samples run as
they stand, page by page, in a shell that knows harmless programs alone
(tests/support/sample_shell.py); the others are checked one by one by what reads their
language.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from dub import Dub

from relay.sandbox.app import PUBLISHABLE_KEY
from tests.support.example_sites import COMMANDS, EXAMPLES, Site
from tests.support.harness import (
    API_KEY,
    HOOK_SECRET,
    RELAY_SECRET,
    RelayProcess,
    SandboxDub,
    post_hook,
)
from tests.support.postgres_server import PostgresServer, binaries
from tests.support.sample_checks import CHECKS, Case
from tests.support.sample_shell import Shell, filled_in
from tests.support.samples import TOP, Sample, samples

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

HOOKS = "tests/acceptance/test_hook_samples.py"
SNIPPET = "tests/browser/test_snippet_docs.py"
CLIENT = "tests/integration/test_client_docs.py"
ALERTS = "tests/integration/test_alerts.py"
RULES = "tests/integration/test_check_try.py"
HERE = "tests/integration/test_docs_samples.py"
START = "tests/acceptance/test_docs_start.py"

CLAIMED: Final = {
    ("README.md", "python", "relay.signup("): (
        f"{CLIENT}::test_the_one_line_is_one_that_works"
    ),
    ("docs/alerts.md", "json", '"leads.parked"'): (
        f"{ALERTS}::test_a_parked_delivery_is_told_once_over_restarts_and_relays"
    ),
    ("docs/hooks.md", "js", ""): f"{HOOKS}::test_every_script_is_javascript",
    ("docs/hooks.md", "sql", "tell_dub_relay"): (
        f"{HOOKS}::test_supabases_trigger_signs_and_never_stops_a_sign_up"
    ),
    ("docs/python.md", "python", "import Client"): (
        f"{CLIENT}::test_the_sample_of_the_docs_tells_the_relay"
    ),
    ("docs/signup-rules.md", "json", '"request"'): (
        f"{RULES}::test_the_saved_sign_up_of_the_docs_is_one"
    ),
    ("docs/snippet.md", "js", "trackLead"): (
        f"{SNIPPET}::test_the_samples_run_under_the_policy_of_the_page"
    ),
    ("docs/start/hook.md", "sh", ""): (
        f"{START}::test_the_guide_to_the_hook_ends_with_a_lead"
    ),
    ("docs/start/proxy.md", "sh", ""): (
        f"{START}::test_the_guide_to_the_proxy_ends_with_a_lead"
    ),
    ("docs/start/script.md", "sh", ""): (
        f"{START}::test_the_guide_to_the_script_ends_with_a_lead"
    ),
    ("docs/api.md", "python", "Dub("): (
        f"{HERE}::test_the_sample_of_dubs_sdk_brings_a_lead"
    ),
}
"""What another test runs already: page, language, and words of the block ("": all
blocks of that language on the page, since that test runs them all)."""

SHELL: Final = ("sh", "bash", "console")
ALL: Final = samples()


def claims(sample: Sample) -> list[str]:
    """Name the tests that say they run it."""
    return [
        test
        for (page, language, words), test in CLAIMED.items()
        if (page, language) == (sample.page, sample.language) and words in sample.text
    ]


FREE: Final = [it for it in ALL if it.language not in SHELL and not claims(it)]
TYPED: Final = [it for it in ALL if it.language in SHELL and not claims(it)]
PAGES: Final = sorted({it.page for it in TYPED})

CUSTOMER = "u_1"


@dataclass(frozen=True)
class Scene:
    """What samples talk to: a relay that runs, its Dub, and a site."""

    dub: SandboxDub
    relay: RelayProcess
    site: str
    placeholders: Mapping[str, str]
    backup: Path

    @property
    def environ(self) -> dict[str, str]:
        """What README's "Install" sets; and where things are here."""
        install = {"DUB_API_KEY": API_KEY, "RELAY_SECRET": RELAY_SECRET}
        listen = self.relay.url.removeprefix("http://")
        here = {"DUB_API_URL": self.dub.url, "RELAY_LISTEN": listen}
        return install | here | {"RELAY_DRAIN": "10ms"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    dub = await SandboxDub.start(_served)
    server = await _served(_site(), access_log=None)
    site = f"http://127.0.0.1:{server.port}"
    relay = RelayProcess(
        folder,
        {
            "DUB_API_URL": dub.url,
            "RELAY_UPSTREAM": site,
            # The copy of its database shall not be one that is just being compared.
            "RELAY_RECONCILE_EVERY": "0",
        },
    )
    await relay.start()
    try:
        rejected = await _lived(relay, dub)
        backup = folder / "backup.db"
        assert (await relay.run("backup", str(backup)))[0] == 0
        found = _placeholders(relay.url, dub.url, site, rejected)
        yield Scene(dub, relay, site, found, backup)
    finally:
        await relay.stop()
        await server.close()
        await dub.close()


async def _served(
    app: web.Application, *, port: int | None = None, **options: Any
) -> TestServer:
    """As aiohttp_server, which lasts for one test only."""
    server = TestServer(app, port=port)
    await server.start_server(**options)
    return server


def _site() -> web.Application:
    """The site of whoever reads the docs: it takes all, and answers 200."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"id": CUSTOMER})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


async def _lived(relay: RelayProcess, dub: SandboxDub) -> str:
    """Let one lead be delivered and one be rejected; the id of the latter."""
    lead = {"eventName": "Sign Up", "customerExternalId": CUSTOMER}
    async with aiohttp.ClientSession() as session:
        body = lead | {"clickId": await dub.click()}
        assert (await post_hook(session, relay.url, body))[0] == 202
        async with session.post(
            f"{relay.url}/_dub/track/lead",
            json=lead | {"clickId": "", "customerExternalId": "u_2"},
            headers={"Authorization": f"Bearer {API_KEY}"},
        ) as answer:
            assert answer.status == 200, await answer.text()
    found = {it["status"]: it["id"] for it in await relay.settled(2)}
    assert set(found) == {"delivered", "rejected"}
    return str(found["rejected"])


def _placeholders(relay: str, dub: str, site: str, lead: str) -> dict[str, str]:
    """What samples leave open, as regular expressions, and what is put there."""
    here = r"(?:localhost|127\.0\.0\.1)"
    return {
        r"\blead_(?:\w*…|ID\b)": lead,
        r"\bdub_…": API_KEY,
        r"\bdub_pk_…": PUBLISHABLE_KEY,
        r"\bwhsec_(?:…|\$\(openssl rand -base64 \d+\))": HOOK_SECRET,
        r"\bCUSTOMER_ID\b": CUSTOMER,
        r"https://(?:www\.|relay\.)?example\.com": relay,
        r"https://[\w.-]+\.example\.com": site,
        rf"\b{here}:8080": relay.removeprefix("http://"),
        rf"\b{here}:8787": dub.removeprefix("http://"),
        rf"\b{here}:(?:3000|8000)": site.removeprefix("http://"),
    }


# All


UNKNOWN = """{} is a block in {!r}, which no test knows. What to do:
- give it the right word behind its fence, one of {};
- or, if another test runs it, name that test in CLAIMED of {};
- or write a check for the language in tests/support/sample_checks.py."""


@pytest.mark.parametrize("sample", FREE, ids=str)
async def test_a_sample_is_right(
    sample: Sample, scene: Scene, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if sample.language == "sql":
        server: PostgresServer = request.getfixturevalue("postgres")
        _run_sql(server, sample.text)
        return
    check = CHECKS.get(sample.language)
    if check is None:
        words = ", ".join(sorted({*CHECKS, *SHELL, "sql"}))
        pytest.fail(UNKNOWN.format(sample, sample.language, words, HERE))
    text = filled_in(sample.text, scene.placeholders)

    await asyncio.to_thread(check, Case(sample, text, tmp_path, scene.relay.url))


def _run_sql(server: PostgresServer, text: str) -> None:
    """Run it on the tests' own server, under a name that is nobody's there."""
    try:
        for statement in re.sub(r"\brelay\b", "of_the_docs", text).split(";\n"):
            server.sql(statement)
    finally:
        server.sql("DROP DATABASE IF EXISTS of_the_docs")
        server.sql("DROP ROLE IF EXISTS of_the_docs")


@pytest.mark.parametrize(("claim", "test"), CLAIMED.items(), ids=str)
async def test_who_claims_a_sample_is_there(
    claim: tuple[str, str, str], test: str
) -> None:
    path, _, name = test.partition("::")
    code = (TOP / path).read_text()

    assert re.search(rf"^(async )?def {name}\(", code, re.MULTILINE), test
    assert Path(claim[0]).name in code, f"{path} does not read {claim[0]}"
    claimed = [it for it in ALL if test in claims(it)]
    assert claimed, f"no block of {claim[0]} is left for {test}"
    assert len(claimed) == 1 or not claim[2], f"{test} runs one block: {claimed}"


async def test_the_sample_of_dubs_sdk_brings_a_lead(scene: Scene) -> None:
    [code] = [
        it.text for it in ALL if (it.page, it.language) == ("docs/api.md", "python")
    ]
    code = code.replace("https://site/_dub", f"{scene.relay.url}/_dub")
    names = {
        "os": SimpleNamespace(environ={"DUB_API_KEY": API_KEY}),
        "Dub": Dub,
        "cookie": await scene.dub.click(),
        "user": SimpleNamespace(id="u_sdk"),
    }

    await asyncio.to_thread(exec, code, names)

    [lead] = await scene.relay.leads("u_sdk")
    assert lead["clickId"] == names["cookie"]


# Shell samples


DATABASE = re.compile(r"""(?<=RELAY_DATABASE=)(['"]?)postgres(?:ql)?://[^'"\s]*\1""")


def _new_database(server: PostgresServer) -> str:
    """Make an empty database; its URL is one that libpq's own programs take."""
    server.sql("DROP DATABASE IF EXISTS of_a_page WITH (FORCE)")
    server.sql("CREATE DATABASE of_a_page")
    return f"postgresql:///of_a_page?host={server._folder}&user=relay"


@pytest.mark.parametrize("page", PAGES)
async def test_the_commands_of_a_page_run_from_top_to_bottom(
    page: str, scene: Scene, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    blocks = [it for it in ALL if it.page == page]
    commands = [it for it in TYPED if it.page == page]
    found = dict(scene.placeholders)
    programs = None
    if any(DATABASE.search(it.text) for it in commands):
        server: PostgresServer = request.getfixturevalue("postgres")
        found = {DATABASE.pattern: f"'{_new_database(server)}'"} | found
        programs = binaries()
    shell = Shell(tmp_path, scene.environ, found, scene.backup, programs)
    for sample in blocks:
        if sample.file is not None:
            shell.keep(sample)

    code, said = await shell.run(commands)

    print(said)  # noqa: T201 - shown where it fails
    assert code == 0


def shell_of(scene: Scene, folder: Path) -> Shell:
    return Shell(folder, scene.environ, scene.placeholders, scene.backup)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dub-relay leads list --stauts held", "Did you mean '--status'?"),
        ("helm install dub-relay", "helm: not a program of the samples' shell"),
        ("make tset", "No rule to make target 'tset'"),
        ("pip install 'dub-relay[oltp]'", "there is no extra oltp"),
        ("docker compose -f deploy/compose/compose.yaml up web", "no service web"),
        ("kubectl apply -k deploy/k8s", "there is no deploy/k8s"),
        ("systemctl restart dubrelay", "there is no unit dubrelay.service"),
        ("curl localhost:8080/_dub/nothing", "404"),
        ("export RELAY_RAET=1\ndub-relay serve", "RELAY_RAET: unknown setting"),
    ],
)
async def test_a_wrong_command_is_found(
    text: str, told: str, scene: Scene, tmp_path: Path
) -> None:
    sample = Sample("page.md", 7, "sh", text, 1)

    code, said = await shell_of(scene, tmp_path).run([sample])

    assert code != 0
    assert told in said
    assert "The sample at page.md:7 ended with" in said


async def test_what_a_page_leaves_open_must_be_known(
    scene: Scene, tmp_path: Path
) -> None:
    sample = Sample("page.md", 7, "sh", "dub-relay leads show …", 1)

    with pytest.raises(AssertionError, match="what stands for the …"):
        await shell_of(scene, tmp_path).run([sample])


WRONG: Final = {
    "toml": "upstraem = 'http://127.0.0.1:3000'",
    "env": "RELAY_RATE=soon",
    "json": "{'a': 1}",
    "yaml": "apiVersion: v1\nkind: ConfigMap\ndate: {}",
    "python": "from relay.client import Clinet",
    "js": "const relay = ;",
    "jsx": "<Analytics>",
    "ts": "const relay: = 1;",
    "tsx": "const relay: string = <Analytics>;",
    "html": '<script src="/_dub/scirpt.js"></script>',
    "php": "$dub = ;",
    "ruby": "dub = (",
    "go": "s := (",
    "nginx": "proxy_psas http://127.0.0.1:8080;",
    "caddyfile": "revrese_proxy 127.0.0.1:8080",
    "ini": "[Service]\nRestart=perhaps\n",
    "text": "",
}


@pytest.mark.parametrize("language", CHECKS)
async def test_a_wrong_sample_is_found(
    language: str, scene: Scene, tmp_path: Path
) -> None:
    sample = Sample("page.md", 7, language, WRONG[language], 1)
    case = Case(sample, sample.text, tmp_path, scene.relay.url)

    with pytest.raises(Exception):  # noqa: B017, PT011 - each reader has its own
        await asyncio.to_thread(CHECKS[language], case)


# The examples


ROW: Final = re.compile(r"^\| \[(\w+)\]\(.*\| `(.*)` \|$", re.MULTILINE)
STARTED: Final = dict(ROW.findall((TOP / "examples" / "README.md").read_text()))


async def test_every_example_says_how_it_is_started() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}

    assert set(STARTED) == folders
    for name, command in STARTED.items():
        if (code := EXAMPLES / name / "app.py").exists():
            assert f"Run: {command}" in code.read_text()
        else:
            script = command.rpartition("npm ")[2].removeprefix("run ").split()[0]
            package = json.loads((EXAMPLES / name / "package.json").read_text())
            assert script in package["scripts"]


class AsTold(Site):
    """An example that is started by the command of the page."""

    def command(self, port: int) -> list[str]:
        words = shlex.split(STARTED[self.name].replace("8000", str(port)))
        programs = Path(sys.executable).parent
        return [str(programs / words[0]), *words[1:]]


@pytest.mark.parametrize("name", sorted(COMMANDS))
async def test_an_example_takes_the_sign_up_of_the_page(
    name: str, scene: Scene, tmp_path: Path
) -> None:
    shell = shell_of(scene, tmp_path)
    [sample] = [it for it in ALL if it.page == "examples/README.md"]
    site = AsTold(name, shell.clone / "examples" / name, scene.relay.url)
    await site.start()
    try:
        text = sample.text.replace("http://127.0.0.1:8000", site.url)
        code, said = await shell.run([replace(sample, text=text)])
    finally:
        await site.stop()

    assert code == 0, said
    user = json.loads(said)["id"]
    [lead] = await scene.relay.leads(user)
    assert lead["source"] == "hook"
