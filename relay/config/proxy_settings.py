"""The rows of the table of settings that concern the reverse proxy alone."""

from __future__ import annotations

from typing import Final

from relay.config import values
from relay.config.row import Setting

PROXY_SETTINGS: Final = (
    Setting(
        name="tls_cert",
        env="RELAY_TLS_CERT",
        toml="tls.cert",
        parse=values.text,
        unset="plain HTTP",
        example="/etc/relay/cert.pem",
        help=(
            "A file with the certificate and its chain, in PEM: the relay then"
            " speaks HTTPS. It is read again when it changes."
        ),
    ),
    Setting(
        name="tls_key",
        env="RELAY_TLS_KEY",
        toml="tls.key",
        parse=values.text,
        unset="in the file of tls.cert",
        example="/etc/relay/key.pem",
        help="The file with the certificate's key.",
    ),
    Setting(
        name="limits_line",
        env="RELAY_LIMITS_LINE",
        toml="limits.line",
        # Cookies and signed links grow beyond the 8190 bytes that others take.
        parse=values.whole(1024, 65_536),
        default=16_384,
        help="Bytes in the longest request line that is taken.",
    ),
    Setting(
        name="limits_header",
        env="RELAY_LIMITS_HEADER",
        toml="limits.header",
        parse=values.whole(1024, 262_144),
        default=32_768,
        help="Bytes in the longest header field that is taken.",
    ),
    Setting(
        name="limits_headers",
        env="RELAY_LIMITS_HEADERS",
        toml="limits.headers",
        parse=values.whole(16, 1000),
        default=128,
        help="How many header fields a request may have.",
    ),
    Setting(
        name="limits_header_timeout",
        env="RELAY_LIMITS_HEADER_TIMEOUT",
        toml="limits.header_timeout",
        parse=values.duration_up_to(600),
        default="10s",
        help="How long a request's head may take, from its first byte to its last.",
    ),
    Setting(
        name="limits_body_rate",
        env="RELAY_LIMITS_BODY_RATE",
        toml="limits.body_rate",
        # What Apache's mod_reqtimeout asks for.
        parse=values.whole(0, 1_000_000),
        default=500,
        help="Bytes a second that a request's body must bring at least; 0: any.",
    ),
    Setting(
        name="limits_body_span",
        env="RELAY_LIMITS_BODY_SPAN",
        toml="limits.body_span",
        parse=values.duration_up_to(600),
        default="10s",
        help="Over how long a body's speed is measured.",
    ),
    Setting(
        name="limits_connections",
        env="RELAY_LIMITS_CONNECTIONS",
        toml="limits.connections",
        # Off unless asked for: a balancer that nobody named in trusted_proxies
        # holds every visitor's connection, and sign-ups must not break on that.
        parse=values.whole(0, 1_000_000),
        default=0,
        help=(
            "Connections that one address may hold open (trusted proxies: any"
            " number); 0 means any number. 256 is good where visitors come directly."
        ),
    ),
    Setting(
        name="limits_idle",
        env="RELAY_LIMITS_IDLE",
        toml="limits.idle",
        # As nginx has it; aiohttp alone would keep one for an hour.
        parse=values.duration_up_to(86_400),
        default="75s",
        help="How long a visitor's connection is kept for the next request.",
    ),
    Setting(
        name="limits_signup_copy",
        env="RELAY_LIMITS_SIGNUP_COPY",
        toml="limits.signup_copy",
        parse=values.whole(1024, 1_048_576),
        default=1_048_576,
        help=(
            "Bytes of a sign-up's body, and of its answer, that rules can look at"
            " (at most 1 MiB). A larger body passes all the same."
        ),
    ),
    Setting(
        name="limits_upstream_connect",
        env="RELAY_LIMITS_UPSTREAM_CONNECT",
        toml="limits.upstream_connect",
        parse=values.duration_up_to(600),
        default="10s",
        help="How long the site may take to accept a connection.",
    ),
    Setting(
        name="limits_upstream_answer",
        env="RELAY_LIMITS_UPSTREAM_ANSWER",
        toml="limits.upstream_answer",
        parse=values.duration_up_to(86_400),
        default="60s",
        help=(
            "How long the site may take from the end of a request to its answer's head."
        ),
    ),
    Setting(
        name="limits_upstream_stall",
        env="RELAY_LIMITS_UPSTREAM_STALL",
        toml="limits.upstream_stall",
        parse=values.duration_up_to(86_400),
        default="5m",
        help=(
            "How long a body may stand still between the relay and the site."
            " Server-sent events may be silent."
        ),
    ),
)
"""Two tables of TOML: ``tls`` and ``limits``."""
