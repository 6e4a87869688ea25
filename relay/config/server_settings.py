"""The settings of the server, each declared once: TLS, limits, alerts, logs."""

from __future__ import annotations

from dataclasses import dataclass

from relay.config import values
from relay.config.declaration import secret_list, setting
from relay.core import signing


@dataclass(frozen=True, kw_only=True, repr=False)
class ServerSettings:
    """Settings that stand in tables of TOML alone, behind those of leads."""

    tls_cert: str | None = setting(
        "tls.cert",
        values.text,
        unset="plain HTTP",
        example="/etc/relay/cert.pem",
        help="A file with the certificate and its chain, in PEM: the relay then"
        " speaks HTTPS. It is read again when it changes.",
    )
    tls_key: str | None = setting(
        "tls.key",
        values.text,
        unset="in the file of tls.cert",
        example="/etc/relay/key.pem",
        help="The file with the certificate's key.",
    )
    # Cookies and signed links grow beyond the 8190 bytes that others take.
    limits_line: int = setting(
        "limits.line",
        values.whole(1024, 65_536),
        16_384,
        help="Bytes in the longest request line that is accepted.",
    )
    limits_header: int = setting(
        "limits.header",
        values.whole(1024, 262_144),
        32_768,
        help="Bytes in the longest header field that is accepted.",
    )
    limits_headers: int = setting(
        "limits.headers",
        values.whole(16, 1000),
        128,
        help="How many header fields a request may have.",
    )
    limits_head: int = setting(
        "limits.head",
        values.whole(1024, 1_048_576),
        65_536,
        help="Bytes of a request's whole head, line and all headers together.",
    )
    limits_header_timeout: float = setting(
        "limits.header_timeout",
        values.duration_up_to(600),
        "10s",
        help="How long a request's head may take, from its first byte to its last.",
    )
    # What Apache's mod_reqtimeout asks for.
    limits_body_rate: int = setting(
        "limits.body_rate",
        values.whole(0, 1_000_000),
        500,
        help="Bytes a second that a request's body must bring at least; 0: any.",
    )
    limits_body_span: float = setting(
        "limits.body_span",
        values.duration_up_to(600),
        "10s",
        help="Over how long a body's speed is measured.",
    )
    limits_visitor_stall: float = setting(
        "limits.visitor_stall",
        values.duration_up_to(86_400),
        "60s",
        help="How long a visitor may read nothing of an answer that waits for it.",
    )
    # A balancer that nobody named in trusted_proxies holds every visitor's connection:
    # so many that it works all the same, and few enough for a process's files.
    limits_connections: int = setting(
        "limits.connections",
        values.whole(0, 1_000_000),
        512,
        help="Connections that one address may hold open (trusted proxies: any"
        " number); 0 means any number. 256 is good where visitors come directly.",
    )
    limits_signup_rate: int = setting(
        "limits.signup_rate",
        values.whole(0, 1_000_000),
        60,
        help="Sign-ups a minute of one address through the proxy whose leads go as any"
        " other's; of more, the leads go once no other lead is due. Sign-ups pass in"
        " any case; 0 means any number.",
    )
    # As nginx has it; aiohttp alone would keep one for an hour.
    limits_idle: float = setting(
        "limits.idle",
        values.duration_up_to(86_400),
        "75s",
        help="How long a visitor's connection is kept for the next request.",
    )
    limits_signup_copy: int = setting(
        "limits.signup_copy",
        values.whole(1024, 1_048_576),
        1_048_576,
        help="Bytes of a sign-up's body, and of its answer, that rules can look at"
        " (at most 1 MiB). A larger body passes all the same.",
    )
    limits_upstream_connect: float = setting(
        "limits.upstream_connect",
        values.duration_up_to(600),
        "10s",
        help="How long the site may take to accept a connection.",
    )
    limits_upstream_answer: float = setting(
        "limits.upstream_answer",
        values.duration_up_to(86_400),
        "60s",
        help="How long the site may take from the end of a request to its answer's"
        " head.",
    )
    limits_upstream_stall: float = setting(
        "limits.upstream_stall",
        values.duration_up_to(86_400),
        "5m",
        help="How long a body may stand still between the relay and the site."
        " Server-sent events may be silent.",
    )
    metrics_token: tuple[str, ...] = setting(
        "metrics.token",
        values.tokens,
        blank=(),
        unset="direct connections from private networks alone",
        example="a-long-random-text",
        secret=True,
        help="Bearer tokens, with commas between, that metrics asks for at the"
        " visitors' address. At RELAY_ADMIN_LISTEN it asks for none.",
    )
    # The path of a chat's webhook is all that guards it.
    alerts_url: str | None = setting(
        "alerts.url",
        values.webhook_url,
        unset="no alerts are sent",
        example="https://ops.example.com/dub-relay",
        secret=True,
        help="Where to post a signed message when leads park, a lead is rejected, the"
        " backlog grows old or the disk is nearly full, and when that is over.",
    )
    alerts_secret: tuple[bytes, ...] = secret_list(
        "alerts.secret",
        signing.parse_webhook_secrets,
        unset="none; alerts.url needs one",
        example="whsec_bm90IGEgc2VjcmV0LCBidXQgYW4gZXhhbXBsZQ==",
        help="Signs the alerts (Standard Webhooks): whsec_ and base64.",
    )
    alerts_backlog: float = setting(
        "alerts.backlog",
        values.duration,
        "15m",
        help="How old the oldest open lead may be before that is an alert.",
    )
    alerts_disk: int = setting(
        "alerts.disk",
        values.whole(0, 100),
        10,
        help="Percent of the disk that must be free, or that is an alert; 0: none.",
    )
    alerts_every: float = setting(
        "alerts.every",
        values.duration_up_to(3600),
        "15s",
        help="How often to look (at most 1 h).",
    )
    log_level: str = setting(
        "log.level",
        values.choice("debug", "info", "warning", "error"),
        "info",
        help="Which log lines are written: debug, info, warning or error.",
    )
    traces_export: str = setting(
        "traces.export",
        values.choice("off", "otlp"),
        "off",
        help="otlp sends OpenTelemetry traces to where OTEL_EXPORTER_OTLP_ENDPOINT"
        " says; needs the extra packages of dub-relay[otel].",
    )
