"""The clients against a server."""

import asyncio
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from maskclip_client import AsyncClient, ClassSpec, Client, ProblemError

CLASSES: list[ClassSpec] = ["apple", {"name": "banana", "synonyms": ["plantain"]}, "table"]


def test_an_image_is_labelled_from_every_kind_of_input(url: str, picture: Path) -> None:
    pixels = np.asarray(PIL.Image.open(picture).convert("RGB"))
    with Client(url) as client:
        first = client.segment(picture, CLASSES, background=False)
        for image in (str(picture), picture.read_bytes(), pixels, PIL.Image.fromarray(pixels)):
            again = client.segment(image, CLASSES, background=False)
            assert np.array_equal(first.labels, again.labels)
    assert first.labels.shape == pixels.shape[:2] == (first.height, first.width)
    assert [one.name for one in first.classes] == ["apple", "banana", "table"]
    for one in first.classes:
        mask = first.mask(one.name)
        assert mask.dtype == bool and mask.sum() == one.pixels
        assert np.array_equal(mask, first.mask(one.id))
    with pytest.raises(KeyError):
        first.mask("pear")


def test_confidence_and_probabilities_are_shares(url: str, picture: Path) -> None:
    with Client(url) as client:
        result = client.segment(
            picture, CLASSES, background=["wall"], confidence=True, probabilities="all", unlabelled=9
        )
    assert result.confidence is not None
    assert list(result.probabilities) == ["apple", "banana", "table"]
    for one in result.classes:
        mask, probability = result.mask(one.id), result.probabilities[one.name]
        assert probability.shape == result.labels.shape
        assert np.array_equal(probability[mask], result.confidence[mask])
        assert abs(float(probability.max()) - one.presence) <= 1 / 255
    assert result.unlabelled == 9
    assert set(np.unique(result.labels)) <= {0, 1, 2, 9}


def test_cocos_forms_have_the_pixels_of_the_label_map(url: str, picture: Path) -> None:
    with Client(url) as client:
        result = client.segment(picture, CLASSES, background=["wall"], polygons=True, panoptic=True)
        assert client.segment(picture, CLASSES).polygons is None
        (item,) = client.segment_many([picture], CLASSES, polygons=True)
    assert item.unwrap().polygons and item.unwrap().panoptic is None
    assert result.polygons is not None and result.panoptic is not None
    present = [one for one in result.classes if one.pixels]
    assert [one.class_id for one in result.polygons] == [one.id for one in present]
    assert [one.class_id for one in result.panoptic.segments] == [one.id for one in present]
    assert result.panoptic.ids.shape == result.labels.shape
    assert np.array_equal(result.panoptic.ids == 0, result.labels == result.unlabelled)
    for one, polygons, segment in zip(present, result.polygons, result.panoptic.segments):
        assert np.array_equal(polygons.mask(), result.mask(one.id))
        assert np.array_equal(result.panoptic.ids == segment.id, result.mask(one.id))
        assert polygons.area == segment.area == one.pixels
        assert polygons.bbox == segment.bbox == one.bbox
        assert polygons.category_id == segment.category_id == one.id + 1


def test_more_than_255_classes_are_16_bit(url: str, picture: Path) -> None:
    names: list[ClassSpec] = ["apple", *["pear"] * 255]
    with Client(url) as client:
        result = client.segment(picture, names, background=False)
    assert result.labels.dtype == np.uint16 and result.unlabelled == 65535
    assert sum(one.pixels for one in result.classes) == result.labels.size


def test_a_held_image_travels_once_and_again_when_it_is_forgotten(url: str, picture: Path) -> None:
    with Client(url) as client, client.hold(picture) as image:
        assert image.image_id is None
        first = image.segment(CLASSES)
        first_id = image.image_id
        assert image.segment(["apple", "pear"]).features_cached
        assert image.image_id == first_id
        with Client(url) as other:
            assert other._http.delete(f"v1/images/{first_id}").status_code == 204
        again = image.segment(CLASSES)
        assert image.image_id != first_id
        assert np.array_equal(first.labels, again.labels)
    assert image.image_id is None
    image.close()


