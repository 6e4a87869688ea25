"""What stands in, in the samples of the documentation, for programs that are not run.

A file of its own that a shell starts: the first word is the program's name. Each
looks at its words as far as it can be known here what is right, and ends with 1 and
a line that says what is wrong.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final, NoReturn

import yaml

START_S: Final = 30
"""A shared machine may be slow."""

NOT_HERE: Final = "is not installed on this machine"
"""Said for a program that this machine does not have: the page is skipped."""

ROOT = Path(os.environ.get("SAMPLES_ROOT", "."))
"""The folder that the samples take for the root of the file system."""

CLONE = Path(os.environ.get("SAMPLES_CLONE", "."))
"""The clone's top folder."""

VERBS: Final = ("build", "down", "exec", "logs", "ps", "pull", "restart", "run", "up")
"""Commands of Compose that name services."""

UNITS_OF_OTHERS: Final = {"caddy", "nginx", "postgresql"}


class WrongError(Exception):
    """A sample cannot be right; one line."""


def must(right: object, what: str) -> None:
    if not right:
        raise WrongError(what)


def files_behind(words: list[str], *options: str) -> list[Path]:
    """Give the files that options name; all must be there."""
    found = [Path(value) for name, value in pairwise(words) if name in options]
    for file in found:
        must(file.exists(), f"there is no {file}")
    return found


# The relay's own command is the real one. What runs until it is told to stop is
# told so as soon as it is up.


def dub_relay(words: list[str]) -> int:
    real = [sys.executable, "-m", "relay", *words]
    match words:
        case ["serve", *_]:
            return _serve(real)
        case ["sandbox", *_]:
            return _sandbox([*real, "--listen", "127.0.0.1:0"])
        case ["demo"]:
            return subprocess.run([*real, "--once"], check=False).returncode
        case ["restore", *more] if "--force" not in more:
            # Such a sample is for whoever has lost the database.
            database = os.environ.get("RELAY_DATABASE", "sqlite:///relay.db")
            Path(database.removeprefix("sqlite:///")).unlink(missing_ok=True)
    return subprocess.run(real, check=False).returncode


def _serve(command: list[str]) -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
        socket.create_server(("127.0.0.1", 0)) as free,
    ):
        told.bind(f"{folder}/notify")
        told.settimeout(0.1)
        address = "{}:{}".format(*free.getsockname())
        free.close()
        environ = {"NOTIFY_SOCKET": f"{folder}/notify", "RELAY_LISTEN": address}
        process = subprocess.Popen(command, env=os.environ | environ)
        try:
            while process.poll() is None and not _ready(told):
                pass
        finally:
            process.send_signal(signal.SIGTERM)
        return process.wait(START_S)


def _ready(told: socket.socket) -> bool:
    try:
        return b"READY=1" in told.recv(4096)
    except TimeoutError:
        return False


def _sandbox(command: list[str]) -> int:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    must(process.stdout.readline().startswith("sandbox: "), "no sandbox")
    process.send_signal(signal.SIGTERM)
    return process.wait(START_S)


# What stands in for others.


def make(words: list[str]) -> int:
    """Know the targets, and do nothing."""
    real = shutil.which("make", path=os.environ["SAMPLES_PATH"])
    if real is None:
        raise WrongError(NOT_HERE)
    return subprocess.run([real, "-n", *words], check=False).returncode


def pip(words: list[str]) -> None:
    """Find the folder, or the extra packages of ours, that are installed."""
    must(words[:1] == ["install"], "pip only installs here")
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    for word in words[1:]:
        name, _, extra = word.partition("[")
        if name == ".":
            must(Path("pyproject.toml").exists(), "this is not the clone's top")
        if name in {".", project["name"]} and extra:
            there = project["optional-dependencies"]
            must(extra.rstrip("]") in there, f"there is no extra {extra}")


def python(words: list[str]) -> int:
    """Make an environment of these programs, or be Python."""
    if words[:2] != ["-m", "venv"]:
        return subprocess.run([sys.executable, *words], check=False).returncode
    made = shutil.copytree(os.environ["SAMPLES_BIN"], Path(words[2]) / "bin")
    (made / "activate").touch()
    return 0


