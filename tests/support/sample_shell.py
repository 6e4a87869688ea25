"""A shell for the samples of the documentation: it knows harmless programs alone.

The samples of a page are one session, as for whoever reads it from top to bottom: what
one block makes or exports is there in the next. Each section begins in the clone's
top folder. Placeholders are replaced, and so are the roots of absolute paths.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final

import pytest

from tests.support import sample_programs
from tests.support.harness import clean_environment
from tests.support.samples import TOP, Sample

REAL: Final = (
    *("bash", "cat", "chmod", "cp", "curl", "cut", "date", "env", "false", "grep"),
    *("gzip", "head", "install", "jq", "ln", "ls", "mkdir", "mktemp", "mv", "openssl"),
    *("pg_dump", "pg_restore", "psql", "rm", "sed", "sh", "sha256sum", "sleep", "sort"),
    *("sqlite3", "tail", "tar", "tee", "test", "touch", "tr", "true", "uniq", "wc"),
    *("xargs",),
)
"""Programs that are run as they are."""

CLONED: Final = (".ci", "Makefile", "deploy", "examples", "pyproject.toml")
"""What samples use of the clone, and may write into."""

START: Final = """set -euo pipefail
command_not_found_handle() {
  echo "$1: not a program of the samples' shell. If it is harmless, put it into REAL" \
    "of tests/support/sample_shell.py, else into STAND_INS of" \
    "tests/support/sample_programs.py." >&2
  return 127
}
kill() { :; }  # what was started has been ended already
trap 'code=$?; [ $code = 0 ] || echo "The sample at $at ended with $code" >&2' EXIT
"""
TYPED: Final = b"a password\n"
"""What a person types into a program that asks."""

WITHIN_S: Final = 120

_ROOTS: Final = re.compile(
    r"(?:(?<=sqlite:///)|(?<![\w./~$}-]))/(?=(?:backups|data|etc|opt|run|srv|var)\b)"
)


def filled_in(text: str, placeholders: Mapping[str, str]) -> str:
    """Give a text with values in the place of what the patterns find."""
    for pattern, value in placeholders.items():
        text = re.sub(pattern, value, text)
    return text


@dataclass
class Shell:
    """A folder with a clone, a root of a file system, and the programs."""

    folder: Path
    environ: dict[str, str]
    placeholders: Mapping[str, str]
    """Regular expressions, and what is put in the place of what they find."""
    database: Path
    """What lies wherever a sample expects a database or a backup."""
    programs: Path | None = None
    """Where to look for programs before the path: PostgreSQL's own."""
    clone: Path = field(init=False)
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.clone, self.root = self.folder / "dub-relay", self.folder / "root"
        for path in (self.clone, self.root / "backups", self.folder / "bin"):
            path.mkdir(parents=True)
        for name in CLONED:
            copy = shutil.copytree if (TOP / name).is_dir() else shutil.copy
            copy(TOP / name, self.clone / name)
        shutil.copy(self.database, self.clone / "relay.db")
        # An answer of 404 is no success of a sample.
        (self.root / ".curlrc").write_text("fail\nno-progress-meter\n")
        for name in (*REAL, *sample_programs.STAND_INS):
            self._put(name)

    def _put(self, name: str) -> None:
        places = f"{self.programs or ''}{os.pathsep}{os.environ['PATH']}"
        program = self.folder / "bin" / name
        found = shutil.which(name, path=places)
        if name in REAL and found is not None:
            program.symlink_to(found)
            return
        stands_in = f'exec {sys.executable} {sample_programs.__file__} {name} "$@"'
        program.write_text(f"#!/bin/sh\n{stands_in}\n")
        program.chmod(0o755)

    def filled_in(self, text: str) -> str:
        """Give a text with values in the place of placeholders, and with our roots."""
        text = filled_in(text, self.placeholders)
        return _ROOTS.sub(f"{self.root}/", text)

    def keep(self, sample: Sample) -> None:
        """Write the file that a reader makes of a sample."""
        assert sample.file is not None
        path = Path(self.filled_in(sample.file))
        path = path if path.is_absolute() else self.clone / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.filled_in(sample.text))

    async def run(self, blocks: Iterable[Sample]) -> tuple[int, str]:
        """Run a page's samples in one shell; the exit code, and all that they say.

        Without a program that they use, the test is skipped.
        """
        script = START
        for _, section in groupby(blocks, key=lambda sample: sample.section):
            script += f"cd {self.clone}\n"
            for sample in section:
                script += f"at={sample}\n{self._commands(sample)}\n"
        self._put_databases(script)
        process = await asyncio.create_subprocess_exec(
            *(str(self.folder / "bin" / "bash"), "-c", script + "wait\n"),
            cwd=self.clone,
            env=clean_environment() | self.environ | self._places(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await asyncio.wait_for(process.communicate(TYPED), WITHIN_S)
        assert process.returncode is not None
        said = out.decode()
        if process.returncode and sample_programs.NOT_HERE in said:
            pytest.skip(f"NOT EVERYTHING IS HERE: a page ended early: {said[-300:]}")
        return process.returncode, said

    def _places(self) -> dict[str, str]:
        return {
            "HOME": str(self.root),
            "PATH": str(self.folder / "bin"),
            "SAMPLES_BIN": str(self.folder / "bin"),
            "SAMPLES_PATH": os.environ["PATH"],
            "SAMPLES_CLONE": str(self.clone),
            "SAMPLES_ROOT": str(self.root),
        }

    def _put_databases(self, script: str) -> None:
        """Have one wherever the samples expect it, but where they make it."""
        for name in re.findall(
            r"(?:sqlite:///|restore (?:--\w+ )*)(\S+\.db)\b", script
        ):
            path = self.clone / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() and f"backup {name}" not in script:
                shutil.copy(self.database, path)

    def _commands(self, sample: Sample) -> str:
        """Fill in a block; what it leaves open must be known."""
        lines = sample.text.splitlines()
        if sample.language == "console":
            lines = [line[2:] for line in lines if line[:2] in ("$ ", "> ")]
        text = self.filled_in("\n".join(lines))
        code = re.sub(r"(^|\s)#.*", "", text)
        assert "…" not in code, (
            f"{sample}: what stands for the … of this sample? "
            "Say so in _placeholders of tests/integration/test_docs_samples.py."
            f"\n{code}"
        )
        return text
