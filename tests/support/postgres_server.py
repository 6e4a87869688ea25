"""A real PostgreSQL server that the tests start, kill and start again themselves."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

START_S = 60
"""A shared machine may be slow to start it, and after a kill it recovers first."""


CHEAP = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
"""Tests kill the server, never the machine: what was written is there all the same."""


def binaries() -> Path:
    """Debian's folder of the newest server, else where `postgres` is; or skip."""
    for found in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))[::-1]:
        return found.parent
    # Elsewhere all of them are in the path, perhaps by a link.
    found_in_path = shutil.which("initdb")
    if found_in_path is None:
        pytest.skip("NO POSTGRESQL HERE: relays on PostgreSQL were not tested")
    return Path(found_in_path).resolve().parent


class PostgresServer:
    """A server of its own in a folder of its own, on a Unix socket alone.

    PostgreSQL refuses to run as root: then it runs as `postgres`, or `nobody`.
    """

    def __init__(self, folder: Path, options: Mapping[str, str] = CHEAP) -> None:
        self._options = options
        self._bin = binaries()
        self._folder = folder
        self._numbers = count(1)
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            account = _account()
            self._as = {"user": account.pw_uid, "group": account.pw_gid}
            self._as["extra_groups"] = []
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", folder / "data", "-U", "relay", "-A", "trust", "-N")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    str(self._bin / "postgres"),
                    *("-D", str(self._folder / "data")),
                    *("-k", str(self._folder), "-c", "listen_addresses="),
                    *(f"-c{name}={value}" for name, value in self._options.items()),
                ],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **self._as,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            said = (self._folder / "log").read_text()
            assert time.monotonic() < deadline, said
            if self._process.poll() is not None:
                # Just killed: what it had shared in memory is still being let go.
                assert "shared memory block is still in use" in said, said
                time.sleep(0.1)
                self.start()
                return
            time.sleep(0.02)

    def stop(self, by: int = signal.SIGQUIT) -> None:
        """End it: by SIGQUIT at once and without tidying up, by SIGINT cleanly."""
        assert self._process is not None
        self._process.send_signal(by)
        self._process.wait(START_S)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Be gone for a while; what was committed is there again afterwards."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the server and all that serves connections stand still for a while."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        pids = [self._process.pid, *map(int, children.read_text().split())]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                # A worker that was about to end has ended.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def new_url(self) -> str:
        """Make an empty schema, and name it."""
        schema = f"t{next(self._numbers)}"
        self.sql(f"CREATE SCHEMA {schema}")
        return f"postgresql:///postgres?host={self._folder}&user=relay&search_path={schema}"

    def sql(self, statement: str, url: str | None = None) -> list[str]:
        """Run SQL beside the relays; the rows, fields between bars."""
        path = "" if url is None else url.rpartition("search_path=")[2]
        out = self._run(
            *("psql", "-h", self._folder, "-U", "relay", "-d", "postgres"),
            *("-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement),
            environment={"PGOPTIONS": f"-c search_path={path}"} if path else {},
        )
        return out.splitlines()

    def _answers(self) -> bool:
        try:
            return self.sql("SELECT 1") == ["1"]
        except subprocess.CalledProcessError:
            return False

    def _run(
        self, name: str, *arguments: object, environment: dict[str, str] | None = None
    ) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(self._bin / name), *map(str, arguments)],
            check=True,
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=os.environ | {"LC_ALL": "C.UTF-8"} | (environment or {}),
            **self._as,
        )
        return done.stdout


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@contextlib.contextmanager
def postgres_server(
    options: Mapping[str, str] = CHEAP,
) -> Iterator[PostgresServer]:
    """Run a server with these settings until the end of the block."""
    # Not pytest's folder: the path of a socket may have 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="relay-pg-") as folder:
        server = PostgresServer(Path(folder), options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests; each makes itself a schema (`new_url`)."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server for one test alone, which may kill it."""
    with postgres_server() as server:
        yield server
