"""Fetches the drawings as npm packages and lays them out for the recipe.

    python fetch.py --out DIR [--unseen]

It asks for every package by name and version, and refuses one without the digest below. `--unseen` adds OpenMoji, which
only the test scenes need. OpenMoji's package has vector drawings, which resvg_py turns into pixels here.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from drawings import SIDE
from vocabulary import HERE


@dataclass(frozen=True)
class Package:
    """An npm package: its name and version, its SHA-512, and the path of a drawing inside."""

    name: str
    sha512: str
    member: Callable[[str], str]


PACKAGES = {
    "noto": Package(
        "emoji-datasource-google@16.0.0",
        "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
        lambda codepoint: f"package/img/google/64/{codepoint}.png",
    ),
    "twemoji": Package(
        "emoji-datasource-twitter@16.0.0",
        "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
        lambda codepoint: f"package/img/twitter/64/{codepoint}.png",
    ),
    "fluent": Package(
        "@lobehub/fluent-emoji-3d@1.1.0",
        "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        lambda codepoint: f"package/assets/{codepoint}.webp",
    ),
    "openmoji": Package(
        "openmoji@17.0.0",
        "EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
        lambda codepoint: f"package/color/svg/{codepoint.upper()}.svg",
    ),
}


def packed(package: Package, folder: Path) -> Path:
    """Downloads a package by its name and checks its digest."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), package.name]
    archive = folder / subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.sha512:
        raise ValueError(f"{package.name} has SHA-512 {digest}, not {package.sha512}")
    return archive


def picture(member: str, content: bytes) -> Image.Image:
    """A drawing of 64 x 64 pixels from a PNG, a WebP or an SVG."""
    if member.endswith(".svg"):
        import resvg_py

        content = bytes(resvg_py.svg_to_bytes(svg_string=content.decode(), width=SIDE, height=SIDE))
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    return image if image.size == (SIDE, SIDE) else image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def fetch(style: str, out: Path) -> None:
    """Writes out/STYLE/CODEPOINT.png for every line of labels.tsv."""
    package = PACKAGES[style]
    codepoints = [line.split("\t")[0] for line in (HERE / "labels.tsv").read_text().splitlines()[1:]]
    wanted = {}
    for codepoint in codepoints:
        wanted.setdefault(package.member(codepoint), codepoint)
        wanted.setdefault(package.member(codepoint.replace("-fe0f", "")), codepoint)
    (out / style).mkdir(parents=True, exist_ok=True)
    found = set()
    with tempfile.TemporaryDirectory() as folder, tarfile.open(packed(package, Path(folder))) as archive:
        for entry in archive:
            codepoint = wanted.get(entry.name)
            content = archive.extractfile(entry) if codepoint and codepoint not in found else None
            if codepoint and content:
                picture(entry.name, content.read()).save(out / style / f"{codepoint}.png")
                found.add(codepoint)
    if missing := set(codepoints) - found:
        raise ValueError(f"{package.name} lacks {len(missing)} drawings: {sorted(missing)[:5]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unseen", action="store_true", help="OpenMoji too")
    arguments = parser.parse_args()
    for style in PACKAGES:
        if style != "openmoji" or arguments.unseen:
            fetch(style, arguments.out)


if __name__ == "__main__":
    main()
