"""Writes a few tensors of a CLIP as training leaves them: under prefixes, in wrappers, beside other values.

It writes into tests/golden/wrappers, for tests/golden/checkpoints.rs:
- expected.safetensors: the tensors under open_clip's names, in 32 bits;
- every other file: the same tensors in one way in which people have them. PyTorch writes prefixes, element types and
  pickles itself, and Lightning its checkpoint, after a step of its own trainer.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import random
import tempfile

import numpy
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

GOLDEN = pathlib.Path(__file__).parents[2] / "tests" / "golden" / "wrappers"


class Few(nn.Module):
    """The first tensor of an image tower, a projection and the temperature, all exact in bfloat16."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, 2, 2, bias=False)
        self.text_projection = nn.Parameter(torch.empty(4, 3))
        self.logit_scale = nn.Parameter(torch.tensor(4.5 * sign))
        with torch.no_grad():
            self.visual.conv1.weight.copy_(sign * torch.arange(24.0).reshape(2, 3, 2, 2))
            self.text_projection.copy_(sign * (torch.arange(12.0).reshape(4, 3) - 5) / 4)


class Lit(LightningModule):
    """The model inside Lightning's, whose optimiser makes steps of the length 0."""

    def __init__(self, lr: float, logs: pathlib.PurePosixPath) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = Few()

    def training_step(self, batch: Tensor) -> Tensor:
        loss = sum((parameter * batch.mean()).sum() for parameter in self.model.parameters())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=self.hparams.lr)
        return [optimiser], [torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10)]


def save_by_lightning(path: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        callback = ModelCheckpoint(dirpath=folder, monitor="loss")
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            callbacks=[callback],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(Lit(0.0, pathlib.PurePosixPath("logs")), torch.utils.data.DataLoader(torch.ones(4, 1)))
        # The folder's name is another one each time.
        callback.dirpath, callback.best_model_path, callback.kth_best_model_path = "logs", "logs/best.ckpt", ""
        callback.best_k_models = {callback.best_model_path: callback.best_model_score}
        trainer.save_checkpoint(path)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor.clone() for name, tensor in state.items()}


def beside_the_weights(model: nn.Module) -> dict:
    """What training scripts save beside the weights, with an optimiser that has made a step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    return {
        "epoch": 32,
        "name": "tiny",
        "args": argparse.Namespace(lr=5e-4, logs=pathlib.PurePosixPath("logs"), device=torch.device("cpu")),
        "loss": numpy.float64(0.25),
        "best": numpy.float32(0.5),
        "history": numpy.arange(3),
        "metrics": collections.defaultdict(list, {"top1": [numpy.float64(0.5)]}),
        "seen": {1, 2},
        "frozen": frozenset({"visual"}),
        "key": b"\x00\xff",
        "random": (random.Random(1).getstate()[0], 1 << 100),
        "generator": torch.arange(8, dtype=torch.uint8),
        "dtype": torch.float32,
        "shape": torch.Size([1, 2]),
        "optimizer": optimiser.state_dict(),
    }


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.clone() for name, tensor in Few().state_dict().items()}
    other = {name: tensor.clone() for name, tensor in Few(-1.0).state_dict().items()}
    averaged = AveragedModel(Few(), multi_avg_fn=get_ema_multi_avg_fn(0.999))
    beside = beside_the_weights(Few())

    pickles: dict[str, object] = {
        "data_parallel": nn.DataParallel(Few()).state_dict(),
        "compiled": torch.compile(Few()).state_dict(),
        "compiled_data_parallel": torch.compile(nn.DataParallel(Few())).state_dict(),
        "averaged_model": averaged.state_dict(),
        "half": Few().half().state_dict(),
        "bfloat16": Few().bfloat16().state_dict(),
        "double": Few().double().state_dict(),
        "model": {"model": state, "epoch": 1},
        "model_state_dict": {"epoch": 1, "model_state_dict": state, "optimizer_state_dict": beside["optimizer"]},
        "model_name_and_state_dict": {"model": "ViT-B-16", "state_dict": state},
        "module": {"module": state, "lr_scheduler": None},
        "averages_beside": {"state_dict": other, "state_dict_ema": state},
    }
    for name, value in pickles.items():
        torch.save(value, GOLDEN / f"{name}.pt")
    for protocol in range(2, 6):
        training = {**beside, "state_dict": prefixed("module.", state)}
        torch.save(training, GOLDEN / f"training_protocol_{protocol}.pt", pickle_protocol=protocol)

    save_by_lightning(GOLDEN / "lightning.ckpt")
    save_file(state, GOLDEN / "expected.safetensors")
    for name, prefix in ("data_parallel", "module."), ("compiled", "_orig_mod."), ("model", "model."):
        save_file(prefixed(prefix, state), GOLDEN / f"{name}.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in state.items()}, GOLDEN / "bfloat16.safetensors")
    both = {**prefixed("model.", other), **prefixed("model_ema.module.", state)}
    save_file(both, GOLDEN / "averages_inside.safetensors")


if __name__ == "__main__":
    main()