def inside(words: list[str]) -> int:
    """Run what would run in a container, if it is our command."""
    if not {"exec", "run"} & set(words) or "dub-relay" not in words[:-1]:
        return 0
    last = len(words) - words[::-1].index("dub-relay")
    return dub_relay(words[last:])


def docker(words: list[str]) -> int:
    """Find the files, and the services of the files of Compose."""
    files = files_behind(words, "-f", "--file", "--env-file")
    if words[:1] == ["build"]:
        must(Path(words[-1]).is_dir(), f"there is no {words[-1]}")
    if words[:1] != ["compose"]:
        return inside(words)
    files = files or [Path("compose.yaml")]
    documents = [yaml.safe_load(file.read_text()) for file in files]
    services = {name for it in documents for name in it.get("services", ())}
    verb = next((at for at, word in enumerate(words) if word in VERBS), 0)
    must(verb, f"none of the commands of Compose that are known here: {words}")
    for word in words[verb + 1 :]:
        name = word.partition("=")[0]  # --scale relay=2
        known = name in services or word.startswith("-") or word.isdigit()
        must(known, f"there is no service {name}")
        if words[verb] in {"exec", "run"} and name in services:
            break
    return inside(words)


def kubectl(words: list[str]) -> int:
    """Find the files, and the folders of kustomizations."""
    files_behind(words, "-f", "--filename")
    for folder in files_behind(words, "-k", "--kustomize"):
        must((folder / "kustomization.yaml").exists(), f"no kustomization in {folder}")
    texts = [it.read_text() for it in (CLONE / "deploy/kubernetes").glob("*.yaml")]
    for word in words:
        named = re.fullmatch(r"(?:deploy(?:ment)?|svc|service|hpa)/([\w-]+)", word)
        if named and not Path(word).exists():
            must(f"name: {named[1]}\n" in "".join(texts), f"nothing is named {word}")
    return inside(words)


def systemctl(words: list[str]) -> None:
    """Find the units, among those installed and ours."""
    for word in words[1:]:
        stem, _, kind = word.partition(".")
        unit = f"{stem}.{kind or 'service'}"
        folders = (ROOT / "etc/systemd/system", CLONE / "deploy/systemd")
        known = any((folder / unit).exists() for folder in folders)
        known = known or stem in UNITS_OF_OTHERS or word.startswith("-")
        must(known, f"there is no unit {unit}")


def journalctl(words: list[str]) -> None:
    systemctl(["show", *(b for a, b in pairwise(words) if a in ("-u", "--unit"))])


def chown(words: list[str]) -> None:
    """Find the files: who is not root may give nothing away."""
    for word in words[1:]:
        must(word.startswith("-") or Path(word).exists(), f"there is no {word}")


def sudo(words: list[str]) -> NoReturn:
    """Run the command, as whoever runs the tests."""
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] == "-u" else words[1:]
    os.execvp(words[0], words)  # noqa: S606 - its words are a sample's


def git(words: list[str]) -> None:
    """Clone what is here."""
    must(words[:1] == ["clone"], "git only clones here")
    address = next(word for word in words[1:] if "://" in word or word[:4] == "git@")
    name = words[-1] if words[-1] != address else address.rpartition("/")[2]
    Path(name.removesuffix(".git")).symlink_to(CLONE)


def npm(words: list[str]) -> None:
    """Find the script that is run."""
    if words[:1] in (["run"], ["start"]):
        must(f'"{words[-1]}":' in Path("package.json").read_text(), f"no {words[-1]}")


def nothing(_: list[str]) -> None:
    """Take any words: they install another's package."""


STAND_INS: Final[dict[str, Callable[[list[str]], int | None]]] = {
    "dub-relay": dub_relay,
    "make": make,
    "pip": pip,
    "pipx": pip,
    "python": python,
    "python3": python,
    "docker": docker,
    "podman": docker,
    "kubectl": kubectl,
    "systemctl": systemctl,
    "journalctl": journalctl,
    "chown": chown,
    "sudo": sudo,
    "git": git,
    "npm": npm,
    "apt-get": nothing,
    "useradd": nothing,
}


def main(name: str, words: list[str]) -> int:
    if name not in STAND_INS:
        sys.stderr.write(f"{name} {NOT_HERE}\n")
        return 127
    try:
        return STAND_INS[name](words) or 0
    except WrongError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
