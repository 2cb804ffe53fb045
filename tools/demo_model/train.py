"""Trains the embedded CLIP contrastively, on pairs of scenes and captions.

    python train.py --drawings DIR --schedule schedules/resnet.json --run runs/NAME

A run writes state.pt, which has all that the run needs to continue, log.jsonl, and curve.csv, which has figures of the
averaged weights on validation scenes. state.pt is replaced atomically, also when the run is terminated. A run that is
started again continues from its state; the schedule may have grown in between.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch.utils.data import DataLoader, IterableDataset

import captions
import drawings
import evaluate
import model as network
import scenes
import world


@dataclass(frozen=True)
class Phase:
    """A part of the training: its steps, the scenes' side in pixels, the recipe, the first and last learning rate.

    `background` is the share of a picture's area that the background is expected to take.
    """

    steps: int
    side: int
    rate: tuple[float, float]
    recipe: dict[str, Any]
    background: float = 0.3


@dataclass(frozen=True)
class Schedule:
    """A whole training: the name of the configuration, the batch, the phases, and choices that hold throughout.

    With `absent`, every batch has a caption of each name that its scenes lack. `pull` is how much expected areas count
    (`shares`), and `average` the decay of the average of the weights.
    """

    config: str
    batch: int
    seed: int
    phases: list[Phase]
    absent: bool = False
    pull: float = 1.0
    average: float = 0.996

    @classmethod
    def read(cls, path: Path) -> Schedule:
        raw = json.loads(path.read_text())
        return cls(**raw | {"phases": [Phase(**phase) for phase in raw["phases"]]})

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def at(self, step: int) -> tuple[Phase, float]:
        """The phase and the learning rate of a step."""
        for phase in self.phases:
            if step < phase.steps:
                start, end = phase.rate
                return phase, start + (end - start) * step / phase.steps
            step -= phase.steps
        raise IndexError("past the schedule's end")


class Batches(IterableDataset):
    """The batches of a schedule from a step on. The same step always gives the same batch.

    A batch has N pictures [N, 3, S, S] and M captions in all, as token ids [M, L]. It says which caption is true of
    which picture [N, M], for which picture each caption was written [M] (-1 for none), and each caption's subject [M].
    """

    def __init__(self, schedule: Schedule, folder: Path, start: int) -> None:
        self.schedule, self.folder, self.start = schedule, folder, start

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        torch.set_num_threads(1)
        known = drawings.load(self.folder, drawings.TRAINING_STYLES)
        by_name = known.by_name()
        writer = captions.Writer(known)
        tokens = network.Tokens()
        for step in range(self.start, self.schedule.steps):
            phase, _ = self.schedule.at(step)
            rng = np.random.default_rng([self.schedule.seed, step])
            recipe = world.Recipe(names=tuple(by_name), **phase.recipe)
            made = [world.scene(rng, recipe, by_name) for _ in range(self.schedule.batch)]
            pictures, _ = world.render(made, known, phase.side, recipe.change)
            written = [writer.captions(rng, scene) for scene in made]
            own = [row for row, some in enumerate(written) for _ in some]
            if self.schedule.absent:
                written.append(writer.absent(rng, written))
                own += [-1] * len(written[-1])
            true = captions.truth(written, [captions.phrases(scene, known) for scene in made])
            every = [c for some in written for c in some]
            subjects = torch.tensor([c.subject for c in every])
            yield pictures, tokens([c.text for c in every]), true, torch.tensor(own), subjects


SINKHORN_STEPS = 3
WARM_UP = 200  # steps
LOG_EVERY = 25  # steps


def contrastive_loss(logits: torch.Tensor, true: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss with several captions per picture.

    logits and true are [N, M]; own [M] is the picture of each caption, -1 for none. A caption that is also true of
    another picture is no negative for that picture, and a picture's own captions do not compete with each other.
    """
    written = torch.nonzero(own >= 0).flatten()
    own = own[written]
    positive = logits[own, written]
    wrong = logits.masked_fill(true, -torch.inf)
    to_text = torch.logaddexp(positive, wrong.logsumexp(1)[own]) - positive
    to_image = torch.logaddexp(positive, wrong[:, written].logsumexp(0)) - positive
    return (to_text.mean() + to_image.mean()) / 2


