"""The server in its container, with the options that people use. `make test-container` builds IMAGE and runs this."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import threading
import time
import unittest
from pathlib import Path

import containers
from containers import AT_LAST, REPOSITORY, Container, docker, get, is_ready, metric, post_image, readme_curl, send, until, volume

IMAGE = os.environ["IMAGE"]
MOST_BYTES = 600e6
"""Of the image, unpacked."""
HARDENED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "123456:0"]
OFTEN = ["--health-interval", "1s", "--health-retries", "2", "--health-start-period", "2m"]
"""The health check as it is, but asked more often."""


def started(*options: str, command: tuple[str, ...] = ()) -> contextlib.AbstractContextManager[Container]:
    return containers.started(IMAGE, "--no-healthcheck", *options, command=command)


class ContainerTest(unittest.TestCase):
    def assert_labels(self, reply: dict) -> None:
        names = [entry["name"] for entry in reply["classes"]]
        self.assertEqual(names[:2], ["tiger", "lemon"], reply)
        self.assertGreater(reply["classes"][0]["pixels"], 0)
        self.assertGreater(len(reply["label_map"]["data"]), 100)

    def test_the_image_is_small_and_says_what_it_is(self) -> None:
        image = json.loads(docker("image", "inspect", IMAGE))[0]
        config = image["Config"]
        print(f"\nimage: {image['Size'] / 1e6:.0f} MB, {len(image['RootFS']['Layers'])} layers")
        whole = docker("run", "--rm", IMAGE, "--version")
        if "commit unknown" not in whole:  # else it is a build for tests, which is larger
            self.assertLess(image["Size"], MOST_BYTES)
        self.assertEqual(config["User"], "10001:0")
        self.assertEqual(list(config["Volumes"]), ["/var/lib/maskclip"])
        self.assertEqual(config["Healthcheck"]["Test"], ["CMD", "maskclip", "health"])
        labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
        self.assertEqual((labels["version"], labels["licenses"]), (whole.split()[1], "Apache-2.0"))
        self.assertTrue(labels["title"] and labels["description"])
        # What a build has that names no version.
        self.assertIn(f"ARG VERSION={labels['version']}\n", (REPOSITORY / "docker" / "Dockerfile").read_text())
        bill = json.loads(docker("run", "--rm", "--entrypoint", "cat", IMAGE, "/opt/maskclip/sbom.cdx.json"))
        self.assertLessEqual({"axum", "torch", "nvidia-cuda-runtime"}, {component["name"] for component in bill["components"]})

    def test_as_documented_it_answers_the_readmes_request(self) -> None:
        begun = time.monotonic()
        with started("--publish", "127.0.0.1:0:8080") as container:
            address = container.published()
            until("it listens", lambda: is_ready(address))
            print(f"\nready {time.monotonic() - begun:.1f} s after docker run")
            self.assert_labels(readme_curl(address))

    def test_hardened_it_answers_and_keeps_vocabularies(self) -> None:
        with started(*HARDENED) as container:
            container.until_ready()
            self.assert_labels(readme_curl(container.address()))
            self.assertTrue(json.loads(get(f"{container.address()}/v1/vocabularies"))["durable"])
            status = Path(f"/proc/{container.state()['Pid']}/status").read_text()
            self.assertIn("Uid:\t123456", status)
            self.assertIn("CapEff:\t0000000000000000", status)

    def test_without_a_network_it_answers_on_its_own_loopback(self) -> None:
        with started("--network", "none") as container:
            container.until_ready()
            inside = ("nsenter", "--net", "--target", str(container.state()["Pid"]))
            self.assert_labels(readme_curl("http://127.0.0.1:8080", inside))

    def test_the_limit_of_memory_is_obeyed(self) -> None:
        with started("--memory", "1g", "--memory-swap", "1g") as container:
            container.until_ready()
            address = container.address()
            self.assertEqual(metric(address, "maskclip_memory_limit_bytes"), 1 << 30)
            self.assertLessEqual(metric(address, "maskclip_memory_expected_bytes"), 1 << 30)
            self.assertIn("so they are lowered", container.logs())
            self.assert_labels(readme_curl(address))
            self.assertFalse(container.state()["OOMKilled"])
        with started("--memory", "512m", "--memory-swap", "512m") as container:
            self.assertEqual(container.end(), 1)
            self.assertIn("and there are 537: lower the largest of these keys", container.logs())
            self.assertFalse(container.state()["OOMKilled"])

    def test_the_quota_of_processors_is_obeyed(self) -> None:
        if (os.cpu_count() or 1) < 2:
            self.skipTest("needs two processors")
        counted = {}
        for cpus in ("1.5", "2"):
            with started("--cpus", cpus) as container:
                container.until_ready()
                address = container.address()
                readme_curl(address)
                begun = time.monotonic()
                for _ in range(5):
                    readme_curl(address)
                counted[cpus] = len(container.threads())
                seconds = (time.monotonic() - begun) / 5
                print(f"\n--cpus {cpus}: {counted[cpus]} threads, {seconds:.2f} s for the README's request")
        self.assertLess(counted["1.5"], counted["2"])

    def test_weights_come_from_a_volume(self) -> None:
        models = ["--volume", f"{REPOSITORY}/models:/models:ro"]
        with started(*HARDENED, *models, command=("serve", "--model", "/models/demo")) as container:
            container.until_ready()
            self.assert_labels(readme_curl(container.address()))

    def test_what_cannot_be_written_is_named_by_its_setting(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            mine = ["--volume", f"{folder}:/var/lib/maskclip", "--user", "123456:123456"]
            with started(*mine) as container:
                self.assertEqual(container.end(), 1)
                self.assertIn("vocabulary.store_path", container.logs())
            with started(*mine, command=("fetch", "RN50")) as container:
                self.assertEqual(container.end(), 1)
                self.assertIn("model.folder", container.logs())

    def test_stopped_under_load_it_answers_what_it_has_accepted(self) -> None:
        clients = 8
        with started("--env", "MASKCLIP_SERVER__DRAIN_SECONDS=100") as container:
            container.until_ready()
            address = container.address()
            picture = (REPOSITORY / "examples" / "picnic.png").read_bytes()
            answers: list[int] = []

            def ask(client: int) -> None:
                classes = [f"thing {client} {number}" for number in range(5)]
                answers.append(post_image(f"{address}/v1/segment", picture, classes))

            threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
            for thread in threads:
                thread.start()
            until("all are under way", lambda: metric(address, "maskclip_requests_in_flight") == clients or answers)
            self.assertEqual(answers, [], "the requests are too small for this test")
            docker("stop", "--time", "110", container.name)
            for thread in threads:
                thread.join(AT_LAST)
            self.assertEqual(answers, [200] * clients)
            self.assertEqual(container.end(), 0)

    def test_vocabularies_outlive_the_container(self) -> None:
        with volume() as state:
            mounted = ["--volume", f"{state}:/var/lib/maskclip"]
            with started(*HARDENED, *mounted) as container:
                container.until_ready()
                put = send(f"{container.address()}/v1/vocabularies/fruit", {"classes": ["lemon", "cherry"]}, "PUT")
                self.assertIn(put[0], (200, 201, 202))
                docker("stop", container.name)
                self.assertEqual(container.end(), 0)
            # Another user of the same group, who adds one for a third.
            with started("--read-only", "--user", "654321:0", *mounted) as container:
                container.until_ready()
                kept = json.loads(get(f"{container.address()}/v1/vocabularies/fruit"))
                self.assertEqual(kept["classes"], ["lemon", "cherry"])
                put = send(f"{container.address()}/v1/vocabularies/more", {"classes": ["plum"]}, "PUT")
                self.assertIn(put[0], (200, 201, 202))
                self.assertTrue(json.loads(get(f"{container.address()}/v1/vocabularies"))["durable"])
            with started("--read-only", "--user", "777:0", *mounted) as container:
                container.until_ready()
                kept = json.loads(get(f"{container.address()}/v1/vocabularies/more"))
                self.assertEqual(kept["classes"], ["plum"])
            # A store that may be read and not written.
            docker("run", "--rm", "--user", "0", *mounted, "--entrypoint", "chmod", IMAGE, "0444", "/var/lib/maskclip/vocabularies.sqlite3")
            with started("--user", "654321:0", *mounted) as container:
                self.assertEqual(container.end(), 1)
                self.assertIn("vocabulary.store_path", container.logs())

    def test_a_signal_ends_it_before_it_listens_and_after(self) -> None:
        for seconds in (0, 0.05, 0.2, 1):
            for name, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
                with self.subTest(seconds=seconds, signal=name), started() as container:
                    until("its libraries are loaded", lambda: container.catches(name))
                    time.sleep(seconds)
                    container.signal(name.name)
                    # Once it listens, it drains.
                    self.assertIn(container.end(), (0, status), container.logs())

    def test_health_is_starting_then_healthy_then_unhealthy(self) -> None:
        settings = ["--env", "MASKCLIP_SERVER__UNREADY_SECONDS=3600", "--env", "MASKCLIP_SERVER__LISTEN=0.0.0.0:9000"]
        with containers.started(IMAGE, *OFTEN, *settings) as container:
            self.assertEqual(container.health(), "starting")
            container.until_healthy()
            # A server that does not answer.
            container.signal("STOP")
            until("it is unhealthy", lambda: container.health() == "unhealthy")
            container.signal("CONT")
            container.until_healthy()
            # A server that says that it is not ready.
            container.signal("TERM")
            until("it is unhealthy", lambda: container.health() == "unhealthy")
            last = container.state()["Health"]["Log"][-1]
            self.assertEqual(last["ExitCode"], 1)
            # Both streams, in either order.
            self.assertEqual(sorted(last["Output"].splitlines()), ["demo: ready", "maskclip: the server is going down"])


if __name__ == "__main__":
    unittest.main()
