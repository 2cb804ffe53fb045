"""Writes the goldens of MaskCLIP+'s students: tiny random networks in plain PyTorch. Run it and commit what it writes.

For each student of STUDENTS it writes into tests/golden student_<name>.safetensors (its tensors, in 16 bits) and
student_<name>_arrays.safetensors (images, texts, labels, and what follows from them):
- the distance of the features from those of `teacher`, where `counted` is 1;
- logits with the running statistics, and with the batch's own statistics; `after_one` are the running statistics after
  that;
- the loss of the next STEPS steps of torch's SGD, and some tensors after these steps.

It computes in 64 bits. tests/golden/student.rs repeats the configurations.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"

WIDTH = 4
HEAD_CHANNELS = 16
EMBEDDING = 6
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
# Each student has a seed with which no activation is near 0. Near 0, another order of sums in 32 bits (one, two or four
# threads) can change an activation's sign, and with it the gradient.
STUDENTS = {
    "resnet18_plain_v2": ("resnet18", "plain", "v2", 3000),
    "resnet50_v1c_v2": ("resnet50", "v1c", "v2", 3023),
    "resnet18_v1c_v3_plus": ("resnet18", "v1c", "v3_plus", 3014),
}

QUERIES = 3
UNLABELLED = 65535
STEPS = 3
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4


def sequence(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


class Block(nn.Module):
    """torchvision's BasicBlock and Bottleneck; every 3x3 convolution may be dilated."""

    def __init__(self, bottleneck: bool, inputs: int, inner: int, stride: int, first_dilation: int, dilation: int):
        super().__init__()
        outputs = 4 * inner if bottleneck else inner
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv1, self.bn1 = sequence(inputs, inner, 1)
            self.conv2, self.bn2 = sequence(inner, inner, 3, stride, first_dilation)
            self.conv3, self.bn3 = sequence(inner, outputs, 1)
        else:
            self.conv1, self.bn1 = sequence(inputs, inner, 3, stride, first_dilation)
            self.conv2, self.bn2 = sequence(inner, outputs, 3, 1, dilation)
        changes = stride != 1 or inputs != outputs
        self.downsample = nn.Sequential(*sequence(inputs, outputs, 1, stride)) if changes else nn.Identity()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """Stages at 1/4, 1/8, 1/8, 1/8 of the image. A dilated stage's first block has the previous stage's dilation."""

    def __init__(self, depth: str, stem: str):
        super().__init__()
        if stem == "plain":
            self.conv1, self.bn1 = sequence(3, WIDTH, 7, 2)
        else:  # timm's deep stem
            half = WIDTH // 2
            last, self.bn1 = sequence(half, WIDTH, 3)
            first, second = sequence(3, half, 3, 2), sequence(half, half, 3)
            self.conv1 = nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU(), last)
        channels, before = WIDTH, 1
        for index, (stride, dilation) in enumerate([(1, 1), (2, 1), (1, 2), (1, 4)]):
            blocks = []
            for number in range(BLOCKS[depth][index]):
                first = number == 0
                block = Block(
                    depth != "resnet18", channels, WIDTH * 2**index, stride if first else 1, before if first else dilation, dilation
                )
                channels = block.outputs
                blocks.append(block)
            before = dilation
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
            if index == 0:
                self.first_channels = channels
        self.channels = channels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        first = self.layer1(x)
        return first, self.layer4(self.layer3(self.layer2(first)))


class DeeplabV2(nn.Module):
    def __init__(self, backbone: ResNet):
        super().__init__()
        convolutions = [nn.Conv2d(backbone.channels, EMBEDDING, 3, padding=rate, dilation=rate) for rate in (6, 12, 18, 24)]
        self.convs = nn.ModuleList(convolutions)

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        return sum(convolution(last) for convolution in self.convs)


class Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1):
        super().__init__()
        self.conv, self.bn = sequence(inputs, outputs, kernel, 1, dilation)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class DeeplabV3Plus(nn.Module):
    def __init__(self, backbone: ResNet):
        super().__init__()
        inputs, inner, fine = backbone.channels, HEAD_CHANNELS, HEAD_CHANNELS * 3 // 16
        dilated = [Layer(inputs, inner, 3, rate) for rate in (12, 24, 36)]
        self.branches = nn.ModuleList([Layer(inputs, inner, 1), *dilated])
        self.pool = Layer(inputs, inner, 1)
        self.project = Layer(5 * inner, inner, 1)
        self.low_level = Layer(backbone.first_channels, fine, 1)
        self.decoder = nn.Sequential(Layer(inner + fine, inner, 3), Layer(inner, inner, 3))
        self.output = nn.Conv2d(inner, EMBEDDING, 1)

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        pooled = F.interpolate(self.pool(F.adaptive_avg_pool2d(last, 1)), last.shape[2:])
        pyramid = self.project(torch.cat([branch(last) for branch in self.branches] + [pooled], dim=1))
        pyramid = F.interpolate(pyramid, first.shape[2:], mode="bilinear", align_corners=False)
        return self.output(self.decoder(torch.cat([pyramid, self.low_level(first)], dim=1)))