def position_loss(
    logits: torch.Tensor, true: torch.Tensor, own: torch.Tensor, prior: torch.Tensor, pull: float = 1.0
) -> torch.Tensor:
    """The loss that compares positions with phrases; it knows only which phrases are true of which picture.

    logits [N, P, M] are those of the P positions of N pictures with M captions of one phrase; true is [N, M], own and
    prior are [M]. Every position must say one of its picture's own phrases, as `shares` assigns them (to text). Every
    phrase must be said somewhere in its own picture rather than in another (to image). A phrase that was written for no
    picture is one that no position may say, unless it is true of the picture.
    """
    mine = own == torch.arange(len(logits))[:, None]
    kept = logits.masked_fill((true & ~mine)[:, None], -torch.inf)
    to_text = kept.logsumexp(2) - (shares(logits.detach(), mine, prior, pull) * logits).sum(2)
    written = torch.nonzero(own >= 0).flatten()
    anywhere = logits[..., written].logsumexp(1) - math.log(logits.shape[1])
    positive = anywhere[own[written], torch.arange(len(written))]
    to_image = torch.logaddexp(positive, anywhere.masked_fill(true[:, written], -torch.inf).logsumexp(0)) - positive
    return (to_text.mean() + to_image.mean()) / 2


def shares(logits: torch.Tensor, mine: torch.Tensor, prior: torch.Tensor, pull: float = 1.0) -> torch.Tensor:
    """How much every position of a picture is about each of the picture's phrases, [N, P, M]; sums to one over M.

    This is the posterior given the picture's phrases. A few Sinkhorn steps draw it towards the shares of the picture's
    area that `prior` [M] expects of the phrases. Without them the background, which is everywhere, would take every
    position. With a `pull` below 1 they draw less, so that what is large may stay larger than what is small.
    """
    share = logits.masked_fill(~mine[:, None], -torch.inf).softmax(2)
    for _ in range(SINKHORN_STEPS):
        share = share * (prior / share.mean(1, keepdim=True).clamp(min=1e-6)) ** pull
        share = share / share.sum(2, keepdim=True)
    return share


def expected_areas(own: torch.Tensor, subjects: torch.Tensor, background: float) -> torch.Tensor:
    """The share of its picture that each caption of one phrase is expected to take, [M]; 0 if it is of no picture.

    The background takes `background`, and the things of a picture share what it leaves.
    """
    things = torch.bincount(own[(subjects == captions.Subject.THING) & (own >= 0)], minlength=int(own.max()) + 1)
    of_things = (1 - background) / things.clamp(min=1)
    areas = torch.where(subjects == captions.Subject.BACKGROUND, background, of_things[own])
    return torch.where(own >= 0, areas, 0.0)


def optimiser(model: CLIP) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6, foreach=True)


class Average:
    """A moving average of all weights and statistics; it is what is evaluated and exported."""

    def __init__(self, model: CLIP, decay: float) -> None:
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.decay = decay

    @torch.no_grad()
    def update(self, model: CLIP, step: int) -> None:
        decay = min(self.decay, (1 + step) / (5 + step))  # over a quarter of the steps so far, while those are few
        new = model.state_dict()
        kept = [k for k, v in new.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.state[k] for k in kept], [new[k] for k in kept], 1 - decay)


