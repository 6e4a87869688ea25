"""Where a proxied sign-up goes that the database would not take.

The person has signed up: nobody can be asked to send it again. So its lead is
written to a file beside the database, and taken in once the database is back.
If not even the file can be written (the disk is full), it waits in memory,
which is better than nothing and not called safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from relay.core import jsontext
from relay.core.leads import Lead, LeadStatus, Mode
from relay.observability.logging import get_logger
from relay.outbox.contract import NewLead, OutboxError, UnstorableError
from relay.outbox.encryption import PLAIN, Seal, SealedError

log = get_logger()

RETRY_S: Final = 2.0
"""How often what was spilled is offered to the database again."""

MOST_IN_MEMORY: Final = 1000
"""Leads of a few hundred bytes each; who loses more has a dead disk for hours."""

SEALED_FOR: Final = "spill"
"""What an encrypted line is bound to, in the place of a lead's id."""

Store = Callable[[NewLead, str | None], Awaitable[object]]
"""Commits a new lead, with the id that it may be stored under; raises OutboxError."""


class Spill:
    """The file, what waits in memory, and the way back into the database."""

    def __init__(
        self,
        path: Path,
        store: Store,
        seal: Seal = PLAIN,
        *,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Write to ``path``, store with ``store``; ``on_lost`` counts what is lost."""
        self._path = path
        self._store = store
        self._seal = seal
        self._on_lost = on_lost
        self._memory: deque[bytes] = deque()

    async def keep(self, new_lead: NewLead, held: str | None) -> bool:
        """Write a new lead down; True when it is on the disk."""
        # The key makes a second taking harmless, should the first break off.
        key = f"spill:{new_lead.lead.id}"
        spilled = replace(new_lead, idempotency_key=key, as_held=False)
        line = _line(spilled, held or new_lead.lead.id, self._seal)
        try:
            await asyncio.to_thread(_append, self._path, line)
        except OSError as error:
            log.error(
                "spill.not_written", lead=new_lead.lead.id, reason=error.strerror or ""
            )
            self._memory.append(line)
            while len(self._memory) > MOST_IN_MEMORY:
                self._memory.popleft()
                log.error("spill.dropped", kept=MOST_IN_MEMORY)
                self._on_lost()
            return False
        log.warning("lead.spilled", lead=new_lead.lead.id)
        return True

    async def run(self) -> None:
        """Take in what was spilled, again and again; ends by being cancelled."""
        while True:
            try:
                await self.take_in()
            except OSError as error:
                log.error("spill.not_read", reason=error.strerror or "")
            await asyncio.sleep(RETRY_S)

    async def take_in(self) -> None:
        """Store everything that was spilled; what fails stays spilled."""
        while self._memory:
            line = self._memory[0]
            if not await self._take(line):
                return
            # Others may have been dropped in front of it meanwhile.
            with contextlib.suppress(ValueError):
                self._memory.remove(line)
        for taking in await asyncio.to_thread(_files, self._path):
            await self._take_file(taking)

    async def take_copies(self, lines: Iterable[bytes]) -> int:
        """Take in what :func:`spilled_lines` gave, and leave the files; how many."""
        return sum([await self._take(line) for line in lines])

    async def _take_file(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                # Several workers share the file; one of them takes it in.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_at(path, file.fileno()):
                    return  # another one has it, or a customer was erased from it
                lines = await asyncio.to_thread(file.readlines)
                for line in lines:
                    if not await self._take(line):
                        return
                await asyncio.to_thread(path.unlink)
        except (FileNotFoundError, BlockingIOError):
            return  # another worker's

    async def _take(self, line: bytes) -> bool:
        try:
            new_lead, held = _read(line, self._seal)
        except SealedError as error:
            # It stays until the key is there.
            log.error("spill.sealed", reason=str(error))
            return False
        except (ValueError, TypeError, KeyError):
            # A line torn by a full disk: what it held is lost, and logged.
            log.error("spill.unreadable", bytes=len(line))
            self._on_lost()
            return True
        try:
            await self._store(new_lead, held)
        except UnstorableError as error:
            log.error("spill.unstorable", lead=new_lead.lead.id, reason=str(error))
            self._on_lost()
        except OutboxError:
            return False
        log.info("lead.unspilled", lead=new_lead.lead.id)
        return True


def spill_path(database: str) -> Path:
    """Name the spill file: beside an SQLite file, else in the working folder."""
    scheme, _, path = database.partition(":///")
    return Path(f"{path}.spill" if scheme == "sqlite" else "relay.spill")


def spilled_lines(path: Path) -> list[bytes]:
    """Read everything that is spilled just now, and leave it where it is."""
    # The present file first: it may be set aside at any moment.
    found = [_whole_lines(path)]
    found += [_whole_lines(aside) for aside in path.parent.glob(f"{path.name}.*")]
    return [line for lines in found for line in lines]


def _whole_lines(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []  # none, or taken in meanwhile
    return [line for line in lines if line.endswith(b"\n")]


def _append(path: Path, line: bytes) -> None:
    """Append a line and bring it to the disk; the file is for its owner only."""
    descriptor = _open_alone(path)
    try:
        # A line that is cut off by a full disk must not spoil the next one.
        written = os.write(descriptor, line + b"\n")
        if written != len(line) + 1:
            os.write(descriptor, b"\n")
            raise OSError("the disk is full")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_alone(path: Path) -> int:
    """Open and lock the file; again if it was set aside before the lock was ours."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def forget(path: Path, wanted: Callable[[Lead], bool], seal: Seal) -> Purged:
    """Take the wanted leads out of the spill file, relays running or not.

    Lines that cannot be read stay, and are counted. Raises OSError.
    """
    purged = Purged()
    for file in _files(path):
        try:
            with file.open("rb") as reading:
                fcntl.flock(reading, fcntl.LOCK_EX)
                if _is_at(file, reading.fileno()):
                    purged += _purge(file, reading.readlines(), wanted, seal)
        except FileNotFoundError:
            continue  # a relay has just taken it in
    return purged


class Purged(NamedTuple):
    """How many spilled leads were erased, and how many lines nobody could read."""

    leads: int = 0
    unreadable: int = 0

    def __add__(self, other: object) -> Purged:
        if not isinstance(other, Purged):
            return NotImplemented
        return Purged(self.leads + other.leads, self.unreadable + other.unreadable)


def _purge(
    file: Path, lines: Sequence[bytes], wanted: Callable[[Lead], bool], seal: Seal
) -> Purged:
    staying: list[bytes] = []
    unreadable = 0
    for line in lines:
        try:
            new_lead, _ = _read(line, seal)
        except (SealedError, ValueError, TypeError, KeyError):
            unreadable += 1
            staying.append(line)
        else:
            if not wanted(new_lead.lead):
                staying.append(line)
    if len(staying) < len(lines):
        _rewrite(file, staying)
    return Purged(len(lines) - len(staying), unreadable)


def _rewrite(file: Path, lines: Sequence[bytes]) -> None:
    """Put other lines in the file's place; the old ones are overwritten first."""
    if lines:
        # Under the same pattern, so that it is found again after a crash.
        aside = file.with_name(f"{file.name}.{os.urandom(4).hex()}")
        for line in lines:
            _append(aside, line.rstrip(b"\n"))
    with file.open("r+b") as old:
        old.write(bytes(file.stat().st_size))
        old.flush()
        os.fsync(old.fileno())
    file.unlink()


def _files(path: Path) -> list[Path]:
    """Set the present file aside, so that new lines go to another; return all."""
    if path.exists():
        aside = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        path.rename(aside)
    return sorted(path.parent.glob(f"{path.name}.*"))


def _line(new_lead: NewLead, held: str | None, seal: Seal) -> bytes:
    document = asdict(new_lead) | {"body_hash": None, "held": held}
    document["lead"]["metadata"] = _plain(new_lead.lead.metadata)
    line = jsontext.encode(document)
    return seal.close(line.decode(), SEALED_FOR).encode() if seal.on else line


def _plain(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if metadata is None else dict(metadata)


def _read(line: bytes, seal: Seal) -> tuple[NewLead, str | None]:
    document = jsontext.decode(seal.open(line.decode().rstrip("\n"), SEALED_FOR))
    held = document.pop("held")
    lead = document.pop("lead")
    lead |= {"mode": Mode(lead["mode"]), "notes": tuple(lead["notes"])}
    document["status"] = LeadStatus(document["status"])
    return NewLead(lead=Lead(**lead), **document), held
