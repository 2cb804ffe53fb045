//! The features of an image at all of its sizes: extracted once, scored against any texts.

use tch::Tensor;

use super::scores::{View, score_views};
use super::{DenseError, DenseFeatures, FeatureOptions, FeatureSource, ScoreOptions, windows};
use crate::scores::{DenseScores, QueryOwner, ScoreKind, ScoreMap, WindowAxis};
use crate::support::{to_i64, to_usize};

/// The features of an image at one or more sizes, each as a whole or through windows. The tensors have the network's
/// precision and are usable on its device only.
#[derive(Debug)]
pub struct ImageViews(Vec<View<DenseFeatures>>);

impl ImageViews {
    /// Runs [`FeatureSource::features`] on each window of each size of an image.
    ///
    /// Each of `sizes` is a normalised image `[3, height, width]` in the network's element type and on its device. Each
    /// side, and each side of a window, is at least [`FeatureSource::patch_pixels`]. Pixels at the right and at the
    /// bottom that do not fill a patch are ignored.
    ///
    /// # Errors
    /// Fails when the network cannot compute the attention asked for, or cannot do so on an image of one of the sizes.
    ///
    /// # Panics
    /// Panics when a shape is not as described, when there is no size, or when libtorch fails.
    pub fn extract(
        network: &dyn FeatureSource,
        sizes: &[Tensor],
        options: &FeatureOptions,
    ) -> Result<Self, DenseError> {
        let mut views = Self::extract_batch(network, &[sizes], options, &|| false)?;
        Ok(views.remove(0))
    }

