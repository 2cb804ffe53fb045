//! The network's input as a whole or through windows. The network treats each window as an image, and all windows have
//! one size.

use tch::Tensor;

use super::scores::View;
use super::{DenseError, DenseFeatures, FeatureOptions, FeatureSource, Window};
use crate::scores::Windows;
use crate::support::{to_i64, to_usize};

/// Most pixels that pass through the network together, as whole images or windows; one image or window may have more.
pub const BATCH_PIXELS: usize = 1 << 19;

/// Runs the network on several images of one size, `[3, height, width]` each: on all windows of each image, or on the
/// whole.
pub(super) fn views(
    network: &dyn FeatureSource,
    images: &[&Tensor],
    options: &FeatureOptions,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<View<DenseFeatures>>, DenseError> {
    let (_, height, width) = images[0].size3().expect("an image is [3, height, width]");
    let windows = over(height, width, options.window);
    let seen = images.iter().flat_map(|image| match &windows {
        Some(windows) => crops(image, windows, network.patch_pixels()),
        None => vec![in_whole_patches(image, network.patch_pixels())],
    });
    let seen: Vec<_> = seen.collect();
    let mut features = extract(network, &seen, options, stop)?.into_iter();
    let of_each = seen.len() / images.len();
    let view = |_| View {
        features: features.by_ref().take(of_each).collect(),
        windows: windows.clone(),
    };
    Ok(images.iter().map(view).collect())
}

/// Returns the windows over an input of `height` x `width` pixels, or `None` where it is seen as a whole.
fn over(height: i64, width: i64, window: Option<Window>) -> Option<Windows> {
    let Window { side, stride } = window?;
    Windows::new(to_usize(height), to_usize(width), side as usize, stride as usize)
}

/// Computes the features of images of one size, `[3, height, width]` each, as many at a time as [`BATCH_PIXELS`]
/// allows. Each result has its memory to itself.
fn extract(
    network: &dyn FeatureSource,
    images: &[Tensor],
    options: &FeatureOptions,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<DenseFeatures>, DenseError> {
    let (_, height, width) = images[0].size3().expect("an image is [3, height, width]");
    let together = (BATCH_PIXELS / to_usize(height * width)).max(1);
    let mut features = Vec::with_capacity(images.len());
    for batch in images.chunks(together) {
        let of_batch = network.features(&Tensor::stack(batch, 0), options, stop)?;
        features.extend(of_batch.into_iter().map(DenseFeatures::owned));
    }
    Ok(features)
}

/// Cuts out each window, row by row, as `[3, height, width]`. Pixels at the right and at the bottom that do not fill a
/// patch are left out, as a patch convolution does. The cells still count as spread over the whole window.
fn crops(image: &Tensor, windows: &Windows, patch_pixels: i64) -> Vec<Tensor> {
    let [rows, columns] = [&windows.rows, &windows.columns];
    let length = |side: usize| whole_patches(to_i64(side), patch_pixels);
    let (height, width) = (length(rows.side), length(columns.side));
    let places = rows
        .starts
        .iter()
        .flat_map(|top| columns.starts.iter().map(move |left| (*top, *left)));
    places
        .map(|(top, left)| image.narrow(1, to_i64(top), height).narrow(2, to_i64(left), width))
        .collect()
}

/// Returns the image `[3, height, width]` without the pixels at the right and at the bottom that do not fill a patch.
fn in_whole_patches(image: &Tensor, patch_pixels: i64) -> Tensor {
    let (_, height, width) = image.size3().expect("an image is [3, height, width]");
    image
        .narrow(1, 0, whole_patches(height, patch_pixels))
        .narrow(2, 0, whole_patches(width, patch_pixels))
}

fn whole_patches(side: i64, patch_pixels: i64) -> i64 {
    side / patch_pixels * patch_pixels
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::clip::VisualTower;
    use crate::dense::testing::{Case, noise, stop_at, text, tower};
    use crate::dense::{self, Attention, KeySmoothing, Refinement};
    use crate::scores::DenseScores;
    use crate::scores::{ScoreGrid, ScoreKind, ScoreMap};

    fn score(tower: &VisualTower, image: &Tensor, text: &Tensor, options: &Case) -> DenseScores {
        options.score(tower, std::slice::from_ref(image), text)
    }

    /// Returns the grid of the only size.
    fn grid(scores: &DenseScores) -> &ScoreGrid {
        let [grid] = scores.map.grids.as_slice() else {
            panic!("{} sizes", scores.map.grids.len());
        };
        grid
    }

    fn options(window: Option<Window>) -> Case {
        Case {
            attention: Attention::Clip,
            window,
            ..Case::default()
        }
    }

    fn assert_close(found: &[f32], expected: &[f32], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let difference = found
            .iter()
            .zip(expected)
            .map(|(found, expected)| (found - expected).abs());
        let largest = difference.fold(0_f32, f32::max);
        assert!(largest < 1e-3, "{what}: {largest}"); // the values are logits, which are 100 times a cosine
    }

    /// Returns the cells of one window, `[queries, height, width]`, out of the cells of all windows.
    fn cells_of(grid: &ScoreGrid, row: usize, column: usize) -> Vec<f32> {
        let windows = grid.windows.as_ref().unwrap();
        let height = grid.height / windows.rows.starts.len();
        let width = grid.width / windows.columns.starts.len();
        let all = Tensor::from_slice(&grid.values).view([3, to_i64(grid.height), to_i64(grid.width)]);
        let cells =
            all.narrow(1, to_i64(row * height), to_i64(height))
                .narrow(2, to_i64(column * width), to_i64(width));
        super::super::tensors::floats(&cells)
    }

    #[test]
    fn a_window_scores_as_the_same_crop_alone_would_with_every_attention() {
        for (name, image) in [("vit_quick_gelu", [3, 112, 132]), ("resnet", [3, 80, 100])] {
            let tower = tower(name);
            let (image, text) = (noise(&image), text(&tower));
            for &attention in dense::attentions(&tower) {
                // SC-CLIP needs at least 31 patches.
                let (side, stride) = match attention {
                    Attention::ScClip => (96, 16),
                    _ => (64, 40),
                };
                let asked = Case {
                    attention,
                    ..options(Some(Window { side, stride }))
                };
                let scores = score(&tower, &image, &text, &asked);
                let windows = grid(&scores).windows.clone().unwrap();
                let mut similarity = vec![-1_f32; 3];
                for (row, &top) in windows.rows.starts.iter().enumerate() {
                    for (column, &left) in windows.columns.starts.iter().enumerate() {
                        let crop =
                            image
                                .narrow(1, to_i64(top), i64::from(side))
                                .narrow(2, to_i64(left), i64::from(side));
                        let alone = Case { window: None, ..asked };
                        let alone = score(&tower, &crop, &text, &alone);
                        let what = format!("{name}, {}, window {row} {column}", attention.name());
                        assert_close(&cells_of(grid(&scores), row, column), &grid(&alone).values, &what);
                        for (best, alone) in similarity.iter_mut().zip(alone.similarity) {
                            *best = best.max(alone);
                        }
                    }
                }
                assert_close(&scores.similarity, &similarity, name);
            }
        }
    }

    #[test]
    fn an_input_no_larger_than_a_window_is_scored_as_a_whole() {
        let tower = tower("vit_quick_gelu");
        let (image, text) = (noise(&[3, 48, 64]), text(&tower));
        let whole = score(&tower, &image, &text, &options(None));
        let window = Some(Window { side: 64, stride: 32 });
        assert_eq!(score(&tower, &image, &text, &options(window)), whole);
    }

    #[test]
    fn pixels_that_fill_no_patch_are_not_looked_at() {
        let tower = tower("vit_quick_gelu");
        let (image, text) = (noise(&[3, 57, 79]), text(&tower));
        let scores = score(&tower, &image, &text, &options(None));
        assert_eq!((grid(&scores).height, grid(&scores).width), (3, 4));
        let whole_patches = image.narrow(1, 0, 48).narrow(2, 0, 64);
        assert_eq!(score(&tower, &whole_patches, &text, &options(None)), scores);
    }

    #[test]
    fn prompt_denoising_looks_at_all_windows_and_key_smoothing_at_each() {
        let tower = tower("vit_quick_gelu");
        let (image, text) = (noise(&[3, 32, 96]), text(&tower));
        let window = Window { side: 32, stride: 32 };
        let plain = score(&tower, &image, &text, &options(Some(window)));
        // A class is dropped everywhere or nowhere: it stays if at least one window shows it.
        let probability = Tensor::from_slice(&grid(&plain).values)
            .view([3, -1])
            .softmax(0, Kind::Float);
        let best = super::super::tensors::floats(&probability.amax([1], false));
        let threshold = f32::midpoint(best[0], best[1]);
        let denoised = Case {
            prompt_denoising: Some(threshold),
            ..options(Some(window))
        };
        let denoised = score(&tower, &image, &text, &denoised);
        let denoised = grid(&denoised);
        for (class, best) in best[..2].iter().enumerate() {
            let values =
                &denoised.values[class * denoised.height * denoised.width..][..denoised.height * denoised.width];
            assert!(
                values.iter().all(|value| (*value < -9_000.0) == (*best < threshold)),
                "class {class}"
            );
        }

        let smoothed = Case {
            key_smoothing: KeySmoothing::Formula,
            ..options(Some(window))
        };
        let scores = score(&tower, &image, &text, &smoothed);
        let alone = Case {
            window: None,
            ..smoothed
        };
        let alone = score(&tower, &image.narrow(2, 32, 32), &text, &alone);
        assert_close(
            &cells_of(grid(&scores), 0, 1),
            &grid(&alone).values,
            "the middle window",
        );
    }

    #[test]
    fn an_image_at_several_sizes_is_scored_at_each_and_classes_are_dropped_at_all_or_none() {
        let tower = tower("vit_quick_gelu");
        let sizes = [[3, 32, 48], [3, 64, 96]].map(|shape| noise(&shape));
        let text = text(&tower);
        let plain = options(Some(Window { side: 64, stride: 32 }));
        let scores = plain.score(&tower, &sizes, &text);
        let alone = [0, 1].map(|size| score(&tower, &sizes[size], &text, &plain));
        assert_eq!(scores.map.grids.len(), 2);
        let windows = |size: usize| scores.map.grids[size].windows.as_ref().map(Windows::count);
        assert_eq!([windows(0), windows(1)], [None, Some(2)]);
        for (found, alone) in scores.map.grids.iter().zip(&alone) {
            assert_eq!((found.height, found.width), (grid(alone).height, grid(alone).width));
            assert_close(&found.values, &grid(alone).values, "a size");
        }
        // Means of cosines are means of log-probabilities up to one summand, so the ratios of probabilities must agree.
        let mean = |query: usize| {
            let ratio = |scores: &DenseScores| scores.image_probability[query] / scores.image_probability[0];
            (ratio(&alone[0]) * ratio(&alone[1])).sqrt() - ratio(&scores)
        };
        assert!(mean(1).abs() < 1e-3 && mean(2).abs() < 1e-3);
        for (query, best) in scores.similarity.iter().enumerate() {
            assert_eq!(*best, alone[0].similarity[query].max(alone[1].similarity[query]));
        }

        // The smaller size shows no second class. The class stays there because the larger size shows it.
        let denoised = Case {
            prompt_denoising: Some(0.5),
            ..plain
        };
        let is_dropped = |grid: &ScoreGrid| {
            let cells = grid.height * grid.width;
            grid.values[cells..2 * cells].iter().all(|value| *value < -9_000.0)
        };
        let dropped_alone = [0, 1].map(|size| is_dropped(grid(&score(&tower, &sizes[size], &text, &denoised))));
        assert_eq!(dropped_alone, [true, false]);
        let together = denoised.score(&tower, &sizes, &text);
        assert!(!together.map.grids.iter().any(is_dropped));
    }

    #[test]
    fn refinement_gives_one_cell_per_pixel_and_moves_borders_to_those_of_the_colours() {
        // The left half is dark and the right half is bright. The border of the scores lies ten pixels further right.
        let column = Tensor::arange(80, (Kind::Float, Device::Cpu)).view([1, 1, 80]);
        let image = column.ge(40.0).to_kind(Kind::Float).expand([3, 64, 80], false);
        let left = column.lt(50.0).to_kind(Kind::Float).expand([1, 64, 80], false);
        let scores = ScoreMap {
            kind: ScoreKind::Logits,
            queries: 2,
            grids: vec![ScoreGrid {
                height: 64,
                width: 80,
                windows: None,
                values: super::super::tensors::floats(&Tensor::cat(&[left.shallow_clone(), 1.0 - left], 0)),
            }],
        };
        let border = |scores: &ScoreMap| {
            let values = &scores.grids[0].values;
            let wins = |x: usize| values[32 * 80 + x] > values[64 * 80 + 32 * 80 + x];
            (0..80).take_while(|&x| wins(x)).count()
        };
        assert_eq!(border(&scores), 50);
        let text = Tensor::eye(2, (Kind::Float, Device::Cpu));
        let by = |refinement: Refinement| {
            let options = Case {
                refinement,
                ..Case::default()
            };
            dense::refine(scores.clone(), &image, &text, 64, 80, &options.refinement())
        };
        assert_eq!(by(Refinement::None), scores);
        let refined = by(Refinement::Pamr);
        assert_eq!(
            (
                refined.grids[0].height,
                refined.grids[0].width,
                refined.grids[0].values.len()
            ),
            (64, 80, 2 * 64 * 80)
        );
        assert_eq!(border(&refined), 40);
    }

    #[test]
    fn a_refinement_ends_at_the_next_step_after_it_is_stopped_and_is_otherwise_the_same() {
        let scores = ScoreMap {
            kind: ScoreKind::Logits,
            queries: 3,
            grids: vec![ScoreGrid {
                height: 4,
                width: 5,
                windows: None,
                values: super::super::tensors::floats(&noise(&[3, 4, 5])),
            }],
        };
        let (image, text) = (noise(&[3, 32, 40]), Tensor::eye(3, (Kind::Float, Device::Cpu)));
        let refine = |refinement, stop: &dyn Fn() -> bool| {
            let options = Case {
                refinement,
                ..Case::default()
            };
            dense::refine_unless(scores.clone(), &image, &text, [64, 80], &options.refinement(), stop)
        };
        // PAMR: at least one for each neighbour in each of ten steps. The propagation: one for each text and step.
        for (refinement, fewest) in [(Refinement::Pamr, 160), (Refinement::PearlPropagation, 28)] {
            let (never, asked) = stop_at(usize::MAX);
            let refined = refine(refinement, &never);
            assert_eq!(refined, refine(refinement, &|| false));
            assert!(refined.is_ok() && asked.get() >= fewest, "{} times", asked.get());
            for last in [1, fewest / 2, asked.get()] {
                let (stop, asked) = stop_at(last);
                assert_eq!(refine(refinement, &stop), Err(DenseError::Stopped), "{last}");
                assert_eq!(asked.get(), last, "no step follows");
            }
        }
    }
}
