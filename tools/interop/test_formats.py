"""The files of `maskclip label`, read by the programs that people use, and compared with the indexed PNGs.

docs/interop.md has the list. A label map has the class of each pixel, or NONE.
"""

import csv
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CLASSES = ["tiger", "tree", 'house & "garden"', "sky"]
NONE = 255
FORMATS = [
    "png",
    "png-grey",
    "overlay",
    "confidence",
    "yolo",
    "coco",
    "coco-polygons",
    "panoptic",
    "label-studio",
    "label-studio-polygons",
    "cvat",
    "datumaro",
    "numpy",
    "numpy-probabilities",
    "csv",
    "parquet",
]
REQUEST = ["--short-side", "128", "--templates", "simple", "--background-threshold", "0.35"]


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder with three scenes of different sizes, one in a subfolder."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "deep").mkdir()
    for number, (name, size) in enumerate([("one", (256, 256)), ("deep/two", (200, 131)), ("three", (97, 180))]):
        scene = Image.open(REPOSITORY / f"examples/scenes/in-style/{number:02}.png")
        scene.convert("RGB").resize(size).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def output(maskclip, images, tmp_path_factory):
    """The folder with the results in every format."""
    folder = tmp_path_factory.mktemp("output")
    classes = folder / "classes.txt"
    classes.write_text("\n".join(CLASSES) + "\n")
    maskclip("label", images, "--classes", classes, "--out", folder, "--format", ",".join(FORMATS), *REQUEST)
    return folder


@pytest.fixture(scope="session")
def maps(output) -> dict[str, np.ndarray]:
    """The label map of each image by its name, read by Pillow."""
    found = {}
    for path in sorted((output / "masks").rglob("*.png")):
        name = path.relative_to(output / "masks").with_suffix("").as_posix()
        found[name] = np.array(Image.open(path))
    assert sorted(found) == ["deep/two", "one", "three"]
    labels = np.concatenate([map.ravel() for map in found.values()])
    assert NONE in labels and len(np.unique(labels)) > 2, "the maps have several classes and pixels of none"
    return found


def masks(map: np.ndarray) -> dict[int, np.ndarray]:
    """The mask of each class of a map."""
    return {int(label): map == label for label in np.unique(map) if label != NONE}


def same(ours: dict[int, np.ndarray], theirs: dict[int, np.ndarray]) -> None:
    assert sorted(ours) == sorted(theirs)
    for label, mask in ours.items():
        assert np.array_equal(mask, np.asarray(theirs[label]).astype(bool)), label


def name_of(file_name: str) -> str:
    return pathlib.PurePosixPath(file_name).with_suffix("").as_posix()


def test_pillow_reads_palettes_grey_maps_and_overlays(output, images, maps):
    for name, map in maps.items():
        indexed = Image.open(output / f"masks/{name}.png")
        assert indexed.mode == "P"
        palette = np.array(indexed.getpalette()).reshape(-1, 3)
        assert palette[:2].tolist() == [[128, 0, 0], [0, 128, 0]] and palette[NONE].tolist() == [0, 0, 0]
        grey = Image.open(output / f"grey/{name}.png")
        assert grey.mode == "L" and np.array_equal(np.array(grey), map)
        confidence = np.array(Image.open(output / f"confidence/{name}.png"))
        assert confidence.shape == map.shape and confidence[map != NONE].min() > 0
        pixels = np.array(Image.open(images / f"{name}.png")).astype(float)
        mixed = np.where((map == NONE)[..., None], pixels, (pixels + palette[map]) / 2)
        overlay = np.array(Image.open(output / f"overlays/{name}.png"))
        assert np.abs(overlay - mixed).max() <= 0.5


def test_datumaro_reads_indexed_pngs_as_masks_of_pascal_voc(output, images, maps, tmp_path):
    import datumaro

    # The layout of Pascal VOC. Our file beside the masks names their colours.
    shutil.copytree(output / "masks", tmp_path / "SegmentationClass")
    shutil.move(tmp_path / "SegmentationClass/labelmap.txt", tmp_path / "labelmap.txt")
    shutil.copytree(images, tmp_path / "JPEGImages")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/default.txt").write_text("\n".join(maps) + "\n")
    read_by_datumaro(datumaro.Dataset.import_from(str(tmp_path), "voc_segmentation"), maps)


@pytest.mark.parametrize("file", ["coco.json", "coco-polygons.json"])
def test_pycocotools_reads_instances(output, maps, file):
    from pycocotools.coco import COCO

    coco = COCO(output / file)
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == CLASSES
    for image in coco.loadImgs(coco.getImgIds()):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        map = maps[name_of(image["file_name"])]
        assert (image["height"], image["width"]) == map.shape
        same(masks(map), {one["category_id"] - 1: coco.annToMask(one) for one in annotations})
        for one in annotations:
            mask = map == one["category_id"] - 1
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert one["bbox"] == box and one["area"] == mask.sum()


