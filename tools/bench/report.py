"""Turns samples into medians, ratios and Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of a table, as in docs/performance.md."""

    stage: str
    ours: str
    peer: str = ""
    ratio: str = ""
    bar: str = ""

    def markdown(self) -> str:
        return f"| {self.stage} | {self.ours} | {self.peer} | {self.ratio} | {self.bar} |"


PEERS = Row("stage", "ours", "peer", "ratio", "bar")
BUILDS = Row("stage", "now", "before", "before / now", "difference")
"""The heads of the tables."""
ENOUGH_ROUNDS = 6
"""The fewest rounds that can tell: by chance, equal builds have the same winner in all of them in 3 of 100 runs."""


def table(head: Row, rows: Sequence[Row]) -> str:
    return "\n".join([head.markdown(), "|---|---|---|---|---|", *(row.markdown() for row in rows)])


def spread(samples: Sequence[float], unit: str = "", digits: int = 3) -> str:
    """The median, the least and the most, with `digits` significant digits."""
    median, least, most = (
        significant(value, digits) for value in (statistics.median(samples), min(samples), max(samples))
    )
    return f"{median} ({least} to {most}){unit and ' '}{unit}"


def significant(value: float, digits: int = 3) -> str:
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text else text


def seconds(samples: Sequence[float]) -> str:
    """The spread of seconds, in milliseconds below one second."""
    if statistics.median(samples) < 1:
        return spread([1000 * sample for sample in samples], "ms")
    return spread(samples, "s")


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratio of two samples of each round: what the machine did at that time counts for both."""
    return [above / below for above, below in zip(numerators, denominators, strict=True)]


def at_least(samples: Sequence[float], bar: float) -> str:
    met = statistics.median(samples) >= bar
    return f"at least {significant(bar)}: {'met' if met else 'not met'}"


def at_most(samples: Sequence[float], bar: float, text: str) -> str:
    met = statistics.median(samples) <= bar
    return f"at most {text}: {'met' if met else 'not met'}"


def compared(stage: str, ours: tuple[str, Sequence[float]], peer: tuple[str, Sequence[float]], bar: float | None = None) -> Row:
    """A line with two sides' names and seconds; the ratio says how many times as fast ours is."""
    faster = ratios(peer[1], ours[1])
    return Row(
        stage,
        f"{ours[0]}: {seconds(ours[1])}",
        f"{peer[0]}: {seconds(peer[1])}",
        spread(faster),
        "" if bar is None else at_least(faster, bar),
    )


def builds(stage: str, before: Sequence[float], now: Sequence[float]) -> Row:
    """A line with the seconds of two builds; their difference is beyond the spread if every round has the same winner."""
    faster = ratios(before, now)
    rounds, slower = len(faster), sum(ratio < 1 for ratio in faster)
    if rounds < ENOUGH_ROUNDS:
        difference = f"fewer than {ENOUGH_ROUNDS} rounds cannot tell"
    elif 0 < slower < rounds:
        difference = f"within the spread: slower in {slower} of {rounds} rounds"
    else:
        difference = f"beyond the spread: {'slower' if slower else 'faster'} in every round"
    return Row(stage, seconds(now), seconds(before), spread(faster), difference)


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of the samples does not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