def save(path: Path, content: dict[str, Any]) -> None:
    """Replaces a file in one step."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


VALIDATION = {"all-names-validation": 288, "validation": 256}  # sets of the curve, with their working resolutions


class Curve:
    """Figures of the averaged weights on validation scenes as training goes on, in curve.csv."""

    def __init__(self, schedule: Schedule, folder: Path, path: Path) -> None:
        self.config = network.CONFIGS[schedule.config]
        self.method = "maskclip-no-residual" if schedule.config == "vit" else "maskclip"
        self.sets = {which: (scenes.compose(folder, which), short) for which, short in VALIDATION.items()}
        self.path = path

    def add(self, average: Average, start: dict[str, Any]) -> None:
        """Adds a line: `start`, and the figures."""
        model = network.build(self.config)
        model.load_state_dict(average.state)
        line = dict(start)
        for which, (composed, short) in self.sets.items():
            _, tallies = evaluate.measure(model.eval(), composed, short, [self.method])
            line[f"{which} miou"] = round(tallies[self.method].mean_iou(), 1)
            line[f"{which} right"] = round(tallies[self.method].share_right(), 1)
        new = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, line)
            if new:
                writer.writeheader()
            writer.writerow(line)


class Run:
    """A training: the model, its optimiser, the average, and how far it is. The folder keeps all of them."""

    def __init__(self, schedule: Schedule, folder: Path, weights: Path | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(schedule.seed)
        self.schedule, self.path = schedule, folder / "state.pt"
        self.model = network.build(network.CONFIGS[schedule.config])
        if weights:
            self.model.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
        self.model.visual.to(memory_format=torch.channels_last)
        self.model.train()
        self.optimizer, self.average, self.step = optimiser(self.model), Average(self.model, schedule.average), 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.state, self.step = state["average"], state["step"]

    def save(self) -> None:
        """Replaces the state in one step."""
        kept = {"model": self.model, "optimizer": self.optimizer}
        state: dict[str, Any] = {name: part.state_dict() for name, part in kept.items()}
        save(self.path, state | {"average": self.average.state, "step": self.step})

    def losses(self, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of the pooled features and that of the positions."""
        pictures, tokens, true, own, subjects = batch
        with torch.autocast("cpu", torch.bfloat16):
            read, positions = network.image_features(self.model, network.normalise(pictures))
            texts = network.text_features_by_length(self.model, tokens)
        scale = self.model.logit_scale.exp()
        read, positions, texts = (F.normalize(some.float(), dim=-1) for some in (read, positions, texts))
        whole = contrastive_loss(scale * read @ texts.T, true, own)
        one = subjects != captions.Subject.SCENE
        phase, _ = self.schedule.at(self.step)
        prior = expected_areas(own[one], subjects[one], phase.background)
        logits = scale * positions @ texts[one].T
        return whole, position_loss(logits, true[:, one], own[one], prior, self.schedule.pull)

    def learn(self, batch: tuple[torch.Tensor, ...]) -> tuple[float, float]:
        """Takes a step and returns its two losses."""
        _, rate = self.schedule.at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / WARM_UP)
        whole, local = self.losses(batch)
        self.optimizer.zero_grad()
        (whole + local).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        self.average.update(self.model, self.step)
        self.step += 1
        return whole.item(), local.item()


def train(run: Run, folder: Path, save_every: float, measure_every: int) -> None:
    """Trains until the schedule ends or the process is terminated."""
    schedule, start = run.schedule, run.step
    curve = Curve(schedule, folder, run.path.with_name("curve.csv")) if measure_every else None
    loader = DataLoader(Batches(schedule, folder, start), batch_size=None, num_workers=1, prefetch_factor=4)
    saved = logged = asked = time.monotonic()
    losses: list[tuple[float, float]] = []
    waited = 0.0
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    with open(run.path.with_name("log.jsonl"), "a") as log:
        for batch in loader:
            waited += time.monotonic() - asked
            phase, rate = schedule.at(run.step)
            losses.append(run.learn(batch))
            last = run.step == schedule.steps
            if run.step % LOG_EVERY == 0 or last:
                now = time.monotonic()
                whole, local = (sum(some) / len(losses) for some in zip(*losses))
                line = {
                    "step": run.step,
                    "side": phase.side,
                    "rate": rate,
                    "whole": round(whole, 4),
                    "local": round(local, 4),
                    "scale": round(run.model.logit_scale.exp().item(), 2),
                }
                speed = {
                    "scenes_a_second": round(len(losses) * schedule.batch / (now - logged), 1),
                    "waiting": round(waited / (now - logged), 2),
                    "time": time.strftime("%H:%M:%S"),
                }
                print(json.dumps(line | speed), file=log, flush=True)
                if curve and (run.step % measure_every == 0 or last):
                    curve.add(run.average, line)
                losses, logged, waited = [], time.monotonic(), 0.0
            if stopped or last or time.monotonic() - saved > save_every:
                run.save()
                saved = time.monotonic()
            if stopped:
                break
            asked = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=Path, required=True, help="folder with noto/, twemoji/, fluent/")
    parser.add_argument("--schedule", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run's state, log and curve")
    parser.add_argument("--weights", type=Path, help="exported weights to start from, when the run has no state yet")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=float, default=240, help="seconds between states")
    parser.add_argument(
        "--measure-every", type=int, default=250, help="steps between lines of the curve, a multiple of 25; 0 for none"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # the optimiser's moments of rare words decay to numbers that are slow otherwise
    run = Run(Schedule.read(arguments.schedule), arguments.run, arguments.weights)
    train(run, arguments.drawings, arguments.save_every, arguments.measure_every)


if __name__ == "__main__":
    main()
