"""Trains the embedded CLIP contrastively, on pairs of scenes and captions.

    python train.py --drawings DIR --schedule schedules/resnet.json --run runs/NAME

A run writes state.pt, which has all that the run needs to continue, and log.jsonl. state.pt is replaced atomically,
also when the run is terminated. A run that is started again continues from its state; the schedule may have grown in
between.
"""

from __future__ import annotations

import argparse
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
import model as network
import world


@dataclass(frozen=True)
class Phase:
    """A part of the training: its steps, the scenes' side in pixels, the recipe, the first and last learning rate."""

    steps: int
    side: int
    rate: tuple[float, float]
    recipe: dict[str, Any]


@dataclass(frozen=True)
class Schedule:
    """A whole training: the name of the configuration, the batch, the phases."""

    config: str
    batch: int
    seed: int
    phases: list[Phase]

    @classmethod
    def read(cls, path: Path) -> Schedule:
        raw = json.loads(path.read_text())
        return cls(raw["config"], raw["batch"], raw["seed"], [Phase(**phase) for phase in raw["phases"]])

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
    which picture [N, M], for which picture each caption was written [M], and each caption's subject [M].
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
            scenes = [world.scene(rng, recipe, by_name) for _ in range(self.schedule.batch)]
            pictures, _ = world.render(scenes, known, phase.side, recipe.change)
            written = [writer.captions(rng, s) for s in scenes]
            true = captions.truth(written, [captions.phrases(s, known) for s in scenes])
            own = torch.tensor([row for row, some in enumerate(written) for _ in some])
            subjects = torch.tensor([c.subject for some in written for c in some])
            yield pictures, tokens([c.text for some in written for c in some]), true, own, subjects


SINKHORN_STEPS = 3
BACKGROUND_SHARE = 0.3  # of a picture's area; less than in the scenes, because every position sees some background


