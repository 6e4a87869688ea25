"""OpenTelemetry traces of a real relay, as a collector gets them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pytest_aiohttp import AiohttpServer

from tests.support.harness import RelayProcess, SandboxDub, signed

pytestmark = pytest.mark.process

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

HOOK = {
    "eventName": "Sign Up",
    "customerExternalId": "u_CANARY",
    "customerEmail": "CANARY@example.com",
}


@dataclass
class Collector:
    """Takes what an OTLP exporter sends over HTTP."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    raw: list[bytes] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.raw.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for about in resource.resource.attributes:
                if about.key == "service.name":
                    self.services.add(about.value.string_value)
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return web.Response(content_type="application/x-protobuf")

    def named(self, name: str) -> Span:
        [span] = [span for span in self.spans if span.name == name]
        return span


@pytest.fixture
async def collector(aiohttp_server: AiohttpServer) -> Collector:
    made = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    server = await aiohttp_server(app, access_log=None, shutdown_timeout=0.2)
    made.url = f"http://127.0.0.1:{server.port}"
    return made


def attributes(span: Span) -> dict[str, object]:
    return {
        it.key: getattr(it.value, str(it.value.WhichOneof("value")))
        for it in span.attributes
    }


def tracing(folder: Path, collector: Collector, dub: str, **more: str) -> RelayProcess:
    return RelayProcess(
        folder,
        {
            "RELAY_TRACES_EXPORT": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "DUB_API_URL": dub,
            **more,
        },
    )


async def test_a_sign_up_and_its_delivery_by_another_process_are_one_trace(
    collector: Collector,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    taking = tracing(tmp_path, collector, dub.url)
    taking.arguments = ("--no-delivery",)
    await taking.start()
    headers, raw = signed(HOOK | {"clickId": await dub.click()})
    async with session.post(
        f"{taking.url}/_dub/hooks/signup",
        data=raw,
        headers=headers | {"traceparent": PARENT},
    ) as answer:
        lead = (await answer.json())["id"]
    assert await taking.stop() == 0

    sending = tracing(tmp_path, collector, dub.url)
    await sending.start()
    await sending.settled(1)
    assert await sending.stop() == 0

    request = collector.named("POST /_dub/hooks/signup")
    delivery = collector.named("deliver lead")
    prove = collector.named("POST /track/lead (prove)")
    record = collector.named("POST /track/lead (record)")
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert request.parent_span_id.hex() == "00f067aa0ba902b7"
    assert delivery.parent_span_id == request.span_id
    assert {prove.parent_span_id, record.parent_span_id} == {delivery.span_id}
    assert attributes(request)["dub_relay.lead"] == lead
    assert attributes(request)["http.response.status_code"] == 202
    assert attributes(record)["dub_relay.meaning"] == "taken"
    assert collector.services == {"dub-relay"}
    assert b"CANARY" not in b"".join(collector.raw)


async def test_a_proxied_sign_up_is_a_trace_of_its_own_and_other_posts_are_none(
    aiohttp_server: AiohttpServer,
    collector: Collector,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    async def site(_: web.Request) -> web.Response:
        return web.Response(text="welcome")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site)
    server = await aiohttp_server(app, access_log=None, shutdown_timeout=0.2)
    upstream = f"http://127.0.0.1:{server.port}"
    relay = tracing(tmp_path, collector, dub.url, RELAY_UPSTREAM=upstream)
    relay.config = '[[signup]]\npath = "/signup"\ncustomer_external_id = "form.email"\n'
    await relay.start()
    headers = {"Cookie": f"dub_id={await dub.click()}", "traceparent": PARENT}

    for path in ("/signup", "/search"):
        async with session.post(
            f"{relay.url}{path}", data={"email": "a@example.com"}, headers=headers
        ) as answer:
            assert answer.status == 200
    await relay.settled(1)
    assert await relay.stop() == 0

    request = collector.named("POST proxied")
    assert request.trace_id.hex() != TRACE
    assert collector.named("deliver lead").trace_id == request.trace_id


async def test_a_collector_that_is_gone_costs_no_lead(
    collector: Collector, dub: SandboxDub, tmp_path: Path
) -> None:
    relay = tracing(tmp_path, collector, dub.url, OTEL_EXPORTER_OTLP_TIMEOUT="1")
    relay.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    await relay.start()
    headers, raw = signed(HOOK | {"clickId": await dub.click()})
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{relay.url}/_dub/hooks/signup", data=raw, headers=headers
        ) as answer,
    ):
        assert answer.status == 202

    [lead] = await relay.settled(1)

    assert lead["status"] == "delivered"
    assert await relay.stop() == 0


def test_without_traces_nothing_of_opentelemetry_is_loaded(tmp_path: Path) -> None:
    program = (
        "import sys, relay.server.process, relay.app\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    out = subprocess.check_output([sys.executable, "-c", program], text=True)

    assert out == "[]\n"


async def test_traces_without_their_packages_are_a_wrong_setting(
    tmp_path: Path,
) -> None:
    relay = RelayProcess(tmp_path, {"RELAY_TRACES_EXPORT": "otlp"})
    # An environment without them: the first place to look holds a broken stand-in.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'opentelemetry'"
        " else find(name, *a)\n"
    )
    relay.environment["PYTHONPATH"] = str(tmp_path)

    code, out, err = await relay.run("serve")

    assert (code, out) == (2, "")
    assert "pip install 'dub-relay[otel]'" in err
