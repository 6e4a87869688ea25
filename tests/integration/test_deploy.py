"""What is shipped to deploy with: read, linted and, as far as it goes here, run.

No image is built and no cluster asked: the files are held against the schemas of
those who read them, and against the relay's own settings and limits.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import kubernetes_validate
import pytest
import yaml

from relay.config.settings import SETTINGS, Settings, load
from relay.core.http.cookies import CLICK_COOKIE
from relay.delivery.worker import STOP_GRACE_S
from relay.operations.front_servers import BEYOND_S
from relay.server.listeners import REQUEST_GRACE_S
from tests.support.harness import RelayProcess, post_hook
from tests.support.servers import DEPLOY, TOP, program

CONTAINER = DEPLOY / "container" / "Containerfile"
COMPOSE = DEPLOY / "compose"
SYSTEMD = DEPLOY / "systemd"
KUBERNETES = DEPLOY / "kubernetes"

KUBERNETES_VERSION = "1.33"
"""Not the newest: the manifests should suit clusters that are not, either."""

SECRETS = {
    "dub_api_key": "dub_key",
    "relay_secret": "a-secret-for-tests-only",
    "relay_database": "postgresql://relay:p@postgres/relay",
    "dub-api-key": "dub_key",
    "secret": "a-secret-for-tests-only",
    "database": "postgresql://relay:p@postgres/relay",
}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    [found] = [
        document
        for path in KUBERNETES.glob("*.yaml")
        for document in documents(path.name)
        if document["kind"] == kind
    ]
    return found


def started_with(environ: Mapping[str, str], config: Path, folder: Path) -> Settings:
    """Read settings as the relay there would: its secrets are files somewhere."""
    known = {setting.env for setting in SETTINGS} | {"RELAY_CONFIG"}
    files = {setting.file_env for setting in SETTINGS if setting.file_env}
    assert set(environ) <= known | files
    for name, value in SECRETS.items():
        (folder / name).write_text(value)
    here = {
        name: str(folder / Path(value).name) if name in files else value
        for name, value in environ.items()
    }
    return load(str(config), here | {"RELAY_CONFIG": str(config)})


# The image


def instructions() -> list[tuple[str, str]]:
    """A Containerfile's instructions, continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", CONTAINER.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [
        (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line
    ]


def image_environ() -> dict[str, str]:
    [text] = [rest for name, rest in instructions() if name == "ENV"]
    pairs = (pair.split("=", 1) for pair in text.split())
    known = {setting.env for setting in SETTINGS}
    return {name: value for name, value in pairs if name in known}


