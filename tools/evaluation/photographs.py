"""Compares `maskclip eval` with figures that NumPy counts by itself, on photographs in a folder of your own, or on the
example scenes.

The folder is named by the environment variable MASKCLIP_PHOTOGRAPHS. It has classes.tsv (a line per value: value and
name, 0 for pixels without a class) and images/NAME.jpg with NAME.truth.png, grey PNGs of these values. Without the
variable, a few scenes of examples/scenes become such a folder; tools/interop/test_evaluation.py runs that.

The truths are measured in five forms: the values themselves, masks coded by colours, COCO's panoptic annotations,
COCO's instances as run lengths, and CVAT's XML. `maskclip compare` measures the values once more. NumPy counts from the label maps that `maskclip serve` answers, and shares no code with
the program. All counts of every class have to be equal, and the mean IoU to the last bit. Last, `maskclip train` has to
make two steps on the photographs and their truths.

Run it from the repository's root, with NumPy, Pillow and pycocotools:
MASKCLIP_PHOTOGRAPHS=FOLDER python tools/evaluation/photographs.py --program target/debug/maskclip
python tools/evaluation/photographs.py --program target/debug/maskclip
"""

import argparse
import base64
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pycocotools import mask

OPTIONS = {"short_side": 96, "templates": "simple"}
FLAGS = ["--short-side", "96", "--templates", "simple"]
START_SECONDS = 120
SCENES = Path("examples/scenes")
SCENE_COUNT = 4
# A build without optimisation on a busy machine is slow.
SETTINGS = {
    "MASKCLIP_VOCABULARY__STORE_PATH": "none",
    "MASKCLIP_ENGINE__DEFAULT_DEADLINE_SECONDS": "300",
    "MASKCLIP_ENGINE__MAX_DEADLINE_SECONDS": "300",
}


def read_classes(folder):
    """The name of each value but 0."""
    lines = (folder / "classes.tsv").read_text().splitlines()[1:]
    pairs = (line.split("\t") for line in lines)
    return {int(value): name for value, name in pairs if int(value) != 0}


def draw_folder(folder):
    """Makes a folder of photographs from the first example scenes: JPEGs, with truths whose border is no class."""
    # Pixels without an object would belong to a class called "background", and there are some that do not count.
    names = ["surroundings", *(SCENES / "classes.txt").read_text().splitlines()[1:]]
    lines = ["value\tname", "0\tunlabeled", *(f"{value}\t{name}" for value, name in enumerate(names, 1))]
    (folder / "images").mkdir(parents=True)
    (folder / "classes.tsv").write_text("\n".join(lines) + "\n")
    for path in sorted((SCENES / "in-style").glob("*.truth.png"))[:SCENE_COUNT]:
        stem = path.name.removesuffix(".truth.png")
        values = np.pad(np.asarray(Image.open(path))[3:-3, 5:-5] + 1, ((3, 3), (5, 5)))
        Image.fromarray(values.astype(np.uint8)).save(folder / "images" / path.name)
        Image.open(path.with_name(f"{stem}.png")).convert("RGB").save(folder / "images" / f"{stem}.jpg", quality=90)


def colour_of(value):
    return (value * 37 % 256, value * 101 % 256, value % 256)


def cvat_image(number, file_name, values, names):
    """The element of one image in CVAT's XML, with a mask for each class."""
    height, width = values.shape
    image = ElementTree.Element("image", id=str(number), name=file_name, width=str(width), height=str(height))
    for value in np.unique(values[values != 0]).tolist():
        rows, columns = np.nonzero(values == value)
        top, left = rows.min(), columns.min()
        box = (values == value)[top : rows.max() + 1, left : columns.max() + 1]
        changes = np.flatnonzero(np.diff(box.ravel(), prepend=False, append=not box[-1, -1]))
        runs = np.diff(changes, prepend=0)
        attributes = {"left": left, "top": top, "width": box.shape[1], "height": box.shape[0]}
        attributes = {key: str(number) for key, number in attributes.items()}
        ElementTree.SubElement(image, "mask", label=names[value], rle=", ".join(map(str, runs)), z_order="0", **attributes)
    return image


