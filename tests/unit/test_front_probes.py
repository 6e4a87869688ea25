"""A probe of a front server is signed by the relay's secret, a minute ago at most."""

from __future__ import annotations

import pytest

from relay.core.http.front_probes import LIFE_S, FrontProbes, ProbeWish
from relay.core.http.tickets import issue

NOW = 1_800_000_000_000
SECRETS = ("a-secret-of-16-or-more",)
SIGNED = FrontProbes(SECRETS, lambda: NOW).sign(ProbeWish.AROUND)


def read(value: str | None, *, secret: str = SECRETS[0], after_s: int = 0) -> object:
    return FrontProbes((secret,), lambda: NOW + after_s * 1000).read(value)


def test_a_probe_says_what_it_asks() -> None:
    assert read(SIGNED) is ProbeWish.AROUND
    assert read(SIGNED, after_s=LIFE_S) is ProbeWish.AROUND


@pytest.mark.parametrize(
    "value", [None, "", "around", SIGNED[:-1], issue("around", SECRETS, NOW)]
)
def test_a_stranger_has_no_probe(value: str | None) -> None:
    """Nor one who has something else that the relay signed."""
    assert read(value) is None


def test_a_probe_of_another_secret_or_of_long_ago_is_none() -> None:
    assert read(SIGNED, secret="another-secret-of-16") is None
    assert read(SIGNED, after_s=LIFE_S + 2) is None
