"""examples/ray/label.py on two nodes of one machine: a node is killed midway, and every image is labelled once."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from ray.cluster_utils import Cluster

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "examples" / "ray" / "label.py"
PROGRAM = os.environ["MASKCLIP_PROGRAM"]
IMAGES = int(os.environ.get("RAY_IMAGES", "200"))
PART = max(10, IMAGES // 40)
"""Images of a part, so that a node is killed in the midst of many parts."""
CLASSES = "sky,grass,tiger"
WAIT_SECONDS = 900


def image(number: int) -> bytes:
    """A small image that no other number has."""
    blocks = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks.repeat(16, 0).repeat(16, 1)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(IMAGES):
        (folder / f"{number:05}.png").write_bytes(image(number))
    return folder


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Two processors each by Ray's own count, of which an actor takes one: the other node has room for those of a lost
    # one.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    try:
        yield cluster
    finally:
        cluster.shutdown()


def start(source: Path, out: Path, cluster: Cluster, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, SCRIPT, source, "--out", out, "--classes", CLASSES, "--program", PROGRAM, "--address", cluster.address]
    command += ["--actors", "2", "--options", '{"short_side": 96}', *options]
    return subprocess.Popen([str(one) for one in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(run: subprocess.Popen[str]) -> str:
    output, _ = run.communicate(timeout=WAIT_SECONDS)
    assert run.returncode == 0, output
    return output


def parts(out: Path) -> list[Path]:
    return sorted(out.glob("part-*.parquet"))


def nodes(out: Path) -> Counter[str]:
    return Counter(pyarrow.parquet.read_schema(path).metadata[b"node"].decode() for path in parts(out))


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for path in parts(out) for row in pyarrow.parquet.read_table(path).to_pylist()]


def wait_for(condition: Any, run: subprocess.Popen[str]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_killed_node_costs_no_image_and_doubles_none(images: Path, tmp_path: Path, cluster: Cluster) -> None:
    out = tmp_path / "labels"
    begun = time.monotonic()
    run = start(images, out, cluster, "--part-images", str(PART))
    # Midway, and both nodes have labelled something.
    wait_for(lambda: len(parts(out)) * PART >= IMAGES // 3 and len(nodes(out)) == 2, run)
    before, (doomed,) = len(parts(out)), cluster.worker_nodes
    cluster.remove_node(doomed, allow_graceful=False)
    finish(run)
    seconds = time.monotonic() - begun
    assert before < len(parts(out)) == -(-IMAGES // PART), "the node was killed midway"
    done = rows(out)
    assert Counter(Path(row["image"]).name for row in done) == Counter(path.name for path in images.iterdir())
    assert all(row["error"] is None and row["width"] == row["height"] == 96 for row in done)
    assert np.asarray(Image.open(io.BytesIO(done[0]["label_map"]))).shape == (96, 96)
    print(f"\n{IMAGES} images, a node killed after {before} of {len(parts(out))} parts: {IMAGES / seconds:.1f} a second with the start")

    # The same command finds nothing to do, and one whose classes differ is refused.
    times = {path: path.stat().st_mtime_ns for path in parts(out)}
    assert "0 are left" in finish(start(images, out, cluster, "--part-images", str(PART)))
    assert times == {path: path.stat().st_mtime_ns for path in parts(out)}
    other = start(images, out, cluster, "--part-images", str(PART), "--classes", "sea")
    assert "other images or settings" in other.communicate(timeout=WAIT_SECONDS)[0]
    assert other.returncode == 1


def test_parquet_is_read_and_damaged_images_have_their_error(tmp_path: Path, cluster: Cluster) -> None:
    table = pyarrow.table({"key": ["a", "b", "c", "d"], "file": [image(0), b"no image", image(2), image(3)]})
    pyarrow.parquet.write_table(table, tmp_path / "images.parquet", row_group_size=2)
    out = tmp_path / "labels"
    finish(start(tmp_path / "images.parquet", out, cluster, "--image-column", "file", "--name-column", "key"))
    assert len(parts(out)) == 2
    done = {row["image"]: row for row in rows(out)}
    assert {name for name, row in done.items() if row["error"] is None} == {"a", "c", "d"}
    assert done["b"]["error"].startswith("/problems/") and done["b"]["label_map"] is None


def test_the_speed_beside_that_of_maskclip_label(images: Path, tmp_path: Path, cluster: Cluster) -> None:
    out = tmp_path / "labels"
    run = start(images, out, cluster, "--part-images", str(PART))
    wait_for(lambda: len(nodes(out)) == 2, run)
    first, begun = len(parts(out)), time.monotonic()
    finish(run)
    ray = (len(parts(out)) - first) * PART / (time.monotonic() - begun)
    command = [PROGRAM, "label", images, "--classes", CLASSES, "--short-side", "96", "--format", "png-grey", "--out", tmp_path / "alone"]
    begun = time.monotonic()
    subprocess.run([str(one) for one in command], check=True, capture_output=True)
    alone = IMAGES / (time.monotonic() - begun)
    print(f"\n{ray:.1f} images a second by Ray on two nodes, without its start; {alone:.1f} by maskclip label, with its start")
