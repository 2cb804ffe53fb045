#!/usr/bin/env python3
"""Prints the licences of the crates that are compiled into the program: their names, then every text once.

The texts are those that the crates' packages contain, also of what they carry along in other languages. Needs the sources,
which a build has fetched.
"""

from __future__ import annotations

import re
from pathlib import Path

import crates

NAMES = re.compile(r"(un)?licen[cs]e|copying|notice|copyright", re.IGNORECASE)
CODE = {".c", ".h", ".py", ".rs"}
RULE = "=" * 80


def texts(folder: Path) -> list[str]:
    """The texts of licences in a crate's folder."""
    files = sorted(file for file in folder.rglob("*") if NAMES.match(file.name) and file.suffix not in CODE and file.is_file())
    return [file.read_text(errors="replace").strip() for file in files]


def main() -> None:
    _, packages = crates.resolved()
    holders: dict[str, tuple[str, list[str]]] = {}
    print(f"The program contains these {len(packages)} crates. The texts of their licences follow.\n")
    for package in packages:
        name = f"{package['name']} {package['version']}"
        found = texts(Path(package["manifest_path"]).parent)
        remark = "" if found else f", by {', '.join(package['authors']) or package['repository']}; its package has no text"
        print(f"{name}: {crates.expression(package) or 'a licence of its own'}{remark}")
        for text in found:
            # Copies differ in their line breaks.
            holders.setdefault(" ".join(text.split()), (text, []))[1].append(name)
    for text, names in holders.values():
        print(f"\n{RULE}\n{', '.join(dict.fromkeys(names))}\n{RULE}\n\n{text}")


if __name__ == "__main__":
    main()
