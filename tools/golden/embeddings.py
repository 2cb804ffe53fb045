"""Writes tools/interop/embeddings.json: the texts and images of tools/interop/random_clip.py as open_clip embeds them.

tools/interop/test_openai.py reads it. Run it from the repository's root, with open_clip 3.3 and safetensors:
python tools/golden/embeddings.py
"""

import io
import json
import sys
from pathlib import Path

import open_clip
import torch
from PIL import Image

INTEROP = Path(__file__).parents[1] / "interop"
sys.path.insert(0, str(INTEROP))

import random_clip  # noqa: E402


def main():
    model = open_clip.CLIP(**random_clip.CONFIG).eval()
    missing = model.load_state_dict({name: torch.from_numpy(array) for name, array in random_clip.weights().items()}, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"attn_mask"}, missing
    preprocess = open_clip.image_transform(
        random_clip.SIDE, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    files = [Image.open(io.BytesIO(file)) for file in random_clip.images()]
    with torch.no_grad():
        texts = model.encode_text(open_clip.tokenize(random_clip.TEXTS), normalize=True)
        images = torch.cat([model.encode_image(preprocess(file)[None], normalize=True) for file in files])
    cosines = images @ texts.T
    print(f"cosines from {cosines.min():.2f} to {cosines.max():.2f}")
    # Vectors that are all alike would agree with a model that does nothing.
    assert (texts @ texts.T).min() < 0.9 and (images @ images.T).min() < 0.9
    rows = {"texts": texts.tolist(), "images": images.tolist()}
    lines = [f'"{name}": [\n' + ",\n".join(json.dumps([round(value, 7) for value in row]) for row in values) + "\n]" for name, values in rows.items()]
    (INTEROP / "embeddings.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
