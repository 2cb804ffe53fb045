"""Runs every command of the book against the program, page by page.

A page's blocks in `sh`, `console` and `python` run one after the other in a fresh folder that has the repository's
examples, clients and configuration. Pages that are joined by `+` share a folder, as for a reader who follows one after
the other. What a block exports, later blocks of the folder know. `make serve` and `maskclip serve` start a server that
the rest of the page asks; pages that ask one without starting it share one. It listens on a free port, which takes the
place of 127.0.0.1:8080.

What a `console` block shows below a command is compared with what the command prints, its log apart. Numbers may differ,
and `...` stands for anything. A command below which the program's error stands (`maskclip: ...`) has to fail.

A block that cannot run where tests run has a reason before it, which is printed:

    <!-- not run: needs a GPU -->

Usage: tools/book/run PROGRAM [PAGE[+PAGE...]...]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BESIDE_THE_BOOK = ["README.md", "clients/python/README.md", "clients/cvat/README.md"]
IN_ORDER = "docs/tutorial.md+docs/annotators.md+docs/label.md"
"""Pages that send a reader from each to the next."""
PROVIDED = ["clients", "config", "examples", "openapi.yaml"]
ADDRESS = "127.0.0.1:8080"
REASON = re.compile(r"<!-- not run: (.+) -->")
FENCE = re.compile(r"^( *)```(\w*)$")
SERVE = re.compile(r"^(?:make serve|(maskclip serve.*?))(?: *&)?(?: *#.*)?$")
# A machine that does much else takes its time.
SECONDS = 600


@dataclass
class Block:
    """A fenced block with commands."""

    line: int
    language: str
    text: str
    reason: str | None  # why it does not run here


@dataclass
class Page:
    name: str
    blocks: list[Block] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read(name: str) -> Page:
    """Finds a page's blocks, and code that no test could find."""
    page, reason, block = Page(name), None, None
    indentation, before, inside_list = "", "", False
    for number, line in enumerate((REPOSITORY / name).read_text().splitlines(), 1):
        if block is not None:
            if line.strip() == "```":
                if block.language in ("sh", "console", "python"):
                    page.blocks.append(block)
                elif re.search(r"^(\$ |maskclip |curl |docker )", block.text, re.MULTILINE) and block.language != "text":
                    page.faults.append(f"{name}:{block.line}: commands in a block of the language {block.language!r}")
                block, reason = None, None
            else:
                block.text += line.removeprefix(indentation) + "\n"
        elif fence := FENCE.match(line):
            indentation = fence[1]
            block = Block(number, fence[2], "", reason)
        elif mark := REASON.search(line):
            reason = mark[1]
        elif line.startswith("    ") and not before and not re.match(r" *([-*]|\d+\.) ", line) and not inside_list:
            page.faults.append(f"{name}:{number}: an indented block, which no test finds: fence it")
        if line.strip() and not line.startswith(" "):
            inside_list = bool(re.match(r"([-*]|\d+\.|\[\^\w+\]:) ?", line))
        before = line.strip()
    return page


def plain(text: str) -> str:
    """A text in which numbers, digests and the width of columns do not count."""
    text = re.sub(r"\b[0-9a-f]{16,}\b", "0", text)
    text = re.sub(r"\d+(\.\d+)?", "0", text)
    return re.sub(r"[ \t]+", " ", text).strip()


def shows(expected: str, printed: str) -> bool:
    """Whether a command printed what the book shows. Lines of its log do not count."""
    printed = re.sub(r"^\S+Z +(INFO|WARN|ERROR) .*\n", "", printed, flags=re.MULTILINE)
    pieces = [re.escape(piece.strip()) for piece in plain(expected.replace("…", "...")).split("...")]
    return re.fullmatch(r"\s*.*?\s*".join(pieces), plain(printed), re.DOTALL) is not None


