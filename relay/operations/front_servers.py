"""Configurations of front servers that outlive the relay.

What matters to attribution goes through the relay, and around it to the site when the
relay does not answer. A request that the relay may have passed on already is not sent
to the site a second time, unless it is one that may be asked again (RFC 9110, 9.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from relay.config.settings import ConfigError, Settings
from relay.config.values import Listen
from relay.core.http.cookies import CLICK_PARAMETER
from relay.core.resources import templates_dir

TEMPLATES: Final = {
    "nginx": "nginx.conf",
    "caddy": "Caddyfile",
    "haproxy": "haproxy.cfg",
    "traefik": "traefik.yaml",
    "envoy": "envoy.yaml",
}

LOGS_BYPASSED: Final = frozenset({"nginx", "haproxy", "envoy"})
"""Those that can log a request's body."""

PROBE_S: Final = 1
"""Seconds in which the relay must say that it serves; it takes milliseconds."""

BEYOND_S: Final = 5
"""What a front server waits longer than the relay does, whose 504 explains itself."""

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class Server:
    """Where a front server connects to: ``host`` and ``port``, or a Unix socket."""

    host: str = ""
    port: int = 0
    tls: bool = False
    unix: str | None = None

    @property
    def address(self) -> str:
        """Return ``host:port``, an IPv6 host in brackets."""
        return str(Listen(self.host, self.port))

    @property
    def scheme(self) -> str:
        """Return the scheme that it is spoken to by."""
        return "https" if self.tls else "http"


def front_configuration(
    kind: str,
    settings: Settings,
    *,
    everything: bool = False,
    listen: Listen | None = None,
    bypass_log: str | None = None,
) -> str:
    """Write a front server's configuration; ``kind`` is one of :data:`TEMPLATES`.

    Raises ConfigError where the settings cannot be had from this server.
    """
    if not settings.upstream:
        raise ConfigError(
            "RELAY_UPSTREAM: is required: it is where the way around the relay leads"
        )
    if settings.upstream_host:
        raise ConfigError(
            "RELAY_UPSTREAM_HOST: the way around the relay would ask the site by the"
            " visitor's Host, which it does not know. Write this server's configuration"
            " by hand, or unset it."
        )
    relay, sites = _relay(settings), [_site(each) for each in settings.upstream]
    log = bypass_log or settings.bypass_log
    if bypass_log and kind not in LOGS_BYPASSED:
        raise ConfigError(f"--bypass-log: {kind} cannot log the body of a request")
    if kind == "traefik" and any(each.unix for each in (relay, *sites)):
        raise ConfigError("RELAY_LISTEN, RELAY_UPSTREAM: Traefik knows no Unix sockets")
    made = Environment(
        loader=FileSystemLoader(templates_dir() / "front"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - plain text
    )
    made.filters["whole"] = _whole
    return made.get_template(TEMPLATES[kind]).render(
        prefix=settings.prefix,
        relay=relay,
        sites=sites,
        alike=all(each.tls == relay.tls for each in sites),
        rules=settings.signup,
        methods="|".join(sorted({rule.method for rule in settings.signup})),
        click=CLICK_PARAMETER,
        everything=everything,
        listen=listen,
        bypass_log=log if kind in LOGS_BYPASSED and settings.signup else None,
        probe=f"{settings.prefix}/readyz?only=serving",
        probe_s=PROBE_S,
        answer_s=round(settings.limits_upstream_answer) + BEYOND_S,
        stall_s=round(settings.limits_upstream_stall) + BEYOND_S,
    )


def _whole(expression: str) -> str:
    """Return an expression that finds as one that must fit the whole path."""
    return expression.replace("^", "", 1) + ("" if expression.endswith("$") else ".*")


def what_is_missing(settings: Settings) -> str | None:
    """Say what the relay needs to believe a front server; None if it is there."""
    if settings.trusted_proxies or settings.listen.unix is not None:
        return None
    return (
        "RELAY_TRUSTED_PROXIES: is not set. Name this front server's address, or the"
        " relay takes it for the visitor."
    )


def _relay(settings: Settings) -> Server:
    at = settings.listen
    if at.unix is not None:
        return Server(unix=at.unix)
    host = _EVERYWHERE.get(at.host, at.host)
    return Server(host, at.port, settings.tls_cert is not None)


def _site(upstream: str) -> Server:
    if upstream.startswith("unix:"):
        return Server(unix=upstream.removeprefix("unix:"))
    url = urlsplit(upstream)
    tls = url.scheme == "https"
    return Server(url.hostname or "", url.port or (443 if tls else 80), tls)