def write_forms(folder, names, work):
    """Writes the truths as colours, as segments and as objects, and returns the flags for each form."""
    colours, segments = work / "colours", work / "panoptic"
    colours.mkdir()
    segments.mkdir()
    table = np.zeros((256, 3), np.uint8)
    for value in names:
        table[value] = colour_of(value)
    # What does not count has a colour of its own.
    table[0] = (1, 2, 255)
    legend = [f"{names[value]}:{','.join(map(str, colour_of(value)))}::" for value in names]
    (work / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *legend, "void:1,2,255::"]) + "\n")
    images, panoptic, instances, cvat = [], [], [], ElementTree.Element("annotations")
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(cvat, "meta"), "task"), "labels")
    for name in names.values():
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for number, path in enumerate(sorted((folder / "images").glob("*.truth.png"))):
        stem = path.name.removesuffix(".truth.png")
        values = np.asarray(Image.open(path))
        Image.fromarray(table[values]).save(colours / f"{stem}.png")
        ids = np.where(values == 0, 0, values.astype(np.uint32) * 1000 + number)
        coded = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
        Image.fromarray(coded).save(segments / f"{stem}.png")
        height, width = values.shape
        images.append({"id": number, "file_name": f"{stem}.jpg", "width": width, "height": height})
        present = [int(value) for value in np.unique(values) if value != 0]
        info = [{"id": value * 1000 + number, "category_id": value} for value in present]
        panoptic.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": info})
        for value in present:
            runs = mask.encode(np.asfortranarray(values == value).astype(np.uint8))
            runs["counts"] = runs["counts"].decode()
            instances.append({"image_id": number, "category_id": value, "segmentation": runs})
        cvat.append(cvat_image(number, f"{stem}.jpg", values, names))
    ElementTree.ElementTree(cvat).write(work / "annotations.xml", encoding="utf-8", xml_declaration=True)
    categories = [{"id": value, "name": name} for value, name in names.items()]
    for file, annotations in [("panoptic.json", panoptic), ("instances.json", instances)]:
        whole = {"images": images, "annotations": annotations, "categories": categories}
        (work / file).write_text(json.dumps(whole))
    return {
        "values": ["--truth-classes", str(folder / "classes.tsv")],
        "colours": ["--truth", str(colours), "--truth-classes", str(work / "labelmap.txt")],
        "panoptic": ["--truth", str(work / "panoptic.json")],
        "instances": ["--truth", str(work / "instances.json")],
        "CVAT": ["--truth", str(work / "annotations.xml")],
    }


class Server:
    """A server of the program, on a free port."""

    def __init__(self, program):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.process = subprocess.Popen(
            [program, "serve"],
            env={**os.environ, **SETTINGS, "MASKCLIP_SERVER__LISTEN": self.address},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self.ask("/health/ready")
                return
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > end or self.process.poll() is not None:
                    raise SystemExit("the server did not become ready") from None
                time.sleep(0.2)

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"http://{self.address}{path}", data, headers)) as reply:
            return reply.read()

    def label_map(self, path, classes):
        image = base64.b64encode(path.read_bytes()).decode()
        reply = json.loads(self.ask("/v1/segment", {"image": image, "classes": classes, **OPTIONS}))
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(reply["label_map"]["data"]))))

    def end(self):
        self.process.terminate()
        self.process.wait()


