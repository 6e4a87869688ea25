"""The configurations of `dub-relay front`, in the real servers: the relay is killed.

The site stays up, no sign-up is sent to it twice, and each becomes a lead once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from relay.config.settings import load
from relay.config.values import listen
from relay.core.rules.rule import compile_rules
from relay.operations.front_servers import (
    LOGS_BYPASSED,
    TEMPLATES,
    front_configuration,
)
from tests.support import servers
from tests.support.front_rig import (
    KINDS,
    RULES,
    SHAPES,
    Site,
    all_is_served,
    bypass_log,
    fronted,
    relay,
    site,
)
from tests.support.harness import RelayProcess, SandboxDub

pytestmark = [pytest.mark.process, pytest.mark.slow]

__all__ = ["relay", "site"]  # fixtures


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_relay_that_is_killed_is_gone_around_at_once(
    kind: str,
    shape: str,
    tmp_path: Path,
    relay: RelayProcess,
    site: Site,
    dub: SandboxDub,
) -> None:
    async with fronted(kind, tmp_path, relay, dub, shape) as front:
        await all_is_served(front, site, "alive")
        assert len(await relay.settled(3)) == 3

        await relay.stop(signal.SIGKILL)
        await all_is_served(front, site, "killed")
        await relay.start()
        await front.until(through=True)

        # What is inside the relay when it dies fails, and is not sent again.
        site.open.clear()
        site.came.clear()
        inside = asyncio.create_task(front.sign_up("inside@example.com"))
        await asyncio.wait_for(site.came.wait(), 20)
        await relay.stop(signal.SIGKILL)
        site.open.set()
        assert await inside in (502, 503, 504)
        await all_is_served(front, site, "killed-again")
        assert site.asked["inside@example.com"] == 1


@pytest.mark.parametrize("kind", ["nginx", "haproxy", "envoy"])
async def test_every_sign_up_that_went_around_is_recovered_once(
    kind: str, tmp_path: Path, relay: RelayProcess, site: Site, dub: SandboxDub
) -> None:
    """Each lead is there once, whether it came through the relay or around it."""
    arguments = ("--bypass-log", str(tmp_path / "bypass.log"))
    (tmp_path / "bypass.log").touch(0o600)
    async with fronted(kind, tmp_path, relay, dub, *arguments) as front:
        assert await front.sign_up("through@example.com") == 303
        await relay.stop(signal.SIGKILL)
        around = {"ä+b@example.com", "json@example.com", "file@example.com"}
        assert await front.sign_up("ä+b@example.com") == 303
        assert await front.sign_up("json@example.com", "json") == 303
        assert await front.sign_up("file@example.com", "avatar") == 303
        assert await front.sign_up("large@example.com", "upload") == 303
        assert await front.page("/signup") == 200
        await relay.start()
        await front.until(through=True)
        assert await front.sign_up("again@example.com") == 303
    if kind != "haproxy":
        assert (tmp_path / "bypass.log").stat().st_mode & 0o777 == 0o600

    log = bypass_log(kind, tmp_path)
    for expected in ({"new": 3, "unreadable": 1}, {"duplicate": 3, "unreadable": 1}):
        code, out, err = await relay.run("leads", "recover", str(log), "--json")
        assert code == 0, err
        counts = {name: count for name, count in json.loads(out).items() if count}
        assert counts == expected | {"read": 4}
    assert "too long to be logged" in err

    leads = await relay.settled(5)
    assert Counter(one["customerExternalId"] for one in leads) == Counter(
        around | {"through@example.com", "again@example.com"}
    )
    assert {one["status"] for one in leads} == {"delivered"}
    recovered = {
        one["customerExternalId"] for one in leads if one["source"] == "recovered"
    }
    assert recovered == around


ADDRESSES = {
    "sockets": {
        "RELAY_LISTEN": "unix:/run/relay.sock",
        "RELAY_UPSTREAM": "unix:/run/site.sock",
    },
    "TLS": {"RELAY_UPSTREAM": "https://site.test,https://site.test:8443"},
    "IPv6": {"RELAY_LISTEN": "[::]:8080", "RELAY_UPSTREAM": "http://[::1]:3000"},
}
READ = {
    "caddy": ("validate", "--adapter=caddyfile", "--config"),
    "haproxy": ("-c", "-f"),
    "envoy": ("--mode", "validate", "-c"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("addresses", ADDRESSES)
@pytest.mark.parametrize("kind", ["nginx", *READ])
async def test_a_server_reads_what_is_written_for_other_addresses(
    kind: str, addresses: str, shape: str, tmp_path: Path
) -> None:
    settings = load(
        None, {**ADDRESSES[addresses], "RELAY_PREFIX": "/in/dub"}, complete=False
    )
    settings = replace(settings, signup=compile_rules(tomllib.loads(RULES)["signup"]))
    text = front_configuration(
        kind,
        settings,
        everything=shape == "--all",
        listen=listen("127.0.0.1:8000"),
        bypass_log=str(tmp_path / "bypass.log") if kind in LOGS_BYPASSED else None,
    ).replace("site.test", "localhost")
    await is_read(kind, text, tmp_path)


@pytest.mark.parametrize("kind", ["nginx", *READ])
async def test_a_server_reads_its_sample(kind: str, tmp_path: Path) -> None:
    """As it stands in deploy/, with TLS, but for the places of files."""
    made = servers.certificate(tmp_path)
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "site.pem").write_bytes(
        made.path.read_bytes() + made.key.read_bytes()
    )
    text = servers.sample(f"front/{TEMPLATES[kind]}", {})
    for place, here in {
        "/etc/ssl/certs/example.com.pem": made.path,
        "/etc/ssl/private/example.com.key": made.key,
        "/etc/haproxy/certs/": tmp_path / "both",
        "/var/log/dub-relay": tmp_path,
    }.items():
        text = text.replace(place, str(here))
    await is_read(kind, text, tmp_path)


async def is_read(kind: str, text: str, folder: Path) -> None:
    """Let a server read a configuration, and do no more."""
    config = folder / "config.yaml"
    config.write_text(text)
    how = [*READ.get(kind, ()), str(config)]
    if kind == "nginx":
        whole = folder / "nginx.conf"
        whole.write_text(servers.NGINX.format(folder=folder, site=config))
        how = ["-t", "-e", "stderr", "-p", str(folder), "-c", str(whole)]
    environment = os.environ | {"HOME": str(folder)}
    if kind == "haproxy":
        environment["LD_LIBRARY_PATH"] = servers.LIBRARIES
    process = await asyncio.create_subprocess_exec(
        *(servers.program(kind), *how),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
