"""Captions of scenes, and which captions are true of which scenes of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from drawings import Drawings
from vocabulary import templates
from world import Placed, Scene

SIZES = ("big", "tiny")
JOINED = ("on a {}", "on a {}", "in front of a {}", "with a {}")


class Subject(IntEnum):
    """What a caption is about."""

    SCENE = 0
    BACKGROUND = 1
    THING = 2


@dataclass(frozen=True)
class Caption:
    """A sentence and its phrases. It is true of a scene in which all phrases are true."""

    text: str
    phrases: tuple[str, ...]
    subject: Subject


def sayable(placed: Placed, drawings: Drawings) -> tuple[list[str], list[str], list[str]]:
    """The words for a drawing in a scene: its names, its kinds, and either with an attribute."""
    thing = drawings.things[placed.drawing]
    attributes = []
    colour = drawings.colours[placed.drawing]
    if colour and placed.colour_kept:
        attributes.append(colour)
    if placed.size > 0.6:
        attributes.append(SIZES[0])
    if placed.size < 0.28:
        attributes.append(SIZES[1])
    names, kinds = list(thing.names), list(thing.kinds)
    return names, kinds, [f"{a} {word}" for a in attributes for word in names + kinds]


def phrases(scene: Scene, drawings: Drawings) -> set[str]:
    """Every phrase that is true of a scene."""
    true = set(scene.phrases)
    for placed in scene.placed:
        for some in sayable(placed, drawings):
            true.update(some)
    return true


class Writer:
    """Writes the captions of scenes."""

    def __init__(self, drawings: Drawings) -> None:
        self.drawings = drawings
        self.templates = templates()

    def captions(self, rng: np.random.Generator, scene: Scene) -> list[Caption]:
        """One caption of the whole scene, one of the background, and one of each thing."""
        things = [self._alone(rng, self._word(rng, placed), Subject.THING) for placed in scene.placed]
        return [self._whole(rng, scene), self._alone(rng, self._background(rng, scene), Subject.BACKGROUND), *things]

    def absent(self, rng: np.random.Generator, written: list[list[Caption]]) -> list[Caption]:
        """A caption of each name that no caption of one thing in a batch has. They are written for no scene."""
        said = {c.phrases[0] for some in written for c in some if c.subject == Subject.THING}
        template = str(rng.choice(self.templates))
        names = [name for name in self.drawings.by_name() if name not in said]
        return [Caption(template.format(name), (name,), Subject.THING) for name in names]

    def _word(self, rng: np.random.Generator, placed: Placed) -> str:
        names, kinds, described = sayable(placed, self.drawings)
        draw = rng.random()
        if draw < 0.1 and kinds:
            return str(rng.choice(kinds))
        if draw < 0.3 and described:
            return str(rng.choice(described))
        return names[0] if draw < 0.8 else str(rng.choice(names))

    def _sentence(self, rng: np.random.Generator, things: list[str], background: str | None) -> Caption:
        article = "the" if rng.random() < 0.2 else "a"
        listed = [things[0], *(f"{article} {word}" for word in things[1:])]
        text = listed[0] if len(listed) == 1 else ", ".join(listed[:-1]) + " and " + listed[-1]
        used = list(things)
        if background:
            text = f"{text} {str(rng.choice(JOINED)).format(background)}"
            used.append(background)
        if rng.random() < 0.25:
            return Caption(f"{article} {text}", tuple(used), Subject.SCENE)
        return Caption(str(rng.choice(self.templates)).format(text), tuple(used), Subject.SCENE)

    def _background(self, rng: np.random.Generator, scene: Scene) -> str:
        return str(rng.choice(scene.phrases))

    def _whole(self, rng: np.random.Generator, scene: Scene) -> Caption:
        order = rng.permutation(len(scene.placed))
        words = [self._word(rng, scene.placed[i]) for i in order]
        return self._sentence(rng, words, self._background(rng, scene) if rng.random() < 0.75 else None)

    def _alone(self, rng: np.random.Generator, phrase: str, subject: Subject) -> Caption:
        return Caption(str(rng.choice(self.templates)).format(phrase), (phrase,), subject)


def truth(captions: list[list[Caption]], true: list[set[str]]) -> torch.Tensor:
    """Which captions are true of which scenes: [scenes, captions], captions list by list.

    Only captions are compared. A caption is true of a scene if all of its phrases are among those from which the
    scene's own captions were drawn.
    """
    scenes_with: dict[str, int] = {}
    for row, some in enumerate(true):
        for phrase in some:
            scenes_with[phrase] = scenes_with.get(phrase, 0) | 1 << row
    everywhere = (1 << len(true)) - 1
    columns = []
    for caption in (c for some in captions for c in some):
        mask = everywhere
        for phrase in caption.phrases:
            mask &= scenes_with.get(phrase, 0)
        columns.append([mask >> row & 1 for row in range(len(true))])
    return torch.tensor(columns, dtype=torch.bool).T
