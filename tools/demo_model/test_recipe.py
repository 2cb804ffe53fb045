"""Tests of the recipe; they need no drawings. Run `python -m unittest` in this folder."""

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
import scenes
import train
import vocabulary
import world
from vocabulary import things

BACKGROUND, THING = captions.Subject.BACKGROUND, captions.Subject.THING


def squares() -> drawings.Drawings:
    """A red square for each of three names."""
    shown = [next(t for t in things() if t.names[0] == name) for name in ("tiger", "lemon", "bus")]
    pixels = torch.zeros(3, 4, 72, 72)
    pixels[:, 0, 4:-4, 4:-4] = 1
    pixels[:, 3, 4:-4, 4:-4] = 1
    return drawings.Drawings(pixels, shown, ["noto"] * 3, ["red"] * 3)


def plain(*placed: world.Placed) -> world.Scene:
    """A scene of drawings on plain blue."""
    blue = colours.PALETTE["blue"]
    return world.Scene("plain", (blue, blue), ("blue background", "plain background"), (0.0,) * 4, 0, list(placed))


class Scenes(unittest.TestCase):
    def test_a_drawing_lands_where_it_is_placed(self) -> None:
        pictures, owner = world.render([plain(world.Placed(1, 0.25, 0.5, 0.25, 0.0, False, 0))], squares(), 128, 0.0)
        rows, columns = torch.nonzero(owner[0], as_tuple=True)
        self.assertEqual((rows.min(), rows.max(), columns.min(), columns.max()), (48, 79, 16, 47))
        self.assertEqual(pictures[0, :, 64, 32].tolist(), [255, 0, 0])

    def test_a_stretched_drawing_is_wider_and_lower(self) -> None:
        wide = world.Placed(1, 0.5, 0.5, 0.25, 0.0, False, 0, stretch=2.0)
        _, owner = world.render([plain(wide)], squares(), 128, 0.0)
        rows, columns = torch.nonzero(owner[0], as_tuple=True)
        self.assertEqual((rows.min(), rows.max(), columns.min(), columns.max()), (56, 71, 32, 95))

    def test_the_last_drawing_is_on_top(self) -> None:
        both = plain(*(world.Placed(i, 0.5, 0.5, 0.5, 0.3, True, 0) for i in range(2)))
        self.assertEqual(int(world.render([both], squares(), 64, 0.0)[1][0, 32, 32]), 2)

    def test_every_background_paints_and_scenes_repeat(self) -> None:
        known = squares()
        recipe = world.Recipe(tuple(known.by_name()), most=3)
        made = [[world.scene(np.random.default_rng(i), recipe, known.by_name()) for i in range(80)] for _ in range(2)]
        self.assertEqual({s.pattern for s in made[0]}, set(world.PATTERNS) | {p for p, *_ in world.STUFF.values()})
        first, second = (world.render(some, known, 64, 0.8)[0] for some in made)
        self.assertTrue(torch.equal(first, second))

    def test_colours_are_named(self) -> None:
        for name in colours.DRAWING_COLOURS:
            rgb = np.tile(np.array(colours.PALETTE[name]), (4, 4, 1))
            self.assertEqual(colours.dominant(rgb, np.ones((4, 4))), name)


class Captions(unittest.TestCase):
    def test_truth_follows_what_captions_mention(self) -> None:
        known = squares()
        two = [plain(world.Placed(index, 0.5, 0.5, 0.4, 0, False, 0)) for index in range(2)]
        written = [[captions.Caption("a photo of a tiger.", ("tiger",), THING)], [captions.Caption("a red food", ("red food",), THING)]]
        true = captions.truth(written, [captions.phrases(scene, known) for scene in two])
        self.assertEqual(true.tolist(), [[True, False], [False, True]])
        shared = [[captions.Caption("a blue background", ("blue background",), BACKGROUND)]] * 2
        self.assertTrue(captions.truth(shared, [captions.phrases(scene, known) for scene in two]).all())

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


    def test_every_name_that_a_batch_lacks_gets_a_caption(self) -> None:
        known = squares()
        writer = captions.Writer(known)
        written = [[captions.Caption("a tiger", ("tiger",), THING)]]
        absent = writer.absent(np.random.default_rng(0), written)
        self.assertEqual([c.phrases for c in absent], [("lemon",), ("bus",)])
        true = captions.truth([*written, absent], [{"tiger", "animal"}, {"lemon"}])
        self.assertEqual(true.tolist(), [[True, False, False], [False, True, False]])


