"""Releases on bare systems: each is installed where nothing else is, and answers the README's request.

`make test-dist` makes the files and names them: ARCHIVE, and if they were made DEB and WHEEL.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools" / "container"))
from containers import docker, is_ready, readme_curl, started, until  # noqa: E402

BARE = "debian:bookworm-slim"
MOST_EXPOSURE = 20
"""Tenths of what systemd-analyze counts, 0 to 10."""
MOST_BYTES = 525_000_000
"""What the archive unpacks to, at most: with a bare Debian, an image of 600 MB."""
LISTEN = "serve --listen 0.0.0.0:8080"


class ReleaseTest(unittest.TestCase):
    def assert_serves(self, address: str) -> None:
        until("it is ready", lambda: is_ready(address))
        names = [entry["name"] for entry in readme_curl(address)["classes"]]
        self.assertEqual(names[:2], ["tiger", "lemon"])

    @unittest.skipUnless(shutil.which("systemd-analyze"), "there is no systemd-analyze")
    def test_the_unit_is_one_that_systemd_knows_and_finds_hardened(self) -> None:
        text = (REPOSITORY / "packaging" / "systemd" / "maskclip.service").read_text()
        with tempfile.TemporaryDirectory() as folder:
            unit = Path(folder) / "maskclip.service"
            # Only what starts is looked for on this machine.
            unit.write_text(text.replace("@BIN@/maskclip", "/bin/true").replace("Documentation=man:maskclip-serve(1)\n", ""))
            known = subprocess.run(["systemd-analyze", "verify", unit], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.assertEqual((known.returncode, known.stdout), (0, ""))
            command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", unit]
            found = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            self.assertEqual(found.returncode, 0, found.stdout)

    def test_every_crate_and_wheel_has_its_licence(self) -> None:
        bill = json.loads(self.read("/sbom.cdx.json"))
        self.assertEqual([component["name"] for component in bill["components"] if not component["licenses"]], [])
        text = self.read("/licenses/crates.txt").decode()
        for component in bill["components"]:
            if component["purl"].startswith("pkg:cargo/"):
                self.assertIn(f"\n{component['name']} {component['version']}: ", text)
        for words in ("Permission is hereby granted", "Redistribution and use in source and binary forms", "TERMS AND CONDITIONS FOR USE"):
            self.assertIn(words, text)

    def read(self, ending: str) -> bytes:
        """A file of the archive, by the end of its path."""
        with tarfile.open(os.environ["ARCHIVE"]) as archive:
            return archive.extractfile(next(member for member in archive if member.name.endswith(ending))).read()

    def test_the_archive_has_each_model_once_and_fits_an_image(self) -> None:
        with tarfile.open(os.environ["ARCHIVE"]) as archive:
            members = archive.getmembers()
        program = self.read("/bin/maskclip")
        for weights in REPOSITORY.glob("models/*/model.safetensors"):
            self.assertEqual(program.count(weights.read_bytes()[-4096:]), 1, weights)
        self.assertLess(sum(member.size for member in members), MOST_BYTES)

    @unittest.skipUnless("DOCKER" in os.environ, "there is no Docker Engine for a bare Debian")
    def test_the_archive_runs_wherever_it_is_unpacked(self) -> None:
        archive = Path(os.environ["ARCHIVE"])
        print(f"\n{archive.name}: {archive.stat().st_size / 1e6:.0f} MB")
        checked = "tar xzf /release.tar.gz && mv maskclip-* /srv/elsewhere && cd /srv/elsewhere && sha256sum --check --quiet SHA256SUMS"
        command = f"{checked} && exec bin/maskclip {LISTEN}"
        with started(BARE, "--volume", f"{archive}:/release.tar.gz:ro", command=("sh", "-c", command)) as container:
            self.assert_serves(container.address())
            files = docker("exec", container.name, "sh", "-c", "cd /srv/elsewhere && find . -type f").splitlines()
            licences = ("LICENSE", "NOTICE", "CLIP.txt", "crates.txt")
            for needed in (*licences, "sbom.cdx.json", "maskclip-serve.1", "_maskclip", "maskclip.fish", "maskclip.service"):
                self.assertTrue(any(name.endswith(f"/{needed}") for name in files), f"{needed} is missing")

    @unittest.skipUnless("DOCKER" in os.environ and "DEB" in os.environ, "there is no package, or no Docker Engine")
    def test_the_debian_package_installs_and_removes_itself(self) -> None:
        package = Path(os.environ["DEB"])
        print(f"\n{package.name}: {package.stat().st_size / 1e6:.0f} MB")
        command = f"dpkg --install /release.deb >/dev/null && exec maskclip {LISTEN}"
        with started(BARE, "--volume", f"{package}:/release.deb:ro", command=("sh", "-c", command)) as container:
            self.assert_serves(container.address())
            settings = docker("exec", container.name, "stat", "--format", "%a", "/etc/maskclip/environment")
            self.assertEqual(settings.strip(), "640")
            removal = docker("exec", container.name, "cat", "/var/lib/dpkg/info/maskclip.prerm")
            self.assertIn("maskclip.service", removal)
            docker("exec", container.name, "dpkg", "--remove", "maskclip")
            self.assertNotIn("maskclip/lib", docker("exec", container.name, "find", "/usr/lib", "-name", "libtorch*"))

    @unittest.skipUnless("WHEEL" in os.environ, "there is no wheel")
    def test_the_wheel_runs_on_the_libtorch_of_the_torch_wheel(self) -> None:
        wheel = Path(os.environ["WHEEL"])
        print(f"\n{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        text = (REPOSITORY / "tools" / "libtorch" / "requirements-cpu.txt").read_text()
        # Of what torch depends on, only these are loaded by the program on a CPU; the others are gigabytes.
        needed = re.findall(r"^(\S+==\S+)", text, re.MULTILINE)
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            python = f"{folder}/bin/python"
            alone = subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel])
            self.assertEqual(alone.returncode, 0)
            refused = subprocess.run([f"{folder}/bin/maskclip", "--version"], stderr=subprocess.PIPE, text=True)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("pip install torch==", refused.stderr)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *needed], check=True)
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                port = listener.getsockname()[1]
            environment = {name: value for name, value in os.environ.items() if name not in ("LD_LIBRARY_PATH", "LIBTORCH")}
            environment |= {"MASKCLIP_VOCABULARY__STORE_PATH": f"{folder}/store.sqlite3"}
            server = subprocess.Popen([f"{folder}/bin/maskclip", "serve", "--listen", f"127.0.0.1:{port}"], env=environment)
            try:
                self.assert_serves(f"http://127.0.0.1:{port}")
                maps = Path(f"/proc/{server.pid}/maps").read_text()
                self.assertIn(f"{folder}/lib/", next(line for line in maps.splitlines() if "libtorch_cpu" in line))
            finally:
                server.terminate()
                self.assertEqual(server.wait(60), 0)


if __name__ == "__main__":
    unittest.main()
