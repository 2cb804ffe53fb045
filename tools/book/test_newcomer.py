"""Tests of newcomer.py on a repository in which `make serve` builds nothing: tools/book/run runs them first."""

import contextlib
import io
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import newcomer

MAKEFILE = """serve:
\t@mkdir -p target/release && cp program target/release/maskclip
\t@python3 server
"""
PROGRAM = """#!/bin/sh
[ "$1" = segment ] && : >"$(basename "$2" .png).overlay.png"
"""
SERVER = """import http.server, os
host, port = os.environ["MASKCLIP_SERVER__LISTEN"].split(":")
http.server.HTTPServer((host, int(port)), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


class Newcomer(unittest.TestCase):
    def run_on(self, makefile: str) -> str:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "Makefile").write_text(makefile)
            (folder / "program").write_text(PROGRAM)
            (folder / "program").chmod(0o755)
            (folder / "server").write_text(SERVER)
            (folder / "health").mkdir()
            (folder / "health" / "ready").touch()
            git = ["git", "-c", "user.name=a", "-c", "user.email=a@example", "-C", name]
            for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "All of it"]):
                subprocess.run([*git, *command], check=True)
            printed = io.StringIO()
            with mock.patch("sys.argv", ["newcomer.py", "--from", name]), contextlib.redirect_stdout(printed):
                newcomer.main()
            return printed.getvalue()

    def test_the_way_ends_with_the_overlay_of_an_own_image(self) -> None:
        lines = [line.split(" s  ")[1] for line in self.run_on(MAKEFILE).splitlines()]
        self.assertTrue(lines[0].startswith("git clone "))
        self.assertEqual(lines[1], "make serve")
        self.assertTrue(lines[-3].startswith("maskclip segment examples/picnic.png --classes "), lines)
        self.assertTrue(lines[-2].startswith("maskclip segment my-image.png --classes "), lines)
        self.assertEqual(lines[-1], "from the clone to my-image.overlay.png")

    def test_a_build_that_fails_is_no_figure(self) -> None:
        with self.assertRaisesRegex(SystemExit, "make serve\nended with the status"):
            self.run_on("serve:\n\t@exit 3\n")


if __name__ == "__main__":
    unittest.main()
