"""Tests of the recipe: python -m unittest, in this folder; they need no drawings."""

from __future__ import annotations

import unittest

import numpy as np
import open_clip
import torch
import torch.nn.functional as F

import captions
import colours
import dense
import drawings
import evaluate
import export
import model as network
import train
import world
from vocabulary import things


def squares() -> drawings.Drawings:
    """A red square for each of three names."""
    shown = [next(t for t in things() if t.names[0] == name) for name in ("tiger", "lemon", "bus")]
    pixels = torch.zeros(3, 4, 72, 72)
    pixels[:, 0, 4:-4, 4:-4] = 1
    pixels[:, 3, 4:-4, 4:-4] = 1
    return drawings.Drawings(pixels, shown, ["noto"] * 3, ["red"] * 3)


def plain(*placed: world.Placed) -> world.Scene:
    """Drawings on plain blue."""
    blue = colours.PALETTE["blue"]
    return world.Scene("plain", (blue, blue), ("blue background", "plain background"), (0.0,) * 4, 0, list(placed))


class Scenes(unittest.TestCase):
    def test_a_drawing_lands_where_it_is_placed(self) -> None:
        pictures, owner = world.render([plain(world.Placed(1, 0.25, 0.5, 0.25, 0.0, False, 0))], squares(), 128, 0.0)
        rows, columns = torch.nonzero(owner[0], as_tuple=True)
        self.assertEqual((rows.min(), rows.max(), columns.min(), columns.max()), (48, 79, 16, 47))
        self.assertEqual(pictures[0, :, 64, 32].tolist(), [255, 0, 0])

    def test_the_last_drawing_is_on_top(self) -> None:
        both = plain(*(world.Placed(i, 0.5, 0.5, 0.5, 0.3, True, 0) for i in range(2)))
        self.assertEqual(int(world.render([both], squares(), 64, 0.0)[1][0, 32, 32]), 2)

    def test_every_background_paints_and_scenes_repeat(self) -> None:
        known = squares()
        recipe = world.Recipe(tuple(known.by_name()), most=3)
        made = [[world.scene(np.random.default_rng(i), recipe, known.by_name()) for i in range(80)] for _ in range(2)]
        self.assertEqual({s.pattern for s in made[0]}, set(world.PATTERNS) | {p for p, *_ in world.STUFF.values()})
        first, second = (world.render(scenes, known, 64, 0.8)[0] for scenes in made)
        self.assertTrue(torch.equal(first, second))

    def test_colours_are_named(self) -> None:
        for name in colours.DRAWING_COLOURS:
            rgb = np.tile(np.array(colours.PALETTE[name]), (4, 4, 1))
            self.assertEqual(colours.dominant(rgb, np.ones((4, 4))), name)


class Captions(unittest.TestCase):
    def test_truth_follows_what_captions_mention(self) -> None:
        known = squares()
        scenes = [plain(world.Placed(0, 0.5, 0.5, 0.4, 0, False, 0)), plain(world.Placed(1, 0.5, 0.5, 0.4, 0, False, 0))]
        written = [[captions.Caption("a photo of a tiger.", ("tiger",))], [captions.Caption("a red food", ("red food",))]]
        true = captions.truth(written, [captions.phrases(s, known) for s in scenes])
        self.assertEqual(true.tolist(), [[True, False], [False, True]])
        shared = [[captions.Caption("a blue background", ("blue background",))]] * 2
        self.assertTrue(captions.truth(shared, [captions.phrases(s, known) for s in scenes]).all())

    def test_own_captions_are_true_and_their_words_are_listed(self) -> None:
        known = squares()
        recipe = world.Recipe(tuple(known.by_name()), most=3)
        writer, rng = captions.Writer(known), np.random.default_rng(3)
        tokens, listed = network.Tokens(), set(export.known_tokens().tolist()) | {0}
        for _ in range(60):
            scene = world.scene(rng, recipe, known.by_name())
            written = writer.captions(rng, scene)
            self.assertTrue(captions.truth([written], [captions.phrases(scene, known)]).all())
            self.assertLessEqual(set(tokens([c.text for c in written]).flatten().tolist()), listed)


class Network(unittest.TestCase):
    def setUp(self) -> None:
        torch.manual_seed(0)
        self.texts = ["a photo of a tiger.", "the close-up of two o'clock lemons, on a striped background"]

    def test_features_are_open_clips(self) -> None:
        picture = torch.randn(2, 3, 128, 128)
        reference, tokens = open_clip.SimpleTokenizer()(self.texts), network.Tokens()(self.texts)
        self.assertTrue(torch.equal(reference[:, : tokens.shape[1]], tokens))
        for config in network.CONFIGS.values():
            model = network.build(config).eval()
            with torch.inference_mode():
                torch.testing.assert_close(network.image_features(model, picture)[0], model.encode_image(picture))
                torch.testing.assert_close(network.text_features(model, tokens), model.encode_text(reference))

    def test_the_second_reading_is_the_mean_of_the_dense_features(self) -> None:
        model, picture = network.build(network.CONFIGS["resnet"]).eval(), torch.randn(1, 3, 96, 128)
        with torch.inference_mode():
            wanted = dense.dense(model, picture, "maskclip").features.mean((1, 2))
            torch.testing.assert_close(network.image_features(model, picture)[1][0], wanted)

    def test_the_vits_last_block_without_the_change(self) -> None:
        model = network.build(network.CONFIGS["vit"]).eval()
        with torch.inference_mode():
            found = dense.dense(model, torch.randn(1, 3, 128, 160), "maskclip")
            self.assertEqual(found.features.shape, (128, 8, 10))
            self.assertEqual(dense.dense(model, torch.randn(1, 3, 128, 160), "clip").keys.shape, (192, 8, 10))

    def test_one_caption_a_picture_gives_clips_loss(self) -> None:
        images, texts, scale = torch.randn(6, 8), torch.randn(6, 8), torch.tensor(10.0)
        logits = scale * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
        wanted = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
        torch.testing.assert_close(train.contrastive_loss(images, texts, torch.eye(6, dtype=torch.bool), scale), wanted)


class Evaluation(unittest.TestCase):
    def test_iou_by_hand(self) -> None:
        tally = evaluate.Tally(2)
        tally.add(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 0], [1, 1]]))
        self.assertEqual([round(v, 1) for v in tally.iou().tolist()], [50.0, 66.7])

    def test_denoising_drops_the_unsure_and_never_all(self) -> None:
        features = F.normalize(torch.eye(3)[:, :, None].repeat(1, 1, 1), dim=0)
        found = dense.Dense(features, features)
        texts, groups = torch.eye(3), torch.arange(3)
        self.assertEqual(dense.labels(found, texts, groups, (3, 1), True, False).flatten().tolist(), [0, 1, 2])
        same = torch.ones(3, 3) / 3**0.5
        self.assertEqual(dense.labels(found, same, groups, (3, 1), True, False).unique().tolist(), [0])


if __name__ == "__main__":
    unittest.main()
