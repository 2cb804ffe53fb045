#!/usr/bin/env python3
"""Evaluates every query of the dashboard by a real Prometheus over a live server under load: dashboard.py PROGRAM

A query without a result is an error, and so is a rule of docker/prometheus-rules.yml that Prometheus cannot evaluate. With
--picture FILE it draws the panels as Grafana lays them out (needs matplotlib; `make dashboard`).

The load is one of a busy day in short: clients with keys that label known and new pictures with known and new names, wrong
requests, more at once than there is room for, images that are held, and a named vocabulary. Needs Prometheus
(Debian's package) and Python 3.10. Without redis-server, the queries of the shared state are left out.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import math
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools" / "reliability"))
from keys import server_with_keys  # noqa: E402
from server import Server  # noqa: E402

DASHBOARD = REPOSITORY / "docker" / "grafana" / "dashboards" / "maskclip.json"
RULES = REPOSITORY / "docker" / "prometheus-rules.yml"
CLASSES = ["tiger", "lemon", "hamburger", "penguin", "strawberry", "sunflower"]
SCRAPE_SECONDS = 1
RATE_INTERVAL = "8s"
START_SECONDS = 60
LEAST_ANSWERED = 20
MOST_SECONDS = 300
"""Beyond the seconds that were asked for, until so many segmentations are answered."""


class Prometheus:
    """A Prometheus that scrapes the server every second."""

    def __init__(self, server: Server, key: str, folder: Path) -> None:
        (folder / "key").write_text(key)
        config = {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": "2s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{
                "job_name": "maskclip",
                "authorization": {"credentials_file": str(folder / "key")},
                "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}],
            }],
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self.log = folder / "prometheus.log"
        self.port = free_port()
        command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                   f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Prometheus did not start: {self.log.read_text()}")
            time.sleep(0.1)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as reply:
                return reply.status == 200
        except OSError:
            return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def ask(self, path: str, **parameters: str) -> dict:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            return json.load(reply)["data"]

    def series(self, query: str, start: float, end: float) -> list[dict]:
        """The series of a query over a span, each with its labels and its finite values by time."""
        found = self.ask("query_range", query=query, start=f"{start}", end=f"{end}", step=f"{SCRAPE_SECONDS}")["result"]
        series = []
        for one in found:
            values = [(float(at) - start, float(value)) for at, value in one["values"]]
            finite = [(at, value) for at, value in values if math.isfinite(value)]
            if finite:
                series.append({"labels": one["metric"], "values": finite})
        return series


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Load:
    """What clients do, each on a thread of its own, until the end."""

    def __init__(self, server: Server, keys: dict[str, str]) -> None:
        self.url, self.keys = f"http://127.0.0.1:{server.port}", keys
        scenes = sorted((REPOSITORY / "examples" / "scenes" / "in-style").glob("*.png"))
        self.pictures = [base64.b64encode(path.read_bytes()).decode() for path in scenes]
        self.is_over = threading.Event()
        self.numbers = itertools.count()
        self.answered = 0

    def send(self, key: str, path: str, body: object, method: str = "POST") -> int:
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.keys[key]}"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                reply.read()
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code

    def label(self, key: str, picture: int, classes: list[str]) -> int:
        status = self.send(key, "/v1/segment", {"image": self.pictures[picture % len(self.pictures)], "classes": classes})
        self.answered += status == 200
        return status

    def known(self) -> None:
        self.label("alice", next(self.numbers) % 8, CLASSES)

    def new(self) -> None:
        number = next(self.numbers)
        self.label("bob", number, [*CLASSES, f"thing number {number}"])
        time.sleep(0.2)

    def wrong(self) -> None:
        self.label("bob", 0, [])
        self.send("alice", "/v1/images", {"image": self.pictures[next(self.numbers) % len(self.pictures)]})
        self.send("alice", "/v1/vocabularies/fruit", {"classes": CLASSES}, "PUT")
        time.sleep(0.5)

    def crowd(self) -> None:
        """More at once than there is room for, for a moment."""
        time.sleep(4)
        threads = [threading.Thread(target=self.label, args=("alice", number, CLASSES)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def run(self, seconds: float) -> None:
        def again(work: Callable[[], None]) -> None:
            while not self.is_over.is_set():
                work()

        jobs = [self.known, self.new, self.wrong, self.crowd]
        threads = [threading.Thread(target=again, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        # A machine that is busy with other work needs longer until there is something to see.
        end = time.monotonic() + MOST_SECONDS
        while self.answered < LEAST_ANSWERED and time.monotonic() < end:
            time.sleep(0.5)
        self.is_over.set()
        for thread in threads:
            thread.join()


def evaluate(program: Path, seconds: float) -> tuple[list[dict], list[str]]:
    """The panels with the series of their queries, and what is wrong."""
    dashboard = json.loads(DASHBOARD.read_text())
    errors = []
    with tempfile.TemporaryDirectory(prefix="maskclip-monitoring-") as folder, under_load(program, Path(folder), seconds) as found:
        prometheus, start, end = found
        for variable in dashboard["templating"]["list"]:
            metric = variable["query"]["query"].removeprefix("label_values(").partition(",")[0]
            if not prometheus.series(metric, start, end):
                errors.append(f"the variable {variable['name']} has no values")
        for panel in dashboard["panels"]:
            if not shutil.which("redis-server"):
                panel["targets"] = [target for target in panel["targets"] if "maskclip_shared_" not in target["expr"]]
            for target in panel["targets"]:
                query = target["expr"].replace("$instance", ".*").replace("$__rate_interval", RATE_INTERVAL)
                target["series"] = prometheus.series(query, start, end)
                if not target["series"]:
                    errors.append(f"{panel['title']}: {target['expr']} has no result")
        for group in prometheus.ask("rules")["groups"]:
            errors += [f"{rule['name']}: {rule.get('lastError')}" for rule in group["rules"] if rule["health"] != "ok"]
    return dashboard["panels"], errors


@contextmanager
def shared_state(folder: Path) -> Iterator[dict[str, str]]:
    """A Redis, as a setting of the server; no setting where there is no redis-server."""
    if not shutil.which("redis-server"):
        print("there is no redis-server here: the queries of the shared state are not evaluated")
        yield {}
        return
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", f"{port}", "--save", "", "--dir", f"{folder}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield {"SHARED__URL": f"redis://127.0.0.1:{port}"}
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def under_load(program: Path, folder: Path, seconds: float):
    names = ["alice", "bob", "prometheus"]
    settings = {"scopes": "use,vocabularies,metrics", "ENGINE__QUEUE_CAPACITY": "4"}
    with shared_state(folder) as more, server_with_keys(program, *names, **settings, **more) as (server, keys):
        by_name = dict(zip(names, keys, strict=True))
        prometheus = Prometheus(server, by_name["prometheus"], folder)
        try:
            start = time.time()
            Load(server, by_name).run(seconds)
            time.sleep(2 * SCRAPE_SECONDS)
            yield prometheus, start, time.time()
        finally:
            prometheus.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--seconds", type=float, default=25, help="how long the load lasts (default: 25)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the panels into this PNG")
    chosen = parser.parse_args()
    if not shutil.which("prometheus"):
        print("there is no Prometheus here (Debian's package prometheus): the dashboard's queries are not evaluated")
        return 0
    panels, errors = evaluate(chosen.program.resolve(), chosen.seconds)
    if chosen.picture:
        from picture import draw

        draw(panels, chosen.seconds, chosen.picture)
    queries = sum(len(panel["targets"]) for panel in panels)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    print(f"{len(panels)} panels, {queries} queries, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
