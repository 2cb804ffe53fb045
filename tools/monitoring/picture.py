"""Draws the panels of a dashboard with the series of their queries, in Grafana's layout."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

COLUMNS = 24
INCHES_PER_COLUMN = 0.62
INCHES_PER_ROW = 0.36
MOST_IN_A_LEGEND = 10


def draw(panels: list[dict], seconds: float, path: Path) -> None:
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(COLUMNS * INCHES_PER_COLUMN, rows * INCHES_PER_ROW), dpi=72)
    for panel in panels:
        place = panel["gridPos"]
        left, width = place["x"] / COLUMNS, place["w"] / COLUMNS
        bottom, height = 1 - (place["y"] + place["h"]) / rows, place["h"] / rows
        axes = figure.add_axes((left + 0.033, bottom + 0.3 / rows * 3, width - 0.043, height - 2.2 / rows))
        axes.set_title(panel["title"], fontsize=8, loc="left", fontweight="bold")
        {"timeseries": lines, "stat": number, "table": table}[panel["type"]](axes, panel, seconds)
    figure.savefig(path, metadata={"Software": None})


def name(target: dict, labels: dict) -> str:
    """The legend's text, as Grafana fills it in."""
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), target["legendFormat"])
    return re.sub(r"127\.0\.0\.1:\d+", "maskclip:8080", text)


def lines(axes, panel: dict, seconds: float) -> None:
    series = [(name(target, one["labels"]), one["values"]) for target in panel["targets"] for one in target["series"]]
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    # The busiest first, so that a long legend ends with those that are at nothing.
    series.sort(key=lambda one: -max(value for _, value in one[1]))
    for position, (label, values) in enumerate(series):
        times, heights = zip(*values)
        shown = label if position < MOST_IN_A_LEGEND else None
        line = axes.plot(times, heights, linewidth=1, label=shown)[0]
        if stacked:
            axes.fill_between(times, heights, alpha=0.15, color=line.get_color())
    axes.set_xlim(0, seconds)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(formatter(panel))
    axes.tick_params(labelsize=6, length=2)
    axes.grid(alpha=0.3, linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=5, loc="upper left", frameon=False)


def formatter(panel: dict):
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    if unit == "percentunit":
        return FuncFormatter(lambda value, _: f"{100 * value:.3g} %")
    if unit == "bytes":
        return FuncFormatter(lambda value, _: in_bytes(value))
    if unit == "s":
        return FuncFormatter(lambda value, _: f"{value:.3g} s")
    return FuncFormatter(lambda value, _: f"{value:g}")


def in_bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g} B"


def number(axes, panel: dict, _: float) -> None:
    axes.axis("off")
    series = [one for target in panel["targets"] for one in target["series"]]
    value = series[0]["values"][-1][1] if series else float("nan")
    axes.text(0.5, 0.5, formatter(panel)(round(value, 3), None), ha="center", va="center", fontsize=16, transform=axes.transAxes)


def table(axes, panel: dict, _: float) -> None:
    axes.axis("off")
    rows = [one["labels"] for target in panel["targets"] for one in target["series"]]
    hidden = {"__name__", "job", "instance"}
    text = "\n".join("   ".join(f"{key}: {value[:24]}" for key, value in row.items() if key not in hidden) for row in rows)
    axes.text(0, 0.6, text, fontsize=7, va="center", transform=axes.transAxes)