def counted(folder, names, server, limit):
    """Pixels of every class in both maps, in the truth, and in the label map, over the first images."""
    order = {value: place for place, value in enumerate(names)}
    sums = np.zeros((3, len(names)), np.int64)
    for path in sorted((folder / "images").glob("*.truth.png"))[:limit]:
        values = np.asarray(Image.open(path))
        labels = server.label_map(path.with_name(path.name.removesuffix(".truth.png") + ".jpg"), list(names.values()))
        assert values.shape == labels.shape, path
        counts = values != 0
        for value, place in order.items():
            truth, predicted = (values == value) & counts, (labels == place) & counts
            sums[:, place] += [(truth & predicted).sum(), truth.sum(), predicted.sum()]
    return sums


def mean_iou(sums):
    both, truth, predicted = sums
    either = truth + predicted - both
    total, classes = 0.0, 0
    for one, other in zip(both.tolist(), either.tolist()):
        if other > 0:
            total, classes = total + one / other, classes + 1
    return total / classes


def run(command):
    """Runs a command with the server's settings: in 16 bits, embeddings on disk may differ in their last digits."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, env={**os.environ, **SETTINGS}, check=True, **quiet)


def train(program, folder, names, work):
    """Makes two steps of a small student on the photographs, with their truths as given labels."""
    classes = work / "classes.txt"
    classes.write_text("\n".join(names.values()) + "\n")
    labels = work / "labels"
    labels.mkdir()
    table = np.full(256, 255, np.uint8)
    for place, value in enumerate(names):
        table[value] = place
    for path in (folder / "images").glob("*.truth.png"):
        Image.fromarray(table[np.asarray(Image.open(path))]).save(labels / path.name.replace(".truth.png", ".png"))
    student = ["--backbone", "resnet18", "--width", "8", "--steps", "2", "--batch", "2", "--crop-pixels", "96"]
    output = ["--classes", str(classes), "--labels", str(labels), "--pseudo-labels", "none", "--output", str(work / "student")]
    run([program, "train", str(folder / "images"), *output, *student])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--limit", type=int, help="the first images alone, as a build without optimisation needs it")
    arguments = parser.parse_args()
    program, limit = arguments.program, arguments.limit
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        given = os.environ.get("MASKCLIP_PHOTOGRAPHS")
        folder = Path(given) if given else work / "scenes"
        if not given:
            draw_folder(folder)
        wrong = compare(program, folder, work, limit)
    sys.exit(1 if wrong else 0)


def compare(program, folder, work, limit):
    """Measures every form of the truths in a folder. Returns whether a count differs from NumPy's."""
    names = read_classes(folder)
    server = Server(program)
    try:
        sums = counted(folder, names, server, limit)
    finally:
        server.end()
    expected = mean_iou(sums)
    print(f"NumPy: mIoU {expected!r}, {sums[1].sum()} counted pixels of {len(names)} classes")
    wrong = False
    for form, flags in write_forms(folder, names, work).items():
        report = work / f"{form}.json"
        command = [program, "eval", str(folder / "images"), *flags, *FLAGS, "--json", str(report)]
        command += [] if limit is None else ["--limit", str(limit)]
        run(command)
        report = json.loads(report.read_text())
        keys = ["intersection_pixels", "truth_pixels", "predicted_pixels"]
        theirs = np.array([[entry[key] for entry in report["classes"]] for key in keys])
        same = np.array_equal(theirs, sums) and report["mean_iou"] == expected
        wrong |= not same
        print(f"{form}: mIoU {report['mean_iou']!r} on {report['images']} images, {'equal' if same else 'DIFFERENT'}")
    report = work / "compare.json"
    flags = ["--truth-classes", str(folder / "classes.tsv"), *FLAGS, "--json", str(report)]
    run([program, "compare", str(folder / "images"), *flags, *([] if limit is None else ["--limit", str(limit)])])
    [row] = json.loads(report.read_text())["rows"]
    wrong |= row["mean_iou"] != expected
    print(f"compare: mIoU {row['mean_iou']!r}, {'equal' if row['mean_iou'] == expected else 'DIFFERENT'}")
    train(program, folder, names, work)
    print("train: two steps")
    return wrong


if __name__ == "__main__":
    main()
