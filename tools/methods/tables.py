"""Prints the tables of docs/methods.md, and that of docs/words.md.

The tables have every variant on the embedded models' 64 scenes, clean and corrupted, and on the 64 clean scenes of a
style that the models never saw, each model at its own temperature. The table of words has what background names and
thresholds are worth.

    make methods                                    # builds first; this script needs only Python's standard library
    python3 tools/methods/tables.py --background    # the table of docs/words.md alone

`maskclip compare` measures each line. It keeps its state in target/methods/, so a run continues where another was
stopped. The figure of a corruption level is the mean of the mIoU over the eight corruptions.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
WORK = TARGET / "methods"
SCENES = Path("examples/scenes")

CORRUPTIONS = (
    "gaussian-noise", "shot-noise", "impulse-noise", "speckle-noise", "gaussian-blur", "defocus-blur", "spatter", "jpeg",
)  # fmt: skip
LEVELS = [1, 3, 5]
VIT_ATTENTIONS = (
    "clip", "maskclip", "maskclip-no-residual", "clearclip", "naclip", "sclip", "pearl", "pearl-newton-schulz", "sc-clip",
    "resclip", "resclip-repaired", "gem",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of a table: its name, and its settings beside the table's."""

    name: str
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A model's lines on one set of scenes."""

    model: str
    short_side: int
    scenes: str
    rows: tuple[Row, ...]
    corrupted: bool  # whether there are columns of corrupted scenes


def refined(attention: str) -> tuple[Row, ...]:
    """An attention with each further option, and with options together."""
    settings = {
        "prompt denoising": {"prompt-denoising": "0.5"},
        "key smoothing: formula": {"key-smoothing": "formula"},
        "key smoothing: reference": {"key-smoothing": "reference"},
        "key smoothing: likeness": {"key-smoothing": "likeness"},
        "prompt denoising, key smoothing: likeness": {"prompt-denoising": "0.5", "key-smoothing": "likeness"},
        "PAMR": {"refinement": "pamr"},
        "PEARL's propagation": {"refinement": "pearl-propagation"},
    }
    return tuple(Row(f"{attention} + {name}", {"attention": attention, **more}) for name, more in settings.items())


RESNET = (Row("clip", {"attention": "clip"}), Row("maskclip", {"attention": "maskclip"}), *refined("maskclip"))
VIT = tuple(Row(name, {"attention": name}) for name in VIT_ATTENTIONS) + refined("maskclip-no-residual")
TABLES = (
    Table("demo", 256, "in-style", RESNET, corrupted=True),
    Table("demo", 256, "openmoji", RESNET, corrupted=False),
    Table("demo-vit", 160, "in-style", VIT, corrupted=True),
    Table("demo-vit", 160, "openmoji", VIT, corrupted=False),
)


def measured(table: Table, row: Row, levels: list[int]) -> list[dict]:
    """The rows of `maskclip compare` for one line: clean, and every corruption at every level asked for."""
    WORK.mkdir(parents=True, exist_ok=True)
    found = WORK / "found.json"
    corruptions = ["none", *(f"{name}:{level}" for level in levels for name in CORRUPTIONS)]
    command = [
        str(TARGET / "release" / "maskclip"), "compare", str(SCENES / table.scenes),
        "--model", table.model,
        "--short-side", str(table.short_side),
        "--precision", "float32",
        "--classes", str(SCENES / "classes.txt"),
        "--background", str(SCENES / "backgrounds.txt"),
        "--corruption", ",".join(corruptions),
        "--state", str(WORK / f"{table.model}-{table.scenes}.state"),
        "--json", str(found),
    ]  # fmt: skip
    command += [argument for name, value in row.settings.items() for argument in (f"--{name}", value)]
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return json.loads(found.read_text())["rows"]


# What competes with the classes, each with the thresholds and areas that are measured, as flags.
BACKGROUNDS = (
    ("the class's name alone", "none", {"threshold": ("0.3", "0.5", "0.7")}),
    ("the shipped names", "shipped", {"threshold": ("0.5",)}),
    ("the scenes' own 15 names", str(SCENES / "backgrounds.txt"), {"threshold": ("0.3", "0.5", "0.7"), "area": ("0.01", "0.03", "0.1")}),
)  # fmt: skip


def background_table() -> None:
    """What background names, thresholds and areas are worth on the ResNet's scenes."""
    print("| background | mIoU | pixel accuracy | mean accuracy |\n|---|---:|---:|---:|")
    for name, background, options in BACKGROUNDS:
        rows = [(name, [])]
        rows += [(f"... with {'an' if option == 'area' else 'a'} {option} of {value}", [f"--background-{option}", value])
                 for option, values in options.items() for value in values]  # fmt: skip
        for words, flags in rows:
            found = WORK / "found.json"
            WORK.mkdir(parents=True, exist_ok=True)
            command = [
                str(TARGET / "release" / "maskclip"), "compare", str(SCENES / "in-style"), "--short-side", "256",
                "--precision", "float32", "--classes", str(SCENES / "classes.txt"), "--background", background,
                "--json", str(found), *flags,
            ]  # fmt: skip
            subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
            row = json.loads(found.read_text())["rows"][0]
            figures = (row["mean_iou"], row["pixel_accuracy"], row["mean_accuracy"])
            print(f"| {words} | " + " | ".join(percent(figure) for figure in figures) + " |", flush=True)


def line(row: Row, rows: list[dict], levels: list[int]) -> str:
    """One line of a table in Markdown."""
    clean = next(r for r in rows if r["corruption"] is None)
    cells = [row.name, percent(clean["mean_iou"])]
    for level in levels:
        at_level = [r["mean_iou"] for r in rows if (r["corruption"] or "").endswith(f":{level}")]
        cells.append(percent(statistics.mean(at_level)))
    return "| " + " | ".join(cells) + " |"


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", type=int, nargs="*", default=LEVELS, help="levels of corruption; none for the clean scenes alone")
    parser.add_argument("--only", default="", help="a regular expression: the lines whose names match, all of them without it")
    parser.add_argument("--background", action="store_true", help="the table of docs/words.md alone")
    arguments = parser.parse_args()
    if arguments.background:
        background_table()
        return
    for table in TABLES:
        levels = arguments.levels if table.corrupted else []
        print(f"\n### {table.model}, short side {table.short_side}, {table.scenes}\n")
        print("| | clean | " + "".join(f"level {level} | " for level in levels))
        print("|---|---:|" + "---:|" * len(levels), flush=True)
        for row in filter(lambda row: re.search(arguments.only, row.name), table.rows):
            print(line(row, measured(table, row, levels), levels), flush=True)


if __name__ == "__main__":
    main()
