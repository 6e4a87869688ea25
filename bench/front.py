"""What a front server of `dub-relay front nginx` costs the site's own pages.

The same nginx twice, on one core: once as a plain reverse proxy of the site, once with
the configuration that sends only what matters through a relay. wrk asks them for pages
in interleaved rounds whose order is reversed every other time; the site and wrk are on
the other core. The relay runs, and is not asked for any of these pages.

Then the visits of a typical site go through the second nginx, and its log says which of
their requests it sent to the relay.

    python bench/front.py [--rounds 9] [--seconds 2] [--connections 64]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import proxy
from proxy import FAST_RELAY, FETCHED, NGINX, Row, relay_env

RELAY, ALONE, FRONT = proxy.SITE_PORT + 1, proxy.SITE_PORT + 2, proxy.SITE_PORT + 3
COUNTED = proxy.SITE_PORT + 4
ACCESS = """
  log_format way '$upstream_addr'; access_log {folder}/way.log way if=$http_x_visit;
"""
RULES = """
[[signup]]
path = "/signup"
customer_external_id = "form.email"
"""

VISITORS = 20
PARTNERS = 2
"""Visitors who come by a partner's link, of :data:`VISITORS`."""
SIGNUPS = 1
PAGES, FILES = 3, 10
"""Pages of a visit, and files of each page: none is cached, as for new visitors."""
FORM_VIEWS = 3


def main() -> None:
    options = parse()
    os.environ["PATH"] += f":{FETCHED}/sbin:{FETCHED}/bin"
    with tempfile.TemporaryDirectory() as name, proxy.site(Path(name)):
        folder = Path(name)
        (folder / "relay.toml").write_text(RULES)
        rows = [alone(folder), front(folder)]
        with contextlib.ExitStack() as stack:
            stack.enter_context(proxy.started(relay(folder)))
            ran = {row.name: stack.enter_context(proxy.started(row)) for row in rows}
            seen: dict[str, list[proxy.Figures]] = {row.name: [] for row in rows}
            for row in rows:
                proxy.wrk(row.port, None, 1, options.connections)  # warm
            for turn in range(options.rounds):
                for row in rows if turn % 2 == 0 else reversed(rows):
                    figures = proxy.measure(
                        row, ran[row.name], options.seconds, options.connections
                    )
                    seen[row.name].append(figures)
                print(f"round {turn + 1} of {options.rounds}", flush=True)
            report(seen)
            stack.enter_context(proxy.started(front(folder, counted=True)))
            show_share(Counter(visited(folder)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=64)
    return parser.parse_args()


def relay(folder: Path) -> Row:
    command = [sys.executable, *FAST_RELAY, "serve", "--no-delivery"]
    command += ["--config", str(folder / "relay.toml")]
    return Row("relay", command, RELAY, environment(folder))


def environment(folder: Path) -> dict[str, str]:
    return relay_env(folder, RELAY) | {"RELAY_TRUSTED_PROXIES": "127.0.0.1"}


def alone(folder: Path) -> Row:
    conf = folder / "alone.conf"
    conf.write_text(NGINX.format(folder=folder, port=ALONE, site=proxy.SITE_PORT))
    return Row("alone", ["nginx", "-c", str(conf)], ALONE, {})


def front(folder: Path, *, counted: bool = False) -> Row:
    """Nginx with what the command writes, in the place of the plain one's server."""
    port = COUNTED if counted else FRONT
    name = "counted" if counted else "front"
    written = subprocess.run(
        [
            *(sys.executable, "-m", "relay", "front", "nginx"),
            *("--listen", f"127.0.0.1:{port}", "--config", str(folder / "relay.toml")),
        ],
        env=os.environ | environment(folder),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    (folder / f"{name}-site.conf").write_text(written)
    http = NGINX.format(folder=folder, port=port, site=proxy.SITE_PORT)
    before = http[: http.index("  upstream site")].replace("proxy.pid", f"{name}.pid")
    if counted:
        before = before.replace("access_log off;", ACCESS.format(folder=folder))
    conf = folder / f"{name}.conf"
    conf.write_text(f"{before} include {folder}/{name}-site.conf; }}")
    return Row(name, ["nginx", "-c", str(conf)], port, {})


def report(seen: dict[str, list[proxy.Figures]]) -> None:
    for name, figures in seen.items():
        rate = statistics.median(each.rate for each in figures)
        cpu = statistics.median(each.cpu for each in figures)
        print(f"{name:8} {rate:10,.0f} requests/s {cpu:6.1f} us of CPU a request")
    loads = proxy.Loads(seen, {})
    print(f"front / alone: {proxy.ratio(loads, 'front', 'alone')} of the requests/s")
    print(f"  {proxy.ratio(loads, 'front', 'alone', cpu=True)} of the CPU a request")


def visits() -> Iterator[tuple[str, str]]:
    """The requests of a typical site's visitors: method and target."""
    for visitor in range(VISITORS):
        for page in range(PAGES):
            click = "?dub_id=hQWlMnb8pKc2Zt5R"
            landed = page == 0 and visitor < PARTNERS
            yield "GET", f"/page-{page}{click if landed else ''}"
            # The relay's script is cached after the first page.
            files = FILES - 1 if page == 0 else FILES
            yield from (("GET", f"/assets/{page}-{file}.js") for file in range(files))
            if page == 0:
                yield "GET", "/_dub/script.js"
    yield from (("GET", "/signup") for _ in range(FORM_VIEWS))
    yield from (("POST", "/signup") for _ in range(SIGNUPS))


def visited(folder: Path) -> Iterator[str]:
    """Make the visits; yield whom nginx asked for each of them."""
    all_visits = list(visits())
    for method, target in all_visits:
        data = b"email=ada%40example.com" if method == "POST" else None
        url = f"http://127.0.0.1:{COUNTED}{target}"
        asked = urllib.request.Request(url, data, {"X-Visit": "1"})
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(asked).close()
    # nginx logs a request once it was answered.
    while len(lines := (folder / "way.log").read_text().splitlines()) < len(all_visits):
        time.sleep(0.05)
    # The last of a request's servers; the question before it is the relay's own.
    yield from ("relay" if line.endswith(f":{RELAY}") else "site" for line in lines)


def show_share(counts: Counter[str]) -> None:
    whole = counts.total()
    own = counts["relay"] - VISITORS
    print(
        f"a typical site: {counts['relay']} of {whole} requests go to the relay,"
        f" {counts['relay'] / whole:.1%}; {VISITORS} of them are its script,"
        f" {own / whole:.1%} are the site's own"
    )


if __name__ == "__main__":
    main()