def test_several_images_come_back_each_with_its_own_error(url: str, picture: Path) -> None:
    with Client(url) as client:
        alone = client.segment(picture, CLASSES)
        items = sorted(client.segment_many([picture, b"no image", picture], CLASSES), key=lambda item: item.index)
    assert [item.name for item in items] == ["fruit.png", "image", "fruit.png"]
    assert np.array_equal(items[0].unwrap().labels, alone.labels)
    assert np.array_equal(items[2].unwrap().labels, alone.labels)
    with pytest.raises(ProblemError, match="none of the formats") as caught:
        items[1].unwrap()
    assert caught.value.problem.type == "/problems/undecodable-image"


def test_a_vocabulary_is_defined_waited_for_and_used(url: str, picture: Path) -> None:
    with Client(url) as client:
        options = {"templates": "simple"}
        status = client.put_vocabulary("fruit-of-this-test", CLASSES, background=["wall"], options=options)
        assert status.ready and status.embedded == status.total == 5
        result = client.segment(picture, vocabulary="fruit-of-this-test")
        assert [one.name for one in result.classes] == ["apple", "banana", "table"]
        assert client.vocabulary("fruit-of-this-test")["background"] == ["wall"]
        client.delete_vocabulary("fruit-of-this-test")
        with pytest.raises(ProblemError) as caught:
            client.vocabulary_status("fruit-of-this-test")
    assert caught.value.problem.status == 404


def test_a_problem_names_the_field(url: str, picture: Path) -> None:
    with Client(url) as client, pytest.raises(ProblemError) as caught:
        client.segment(picture, ["apple"], short_side=1_000_000)
    problem = caught.value.problem
    assert (problem.status, problem.path) == (422, "short_side")
    assert problem.limit is not None and problem.limit["name"] == "limits.max_short_side"


def test_the_overlay_has_the_colours_of_the_classes_over_the_image(url: str, picture: Path) -> None:
    with Client(url) as client:
        result = client.segment(picture, CLASSES, background=False)
    opaque = np.asarray(result.overlay(1.0))
    for one in result.classes:
        assert (opaque[result.mask(one.id)] == one.color).all()
    original = np.asarray(PIL.Image.open(picture).convert("RGB"))
    assert np.array_equal(np.asarray(result.overlay(0.0)), original)


def test_an_image_is_turned_as_its_exif_says(url: str) -> None:
    upright = PIL.Image.new("RGB", (64, 32), (200, 30, 30))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    upright.save(file, "JPEG", exif=exif)
    with Client(url) as client:
        turned = client.segment(file.getvalue(), ["apple", "wall"])
        stored = client.segment(file.getvalue(), ["apple", "wall"], orientation="stored")
    assert (turned.width, turned.height) == (32, 64) == turned.overlay().size
    assert (stored.width, stored.height) == (64, 32) == stored.overlay().size


def test_coroutines_come_to_the_same(url: str, picture: Path) -> None:
    async def run() -> None:
        async with AsyncClient(url) as client:
            results = await asyncio.gather(*(client.segment(picture, CLASSES) for _ in range(3)))
            assert all(np.array_equal(results[0].labels, other.labels) for other in results)
            async with client.hold(picture) as image:
                held = await image.segment(CLASSES, polygons=True)
                assert held.polygons and held.polygons[0].mask().shape == held.labels.shape
                assert image.image_id is not None
            items = [item async for item in client.segment_many([picture, b"none"], CLASSES)]
            assert sorted(item.error is None for item in items) == [False, True]
            assert "models" in await client.models()
            status = await client.put_vocabulary("asynchronous", ["apple"], options={"templates": "simple"})
            assert status.ready and (await client.vocabulary_status("asynchronous")).ready
            assert (await client.vocabulary("asynchronous"))["name"] == "asynchronous"
            await client.delete_vocabulary("asynchronous")
            with Client(url) as other:
                expected = other.segment(picture, CLASSES)
            assert np.array_equal(held.labels, expected.labels)

    asyncio.run(run())
