"""The crates that are compiled into the program, as cargo knows them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = "x86_64-unknown-linux-gnu"


def resolved() -> tuple[dict, list[dict]]:
    """This package, and the packages that it needs to be built and to run, sorted, as `cargo metadata` describes them."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET]
    metadata = json.loads(subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    needed, waiting = set(), [root]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            edges = nodes[name]["deps"]
            waiting += [edge["pkg"] for edge in edges if any(kind["kind"] != "dev" for kind in edge["dep_kinds"])]
    others = (packages[name] for name in needed - {root})
    return packages[root], sorted(others, key=lambda package: (package["name"], package["version"]))


def expression(package: dict) -> str | None:
    """The package's licences as an SPDX expression. Older packages write a slash for OR."""
    return package["license"] and package["license"].replace("/", " OR ")
