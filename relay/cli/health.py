"""``dub-relay health``: asks the relay that runs here, for containers and scripts."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import Final

import click

from relay.cli.base import (
    FailedError,
    config_option,
    printable,
    read_settings,
)
from relay.config.settings import Settings

TIMEOUT_S: Final = 5.0
"""readyz commits something, which may take as long as a slow disk."""

_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound


@click.command()
@click.option(
    "--ready",
    is_flag=True,
    help="Whether it takes leads, not only whether it is alive.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def health(*, ready: bool, as_json: bool) -> None:
    """Ask the relay that these settings start; exit 1 if it is not well."""
    settings = read_settings(complete=False)
    path = f"{settings.prefix}/{'readyz' if ready else 'livez'}"
    try:
        status, said = _ask(settings, path)
    except OSError as error:
        raise FailedError(
            f"nothing answers at {settings.listen}: {error.strerror or error}"
        ) from error
    except http.client.HTTPException as error:
        raise FailedError(f"no relay answers at {settings.listen}") from error
    if status != http.HTTPStatus.OK:
        raise FailedError(printable(f"{path}: {_message(said)} ({status})"))
    click.echo(said.decode() if as_json else f"{path}: {json.loads(said)['status']}")


def _message(said: bytes) -> str:
    """Read an error of the relay's shape."""
    try:
        return str(json.loads(said)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "no answer of a relay's"


def _ask(settings: Settings, path: str) -> tuple[int, bytes]:
    listen = settings.listen
    connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT_S)
    if listen.unix is not None:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(TIMEOUT_S)
        connection.sock.connect(listen.unix)
    else:
        host = _ANYWHERE.get(listen.host, listen.host)
        connection.sock = socket.create_connection((host, listen.port), TIMEOUT_S)
    if settings.tls_cert is not None:
        # Itself, on this machine: its certificate names the site.
        trusting = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection.sock = trusting.wrap_socket(connection.sock)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(65_536)
    finally:
        connection.close()
