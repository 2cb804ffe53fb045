"""Times the way of a newcomer: from a clone to the coloured overlay of an image of their own.

Clones the repository into a fresh folder and runs the tutorial's commands there as they stand, up to the first that
draws an overlay, which then draws that of another image. Prints the seconds of each command and of the whole. Nothing
that was built before is used. libtorch and the crates come from this user's caches; with --nothing-fetched they are
downloaded, too.

    make newcomer
    make newcomer ARGS="--nothing-fetched --image photograph.jpg"

The clone and what is built take some GB, which are removed in the end. Python 3.10 and nothing else, and what building
from source needs.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import commands
from commands import REPOSITORY, SERVE, Shell, read, steps

PAGE = "docs/tutorial.md"
IMAGE = REPOSITORY / "examples" / "scenes" / "openmoji" / "00.png"
BUILD_SECONDS = 7200
SET_BY_MAKE = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "ARGS")
OVERLAY = re.compile(r"(maskclip segment) \S+")


def environment(folder: Path, nothing_fetched: bool) -> dict[str, str]:
    """The caller's environment without what a newcomer has not set."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MASKCLIP_", "OMP_"))}
    for name in (*SET_BY_MAKE, "LIBTORCH", "LD_LIBRARY_PATH", "CARGO_TARGET_DIR"):
        own.pop(name, None)
    if nothing_fetched:
        own |= {"CARGO_HOME": str(folder / "cargo"), "XDG_CACHE_HOME": str(folder / "cache"), "PIP_NO_CACHE_DIR": "1"}
        own.pop("LIBTORCH_CACHE", None)
    return own | {"XDG_DATA_HOME": str(folder / "data")}


def walk(page: str) -> list[str]:
    """The commands of a page up to the first that draws an overlay."""
    found = []
    for block in read(page).blocks:
        for command, _ in [] if block.reason else steps(block):
            found.append(command)
            if OVERLAY.match(command):
                return found
    raise SystemExit(f"{page} draws no overlay")


class Clock:
    """Runs things and prints how long each took."""

    def __init__(self) -> None:
        self.sum = 0.0

    def time(self, name: str, run) -> None:
        begin = time.monotonic()
        done: subprocess.CompletedProcess = run()
        seconds = time.monotonic() - begin
        self.sum += seconds
        print(f"{seconds:8.1f} s  {name.splitlines()[0]}", flush=True)
        if done.returncode != 0:
            raise SystemExit(f"{name}\nended with the status {done.returncode}\n{done.stdout or ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", default=str(REPOSITORY), help="what is cloned (default: this folder)")
    parser.add_argument("--image", type=Path, default=IMAGE, help="the image of one's own (default: a drawing)")
    parser.add_argument("--nothing-fetched", action="store_true", help="download libtorch and the crates, too")
    options = parser.parse_args()
    commands.SECONDS = BUILD_SECONDS
    folder = Path(tempfile.mkdtemp(prefix="newcomer-"))
    clone = folder / "maskclip"
    clock = Clock()
    shell = None
    try:
        # As over a network: a clone of a folder would share its objects.
        git = ["git", "clone", "--quiet", "--no-local", options.source, str(clone)]
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        clock.time(f"git clone {options.source}", lambda: subprocess.run(git, **both))
        own = clone / f"my-image{options.image.suffix}"
        shutil.copy(options.image, own)
        shell = Shell(clone, folder / "exports", environment(folder, options.nothing_fetched))
        for command in walk(PAGE):
            serve = SERVE.match(command)
            clock.time(command, lambda: shell.serve(command) if serve else shell.shell(command))
        command = OVERLAY.sub(rf"\1 {own.name}", command)
        clock.time(command, lambda: shell.shell(command))
        if not own.with_suffix(".overlay.png").exists():
            raise SystemExit(f"{command}\nwrote no {own.stem}.overlay.png")
        print(f"{clock.sum:8.1f} s  from the clone to {own.stem}.overlay.png")
    finally:
        if shell is not None:
            shell.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
