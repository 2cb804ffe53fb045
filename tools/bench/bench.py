"""Times every stage of a request beside what people would use instead, on the same inputs, in turns: `make bench`.

It builds the server and benches/stages.rs, makes the inputs (inputs.py), then measures STAGES (stages.py). Each side is
a process of its own with the same number of threads. Outputs are compared before anything is timed. Every sample goes
to target/bench/results.json, and tables go to standard output as in docs/performance.md, which says how to read them.

With --before FOLDER, our sides take turns with those of an earlier build instead, and samples go to builds.json
(builds.py). FOLDER is a `target/release` in which cargo left that build's programs, for example COMMIT's:

    git worktree add ../before COMMIT && cd ../before && eval "$(make env)"
    cargo build --release && cargo bench --no-run --bench stages     # in ../before/target/release

The caller must provide an idle machine; the load averages before and after each stage are kept with its samples.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import report
from builds import BUILDS
from inputs import REPOSITORY, prepare
from report import Row, table
from stages import STAGES, Bench


def build() -> dict[str, Path]:
    """Builds this checkout's optimised programs and returns their paths by name."""
    command = ["cargo", "build", "--release", "--bin", "maskclip", "--bench", "stages"]
    command += ["--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    messages = map(json.loads, built.stdout.splitlines())
    return {message["target"]["name"]: Path(message["executable"]) for message in messages if message.get("executable")}


def found(name: str) -> dict[str, Path]:
    """The programs that cargo left in a folder such as target/release, by name; the newest if there are several."""
    folder = Path(name).resolve()
    stages = [path for path in folder.glob("deps/stages-*") if os.access(path, os.X_OK)]
    if not stages or not (folder / "maskclip").exists():
        raise argparse.ArgumentTypeError(f"{folder} lacks maskclip or deps/stages-*; --help says how to build them")
    return {"maskclip": folder / "maskclip", "stages": max(stages, key=lambda path: path.stat().st_mtime)}


def version(program: Path) -> str:
    return subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def commit() -> str:
    """The checkout's commit, marked if there are uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    return subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def machine() -> dict[str, str | int]:
    processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {"processor": processor[1] if processor else "unknown", "cores": len(os.sched_getaffinity(0))}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often every side has its turn (default: 7)")
    listed = f"separated by commas (default: all of {','.join(STAGES)}; with --before, of {','.join(BUILDS)})"
    parser.add_argument("--stages", metavar="LIST", help=listed)
    parser.add_argument("--before", type=found, metavar="FOLDER", help="an earlier build, to take turns with instead of peers")
    parser.add_argument("--now", type=found, metavar="FOLDER", help="a build to measure instead of building this checkout")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every side (default: one a core)")
    parser.add_argument("--resume", action="store_true", help="leave out what was measured of this commit with these options")
    parser.add_argument("--quick", action="store_true", help="two classes for a vocabulary, one round: does everything run?")
    chosen = parser.parse_args()
    stages = BUILDS if chosen.before else STAGES
    chosen.stages = chosen.stages.split(",") if chosen.stages else list(stages)
    unknown = set(chosen.stages) - set(stages)
    if unknown:
        parser.error(f"--stages: there is no {', '.join(sorted(unknown))}; there are {', '.join(stages)}")
    if chosen.quick:
        chosen.rounds = 1
    if chosen.rounds < 1:
        parser.error("--rounds: at least one")
    return chosen


def main() -> None:
    chosen = arguments()
    programs = chosen.now or build()
    folder = programs["maskclip"].parents[1] / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / ("builds.json" if chosen.before else "results.json")
    kept = json.loads(results.read_text()) if results.exists() else {}
    bench = Bench(
        **programs,
        inputs=prepare(folder),
        python=sys.executable,
        folder=folder,
        threads=chosen.threads,
        rounds=chosen.rounds,
        quick=chosen.quick,
    )
    options = {"commit": commit(), "threads": bench.threads, "rounds": bench.rounds, "quick": bench.quick, **machine()}
    benches, stages, head = [bench], STAGES, report.PEERS
    if chosen.before:
        before = replace(bench, **chosen.before)
        benches, stages, head = [before, bench], BUILDS, report.BUILDS
        options |= {"before": version(before.maskclip), "now": version(bench.maskclip)}
    rows = []
    for name in chosen.stages:
        record = kept.get(name)
        if not (chosen.resume and record and record["options"] == options):
            start, load = time.monotonic(), os.getloadavg()[0]
            measured = stages[name](*benches)
            record = {
                "options": options,
                "load": [load, os.getloadavg()[0]],
                "seconds": time.monotonic() - start,
                **asdict(measured),
            }
            kept[name] = record
            write(results, kept)
        rows_of_stage = [Row(**row) for row in record["rows"]]
        print(f"{name}: {record['seconds']:.0f} s, load {record['load'][0]:.1f} before\n")
        print(f"{table(head, rows_of_stage)}\n", flush=True)
        rows += rows_of_stage
    print(f"{options}\n\n{table(head, rows)}\n\nall samples: {results}")


def write(path: Path, content: dict) -> None:
    """Writes a file whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1))
    unfinished.rename(path)


if __name__ == "__main__":
    main()