def test_datumaro_reads_panoptic_segments(output, images, maps, tmp_path):
    import datumaro

    # The layout of COCO's download.
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/panoptic_default.json").write_bytes((output / "panoptic.json").read_bytes())
    (tmp_path / "annotations/panoptic_default").symlink_to(output / "panoptic")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/default").symlink_to(images)
    dataset = datumaro.Dataset.import_from(str(tmp_path), "coco_panoptic")
    read_by_datumaro(dataset, maps)


def test_datumaro_reads_its_own_json(output, images, maps, tmp_path):
    import datumaro

    # It leaves links that lead elsewhere alone.
    shutil.copytree(output / "datumaro/annotations", tmp_path / "annotations")
    shutil.copytree(images, tmp_path / "images/default")
    read_by_datumaro(datumaro.Dataset.import_from(str(tmp_path), "datumaro"), maps)


def test_datumaro_reads_cvats_xml(output, images, maps, tmp_path):
    import datumaro

    (tmp_path / "default.xml").write_bytes((output / "cvat.xml").read_bytes())
    (tmp_path / "images").symlink_to(images)
    read_by_datumaro(datumaro.Dataset.import_from(str(tmp_path), "cvat"), maps)


def read_by_datumaro(dataset, maps):
    from datumaro import AnnotationType

    labels = dataset.categories()[AnnotationType.label]
    names = [label.name for label in labels.items]
    assert [name for name in names if name in CLASSES] == CLASSES
    items = {item.id: item for item in dataset}
    assert sorted(items) == sorted(maps)
    for name, map in maps.items():
        # Pascal VOC's form has a mask of the background, too.
        own = [one for one in items[name].annotations if names[one.label] in CLASSES]
        found = {CLASSES.index(names[one.label]): one.image for one in own}
        same(masks(map), found)


def test_label_studios_converter_reads_brush_strokes(output, maps):
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface((output / "label-studio.xml").read_text())
    tasks = json.loads((output / "label-studio.json").read_text())
    assert len(tasks) == len(maps)
    for task in tasks:
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction)
        map = maps[name_of(task["data"]["image"])]
        found = {}
        for region in prediction["result"]:
            assert (region["original_height"], region["original_width"]) == map.shape
            (label,) = region["value"]["brushlabels"]
            stroke = np.reshape(decode_rle(region["value"]["rle"]), [*map.shape, 4])
            found[CLASSES.index(label)] = stroke[:, :, 3]
        same(masks(map), found)


def test_label_studios_check_takes_polygons_which_cover_the_pixels(output, maps):
    from label_studio_sdk.label_interface import LabelInterface
    from pycocotools import mask as coco

    interface = LabelInterface((output / "label-studio-polygons.xml").read_text())
    tasks = json.loads((output / "label-studio-polygons.json").read_text())
    assert len(tasks) == len(maps)
    for task in tasks:
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction)
        map = maps[name_of(task["data"]["image"])]
        height, width = map.shape
        drawn = np.full(map.shape, NONE)
        for region in prediction["result"]:
            (label,) = region["value"]["polygonlabels"]
            corners = np.array(region["value"]["points"]) / 100 * [width, height]
            mask = coco.decode(coco.merge(coco.frPyObjects([corners.round().ravel().tolist()], height, width)))
            drawn[mask.astype(bool)] = CLASSES.index(label)
        assert np.array_equal(drawn, map)


def test_supervision_reads_yolos_polygons(output, images, maps):
    import supervision

    # It takes the images of one folder, so each folder is a data set.
    for folder in [".", "deep"]:
        dataset = supervision.DetectionDataset.from_yolo(
            images_directory_path=str(images / folder),
            annotations_directory_path=str(output / "yolo/labels" / folder),
            data_yaml_path=str(output / "yolo/data.yaml"),
            force_masks=True,
        )
        assert dataset.classes == CLASSES
        for path, _, detections in dataset:
            map = maps[pathlib.Path(path).relative_to(images.resolve()).with_suffix("").as_posix()]
            drawn = np.full(map.shape, NONE)
            # Larger regions first. It fills polygons with OpenCV, whose borders belong to them.
            for index in np.argsort([-mask.sum() for mask in detections.mask]):
                drawn[detections.mask[index]] = detections.class_id[index]
            for label, mask in masks(map).items():
                if mask.sum() > 500:
                    theirs = drawn == label
                    overlap = (mask & theirs).sum() / (mask | theirs).sum()
                    assert overlap > 0.8, (path, label, overlap)