def steps(block: Block) -> list[tuple[str, str]]:
    """Commands, each with what the book shows that it prints."""
    if block.language != "console":
        return [(block.text, "")]
    found: list[list[str]] = []
    continued = False
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append([line[2:], ""])
        elif continued:
            found[-1][0] += f"\n{line}"
        elif found:
            found[-1][1] += f"{line}\n"
        continued = (line.startswith("$ ") or continued) and line.endswith("\\")
    return [(command, expected) for command, expected in found]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Shell:
    """A folder in which commands run, and the server that they ask."""

    def __init__(self, folder: Path, state: Path, environment: dict[str, str]) -> None:
        self.folder, self.port, self.server = folder, free_port(), None
        self.environment = environment | {"MASKCLIP_SERVER__LISTEN": f"127.0.0.1:{self.port}"}
        self.state = state
        """A file of what commands have exported."""
        self.state.touch()

    def here(self, text: str) -> str:
        return text.replace(ADDRESS, f"127.0.0.1:{self.port}")

    def shell(self, text: str) -> subprocess.CompletedProcess:
        script = f'set -e\n. "{self.state}"\n{self.here(text)}\nexport -p >"{self.state}"\n'
        return self.finished(["bash", "-c", script])

    def finished(self, command: list[str]) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=SECONDS,
        )  # fmt: skip

    def serve(self, command: str = "maskclip serve") -> subprocess.CompletedProcess:
        """Starts a server, waits until it is ready, and returns what it said so far."""
        log, errors = self.state.with_suffix(".log"), self.state.with_suffix(".errors")
        script = f'. "{self.state}"\nexec {self.here(command)}'
        with log.open("w") as out, errors.open("w") as err:
            self.server = subprocess.Popen(
                ["bash", "-c", script], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=out,
                stderr=err, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self.server.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready").close()
                break
            time.sleep(0.2)
        else:
            return subprocess.CompletedProcess(command, self.server.poll() or 1, log.read_text() + errors.read_text())
        return subprocess.CompletedProcess(command, 0, log.read_text())

    def close(self) -> None:
        if self.server is not None and self.server.poll() is None:
            # make and cargo, where these have started it, end with it.
            os.killpg(self.server.pid, signal.SIGTERM)
            self.server.wait(SECONDS)


class Place(Shell):
    """A fresh folder for pages, in which `maskclip` is the program under test."""

    def __init__(self, program: Path, folder: Path) -> None:
        for name in PROVIDED:
            (folder / name).symlink_to(REPOSITORY / name)
        tools = folder / ".bin"
        tools.mkdir()
        (tools / "maskclip").write_text(f'#!/bin/sh\nexec "{program}" "$@"\n')
        (tools / "maskclip").chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / ".data"),
            "XDG_CACHE_HOME": str(folder / ".cache"),
            "PYTHONPATH": str(REPOSITORY / "clients/python/src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # Test programs share the processors: threads that wait must not spin.
            "OMP_WAIT_POLICY": "passive",
        }
        super().__init__(folder, folder / ".exports", environment)


def fault(place: Place, block: Block) -> str | None:
    """Runs a block. Returns what is wrong with it, if anything is."""
    if block.language == "python":
        done = place.finished([sys.executable, "-c", place.here(block.text)])
        return None if done.returncode == 0 else done.stdout
    for command, expected in steps(block):
        serve = SERVE.match(command)
        done = place.serve(serve[1] or "maskclip serve") if serve else place.shell(command)
        # A message of the program is what a command that fails prints.
        if (done.returncode == 1) != expected.startswith("maskclip: ") or done.returncode not in (0, 1):
            return f"{command}\nends with the status {done.returncode}\n{done.stdout}"
        if expected.strip() and not shows(expected, done.stdout):
            return f"{command}\nprints\n{done.stdout}\nand the book shows\n{expected}"
    return None


@contextlib.contextmanager
def fresh(program: Path):
    folder = Path(tempfile.mkdtemp(prefix="book-"))
    place = Place(program, folder)
    try:
        yield place
    finally:
        place.close()
        shutil.rmtree(folder, ignore_errors=True)


def asks_without_starting(blocks: list[Block]) -> bool:
    """Whether blocks ask a server that none of them starts."""
    text = "\n".join(command for block in blocks for command, _ in steps(block))
    return ADDRESS in text and not any(SERVE.match(line) for line in text.splitlines())


def follow(place: Place, pages: list[Page]) -> list[str]:
    """Runs the blocks of pages in a place. Returns what is wrong."""
    wrongs = []
    for page in pages:
        for block in page.blocks:
            if block.reason:
                continue
            try:
                wrong = fault(place, block)
            except subprocess.TimeoutExpired as error:
                wrong = f"took more than {error.timeout} seconds"
            if wrong is not None:
                wrongs.append(f"{page.name}:{block.line}: {wrong}")
    return wrongs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("pages", nargs="*", help="such as docs/tutorial.md; all, and some in order, without any")
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    summary = (REPOSITORY / "docs" / "SUMMARY.md").read_text()
    book = [f"docs/{name}" for name in re.findall(r"\(([\w-]+\.md)\)", summary)]
    number, failed, left_out = 0, [], {}
    with contextlib.ExitStack() as stack:
        shared: Place | None = None
        for name in arguments.pages or [*book, *BESIDE_THE_BOOK, IN_ORDER]:
            pages = [read(page) for page in name.split("+")]
            failed += [fault for page in pages for fault in page.faults if fault not in failed]
            for page in pages:
                left_out |= {f"{page.name}:{block.line}: {block.reason}": None for block in page.blocks if block.reason}
            blocks = [block for page in pages for block in page.blocks if not block.reason]
            if not blocks:
                continue
            begin = time.monotonic()
            with fresh(program) as place:
                if asks_without_starting(blocks):
                    if shared is None:
                        shared = stack.enter_context(fresh(program))
                        shared.serve()
                    place.port = shared.port
                    place.environment["MASKCLIP_SERVER__LISTEN"] = f"127.0.0.1:{shared.port}"
                failed += follow(place, pages)
            number += len(blocks)
            print(f"{name}: {len(blocks)} blocks in {time.monotonic() - begin:.1f} s", flush=True)
    print(f"not run here, {len(left_out)} blocks:", *left_out, sep="\n  ")
    if failed:
        print("failed:", *failed, sep="\n")
    print(f"{number} blocks run, {len(failed)} faults, {len(left_out)} blocks left out")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
