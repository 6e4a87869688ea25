"""The wheel, built, installed into a fresh environment, and run from elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

TOP: Final = Path(__file__).resolve().parents[2]

PATIENCE_S: Final = 30.0
"""How long a fresh process may take to listen on a busy machine."""


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """Run a command that must pass; give what it printed."""
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean_environment() | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
    return ran.stdout


def clean_environment() -> dict[str, str]:
    """No settings of a relay, and nothing that leads Python back to the clone."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RELAY_", "DUB_", "PYTHON", "VIRTUAL_ENV"))
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
    run(*build, "--outdir", folder, cwd=TOP)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts' folder of a fresh environment with the wheel in it."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=TOP)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--no-cache-dir")
    run(*pip, "install", "--quiet", wheel, cwd=environment)
    return environment / "bin"


@contextmanager
def running(
    *command: str | Path, cwd: Path, **environ: str
) -> Iterator[subprocess.Popen[str]]:
    """A process with its output in a pipe; killed only if the test fails."""
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env=clean_environment() | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def address(process: subprocess.Popen[str]) -> str:
    """Wait for the line in which the process says where it listens."""
    assert process.stdout is not None
    for line in process.stdout:
        if "http://127.0.0.1:" in line:
            port = line.split("http://127.0.0.1:")[1]
            digits = "".join(c if c.isdigit() else " " for c in port).split()
            return f"http://127.0.0.1:{digits[0]}"
    raise AssertionError("it ended without listening")


def get(url: str) -> tuple[int, str]:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
        return answer.status, answer.read().decode()


def stop(process: subprocess.Popen[str]) -> int:
    """Ask the process to end, as a service manager does; its exit code."""
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    return process.returncode


def test_served_files_and_pages_are_inside(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())

    for folder in ("static", "templates"):
        files = [path for path in (TOP / folder).rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert f"relay/{path.relative_to(TOP)}" in inside
    assert "relay/py.typed" in inside
    assert not any(name.startswith(("tests/", "bench/")) for name in inside)


def test_the_licence_goes_along(wheel: Path) -> None:
    inside = zipfile.ZipFile(wheel).namelist()

    assert "dub_relay-0.1.0.dist-info/licenses/LICENSE" in inside


def test_the_command_is_there_under_both_names(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "dub-relay", "version", cwd=tmp_path) == "dub-relay 0.1.0\n"
    module = (installed / "python", "-m", "relay", "version")
    assert run(*module, cwd=tmp_path) == "dub-relay 0.1.0\n"


def test_resources_are_found_inside_the_installed_package(
    installed: Path, tmp_path: Path
) -> None:
    code = (
        "from relay.core.resources import static_dir, templates_dir;"
        "print(static_dir(), templates_dir())"
    )

    static, templates = run(installed / "python", "-c", code, cwd=tmp_path).split()

    assert str(TOP) not in static + templates
    assert static.endswith("/relay/static")
    assert templates.endswith("/relay/templates")


def test_the_relay_serves_from_another_folder_and_stops(
    installed: Path, tmp_path: Path
) -> None:
    settings = {
        "DUB_API_KEY": "dub_test_key",
        "DUB_API_URL": "http://127.0.0.1:9",
        "RELAY_SECRET": "a-secret-for-tests-only",
        "RELAY_LISTEN": "127.0.0.1:0",
    }

    with running(installed / "dub-relay", "serve", cwd=tmp_path, **settings) as process:
        url = address(process)
        assert get(f"{url}/_dub/livez")[0] == 200
        assert get(f"{url}/_dub/readyz")[0] == 200
        status, snippet = get(f"{url}/_dub/script.js")
        assert (status, "dub_id" in snippet) == (200, True)
        assert stop(process) == 0
    assert (tmp_path / "relay.db").exists()


def test_the_sandbox_runs_from_another_folder_and_stops(
    installed: Path, tmp_path: Path
) -> None:
    listen = ("--listen", "127.0.0.1:0")

    with running(installed / "dub-relay", "sandbox", *listen, cwd=tmp_path) as process:
        status, page = get(address(process))
        assert (status, "<html" in page.lower()) == (200, True)
        assert stop(process) == 0
