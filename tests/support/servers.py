"""Real servers in front of a relay, run with the sample files of deploy/."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

TOP = Path(__file__).resolve().parents[2]
DEPLOY = TOP / "deploy"
FETCHED = TOP / ".venv" / "servers"
"""Where .ci/servers puts what the system does not have."""

LIBRARIES = os.pathsep.join(
    str(each) for each in sorted((FETCHED / "usr" / "lib").glob("*-linux-gnu*"))
)
"""What a server needs that was unpacked beside it."""

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {site};
}}
"""

CADDY = """{{
	admin off
	auto_https off
	storage file_system {folder}/storage
}}

"""


def program(name: str) -> str:
    """A program's path; without one that runs here, the test is skipped."""
    places = [
        *os.environ.get("PATH", "").split(os.pathsep),
        "/usr/sbin",
        *(str(FETCHED / folder) for folder in ("usr/sbin", "usr/bin")),
    ]
    path = shutil.which(name, path=os.pathsep.join(places))
    if path is None:
        pytest.skip(f"NO {name.upper()} HERE: its recipe was not tested")
    return path


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@dataclass(frozen=True)
class Certificate:
    """A certificate of its own making, and its key."""

    path: Path
    key: Path


def certificate(folder: Path) -> Certificate:
    made = Certificate(folder / "site.pem", folder / "site.key")
    subprocess.run(
        [
            *(program("openssl"), "req", "-x509", "-newkey", "ec", "-nodes"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"),
            *("-subj", "/CN=www.example.com", "-out", made.path, "-keyout", made.key),
        ],
        check=True,
        capture_output=True,
    )
    return made


def sample(name: str, changes: Mapping[str, str]) -> str:
    """A sample file with other addresses; each must be in it to be replaced."""
    text = (DEPLOY / name).read_text("utf-8")
    for old, new in changes.items():
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def running(
    *command: str, port: int, folder: Path, **environ: str
) -> AsyncIterator[None]:
    """Run a server until the block ends; it is up when its port is."""
    log = folder / "server.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=os.environ | environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        if not await _up(process, port):
            pytest.fail(f"{command[0]} did not start: {log.read_text()}")
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 20)


async def _up(process: asyncio.subprocess.Process, port: int) -> bool:
    """Wait until a port is open; False if the process ended before."""
    async with asyncio.timeout(60):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return True
    return False


@asynccontextmanager
async def nginx(
    folder: Path, name: str, relay: str, site: str | None = None
) -> AsyncIterator[int]:
    """Run nginx with a sample file, in front of a relay (and a site); its port."""
    port, made = free_port(), certificate(folder)
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/certs/example.com.pem": str(made.path),
        "/etc/ssl/private/example.com.key": str(made.key),
        "server 127.0.0.1:8080": f"server {relay}",
    }
    if site is not None:
        changes["http://127.0.0.1:3000"] = f"http://{site}"
    (folder / "site.conf").write_text(sample(f"nginx/{name}", changes))
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, site=folder / "site.conf"))
    command = (program("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(config))
    async with running(*command, port=port, folder=folder):
        yield port


@asynccontextmanager
async def caddy(
    folder: Path, name: str, relay: str, site: str | None = None
) -> AsyncIterator[int]:
    """Run Caddy with a sample file, in front of a relay (and a site); its port."""
    port, made = free_port(), certificate(folder)
    hosts = f"https://www.example.com:{port}, https://example.com:{port}"
    changes = {
        "www.example.com, example.com {": f"{hosts} {{\n\ttls {made.path} {made.key}",
        "reverse_proxy 127.0.0.1:8080": f"reverse_proxy {relay}",
    }
    if site is not None:
        changes["reverse_proxy 127.0.0.1:3000"] = f"reverse_proxy {site}"
    config = folder / "Caddyfile"
    config.write_text(CADDY.format(folder=folder) + sample(f"caddy/{name}", changes))
    command = (program("caddy"), "run", "--config", str(config), "--adapter=caddyfile")
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    async with running(*command, port=port, folder=folder, **home):
        yield port


@asynccontextmanager
async def front(kind: str, folder: Path, text: str, port: int) -> AsyncIterator[None]:
    """Run a front server with what `dub-relay front` printed for this port.

    What HAProxy logs is in ``server.log``.
    """
    config = folder / f"front-{kind}"
    config.write_text(text)
    command = [program(kind)]
    match kind:
        case "nginx":
            whole = folder / "nginx.conf"
            # Its workers are nobody's otherwise, and cannot open the test's folder.
            user = "" if os.geteuid() else "user root;"
            whole.write_text(user + NGINX.format(folder=folder, site=config))
            command += ["-e", "stderr", "-p", str(folder), "-c", str(whole)]
        case "caddy":
            command += ["run", "--adapter=caddyfile", "--config", str(config)]
        case "haproxy":
            command += ["-db", "-f", str(config)]
        case "traefik":
            dynamic = config.rename(folder / "dynamic.yaml")
            command += [
                f"--providers.file.filename={dynamic}",
                f"--entryPoints.web.address=127.0.0.1:{port}",
                "--global.checkNewVersion=false",
                "--global.sendAnonymousUsage=false",
            ]
        case "envoy":
            command += ["-c", str(config.rename(folder / "envoy.yaml"))]
            command += ["--concurrency", "1", "--use-dynamic-base-id"]
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    libraries = {"LD_LIBRARY_PATH": LIBRARIES} if kind == "haproxy" else {}
    async with running(*command, port=port, folder=folder, **home, **libraries):
        yield


@asynccontextmanager
async def nextjs(relay: str) -> AsyncIterator[int]:
    """Run Next.js with the sample file and one page of its own; its port."""
    command = FETCHED / "node_modules" / ".bin" / "next"
    if not command.exists():
        pytest.skip("NO NEXT.JS HERE: its recipe was not tested")
    port = free_port()
    # Below the folder in which Node.js will look for its packages.
    with tempfile.TemporaryDirectory(dir=FETCHED) as name:
        folder = Path(name)
        (folder / "package.json").write_text('{"private": true}')
        (folder / "pages").mkdir()
        page = "export default function Page() { return 'The site itself'; }"
        (folder / "pages" / "index.js").write_text(page)
        shutil.copy(DEPLOY / "nextjs" / "next.config.mjs", folder)
        async with running(
            # Its other compiler looks for packages in this folder alone.
            *(str(command), "dev", "--webpack", "--hostname", "127.0.0.1"),
            *("--port", str(port)),
            port=port,
            folder=folder,
            DUB_RELAY_URL=f"http://{relay}",
            NEXT_TELEMETRY_DISABLED="1",
        ):
            yield port


class Here(AbstractResolver):
    """Finds every host on this machine."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = ResolveResult(
            hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
        )
        return [found]

    async def close(self) -> None:
        """Nothing was opened."""


@asynccontextmanager
async def visiting(
    address: str, headers: Mapping[str, str]
) -> AsyncIterator[aiohttp.ClientSession]:
    """A visitor with an address of their own, who takes any certificate."""
    connector = aiohttp.TCPConnector(
        local_addr=(address, 0), ssl=False, resolver=Here()
    )
    async with aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    ) as session:
        yield session
