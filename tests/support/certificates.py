"""Certificates for tests that speak TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for a host; return its file and its key's."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        f" -subj /CN={name} -addext subjectAltName=DNS:{name}"
        f" -keyout {key}.new -out {cert}.new"
    )
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed: no certificate to test with")
    # As those who renew certificates do: never half a file.
    Path(f"{key}.new").replace(key)
    Path(f"{cert}.new").replace(cert)
    return cert, key
