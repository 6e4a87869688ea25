"""Runs `python -m relay …` as a process that is forked, not started from nothing.

Importing the relay takes half a second of work, once for each of the suite's hundreds
of relays and commands. multiprocessing's fork server imports it once; what it forks is
a process like any other, with a pid, environment, folder and streams of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PYTHON_M_RELAY = [sys.executable, "-m", "relay"]

OWN = ("RELAY_", "DUB_", "OTEL_")
"""Variables that the relay alone reads, and not before it runs. Others may count when
an interpreter starts, or when a library is imported."""

LINE_LIMIT = 1 << 20

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, "tests.support.imported"])
_started: set[ForkServerProcess] = set()


def can_fork(command: list[str], environment: Mapping[str, str]) -> bool:
    """Whether a forked process does the same as one started with this command."""
    changed = environment.items() ^ os.environ.items()
    return command[: len(PYTHON_M_RELAY)] == PYTHON_M_RELAY and all(
        name.startswith(OWN) for name, _ in changed
    )


class ForkedRelay:
    """One `python -m relay …`, with the face of `asyncio.subprocess.Process`."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    def __init__(self, process: ForkServerProcess) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self._process = process
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(process.sentinel, self._end)

    @classmethod
    async def start(
        cls,
        command: list[str],
        environment: Mapping[str, str],
        folder: Path,
        streams: tuple[int, ...],
    ) -> ForkedRelay:
        """Start it, with pipes to those of its three standard streams."""
        # The guard in conftest.py hears of it as of any program.
        sys.audit("subprocess.Popen", command[0], command, str(folder), None)
        pipes = {number: _context.Pipe(duplex=False) for number in streams}
        there = {number: pipes[number][number > 0] for number in streams}
        words = command[len(PYTHON_M_RELAY) :]
        process = _context.Process(
            target=_run, args=(words, dict(environment), folder, there)
        )
        process.start()
        _started.add(process)
        relay = cls(process)
        for number, pipe in pipes.items():
            there[number].close()
            await relay._connect(number, pipe[number == 0])
        return relay

    async def _connect(self, number: int, end: Connection) -> None:
        pipe = os.fdopen(os.dup(end.fileno()), "rb" if number else "wb", buffering=0)
        end.close()
        reader = asyncio.StreamReader(limit=LINE_LIMIT)
        if number == 0:
            transport, protocol = await self._loop.connect_write_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), pipe
            )
            self.stdin = asyncio.StreamWriter(transport, protocol, reader, self._loop)
            return
        await self._loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        setattr(self, ("stdin", "stdout", "stderr")[number], reader)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode if self._ended.is_set() else None

    def _end(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._process.join()
        _started.discard(self._process)
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    async def communicate(self, given: bytes = b"") -> tuple[bytes, bytes]:
        async def feed() -> None:
            try:
                self.stdin.write(given)
                await self.stdin.drain()
            except (BrokenPipeError, ConnectionResetError):
                return  # it ended, or does not read: as communicate() has it
            finally:
                self.stdin.close()

        out, err, _ = await asyncio.gather(
            self.stdout.read(), self.stderr.read(), feed()
        )
        await self.wait()
        return out, err


def _run(
    words: list[str],
    environment: dict[str, str],
    folder: Path,
    streams: dict[int, Connection],
) -> None:
    for number, end in streams.items():
        os.dup2(end.fileno(), number)
        end.close()
    out, err = sys.stdout, sys.stderr
    for name, number, mode, like in (
        ("stdin", 0, "r", out),
        ("stdout", 1, "w", out),
        ("stderr", 2, "w", err),
    ):
        stream = open(  # noqa: SIM115 - for as long as the process lives
            number, mode, encoding=like.encoding, errors=like.errors, closefd=False
        )
        setattr(sys, name, stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    from relay import __main__  # noqa: PLC0415 - imported before, by the fork server

    sys.argv = [str(__main__.__file__), *words]
    sys.exit(__main__.main())


@atexit.register
def _kill_all() -> None:
    """End what a failed test has left; multiprocessing would wait for it."""
    for process in _started:
        process.kill()
