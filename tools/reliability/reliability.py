#!/usr/bin/env python3
"""Puts the server under load, abuse and faults, and prints what it reached beside each bar: `make test-reliability`.

    reliability.py [--program PATH] [--seconds N] [SCENARIO ...]

The exit status is 1 if a bar is not reached. The server runs with its default configuration. Use an optimised build on
an idle machine: bars are in seconds. Needs Python 3.10 and, for rollover, nginx.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import connections
import folders
import hostile
import keys
import scenarios
import shapes
from kills import kills
from server import REPOSITORY

GROUPS = (scenarios, connections, shapes, hostile, keys, folders)
SCENARIOS = {name: scenario for group in GROUPS for name, scenario in group.SCENARIOS.items()} | {"kills": kills}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{', '.join(SCENARIOS)}; all without one")
    parser.add_argument("--program", type=Path, default=REPOSITORY / "target" / "release" / "maskclip", help="the server's program")
    parser.add_argument("--seconds", type=float, default=600, help="how long the longest scenario lasts (default: 600)")
    options = parser.parse_args()
    if unknown := [name for name in options.scenarios if name not in SCENARIOS]:
        parser.error(f"there is no scenario {', '.join(unknown)}: there are {', '.join(SCENARIOS)}")
    print("| test | bar | reached | passed |\n|---|---|---|---|", flush=True)
    passed = True
    for name in options.scenarios or SCENARIOS:
        for row in asyncio.run(SCENARIOS[name](options.program, options.seconds)):
            print(row.markdown(), flush=True)
            passed &= row.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