    /// Does the same as [`ImageViews::extract`] for several images at the same sizes. They pass through the network
    /// together, up to [`BATCH_PIXELS`](super::BATCH_PIXELS) at a time. Each result equals that of the image alone up
    /// to rounding. `stop` is asked as [`FeatureSource::features`] says.
    ///
    /// # Errors
    /// Fails as [`ImageViews::extract`] does, and with [`DenseError::Stopped`] when `stop` returns true.
    ///
    /// # Panics
    /// Panics as [`ImageViews::extract`] does, and when there is no image or the sizes of the images differ.
    pub fn extract_batch(
        network: &dyn FeatureSource,
        images: &[&[Tensor]],
        options: &FeatureOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Self>, DenseError> {
        let mut views: Vec<_> = images.iter().map(|sizes| Vec::with_capacity(sizes.len())).collect();
        for size in 0..images[0].len() {
            let at_size: Vec<_> = images.iter().map(|sizes| &sizes[size]).collect();
            let seen = windows::views(network, &at_size, options, stop)?;
            for (views, seen) in views.iter_mut().zip(seen) {
                views.push(seen);
            }
        }
        Ok(views.into_iter().map(Self).collect())
    }

    /// Scores the texts against all windows and sizes, as [`DenseFeatures::score`] does for one. `text` is
    /// `[queries, embedding]` with one owner per query. Each row has unit length, except for texts that a student
    /// learned.
    ///
    /// # Errors
    /// Fails with [`DenseError::KeysNotKept`] when the key smoothing needs keys that were not kept.
    ///
    /// # Panics
    /// Panics when shapes do not fit each other, or when libtorch fails.
    pub fn score(
        &self,
        text: &Tensor,
        owners: &[QueryOwner],
        options: &ScoreOptions,
    ) -> Result<DenseScores, DenseError> {
        self.score_unless(text, owners, options, &|| false)
    }

    /// Does the same as [`ImageViews::score`], unless `stop` returns true, which is asked for each window at each size.
    ///
    /// # Errors
    /// Fails as [`ImageViews::score`] does, and with [`DenseError::Stopped`].
    ///
    /// # Panics
    /// Panics as [`ImageViews::score`] does.
    pub fn score_unless(
        &self,
        text: &Tensor,
        owners: &[QueryOwner],
        options: &ScoreOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<DenseScores, DenseError> {
        score_views(&self.0, text, owners, options, stop)
    }

    /// Returns the cosines of all cells with the cell at a place, given as shares of the input's width and height, 0 to
    /// below 1. That cell is the one at the first size, in the window in which the place is nearest the middle. The score
    /// map has one query. Of an attention with two passes, the features of the first are compared.
    ///
    /// # Panics
    /// Panics when libtorch fails.
    pub fn similar_to(&self, place: (f64, f64)) -> ScoreMap {
        tch::no_grad(|| {
            let feature = self.0[0].unit_feature(place); // [1, embedding]
            let grid = |view: &View<DenseFeatures>| {
                // [1, embedding] x [embedding, cells] -> [1, cells], for each window
                let windows = view.features.iter();
                let cosines: Vec<_> = windows
                    .map(|window| feature.matmul(&window.unit_cells().transpose(0, 1)))
                    .collect();
                view.grid(&Tensor::cat(&cosines, 1))
            };
            ScoreMap {
                kind: ScoreKind::Logits,
                queries: 1,
                grids: self.0.iter().map(grid).collect(),
            }
        })
    }

    /// Returns the bytes of all features.
    pub fn bytes(&self) -> usize {
        let windows = self.0.iter().flat_map(|view| &view.features);
        windows.map(DenseFeatures::bytes).sum()
    }

    /// Returns the features at the first size, or `None` where that size was seen through windows.
    pub fn first_whole(&self) -> Option<&DenseFeatures> {
        let view = self.0.first()?;
        view.windows.is_none().then(|| view.features.first())?
    }
}

impl View<DenseFeatures> {
    /// Returns the feature of the cell at a place, `[1, embedding]`, scaled to unit length in float32.
    fn unit_feature(&self, (x, y): (f64, f64)) -> Tensor {
        let window = &self.features[0];
        let (height, width) = (to_usize(window.height), to_usize(window.width));
        let axes = self.windows.as_ref().map(|windows| (&windows.rows, &windows.columns));
        let (rows, columns) = axes.unzip();
        let ((window_row, row), (window_column, column)) = (cell_at(y, height, rows), cell_at(x, width, columns));
        let window = window_row * columns.map_or(1, |columns| columns.starts.len()) + window_column;
        let cells = self.features[window].unit_cells();
        cells.narrow(0, to_i64(row * width + column), 1)
    }
}

/// Returns the window, and the cell in it, in which a place along an axis lies: among several windows, the one in which it
/// is nearest the middle. `cells` are those of each window.
fn cell_at(share: f64, cells: usize, windows: Option<&WindowAxis>) -> (usize, usize) {
    let Some(axis) = windows else {
        return (0, ((share * cells as f64) as usize).min(cells - 1));
    };
    let pixel = ((share * axis.pixels as f64) as usize).min(axis.pixels - 1);
    let off_the_middle = |&(_, start): &(usize, usize)| (2 * (pixel - start) + 1).abs_diff(axis.side);
    let nearest = axis.covering(pixel).min_by_key(off_the_middle);
    let (window, start) = nearest.expect("windows cover every pixel");
    (window, (pixel - start) * cells / axis.side)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::clip::VisualTower;
    use crate::dense::testing::{Case, OWNERS, noise, stop_at, text, tower};
    use crate::dense::{self, Attention, KeySmoothing, Refinement, Window};

    /// Asserts that features extracted once for `kept` give the same scores, to the bit, as an image that is extracted
    /// anew for each of the options in `asked`.
    fn assert_equal_to_the_bit(tower: &VisualTower, sizes: &[Tensor], kept: &Case, asked: &[Case]) {
        let views = ImageViews::extract(tower, sizes, &kept.features()).unwrap();
        let first = text(tower);
        // The texts of two classes and the background in another order, to show that an earlier request leaves no
        // trace.
        let second = Tensor::cat(&[first.narrow(0, 1, 2), first.narrow(0, 0, 1)], 0);
        let largest = sizes.last().unwrap().to_kind(Kind::Float);
        for options in asked {
            for text in [&first, &second, &first] {
                let once = options.score(tower, sizes, text);
                let scores = views.score(text, &OWNERS, &options.scoring()).unwrap();
                assert_eq!(scores, once, "{options:?}");
                let refined = |scores| dense::refine(scores, &largest, text, 30, 40, &options.refinement());
                assert_eq!(refined(scores.map), refined(once.map), "{options:?}");
            }
        }
    }

    #[test]
    fn kept_features_score_as_the_image_would_with_every_attention() {
        for (name, image) in [("vit_quick_gelu", [3, 112, 132]), ("resnet", [3, 80, 100])] {
            let tower = tower(name);
            let sizes = [noise(&image), noise(&[3, image[1] + 16, image[2] + 16])];
            for &attention in dense::attentions(&tower) {
                // SC-CLIP needs a square of at least 31 patches.
                let (side, stride) = match attention {
                    Attention::ScClip => (96, 16),
                    _ => (64, 40),
                };
                let windowed = Case {
                    attention,
                    window: Some(Window { side, stride }),
                    ..Case::default()
                };
                let refined = |refinement| Case { refinement, ..windowed };
                let denoised = Case {
                    prompt_denoising: Some(0.4),
                    temperature: 10.0,
                    ..windowed
                };
                let asked = [
                    windowed,
                    denoised,
                    refined(Refinement::Pamr),
                    refined(Refinement::PearlPropagation),
                ];
                assert_equal_to_the_bit(&tower, &sizes, &windowed, &asked);
                if attention != Attention::ScClip {
                    let whole = |options: Case| Case {
                        window: None,
                        ..options
                    };
                    assert_equal_to_the_bit(&tower, &sizes[..1], &whole(windowed), &asked.map(whole));
                }
            }
        }
    }

    #[test]
    fn kept_keys_smooth_as_the_images_would_and_do_not_have_to() {
        for (name, image) in [("vit_quick_gelu", [3, 80, 96]), ("resnet", [3, 80, 100])] {
            let tower = tower(name);
            let sizes = [noise(&image), noise(&[3, 96, 128])];
            let by = |key_smoothing| Case {
                key_smoothing,
                window: Some(Window { side: 64, stride: 32 }),
                ..Case::default()
            };
            let plain = [KeySmoothing::Formula, KeySmoothing::Likeness, KeySmoothing::None].map(by);
            assert_equal_to_the_bit(&tower, &sizes, &plain[0], &plain);
            let reference = |threshold| KeySmoothing::Reference { threshold };
            let projected = [reference(0.5), reference(1.0), KeySmoothing::None].map(by);
            assert_equal_to_the_bit(&tower, &sizes, &projected[0], &projected);
        }
    }

    #[test]
    fn images_in_a_batch_score_as_each_of_them_alone() {
        for (name, sides) in [("vit_quick_gelu", [96, 112]), ("resnet", [80, 100])] {
            let tower = tower(name);
            let text = text(&tower);
            // Each image has two sizes, and no two images are alike.
            let sizes = |image: i64| {
                let at = |side: i64| (noise(&[3, side + 16, side]) + image as f64 * 0.1).sin();
                Vec::from(sides.map(at))
            };
            let images: Vec<_> = (0..3).map(sizes).collect();
            for &attention in dense::attentions(&tower) {
                for window in [None, Some(Window { side: 96, stride: 8 })] {
                    if attention == Attention::ScClip && window.is_none() {
                        continue; // SC-CLIP needs a square input.
                    }
                    let options = Case {
                        attention,
                        window,
                        key_smoothing: KeySmoothing::Likeness,
                        ..Case::default()
                    };
                    let batch: Vec<_> = images.iter().map(Vec::as_slice).collect();
                    let together = ImageViews::extract_batch(&tower, &batch, &options.features(), &|| false).unwrap();
                    for (views, image) in together.iter().zip(&images) {
                        let alone = options.score(&tower, image, &text);
                        let scores = views.score(&text, &OWNERS, &options.scoring()).unwrap();
                        for (found, expected) in scores.map.grids.iter().zip(&alone.map.grids) {
                            let close = found.values.iter().zip(&expected.values);
                            let difference = close.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                            // The values are logits, which are 100 times a cosine.
                            assert!(difference < 1e-3, "{name}, {options:?}: {difference}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn features_that_own_their_memory_are_those_that_the_tower_gave() {
        let tower = tower("vit_quick_gelu");
        let (image, text) = (noise(&[3, 64, 80]), text(&tower));
        for &attention in dense::attentions(&tower)
            .iter()
            .filter(|&&attention| attention != Attention::ScClip)
        {
            let options = Case {
                attention,
                key_smoothing: KeySmoothing::Likeness,
                ..Case::default()
            };
            let given = DenseFeatures::extract(&tower, &image, &options.features()).unwrap();
            let views = ImageViews::extract(&tower, &[image.shallow_clone()], &options.features()).unwrap();
            assert_eq!(
                views.score(&text, &OWNERS, &options.scoring()),
                given.score(&text, &OWNERS, &options.scoring()),
                "{}",
                attention.name()
            );
        }
    }

    #[test]
    fn bytes_are_those_of_all_that_is_held() {
        let tower = tower("vit_quick_gelu");
        let image = noise(&[3, 64, 96]); // 4 x 6 cells
        let of = |options: &Case| {
            ImageViews::extract(&tower, &[image.shallow_clone()], &options.features())
                .unwrap()
                .bytes()
        };
        let plain = Case::default();
        let embedding = to_usize(tower.embedding_dimension());
        assert_eq!(of(&plain), (24 + 1) * embedding * 4);
        let windows = Case {
            window: Some(Window { side: 32, stride: 32 }),
            ..plain
        };
        assert_eq!(of(&windows), 6 * (4 + 1) * embedding * 4);

        let width = 128; // channels of the tower's tokens
        let smoothed = Case {
            key_smoothing: KeySmoothing::Formula,
            ..plain
        };
        assert_eq!(of(&smoothed) - of(&plain), 24 * width * 4);
        // The second pass needs keys and values with those of the class token, the middle blocks' mixture of the
        // values, and the image.
        let resclip = Case {
            attention: Attention::Resclip,
            ..plain
        };
        assert_eq!(of(&resclip) - of(&plain), (25 + 25 + 24) * width * 4 + 3 * 64 * 96 * 4);
    }

    #[test]
    fn a_batch_does_not_stay_alive_with_one_of_its_images() {
        let tower = tower("vit_quick_gelu");
        let options = Case {
            attention: Attention::Resclip,
            key_smoothing: KeySmoothing::Formula,
            ..Case::default()
        };
        let of_batch =
            DenseFeatures::extract_batch(&tower, &noise(&[2, 3, 64, 64]), &options.features(), &|| false).unwrap();
        for features in of_batch.into_iter().map(DenseFeatures::owned) {
            for tensor in features.tensors() {
                // The memory from its first element to its last is all its own, and nothing lies before the first.
                let steps = tensor.size().into_iter().zip(tensor.stride());
                let span: i64 = 1 + steps.map(|(length, step)| (length - 1) * step).sum::<i64>();
                assert_eq!(to_usize(span), tensor.numel());
            }
        }
    }

    #[test]
    fn key_smoothing_needs_the_keys_that_it_compares() {
        let tower = tower("vit_quick_gelu");
        let (image, text) = (noise(&[3, 64, 64]), text(&tower));
        let formula = Case {
            key_smoothing: KeySmoothing::Formula,
            ..Case::default()
        };
        let reference = Case {
            key_smoothing: KeySmoothing::Reference { threshold: 0.5 },
            ..Case::default()
        };
        for (kept, asked) in [(Case::default(), formula), (formula, reference), (reference, formula)] {
            let views = ImageViews::extract(&tower, &[image.shallow_clone()], &kept.features()).unwrap();
            let refused = views.score(&text, &OWNERS, &asked.scoring()).unwrap_err();
            assert_eq!(refused, DenseError::KeysNotKept);
        }
    }

    #[test]
    fn a_place_lies_in_the_window_in_which_it_is_nearest_the_middle() {
        assert_eq!(cell_at(0.0, 4, None), (0, 0));
        assert_eq!(cell_at(0.99, 4, None), (0, 3));
        let axis = WindowAxis::new(96, 64, 32);
        assert_eq!(axis.starts, [0, 32]);
        assert_eq!(cell_at(0.0, 4, Some(&axis)), (0, 0));
        assert_eq!(cell_at(40.0 / 96.0, 4, Some(&axis)), (0, 2));
        assert_eq!(cell_at(60.0 / 96.0, 4, Some(&axis)), (1, 1));
        assert_eq!(cell_at(0.999, 4, Some(&axis)), (1, 3));
    }

    #[test]
    fn the_cell_at_a_place_is_like_itself_and_no_other_is_more_so() {
        for (name, window) in [
            ("vit_quick_gelu", None),
            ("resnet", None),
            ("vit_quick_gelu", Some(Window { side: 64, stride: 32 })),
        ] {
            let tower = tower(name);
            let options = Case {
                attention: Attention::Maskclip,
                window,
                ..Case::default()
            };
            let views = ImageViews::extract(&tower, &[noise(&[3, 64, 96])], &options.features()).unwrap();
            let map = views.similar_to((0.9, 0.1));
            let [grid] = map.grids.as_slice() else {
                panic!("one size")
            };
            assert_eq!(grid.values.len(), grid.height * grid.width);
            // The last cell of the first row, of the last window if there are several.
            let own = grid.values[grid.width - 1];
            assert!((own - 1.0).abs() < 1e-5, "{name}: {own}");
            assert!(grid.values.iter().all(|&cosine| cosine <= own + 1e-5), "{name}");
        }
    }

    #[test]
    fn features_and_scores_end_between_sizes_windows_and_blocks_when_they_are_stopped() {
        for name in ["vit_quick_gelu", "resnet"] {
            let tower = tower(name);
            let options = Case {
                attention: Attention::Clip,
                window: Some(Window { side: 64, stride: 32 }),
                ..Case::default()
            };
            let (sizes, text) = ([noise(&[3, 64, 96]), noise(&[3, 96, 96])], text(&tower));
            let extract =
                |stop: &dyn Fn() -> bool| ImageViews::extract_batch(&tower, &[&sizes], &options.features(), stop);
            let (never, asked) = stop_at(usize::MAX);
            let views = extract(&never).unwrap();
            for last in [1, asked.get() / 2, asked.get()] {
                let (stop, asked) = stop_at(last);
                assert_eq!(extract(&stop).unwrap_err(), DenseError::Stopped, "{name}: {last}");
                assert_eq!(asked.get(), last, "{name}: no step follows");
            }
            // Two windows at the first size and four at the second.
            for last in [1, 6] {
                let (stop, asked) = stop_at(last);
                let scored = views[0].score_unless(&text, &OWNERS, &options.scoring(), &stop);
                assert_eq!(scored, Err(DenseError::Stopped), "{name}: {last}");
                assert_eq!(asked.get(), last, "{name}: no step follows");
            }
        }
    }
}