class Student(nn.Module):
    def __init__(self, depth: str, stem: str, head: str):
        super().__init__()
        self.backbone = ResNet(depth, stem)
        self.head = {"v2": DeeplabV2, "v3_plus": DeeplabV3Plus}[head](self.backbone)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        return torch.einsum("behw,qe->bqhw", self.head(*self.backbone(images)), texts)


def randomise(student: Student, generator: torch.Generator) -> None:
    """Sets tensors that fit 16 bits and none of which has a value that would hide a mistake."""
    with torch.no_grad():
        for name, tensor in student.state_dict().items():
            if name.endswith("num_batches_tracked") or "running" in name:
                continue
            values = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim == 1 and name.endswith("weight"):
                # A block's last scale is small: else sixteen blocks would enlarge the rounding of 32 bits to noise.
                values = (0.3 if ".bn3." in name else 1.0) * (1.0 + 0.2 * values)
            elif tensor.ndim == 1:
                values = 0.2 * values
            else:
                values = values * (2.0 / tensor[0].numel()) ** 0.5
            tensor.copy_(values.half())
        # With statistics far from those of every batch, activations would grow from block to block.
        student.train()
        for _ in range(40):
            student(torch.randn(2, 3, 64, 64, generator=generator).double(), torch.eye(EMBEDDING).double())
        for name, tensor in student.state_dict().items():
            if "running" in name:
                tensor.copy_(tensor.half())


def tensors(student: Student) -> dict[str, Tensor]:
    return {name: value for name, value in student.state_dict().items() if not name.endswith("num_batches_tracked")}


def write(name: str, depth: str, stem: str, head: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = Student(depth, stem, head).double()
    randomise(student, generator)
    save_file({key: value.half() for key, value in tensors(student).items()}, GOLDEN / f"student_{name}.safetensors")

    images = torch.randn(2, 3, 64, 48, generator=generator).double()
    texts = F.normalize(torch.randn(QUERIES, EMBEDDING, generator=generator), dim=1).double()
    labels = torch.randint(QUERIES, (2, 8, 6), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[:, :10, :20] = UNLABELLED
    arrays = {"images": images, "texts": texts, "labels": labels}

    student.eval()
    arrays["evaluate"] = student(images, texts)
    arrays["teacher"] = torch.randn(2, EMBEDDING, 5, 3, generator=generator).double()
    features = student.head(*student.backbone(images))
    arrays["counted"] = torch.ones(2, *features.shape[2:]).double()
    arrays["counted"][1, :, 4:] = 0
    guide = F.interpolate(arrays["teacher"], features.shape[2:], mode="bilinear", align_corners=False)
    apart = (F.normalize(features, dim=1) - F.normalize(guide, dim=1)).abs().sum(1)
    arrays["distance"] = (apart * arrays["counted"]).sum() / arrays["counted"].sum()
    student.train()
    arrays["train"] = student(images, texts)
    arrays["after_one"] = torch.cat([student.backbone.bn1.running_mean, student.backbone.layer4[-1].bn2.running_var])

    optimiser = torch.optim.SGD(student.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    losses = []
    for _ in range(STEPS):
        logits = F.interpolate(student(images, texts), images.shape[2:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, labels, ignore_index=UNLABELLED)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss)
    arrays["losses"] = torch.stack(losses)
    for key in ("backbone.bn1.weight", "backbone.layer2.0.conv1.weight", "backbone.layer4.1.bn2.bias"):
        arrays[f"after_steps.{key}"] = tensors(student)[key]
    print(f"{name}: losses {[round(loss.item(), 4) for loss in losses]}, logits to {arrays['evaluate'].abs().max():.2f} and {arrays['train'].abs().max():.2f}")
    stored = {key: value.detach() if value.dtype == torch.int64 else value.detach().float() for key, value in arrays.items()}
    save_file({key: value.contiguous() for key, value in stored.items()}, GOLDEN / f"student_{name}_arrays.safetensors")


if __name__ == "__main__":
    for name, (depth, stem, head, seed) in STUDENTS.items():
        write(name, depth, stem, head, seed)