class Network(unittest.TestCase):
    def setUp(self) -> None:
        torch.manual_seed(0)
        self.texts = ["a photo of a tiger.", "the close-up of two o'clock lemons, on a striped background"]

    def test_features_are_open_clips(self) -> None:
        reference, tokens = open_clip.SimpleTokenizer()(self.texts), network.Tokens()(self.texts)
        self.assertTrue(torch.equal(reference[:, : tokens.shape[1]], tokens))
        for name, config in network.CONFIGS.items():
            model = network.build(config).eval()
            side = 64 if name == "resnet-fine" else 128  # open_clip's pool wants 4 x 4 positions
            picture = torch.randn(2, 3, side, side)
            with torch.inference_mode():
                torch.testing.assert_close(network.image_features(model, picture)[0], model.encode_image(picture))
                torch.testing.assert_close(network.text_features(model, tokens), model.encode_text(reference))

    def test_what_training_reads_at_a_position_is_what_maskclip_reads(self) -> None:
        picture = torch.randn(1, 3, 96, 128)
        for config, method in (("resnet", "maskclip"), ("vit", "maskclip-no-residual")):
            model = network.build(network.CONFIGS[config]).eval()
            with torch.inference_mode():
                wanted = dense.dense(model, picture, method).features.flatten(1).T
                found = F.normalize(network.image_features(model, picture)[1][0], dim=1)
                torch.testing.assert_close(found, wanted)

    def test_a_position_is_16_pixels_if_the_last_stage_keeps_the_size(self) -> None:
        for name, pixels in (("resnet", 32), ("resnet-fine", 16), ("vit", 16)):
            model = network.build(network.CONFIGS[name]).eval()
            self.assertEqual(network.position_pixels(model), pixels)
            with torch.inference_mode():
                found = dense.dense(model, torch.randn(1, 3, 96, 128), "maskclip")
            self.assertEqual(found.features.shape[1:], (96 // pixels, 128 // pixels))

    def test_a_positions_feature_is_its_value_projected(self) -> None:
        pool = network.build(network.CONFIGS["resnet"]).visual.attnpool
        with torch.inference_mode():
            x = torch.randn(2, 768, 3, 4)
            wanted = pool.c_proj(pool.v_proj(x.flatten(2).transpose(1, 2)))
            torch.testing.assert_close(network.position_features(pool, x), wanted)

    def test_texts_in_groups_have_the_features_that_they_have_together(self) -> None:
        model = network.build(network.CONFIGS["resnet"]).eval()
        tokens = network.Tokens()([*self.texts, "a lemon"] * 60)
        with torch.inference_mode():
            together = network.text_features(model, tokens)
            torch.testing.assert_close(network.text_features_by_length(model, tokens), together)

    def test_the_vits_last_block_without_the_change(self) -> None:
        model = network.build(network.CONFIGS["vit"]).eval()
        with torch.inference_mode():
            found = dense.dense(model, torch.randn(1, 3, 128, 160), "maskclip")
            self.assertEqual(found.features.shape, (128, 8, 10))
            self.assertEqual(dense.dense(model, torch.randn(1, 3, 128, 160), "clip").keys.shape, (192, 8, 10))


class Losses(unittest.TestCase):
    def test_one_caption_a_picture_gives_clips_loss(self) -> None:
        logits = torch.randn(6, 6)
        wanted = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
        torch.testing.assert_close(train.contrastive_loss(logits, torch.eye(6, dtype=torch.bool), torch.arange(6)), wanted)

    def test_one_position_and_one_caption_a_picture_give_clips_loss_too(self) -> None:
        logits, own = torch.randn(6, 6), torch.arange(6)
        true = torch.eye(6, dtype=torch.bool)
        found = train.position_loss(logits[:, None], true, own, torch.full((6,), 0.5))
        torch.testing.assert_close(found, train.contrastive_loss(logits, true, own))

    def test_positions_are_shared_among_a_pictures_own_phrases_as_expected(self) -> None:
        mine = torch.tensor([[True, True, False]])
        # Every position says the first phrase most of its own picture's, and the last, another picture's, even more.
        logits = torch.tensor([[[3.0, 2.0, 9.0], [3.0, 0.0, 9.0], [3.0, 0.0, 9.0], [3.0, 1.0, 9.0]]])
        share = train.shares(logits, mine, torch.tensor([0.5, 0.5, 0.5]))
        torch.testing.assert_close(share.sum(2), torch.ones(1, 4))
        self.assertEqual(share[..., 2].abs().max(), 0)
        torch.testing.assert_close(share.mean(1)[0, :2], torch.tensor([0.5, 0.5]), atol=0.02, rtol=0)
        self.assertEqual(int(share[0, :, 1].argmax()), 0)

    def test_things_share_what_the_background_leaves(self) -> None:
        own = torch.tensor([0, 0, 0, 1, 1])
        subjects = torch.tensor([BACKGROUND, THING, THING, BACKGROUND, THING])
        torch.testing.assert_close(train.expected_areas(own, subjects, 0.4), torch.tensor([0.4, 0.3, 0.3, 0.4, 0.6]))

    def test_a_caption_of_no_picture_is_a_negative_and_nothing_else(self) -> None:
        logits, own = torch.randn(2, 5, 3), torch.tensor([0, 1, -1])
        true = torch.tensor([[True, False, False], [False, True, True]])
        subjects = torch.tensor([BACKGROUND, THING, THING])
        prior = train.expected_areas(own, subjects, 0.4)
        torch.testing.assert_close(prior, torch.tensor([0.4, 0.6, 0.0]))
        # The last caption is true of the second picture, so only the first picture's positions must not say it.
        first = F.cross_entropy(logits[0], torch.zeros(5, dtype=torch.long))
        second = F.cross_entropy(logits[1, :, :2], torch.ones(5, dtype=torch.long))
        anywhere = logits.logsumexp(1)[:, :2]
        to_image = F.cross_entropy(anywhere.T, torch.arange(2))
        wanted = ((first + second) / 2 + to_image) / 2
        torch.testing.assert_close(train.position_loss(logits, true, own, prior), wanted)

    def test_a_weak_pull_leaves_what_is_large_large(self) -> None:
        mine = torch.ones(1, 2, dtype=torch.bool)
        logits = torch.tensor([[[4.0, 0.0]] * 9 + [[0.0, 4.0]]])
        half = torch.tensor([0.5, 0.5])
        areas = [train.shares(logits, mine, half, pull).mean(1)[0, 0].item() for pull in (0.0, 0.5, 1.0)]
        self.assertGreater(areas[0], areas[1])
        self.assertGreater(areas[1], areas[2])


class Evaluation(unittest.TestCase):
    def test_figures_by_hand(self) -> None:
        tally = evaluate.Tally(3)  # the last class is neither there nor predicted, so the mean leaves it out
        tally.add(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 0], [1, 1]]), torch.tensor([[0, 0], [1, 1]]))
        self.assertEqual([round(v, 1) for v in tally.iou().tolist()], [50.0, 66.7, 0.0])
        self.assertEqual(round(tally.mean_iou(), 1), 58.3)
        self.assertEqual(tally.share_right(), 100)
        tally.add(torch.tensor([[0, 0, 1]]), torch.tensor([[1, 1, 1]]), torch.tensor([[1, 1, 1]]))
        self.assertEqual(tally.share_right(), 50)

    def test_pamr_leaves_constants_and_follows_colours(self) -> None:
        picture = torch.zeros(3, 40, 40)
        picture[:, :, 20:] = 1
        constant = torch.full((1, 40, 40), -0.3)
        torch.testing.assert_close(dense.pamr(constant, picture), constant)
        scores = torch.zeros(1, 40, 40)
        scores[:, :, 24:] = 1  # four pixels too narrow
        refined = dense.pamr(scores, picture)[0, 20]
        self.assertGreater(refined[22], 0.5)
        self.assertLess(refined[17], 0.5)

    def test_a_scenes_words_are_its_drawings_names_and_names_that_are_true_of_none(self) -> None:
        shown = things()
        known = drawings.Drawings(torch.zeros(len(shown), 4, 72, 72), shown, ["noto"] * len(shown), [None] * len(shown))
        rng, recipe = np.random.default_rng(0), scenes.ALL_NAMES.recipe(tuple(known.by_name()))
        for _ in range(50):
            scene = world.scene(rng, recipe, known.by_name())
            if scenes.distinct(scene, known):
                words = scenes.candidates(rng, scene, known, 20)
                present = [shown[placed.drawing] for placed in scene.placed]
                self.assertEqual(len(set(words)), 20)
                self.assertLessEqual({thing.names[0] for thing in present}, set(words))
                self.assertEqual(sum(word in thing.names for thing in present for word in words), len(present))

    def test_no_training_has_a_seed_of_a_set(self) -> None:
        seeds = [chosen.seed for chosen in scenes.SETS.values()]
        self.assertEqual(len(seeds), len(set(seeds)))
        for path in (vocabulary.HERE / "schedules").iterdir():
            self.assertNotIn(train.Schedule.read(path).seed, seeds)

    def test_denoising_drops_the_unsure_and_never_all(self) -> None:
        features = F.normalize(torch.eye(3)[:, :, None].repeat(1, 1, 1), dim=0)
        found = dense.Dense(features, features)
        texts, groups = torch.eye(3), torch.arange(3)
        self.assertEqual(dense.labels(found, texts, groups, (3, 1), True, False).flatten().tolist(), [0, 1, 2])
        same = torch.ones(3, 3) / 3**0.5
        self.assertEqual(dense.labels(found, same, groups, (3, 1), True, False).unique().tolist(), [0])


if __name__ == "__main__":
    unittest.main()
