"""Trains the demonstration CLIP on pairs of scenes and captions, contrastively.

    python train.py --drawings DIR --schedule schedules/resnet.json --run runs/NAME

A run writes state.pt (all it needs to go on, replaced atomically; also when it is terminated) and log.jsonl. Started
again, it goes on from its state; the schedule may have grown in between.
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
    """A stretch of training: how many steps, the scenes' side in pixels, the recipe, the learning rate's two ends."""

    steps: int
    side: int
    rate: tuple[float, float]
    recipe: dict[str, Any]


@dataclass(frozen=True)
class Schedule:
    """A whole training: the configuration's name, the batch, the phases."""

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
        """The phase of a step, and the learning rate there."""
        for phase in self.phases:
            if step < phase.steps:
                start, end = phase.rate
                return phase, start + (end - start) * step / phase.steps
            step -= phase.steps
        raise IndexError("past the schedule's end")


class Batches(IterableDataset):
    """Batches of a schedule from a step on; the same step always gives the same batch."""

    def __init__(self, schedule: Schedule, folder: Path, start: int) -> None:
        self.schedule, self.folder, self.start = schedule, folder, start

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Pictures [N, 3, S, S], token ids [3 N, L], truth [N, 3 N]."""
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
            yield pictures, tokens([c.text for some in written for c in some]), true


def contrastive_loss(images: torch.Tensor, texts: torch.Tensor, true: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss with K captions a picture.

    images [N, D], texts [K N, D] (picture by picture), true [N, K N]. A caption that happens to be true of another
    picture too is no negative for it, and a picture's own captions do not compete with each other.
    """
    count = len(images)
    each = len(texts) // count
    logits = scale * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    own = torch.arange(count).repeat_interleave(each)
    positive = logits[own, torch.arange(len(texts))]
    wrong = logits.masked_fill(true, -torch.inf)
    to_text = torch.logaddexp(positive, wrong.logsumexp(1)[own]) - positive
    to_image = torch.logaddexp(positive, wrong.logsumexp(0)) - positive
    return (to_text.mean() + to_image.mean()) / 2


def optimiser(model: CLIP) -> torch.optim.AdamW:
    """AdamW; only matrices decay."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6, foreach=True)


class Average:
    """A moving average of all weights and statistics, which is what gets evaluated and exported."""

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
    """Trains until the schedule ends, going on from the run's state if there is one, else from exported weights if given."""
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
    losses: list[float] = []
    waited = 0.0
    asked = time.monotonic()
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    with open(run / "log.jsonl", "a") as log:
        for pictures, tokens, true in loader:
            waited += time.monotonic() - asked
            phase, rate = schedule.at(step)
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 200)
            with torch.autocast("cpu", torch.bfloat16):
                readings = network.image_features(model, network.normalise(pictures))
                texts = network.text_features(model, tokens)
            scale = model.logit_scale.exp()
            loss = torch.stack([contrastive_loss(r.float(), texts.float(), true, scale) for r in readings]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))
            average.update(model, step)
            step += 1
            losses.append(loss.item())
            if step % 25 == 0 or step == schedule.steps:
                now = time.monotonic()
                line = {
                    "step": step,
                    "side": phase.side,
                    "loss": round(sum(losses) / len(losses), 4),
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
