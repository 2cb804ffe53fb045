"""Writes a run's averaged weights as the server loads them: half precision, configuration, words.

    python export.py --weights runs/NAME/state.pt --out models/demo
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import captions
import colours
import model as network
import vocabulary
import world


def training_words() -> list[str]:
    """Every word that captions can have, in lower case."""
    phrases = [word for thing in vocabulary.things() for word in (*thing.names, *thing.kinds)]
    phrases += [*colours.PALETTE, *world.PATTERNS.values(), "background", *captions.SIZES]
    phrases += [word for *_, words in world.STUFF.values() for word in words]
    phrases += [template.format("") for template in [*vocabulary.templates(), *captions.JOINED]] + ["a", "the", "and"]
    return sorted({word for phrase in phrases for word in re.findall(r"[a-z0-9-]+", phrase.lower())})


def known_tokens() -> torch.Tensor:
    """Ids of all tokens that captions can have, without 0, which only pads."""
    ids = network.Tokens()([*training_words(), ",", "."]).unique()
    return ids[ids > 0]


def tensors(weights: Path) -> dict[str, torch.Tensor]:
    """The averaged weights in half precision.

    Rows of tokens that training never uses are zero, so that an unknown word is read as nothing.
    """
    state = torch.load(weights, weights_only=True)["average"]
    table = torch.zeros_like(state["token_embedding.weight"])
    known = known_tokens()
    table[known] = state["token_embedding.weight"][known]
    state["token_embedding.weight"] = table
    return {k: v.half().contiguous() for k, v in state.items() if v.is_floating_point()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--config", default="resnet", choices=network.CONFIGS)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = arguments.out / "model.safetensors"
    save_file(tensors(arguments.weights), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors lets nobody else read it
    config = network.CONFIGS[arguments.config]
    sidecar: dict[str, Any] = {
        "model_cfg": config.model,
        "preprocess_cfg": {
            "mean": network.MEAN,
            "std": network.STD,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    if config.last_stride != 2:
        sidecar["last_stride"] = config.last_stride
    (arguments.out / "config.json").write_text(json.dumps(sidecar, indent=2) + "\n")
    (arguments.out / "training_words.txt").write_text("".join(f"{word}\n" for word in training_words()))


if __name__ == "__main__":
    main()