def test_yolos_polygons_cover_the_pixels(output, maps):
    """Like the test above, to the pixel: pycocotools fills by pixels' centres."""
    from pycocotools import mask as coco

    for name, map in maps.items():
        height, width = map.shape
        drawn = np.full(map.shape, NONE)
        for line in (output / f"yolo/labels/{name}.txt").read_text().splitlines():
            label, *corners = line.split()
            corners = np.array(corners, float).reshape(-1, 2) * [width, height]
            region = coco.decode(coco.merge(coco.frPyObjects([corners.round().ravel().tolist()], height, width)))
            drawn[region.astype(bool)] = int(label)
        assert np.array_equal(drawn, map), name


def test_the_table_counts_the_pixels(output, maps):
    with (output / "statistics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(maps) * len(CLASSES)
    for row in rows:
        map = maps[name_of(row["image"])]
        assert row["class"] == CLASSES[int(row["class_id"])]
        assert int(row["pixels"]) == (map == int(row["class_id"])).sum()
        assert (row["x"] == "") == (row["pixels"] == "0")


def test_pyarrow_reads_the_same_table(output):
    import pyarrow.csv
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(output / "statistics.parquet")
    other = pyarrow.csv.read_csv(output / "statistics.csv")
    assert table.column_names == other.column_names
    assert table.num_rows == other.num_rows
    for name in table.column_names:
        ours, theirs = table[name].to_pylist(), other[name].to_pylist()
        same_value = [
            one == other if not isinstance(one, float) else other == pytest.approx(one, rel=1e-6)
            for one, other in zip(ours, theirs, strict=True)
        ]
        assert all(same_value), name


def test_numpy_reads_arrays(output, maps):
    for name, map in maps.items():
        with np.load(output / f"numpy/{name}.npz") as arrays:
            labels = arrays["labels"]
            assert labels.dtype == np.uint16
            assert np.array_equal(np.where(labels == 65535, NONE, labels), map)
            confidence = np.array(Image.open(output / f"confidence/{name}.png"))
            assert np.array_equal(arrays["confidence"], confidence)
            assert arrays["classes"].tolist() == CLASSES
            assert arrays["pixels"].tolist() == [(map == label).sum() for label in range(len(CLASSES))]
            for label, mask in masks(map).items():
                mean = arrays["mean_confidence"][label]
                assert mean == pytest.approx(confidence[mask].mean() / 255, abs=0.003)
            absent = arrays["pixels"] == 0
            assert np.isnan(arrays["mean_confidence"][absent]).all() and (arrays["boxes"][absent] == -1).all()
            assert arrays["presence"].dtype == np.float32 and (np.abs(arrays["similarity"]) <= 1).all()


def test_numpy_reads_the_probabilities_of_all_classes(output, maps):
    for name, map in maps.items():
        with np.load(output / f"probabilities/{name}.npz") as arrays:
            probabilities = arrays["probabilities"].astype(int)
            assert arrays["classes"].tolist() == CLASSES
        assert probabilities.shape == (len(CLASSES), *map.shape)
        confidence = np.array(Image.open(output / f"confidence/{name}.png"))
        own = np.take_along_axis(probabilities, np.where(map == NONE, 0, map)[None], axis=0)[0]
        labelled = map != NONE
        # Rounded from float32 on two ways.
        assert abs(own - confidence)[labelled].max() <= 1
        assert (probabilities.max(axis=0) - own)[labelled].max() <= 1


def test_rasterio_finds_the_map_where_the_image_lies(maskclip, tmp_path):
    import rasterio
    from rasterio.transform import from_origin

    scene = np.array(Image.open(REPOSITORY / "examples/scenes/in-style/03.png").convert("RGB"))
    profile = {
        "driver": "GTiff",
        "height": scene.shape[0],
        "width": scene.shape[1],
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32633",
        "transform": from_origin(399_000, 5_820_000, 0.5, 0.25),
    }
    images = tmp_path / "images"
    images.mkdir()
    # The same pixels in strips and in tiles, of which those at the edges are whole or cut off.
    layouts = {
        "strips": {},
        "tiles": {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
        "other-tiles": {"tiled": True, "blockxsize": 112, "blockysize": 48},
    }
    for name, layout in layouts.items():
        with rasterio.open(images / f"{name}.tif", "w", **profile, **layout) as file:
            file.write(scene.transpose(2, 0, 1))
    out = tmp_path / "out"
    maskclip("label", images, "--classes", "tiger,tree", "--out", out, "--format", "png,geotiff", *REQUEST)
    found = {}
    for name in layouts:
        with rasterio.open(images / f"{name}.tif") as image, rasterio.open(out / f"geotiff/{name}.tif") as labels:
            assert labels.crs == image.crs and labels.transform == image.transform and labels.bounds == image.bounds
            assert labels.nodata == NONE and labels.count == 1
            found[name] = labels.read(1)
            assert np.array_equal(found[name], np.array(Image.open(out / f"masks/{name}.png")))
    assert all(np.array_equal(labels, found["strips"]) for labels in found.values())
