"""A restart under load: with a socket that somebody keeps, nobody is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.support.harness import RelayProcess, post_hook
from tests.support.servers import CADDY, DEPLOY, free_port, program, running

CLICK = "hQWlM0a9Zk3xY7bT"

AS_SYSTEMD = (
    # sd_listen_fds(3): the socket is descriptor 3, the number is the process's own.
    "import os, sys; os.dup2(int(sys.argv[1]), 3);"
    "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that is kept open while relays come and go, as systemd keeps it."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        kept.listen(512)
        yield kept


@dataclass
class Service(RelayProcess):
    """A relay that is handed its listening socket."""

    kept: socket.socket | None = None

    async def start(self) -> RelayProcess:
        assert self.kept is not None
        self._started.clear()
        os.set_inheritable(self.kept.fileno(), True)
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", AS_SYSTEMD, str(self.kept.fileno())),
            *self.command("serve", *self.arguments)[1:],
            env=os.environ | self.settings(),
            cwd=self.folder,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(self.kept.fileno(),),
        )
        self._reader = asyncio.create_task(self._read())
        await asyncio.wait_for(self._started.wait(), 30)
        return self


@dataclass
class Load:
    """Visitors who sign up again and again, each keeping its connection or not."""

    url: str
    taken: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, visitors: int) -> AsyncIterator[None]:
        stop = asyncio.Event()
        names = [f"v{number}" for number in range(visitors)]
        tasks = [
            asyncio.create_task(self._visit(name, stop, keep=number % 2 == 0))
            for number, name in enumerate(names)
        ]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def more(self, count: int) -> None:
        """Wait until so many more sign-ups were taken."""
        enough = len(self.taken) + count
        async with asyncio.timeout(60):
            while len(self.taken) < enough:  # noqa: ASYNC110 - other tasks fill it
                await asyncio.sleep(0.01)

    async def _visit(self, name: str, stop: asyncio.Event, *, keep: bool) -> None:
        n = 0
        connector = aiohttp.TCPConnector(force_close=not keep)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not stop.is_set():
                n += 1
                hook = {
                    "clickId": CLICK,
                    "eventName": "Sign Up",
                    "customerExternalId": f"{name}_{n}",
                }
                try:
                    status, answer = await post_hook(
                        session, self.url, hook, f"{name}_{n}"
                    )
                except (aiohttp.ClientError, OSError) as error:
                    self.failed.append(f"{type(error).__name__}: {error}")
                    continue
                if status == 202:
                    self.taken.append(answer["id"])
                else:
                    self.failed.append(f"{status} {answer}")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
async def test_restarts_under_load_refuse_not_one_sign_up(
    tmp_path: Path, listening: socket.socket, arguments: tuple[str, ...]
) -> None:
    service = Service(
        tmp_path,
        # Long enough for every visitor to get one more answer.
        {"RELAY_DRAIN": "1s", "RELAY_LISTEN": "127.0.0.1:1"},
        arguments=(*arguments, "--no-delivery"),
        kept=listening,
    )
    await service.start()
    assert service.url.endswith(f":{listening.getsockname()[1]}")
    load = Load(service.url)

    async with load.running(8):
        for _ in range(2):
            await load.more(20)
            assert await service.stop() == 0
            await service.start()
        await load.more(20)

    assert load.failed == []
    assert set(load.taken) == {lead["id"] for lead in await service.leads()}
    assert await service.stop() == 0


async def test_a_stopping_relay_closes_a_connection_with_an_answer(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    relay = RelayProcess(tmp_path, {"RELAY_DRAIN": "10s"})
    await relay.start()
    assert relay.process is not None
    async with session.get(f"{relay.url}/_dub/livez") as answer:
        assert answer.headers.get("Connection") is None

    relay.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        while True:
            async with session.get(f"{relay.url}/_dub/readyz") as answer:
                if answer.status == 503:
                    break

    # The next one: that one may have been read before the signal, and answered after.
    async with session.get(f"{relay.url}/_dub/livez") as answer:
        assert answer.headers["Connection"] == "close"
    relay.process.kill()
    await relay.process.wait()


@pytest.mark.parametrize(
    ("kind", "told"),
    [("file", "no socket"), ("unbound", "one that listens")],
)
async def test_what_is_no_listening_socket_is_refused(
    tmp_path: Path, kind: str, told: str
) -> None:
    relay = RelayProcess(tmp_path)
    with (tmp_path / "file").open("wb") as file, socket.socket() as unbound:
        given = file.fileno() if kind == "file" else unbound.fileno()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", AS_SYSTEMD, str(given)),
            *relay.command("serve")[1:],
            env=os.environ | relay.settings(),
            cwd=tmp_path,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(given,),
        )
        _, err = await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode == 1
    assert told in err.decode()
    assert err.count(b"\n") == 1


async def test_the_service_manager_is_told_when_it_is_ready_and_that_it_lives(
    tmp_path: Path,
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        relay = RelayProcess(
            tmp_path, {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
        )
        await relay.start()
        heard = [await asyncio.to_thread(manager.recv, 100) for _ in range(3)]
        assert await relay.stop() == 0
        while (last := await asyncio.to_thread(manager.recv, 100)) == b"WATCHDOG=1":
            pass

    assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    assert last == b"STOPPING=1"


@pytest.mark.slow
async def test_behind_caddy_two_relays_are_replaced_one_after_the_other(
    tmp_path: Path,
) -> None:
    outside, ports = free_port(), (free_port(), free_port())
    relays = [
        RelayProcess(
            tmp_path,
            # Longer than Caddy takes to hear of the stop.
            {"RELAY_LISTEN": f"127.0.0.1:{port}", "RELAY_DRAIN": "3s"},
            arguments=("--no-delivery",),
        )
        for port in ports
    ]
    config = tmp_path / "Caddyfile"
    site = (DEPLOY / "compose" / "Caddyfile").read_text()
    config.write_text(CADDY.format(folder=tmp_path) + site)
    for relay in relays:
        await relay.start()
    command = (program("caddy"), "run", "--config", str(config), "--adapter=caddyfile")
    home = {
        "HOME": str(tmp_path),
        "DOMAIN": f"http://127.0.0.1:{outside}",
        "RELAYS": " ".join(f"127.0.0.1:{port}" for port in ports),
    }

    async with running(*command, port=outside, folder=tmp_path, **home):
        load = Load(f"http://127.0.0.1:{outside}")
        async with load.running(4):
            for relay in relays:
                await load.more(20)
                assert await relay.stop() == 0
                await relay.start()
                # Caddy has to hear of it, before the other one goes.
                await seen_again(relay)
            await load.more(20)

    assert load.failed == []
    assert set(load.taken) == {lead["id"] for lead in await relays[0].leads()}
    assert await asyncio.gather(*(relay.stop() for relay in relays)) == [0, 0]


async def seen_again(relay: RelayProcess) -> None:
    """Wait until Caddy sends sign-ups to a relay that has come back."""
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{relay.url}/_dub/metrics") as answer:
                # Counted by this process, since it started.
                if 'result="new"' in await answer.text():
                    return
            await asyncio.sleep(0.1)