def test_the_image_runs_as_nobody_and_tells_how_it_is() -> None:
    steps = instructions()
    last = dict(steps[[name for name, _ in steps].index("USER") :])

    assert {name for name, _ in steps} <= {
        *("ARG", "FROM", "WORKDIR", "COPY", "RUN", "LABEL", "ENV", "VOLUME", "USER"),
        *("EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }
    assert last["USER"] == "65532:65532"
    assert json.loads(last["ENTRYPOINT"]) == ["dub-relay"]
    assert json.loads(last["CMD"]) == ["serve"]
    check = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    assert check == ["dub-relay", "health"]
    assert last["EXPOSE"] == image_environ()["RELAY_LISTEN"].rpartition(":")[2]


def test_the_images_base_is_pinned_by_its_digest() -> None:
    given = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")
    bases = [
        re.sub(r"\$\{(\w+)\}", lambda found: given[found[1]], rest.split()[0])
        for name, rest in instructions()
        if name == "FROM"
    ]

    assert len(set(bases)) == 1, "what is compiled for one base is run on the other"
    pinned = r"docker\.io/library/python:3\.(\d+)\.\d+-slim-\w+@sha256:[0-9a-f]{64}"
    found = re.fullmatch(pinned, bases[0])
    assert found
    needed = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert needed["requires-python"] == ">=3.11" <= f">=3.{found[1]}"


def test_the_image_is_built_from_what_is_there_and_not_ignored() -> None:
    kept = re.findall(r"^!(.+)$", (TOP / ".dockerignore").read_text(), re.MULTILINE)
    sources = [
        source
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]

    assert sorted(sources) == sorted(kept)
    assert all((TOP / source).exists() for source in sources)


def test_the_images_settings_are_right(tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    config.write_text("")
    settings = started_with(
        image_environ()
        | {"DUB_API_KEY": "k", "RELAY_SECRET": "a-secret-of-16-or-more"},
        config,
        tmp_path,
    )

    assert settings.database == "sqlite:////data/relay.db"


def read_only_but_for(data: Path) -> list[str]:
    """What to put before a command, so that it may write to one folder alone."""
    script = (
        'mount --make-rprivate / && mount --bind "$0" "$0"'
        ' && mount -o remount,bind,ro / && cd "$0" && exec "$@"'
    )
    prefix = ["unshare", "--mount", "sh", "-c", script, str(data)]
    elsewhere = str(data.parent / "written")
    tried = subprocess.run(
        [*prefix, "sh", "-c", '! touch "$0" 2>/dev/null', elsewhere],
        capture_output=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip("NO MOUNTS MAY BE MADE HERE: a read-only root was not tested")
    return prefix


@pytest.mark.process
async def test_a_relay_runs_with_a_read_only_root(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    prefix = read_only_but_for(data)

    class Confined(RelayProcess):
        def command(self, *arguments: str) -> list[str]:
            return [*prefix, *super().command(*arguments)]

    relay = Confined(data)
    await relay.start()
    hook = {
        "clickId": "hQWlM0a9Zk3xY7bT",
        "eventName": "Sign Up",
        "customerExternalId": "u_1",
    }
    status, _ = await post_hook(session, relay.url, hook)

    assert status == 202
    assert await relay.stop() == 0


# health, as the image and compose ask it


@pytest.mark.process
@pytest.mark.parametrize("listen", ["tcp", "unix"])
async def test_health_asks_the_relay_that_runs_here(
    tmp_path: Path, listen: str
) -> None:
    relay = RelayProcess(tmp_path, {"RELAY_PREFIX": "/own"})
    if listen == "unix":
        relay.environment["RELAY_LISTEN"] = f"unix:{tmp_path}/relay.sock"
    before = await relay.run("health")
    await relay.start()
    if listen == "tcp":
        relay.environment["RELAY_LISTEN"] = relay.url.removeprefix("http://")

    alive = await relay.run("health")
    ready = await relay.run("health", "--ready", "--json")
    (tmp_path / "relay.db").rename(tmp_path / "gone.db")
    broken = await relay.run("health", "--ready")

    assert before[0] == 1
    assert "nothing answers at" in before[2]
    assert alive == (0, "/own/livez: alive\n", "")
    assert (ready[0], json.loads(ready[1])) == (0, {"status": "ready"})
    assert broken[0] == 1
    assert "The database takes no leads" in broken[2]
    await relay.stop()


# Compose


def compose(*names: str) -> dict[str, Any]:
    """The files together, as `docker compose -f ... -f ...` puts them together."""
    together: dict[str, Any] = {}
    for name in names:
        _lay_over(together, yaml.safe_load((COMPOSE / name).read_text()))
    return together


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        old = below.get(key)
        if isinstance(old, dict):
            _lay_over(old, value)
        elif isinstance(old, list):
            below[key] = [*old, *value]
        else:
            below[key] = value


FILES = [("compose.yaml",), ("compose.yaml", "compose.postgres.yaml")]


@pytest.mark.parametrize("names", FILES)
def test_what_compose_starts_is_confined_and_complete(names: tuple[str, ...]) -> None:
    project = compose(*names)
    relay, caddy = project["services"]["relay"], project["services"]["caddy"]

    for service in (relay, caddy):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for service in project["services"].values():
        assert set(service.get("secrets", [])) <= set(project["secrets"])
        named = [it.partition(":")[0] for it in service.get("volumes", [])]
        assert {it for it in named if not it.startswith(".")} <= set(project["volumes"])
    assert "ports" not in relay  # only Caddy is reached from outside
    assert (COMPOSE / relay["build"]["context"]).resolve() == TOP
    assert TOP / relay["build"]["dockerfile"] == CONTAINER


@pytest.mark.parametrize("names", FILES)
def test_the_relay_of_compose_has_right_settings(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    project = compose(*names)
    relay = project["services"]["relay"]
    environ = relay["environment"] | {"RELAY_UPSTREAM": "http://site:3000"}
    config = COMPOSE / project["configs"]["relay"]["file"]

    settings = started_with(image_environ() | environ, config, tmp_path)

    assert settings.database.startswith("sqlite" if len(names) == 1 else "postgresql")
    assert len(settings.signup) == 1
    subnet = project["networks"]["front"]["ipam"]["config"][0]["subnet"]
    assert [str(network) for network in settings.trusted_proxies] == [subnet]
    grace = float(relay["stop_grace_period"].removesuffix("s"))
    assert settings.drain + REQUEST_GRACE_S + STOP_GRACE_S < grace


@pytest.mark.process
def test_caddy_reads_its_file(tmp_path: Path) -> None:
    ran = subprocess.run(
        [program("caddy"), "validate", "--config", "Caddyfile", "--adapter=caddyfile"],
        cwd=COMPOSE,
        env=os.environ | {"DOMAIN": "localhost", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    project = compose("compose.yaml")
    port = image_environ()["RELAY_LISTEN"].rpartition(":")[2]
    relays = project["services"]["caddy"]["environment"]["RELAYS"].split()
    assert relays == [f"{name}:{port}" for name in ("relay", "relay2")]
    assert project["services"]["relay"] == project["services"]["relay2"]


# systemd


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with a program that is there in the place of the relay."""
    copies = []
    for path in sorted(SYSTEMD.glob("dub-relay.*")):
        copy = tmp_path / path.name
        text = path.read_text().replace("/opt/dub-relay/bin/dub-relay", "/bin/true")
        copy.write_text(text)
        copies.append(copy)
    return copies


def unit(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(
        r"^(\w+)=(.*)$", (SYSTEMD / name).read_text(), re.MULTILINE
    ):
        found.setdefault(key, []).append(value)
    return found


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NO SYSTEMD HERE: the units were not verified")
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.process
def test_systemd_finds_nothing_wrong_with_the_units(units: list[Path]) -> None:
    ran = analyze("verify", *units)

    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.process
def test_the_service_is_as_confined_as_systemd_can_make_it(units: list[Path]) -> None:
    [service] = [path for path in units if path.suffix == ".service"]

    # Exposure in tenths: 2.0 is the best of what may talk to the net and write.
    ran = analyze("security", "--offline=true", "--threshold=20", service)

    assert ran.returncode == 0, ran.stdout


def test_the_service_starts_with_right_settings(tmp_path: Path) -> None:
    service, sock = unit("dub-relay.service"), unit("dub-relay.socket")
    [given] = service["Environment"]
    environ = dict([given.split("=", 1)]) | {
        "DUB_API_KEY": "k",
        "RELAY_SECRET": "a-secret-of-16-or-more",
    }

    settings = started_with(environ, SYSTEMD / "relay.toml", tmp_path)

    [command] = service["ExecStart"]
    assert command.split()[1:] == ["serve", "--config", "/etc/dub-relay/relay.toml"]
    assert sock["ListenStream"] == [str(settings.listen)]
    [grace] = service["TimeoutStopSec"]
    assert settings.drain + REQUEST_GRACE_S + STOP_GRACE_S < float(grace)


# Kubernetes


def kubernetes_documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(KUBERNETES.glob("*.yaml")):
        if path.name != "kustomization.yaml":  # no resource of a cluster's
            for document in documents(path.name):
                yield f"{path.name}:{document['kind']}", document


@pytest.mark.parametrize(
    "document", [pytest.param(it, id=name) for name, it in kubernetes_documents()]
)
def test_kubernetes_knows_every_field(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


def test_kubernetes_admits_nobody_but_who_is_named() -> None:
    (policy,) = documents("network.yaml")
    assert policy["spec"]["ingress"]
    for rule in policy["spec"]["ingress"]:
        assert rule["from"]
        for peer in rule["from"]:
            (expression,) = peer["namespaceSelector"]["matchExpressions"]
            assert expression["values"] == ["ingress-nginx", "monitoring"]


def test_kubernetes_would_notice_a_field_that_is_not_there() -> None:
    wrong = documents("autoscaling.yaml")[0]
    wrong["spec"]["minReplica"] = 1

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSION, strict=True)


@pytest.mark.process
def test_kustomize_puts_all_together() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("NO KUBECTL HERE: the kustomization was not built")
    out = subprocess.check_output(["kubectl", "kustomize", KUBERNETES], text=True)

    made = list(yaml.safe_load_all(out))
    assert {it["kind"] for it in made} == {
        "ConfigMap",
        *(document["kind"] for _, document in kubernetes_documents()),
    }
    [deployment] = [it for it in made if it["kind"] == "Deployment"]
    [config] = [it for it in made if it["kind"] == "ConfigMap"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]


def test_the_pods_have_right_settings_and_time_to_stop(tmp_path: Path) -> None:
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    environ = {it["name"]: it["value"] for it in container["env"]}

    settings = started_with(
        image_environ() | environ, KUBERNETES / "relay.toml", tmp_path
    )

    assert settings.database.startswith("postgresql://")
    grace = pod["terminationGracePeriodSeconds"]
    assert settings.drain + REQUEST_GRACE_S + STOP_GRACE_S < grace
    [port] = [it["containerPort"] for it in container["ports"]]
    assert port == settings.listen.port
    probes = [value for key, value in container.items() if key.endswith("Probe")]
    paths = {probe["httpGet"]["path"] for probe in probes}
    ready = f"{settings.prefix}/readyz?only=serving"
    assert paths == {f"{settings.prefix}/livez", ready}
    assert ready in (COMPOSE / "Caddyfile").read_text()


def test_the_pods_are_confined() -> None:
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_autoscaler_looks_at_a_metric_that_there_is() -> None:
    scaler = of_kind("HorizontalPodAutoscaler")["spec"]
    names = [it["object"]["metric"]["name"] for it in scaler["metrics"][:1]]

    assert f"| `{names[0]}` | gauge |" in (TOP / "docs" / "metrics.md").read_text()
    deployment = of_kind("Deployment")
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    # Else each `kubectl apply` would undo what the autoscaler did.
    assert "replicas" not in deployment["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert of_kind("Service")["spec"]["selector"] == labels


# Prometheus


@pytest.fixture
def prometheus(tmp_path: Path) -> Path:
    folder = tmp_path / "prometheus"
    shutil.copytree(DEPLOY / "prometheus", folder)
    (folder / "metrics-token").write_text("a-long-random-text")
    return folder


@pytest.mark.process
def test_promtool_finds_nothing_wrong_with_the_sample(prometheus: Path) -> None:
    checked = subprocess.run(
        [program("promtool"), "check", "config", "prometheus.yml"],
        cwd=prometheus,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.process
async def test_a_relay_with_a_token_is_scraped_as_the_sample_does(
    prometheus: Path, tmp_path: Path
) -> None:
    [job] = yaml.safe_load((prometheus / "prometheus.yml").read_text())[
        "scrape_configs"
    ]
    given = job["authorization"]
    token = (prometheus / given["credentials_file"]).read_text()
    relay = RelayProcess(tmp_path, {"RELAY_METRICS_TOKEN": token})
    await relay.start()

    async def scraped(headers: Mapping[str, str]) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession(relay.url, headers=headers) as session,
            session.get(job["metrics_path"]) as answer,
        ):
            return answer.status, await answer.text()

    status, text = await scraped({"Authorization": f"{given['type']} {token}"})
    assert status == 200
    assert "dub_relay_leads{" in text
    assert (await scraped({}))[0] == 401
    assert await relay.stop() == 0
    # The rules look for relays by the job's name.
    assert f'job="{job["job_name"]}"' in (prometheus / "alerts.yml").read_text()


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.toml")), ids=str)
def test_every_sample_is_toml(path: Path) -> None:
    assert tomllib.loads(path.read_text())


GATEWAY = {
    (document["kind"], document["metadata"]["name"]): document["spec"]
    for document in documents("gateway/envoy-gateway.yaml")
}


def references(value: Any) -> Iterator[dict[str, Any]]:
    """What a document names: other documents, by kind and name."""
    if isinstance(value, dict):
        if "kind" in value and "name" in value:
            yield value
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_the_gateway_names_nothing_that_is_not_there() -> None:
    named = {(it["kind"], it["name"]) for it in references(list(GATEWAY.values()))}

    assert named <= GATEWAY.keys()
    assert {each for each in GATEWAY if each[0] == "Backend"} <= named


def test_the_gateway_goes_around_the_relays_with_what_matters() -> None:
    settings = load(str(KUBERNETES / "relay.toml"), {}, complete=False)
    [rule] = GATEWAY["HTTPRoute", "dub-relay-or-site"]["rules"]
    policy = GATEWAY["BackendTrafficPolicy", "dub-relay-or-site"]

    click, *signups = rule["matches"]
    assert click["queryParams"][0]["name"] == CLICK_COOKIE
    assert [it["path"]["value"] for it in signups] == [
        signup.pattern.superset for signup in settings.signup
    ]
    first, second = (GATEWAY["Backend", it["name"]] for it in rule["backendRefs"])
    assert not first.get("fallback")
    assert second["fallback"]
    assert settings.upstream
    site = urlsplit(settings.upstream[0])
    [endpoint] = second["endpoints"]
    assert endpoint["fqdn"]["hostname"] == f"{site.hostname}.cluster.local"
    assert endpoint["fqdn"]["port"] == site.port
    assert GATEWAY["Backend", "site-alone"]["endpoints"] == second["endpoints"]

    assert policy["retry"]["retryOn"] == {"triggers": ["connect-failure"]}
    assert policy["retry"]["numAttemptsPerPriority"] == 1
    asked = policy["healthCheck"]["active"]["http"]
    assert asked["path"] == f"{settings.prefix}/readyz?only=serving"
    assert 503 not in asked["expectedStatuses"]
    waits = settings.limits_upstream_answer + BEYOND_S
    assert policy["timeout"]["http"]["requestTimeout"] == f"{waits:.0f}s"


def test_the_gateway_closes_the_paths_for_operators() -> None:
    closed, own, rest = GATEWAY["HTTPRoute", "site"]["rules"]

    paths = {each["path"]["value"] for each in closed["matches"]}
    assert paths == {"/_dub/livez", "/_dub/readyz", "/_dub/metrics"}
    assert "backendRefs" not in closed
    assert own["backendRefs"] == [{"name": "dub-relay", "port": 80}]
    assert rest["backendRefs"][0]["name"] == "site-alone"