def contrastive_loss(logits: torch.Tensor, true: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss with several captions per picture.

    logits and true are [N, M]; own [M] is the picture of each caption. A caption that is also true of another picture
    is no negative for that picture, and a picture's own captions do not compete with each other.
    """
    positive = logits[own, torch.arange(len(own))]
    wrong = logits.masked_fill(true, -torch.inf)
    to_text = torch.logaddexp(positive, wrong.logsumexp(1)[own]) - positive
    to_image = torch.logaddexp(positive, wrong.logsumexp(0)) - positive
    return (to_text.mean() + to_image.mean()) / 2


def position_loss(logits: torch.Tensor, true: torch.Tensor, own: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """The loss that compares positions with phrases; it knows only which phrases are true of which picture.

    logits [N, P, M] are those of the P positions of N pictures with M captions of one phrase; true is [N, M], own and
    prior are [M]. Every position must say one of its picture's own phrases, as `shares` assigns them (to text). Every
    phrase must be said somewhere in its own picture rather than in another (to image).
    """
    count, _, captions = logits.shape
    mine = own == torch.arange(count)[:, None]
    kept = logits.masked_fill((true & ~mine)[:, None], -torch.inf)
    to_text = kept.logsumexp(2) - (shares(logits.detach(), mine, prior) * logits).sum(2)
    anywhere = logits.logsumexp(1) - math.log(logits.shape[1])
    positive = anywhere[own, torch.arange(captions)]
    to_image = torch.logaddexp(positive, anywhere.masked_fill(true, -torch.inf).logsumexp(0)) - positive
    return (to_text.mean() + to_image.mean()) / 2


def shares(logits: torch.Tensor, mine: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """How much every position of a picture is about each of the picture's phrases, [N, P, M]; sums to one over M.

    This is the posterior given the picture's phrases. A few Sinkhorn steps draw it towards the shares of the picture's
    area that `prior` [M] expects of the phrases. Without them the background, which is everywhere, would take every
    position.
    """
    share = logits.masked_fill(~mine[:, None], -torch.inf).softmax(2)
    for _ in range(SINKHORN_STEPS):
        share = share * prior / share.mean(1, keepdim=True).clamp(min=1e-6)
        share = share / share.sum(2, keepdim=True)
    return share


def expected_areas(own: torch.Tensor, subjects: torch.Tensor) -> torch.Tensor:
    """The share of its picture that each caption of one phrase is expected to take, [M].

    The things of a picture share what the background leaves.
    """
    things = torch.bincount(own[subjects == captions.Subject.THING], minlength=int(own.max()) + 1)[own]
    return torch.where(subjects == captions.Subject.BACKGROUND, BACKGROUND_SHARE, (1 - BACKGROUND_SHARE) / things.clamp(min=1))


def optimiser(model: CLIP) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6, foreach=True)


class Average:
    """A moving average of all weights and statistics; it is what is evaluated and exported."""

    def __init__(self, model: CLIP) -> None:
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: CLIP, step: int) -> None:
        decay = min(0.996, (1 + step) / (20 + step))
        new = model.state_dict()
        kept = [k for k, v in new.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.state[k] for k in kept], [new[k] for k in kept], 1 - decay)


def save(path: Path, content: dict[str, Any]) -> None:
    """Replaces a file in one step."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def train(schedule: Schedule, folder: Path, run: Path, weights: Path | None, every: float) -> None:
    """Trains until the schedule ends, from the run's state if there is one, else from exported weights if given."""
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(schedule.seed)
    model = network.build(network.CONFIGS[schedule.config])
    if weights:
        model.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    model.visual.to(memory_format=torch.channels_last)
    model.train()
    optimizer, average, step = optimiser(model), Average(model), 0
    if (run / "state.pt").exists():
        state = torch.load(run / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.state, step = state["average"], state["step"]

    loader = DataLoader(Batches(schedule, folder, step), batch_size=None, num_workers=1, prefetch_factor=4)
    saved = logged = time.monotonic()
    losses: list[tuple[float, float]] = []
    waited = 0.0
    asked = time.monotonic()
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    with open(run / "log.jsonl", "a") as log:
        for pictures, tokens, true, own, subjects in loader:
            waited += time.monotonic() - asked
            phase, rate = schedule.at(step)
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 200)
            with torch.autocast("cpu", torch.bfloat16):
                read, positions = network.image_features(model, network.normalise(pictures))
                texts = network.text_features(model, tokens)
            scale = model.logit_scale.exp()
            read, positions, texts = (F.normalize(some.float(), dim=-1) for some in (read, positions, texts))
            whole = contrastive_loss(scale * read @ texts.T, true, own)
            one = subjects != captions.Subject.SCENE
            prior = expected_areas(own[one], subjects[one])
            local = position_loss(scale * positions @ texts[one].T, true[:, one], own[one], prior)
            loss = whole + local
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))
            average.update(model, step)
            step += 1
            losses.append((whole.item(), local.item()))
            if step % 25 == 0 or step == schedule.steps:
                now = time.monotonic()
                line = {
                    "step": step,
                    "side": phase.side,
                    "whole": round(sum(w for w, _ in losses) / len(losses), 4),
                    "local": round(sum(p for _, p in losses) / len(losses), 4),
                    "scale": round(scale.item(), 2),
                    "rate": rate,
                    "scenes_a_second": round(len(losses) * schedule.batch / (now - logged), 1),
                    "waiting": round(waited / (now - logged), 2),
                    "time": time.strftime("%H:%M:%S"),
                }
                print(json.dumps(line), file=log, flush=True)
                losses, logged, waited = [], now, 0.0
            if stopped or time.monotonic() - saved > every or step == schedule.steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.state, "step": step}
                save(run / "state.pt", state)
                saved = time.monotonic()
            if stopped:
                break
            asked = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=Path, required=True, help="folder with noto/, twemoji/, fluent/")
    parser.add_argument("--schedule", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run's state and log")
    parser.add_argument("--weights", type=Path, help="exported weights to start from, when the run has no state yet")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=float, default=240, help="seconds between states")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(Schedule.read(arguments.schedule), arguments.drawings, arguments.run, arguments.weights, arguments.save_every)


if __name__ == "__main__":
    main()
