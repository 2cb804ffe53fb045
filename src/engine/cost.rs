//! Checks the work for a request against the limits: scales, windows, pairs of cells, scores, refinement, label map.

use std::fmt;

use super::InputLimits;
use crate::dense::{Attention, RefinementOptions, Window, refinement_bytes};
use crate::scores::Windows;

/// A request exceeds a limit with its scales, windows, attention, texts or output. Each text names the limit's settings
/// key.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CostError {
    /// A scale makes the input larger than the server allows.
    #[error(
        "the short side at scale {scale} is {pixels} pixels, more than limits.max_short_side = {limit}; a smaller scale or \
         short_side makes it smaller"
    )]
    ScaledShortSide {
        /// The scale.
        scale: f64,
        /// The short side of the scaled input in pixels.
        pixels: u32,
        /// The limit in pixels.
        limit: u32,
    },
    /// A window is smaller than one patch, so the model would see nothing through it.
    #[error("window.side must be at least the model's patch of {patch_pixels} pixels, not {side}")]
    SmallWindow {
        /// The window's side in pixels.
        side: u32,
        /// Side of the model's patch in pixels.
        patch_pixels: u32,
    },
    /// The request has more windows than the server allows.
    #[error(
        "the model's input of {sizes} pixels has {count} windows, more than limits.max_windows = {limit}; a larger \
         window.stride or fewer scales make fewer"
    )]
    TooManyWindows {
        /// Width and height of the model's input in pixels, at each scale.
        sizes: Sizes,
        /// The number of windows of all scales.
        count: usize,
        /// The largest number of windows.
        limit: usize,
    },
    /// The scales and windows together have more pixels than the server allows.
    #[error(
        "the model's input of {sizes} pixels comes to {pixels} pixels in all scales and windows, more than \
         limits.max_input_pixels = {limit}; a smaller short_side, fewer scales or a larger window.stride make fewer"
    )]
    InputPixels {
        /// Width and height of the model's input in pixels, at each scale.
        sizes: Sizes,
        /// Pixels of all windows at all scales. A scale without windows counts with its whole input.
        pixels: u64,
        /// The largest number of pixels.
        limit: u64,
    },
    /// The attention compares cells in pairs, and the input has too many cells for that.
    #[error(
        "the attention {attention} compares every two of {cells} cells, more than limits.max_paired_cells = {limit}; a smaller \
         short_side, or windows, make fewer"
    )]
    PairedCells {
        /// The attention that was asked for.
        attention: &'static str,
        /// Cells that the model sees at once.
        cells: usize,
        /// The largest number of cells.
        limit: usize,
    },
    /// The refinement needs too much memory.
    #[error(
        "the refinement of {queries} texts at {pixels} pixels takes {bytes} bytes, more than limits.max_refinement_bytes = \
         {limit}; a smaller image or fewer classes take less"
    )]
    Refinement {
        /// Queries that are refined, one per text that is scored on its own.
        queries: usize,
        /// Pixels of the image.
        pixels: u64,
        /// Bytes that the refinement needs.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The scores of all texts in all cells would be too large.
    #[error(
        "the scores of {queries} texts in {cells} cells take {bytes} bytes, more than limits.max_score_bytes = {limit}; fewer \
         classes, synonyms: mean or a smaller short_side take less"
    )]
    ScoreBytes {
        /// Queries, one per text that is scored on its own.
        queries: usize,
        /// Cells over all scales and windows.
        cells: u64,
        /// Bytes of the scores.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The label map would be too much work.
    #[error(
        "{queries} texts at {pixels} pixels are more than limits.max_pixel_texts = {limit}; fewer classes, synonyms: mean \
         or a smaller image make fewer"
    )]
    PixelTexts {
        /// Queries, one per text that is scored on its own.
        queries: usize,
        /// Pixels of the image.
        pixels: u64,
        /// The largest number of queries times pixels.
        limit: u64,
    },
    /// The image is too large for a label map of rows of numbers.
    #[error(
        "a raw label map of {pixels} pixels has more than limits.max_raw_pixels = {limit}; png and coco-rle are smaller"
    )]
    RawPixels {
        /// Pixels of the image.
        pixels: u64,
        /// The limit in pixels.
        limit: u64,
    },
    /// The request alone needs more memory than all requests together may take.
    #[error(
        "the request takes up to {bytes} bytes, more than engine.work_bytes = {limit}; a smaller image, fewer classes or \
         another form of the label map take less"
    )]
    WorkBytes {
        /// Bytes that the request needs at most at once.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The probability maps of an image have too many bytes.
    #[error(
        "{maps} probability maps of {pixels} pixels take {bytes} bytes, more than limits.max_probability_bytes = {limit}; fewer \
         classes or a smaller image take less"
    )]
    ProbabilityBytes {
        /// The number of maps.
        maps: usize,
        /// Pixels of the image.
        pixels: u64,
        /// Bytes of the maps.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The polygons of the label map have too many corners, which is known only once there is a label map.
    #[error(
        "the polygons of the label map have more than limits.max_polygon_corners = {limit} corners; run lengths (coco-rle) say \
         the same in less"
    )]
    PolygonCorners {
        /// The largest number of corners.
        limit: u64,
    },
    /// The image is too large for a confidence map.
    #[error("a confidence map of {pixels} pixels has more than limits.max_confidence_pixels = {limit}")]
    ConfidencePixels {
        /// Pixels of the image.
        pixels: u64,
        /// The limit in pixels.
        limit: u64,
    },
}

/// Width and height in pixels of each of several inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes(pub Vec<(u32, u32)>);

impl fmt::Display for Sizes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (width, height)) in self.0.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(formatter, "{separator}{width} x {height}")?;
        }
        Ok(())
    }
}

/// Returns the short side in pixels at a scale, at least 1. Only a scale above 1 can fail: a smaller one stays below a
/// short side that was checked before, or below the model's own.
///
/// # Errors
/// [`CostError::ScaledShortSide`].
pub(super) fn scaled_short_side(short_side: u32, scale: f64, limits: &InputLimits) -> Result<u32, CostError> {
    let pixels = (f64::from(short_side) * scale).round().max(1.0) as u32;
    let limit = limits.max_short_side;
    if scale > 1.0 && pixels > limit {
        return Err(CostError::ScaledShortSide { scale, pixels, limit });
    }
    Ok(pixels)
}

/// Checks the inputs of all scales and the windows over them. `sizes` holds width and height in pixels per scale.
///
/// # Errors
/// [`CostError::SmallWindow`], [`CostError::TooManyWindows`] or [`CostError::InputPixels`].
pub(super) fn check_sizes(
    sizes: &[(u32, u32)],
    window: Option<Window>,
    patch_pixels: u32,
    limits: &InputLimits,
) -> Result<(), CostError> {
    if let Some(Window { side, .. }) = window
        && side < patch_pixels
    {
        return Err(CostError::SmallWindow { side, patch_pixels });
    }
    let (mut count, mut pixels) = (0, 0);
    for &(width, height) in sizes {
        let [width, height] = [width, height].map(|side| side as usize);
        let windows = window.and_then(|window| windows_of(height, width, window));
        pixels += match &windows {
            None => height * width,
            Some(windows) => windows.count() * windows.rows.side * windows.columns.side,
        };
        count += windows.as_ref().map_or(0, Windows::count);
    }
    let sizes = || Sizes(sizes.to_vec());
    if count > limits.max_windows {
        return Err(CostError::TooManyWindows {
            sizes: sizes(),
            count,
            limit: limits.max_windows,
        });
    }
    let pixels = pixels as u64;
    if pixels > limits.max_input_pixels {
        return Err(CostError::InputPixels {
            sizes: sizes(),
            pixels,
            limit: limits.max_input_pixels,
        });
    }
    Ok(())
}

/// Returns the number of cells of inputs of these widths and heights in pixels, over all windows.
pub(super) fn cells(sizes: &[(u32, u32)], window: Option<Window>, patch_pixels: u32) -> u64 {
    let cells = |height: usize, width: usize| {
        let [rows, columns] = [height, width].map(|side| side as u64 / u64::from(patch_pixels));
        rows * columns
    };
    let of_size = |&(width, height): &(u32, u32)| {
        let [width, height] = [width, height].map(|side| side as usize);
        let windows = window.and_then(|window| windows_of(height, width, window));
        windows.map_or_else(
            || cells(height, width),
            |windows| windows.count() as u64 * cells(windows.rows.side, windows.columns.side),
        )
    };
    sizes.iter().map(of_size).sum()
}

/// Returns the windows over an input, or `None` if one window shows all of it.
fn windows_of(height: usize, width: usize, window: Window) -> Option<Windows> {
    Windows::new(height, width, window.side as usize, window.stride as usize)
}

/// Checks the number of cells that the model sees at once, if the attention compares cells in pairs.
///
/// # Errors
/// [`CostError::PairedCells`].
pub(super) fn check_pairs(cells: usize, attention: Attention, limits: &InputLimits) -> Result<(), CostError> {
    let limit = limits.max_paired_cells;
    if attention.pairs_cells() && cells > limit {
        return Err(CostError::PairedCells {
            attention: attention.name(),
            cells,
            limit,
        });
    }
    Ok(())
}

/// Checks the bytes that the refinement of an image of this width and height in pixels needs for `queries` texts.
///
/// # Errors
/// [`CostError::Refinement`].
pub(super) fn check_refinement(
    options: &RefinementOptions,
    queries: usize,
    size: (u32, u32),
    limits: &InputLimits,
) -> Result<(), CostError> {
    let bytes = refinement_bytes(options, queries, size);
    let limit = limits.max_refinement_bytes;
    if bytes > limit {
        return Err(CostError::Refinement {
            queries,
            pixels: u64::from(size.0) * u64::from(size.1),
            bytes,
            limit,
        });
    }
    Ok(())
}

/// Checks the bytes of the scores of `queries` texts in so many cells.
///
/// # Errors
/// [`CostError::ScoreBytes`].
pub(super) fn check_scores(queries: usize, cells: u64, limits: &InputLimits) -> Result<(), CostError> {
    let (bytes, limit) = (score_bytes(queries, cells), limits.max_score_bytes);
    if bytes > limit {
        return Err(CostError::ScoreBytes {
            queries,
            cells,
            bytes,
            limit,
        });
    }
    Ok(())
}

/// Returns the bytes of the scores of `queries` texts in so many cells.
pub(super) fn score_bytes(queries: usize, cells: u64) -> u64 {
    (queries as u64)
        .saturating_mul(cells)
        .saturating_mul(size_of::<f32>() as u64)
}

/// What a result has for each pixel, as far as it has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Maps {
    /// Whether the label map comes as rows of numbers.
    pub(super) is_raw: bool,
    /// Whether there is a confidence map.
    pub(super) confidence: bool,
    /// The number of probability maps.
    pub(super) probabilities: usize,
}

/// Checks the work of the label map of `queries` texts, and the size of the maps in the result.
///
/// # Errors
/// [`CostError::PixelTexts`], [`CostError::RawPixels`], [`CostError::ConfidencePixels`] or
/// [`CostError::ProbabilityBytes`].
pub(super) fn check_label_map(queries: usize, pixels: u64, maps: Maps, limits: &InputLimits) -> Result<(), CostError> {
    let limit = limits.max_pixel_texts;
    if (queries as u64).saturating_mul(pixels) > limit {
        return Err(CostError::PixelTexts { queries, pixels, limit });
    }
    let limit = limits.max_raw_pixels;
    if maps.is_raw && pixels > limit {
        return Err(CostError::RawPixels { pixels, limit });
    }
    let limit = limits.max_confidence_pixels;
    if maps.confidence && pixels > limit {
        return Err(CostError::ConfidencePixels { pixels, limit });
    }
    let bytes = (maps.probabilities as u64).saturating_mul(pixels);
    let limit = limits.max_probability_bytes;
    if bytes > limit {
        return Err(CostError::ProbabilityBytes {
            maps: maps.probabilities,
            pixels,
            bytes,
            limit,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::Refinement;

    fn limits() -> InputLimits {
        InputLimits {
            max_image_pixels: 1_000_000,
            max_short_side: 2000,
            max_scales: 4,
            max_windows: 6,
            max_input_pixels: 400_000,
            max_paired_cells: 100,
            max_refinement_bytes: 4 * 46_000,
            max_score_bytes: 4000,
            max_pixel_texts: 1000,
            max_raw_pixels: 100,
            max_polygon_corners: 100,
            max_confidence_pixels: 200,
            max_probability_bytes: 300,
            max_embedding_inputs: 4,
            max_embedding_characters: 100,
        }
    }

    #[test]
    fn windows_are_counted_and_so_are_their_pixels() {
        let check =
            |width, height, side, stride| check_sizes(&[(width, height)], Some(Window { side, stride }), 16, &limits());
        assert_eq!(check(448, 336, 224, 112), Ok(()));
        assert_eq!(
            check(449, 336, 224, 112).expect_err("2 x 4").to_string(),
            "the model's input of 449 x 336 pixels has 8 windows, more than limits.max_windows = 6; a larger window.stride \
             or fewer scales make fewer"
        );
        assert_eq!(
            check(600, 600, 400, 200).expect_err("4 x 160000").to_string(),
            "the model's input of 600 x 600 pixels comes to 640000 pixels in all scales and windows, more than \
             limits.max_input_pixels = 400000; a smaller short_side, fewer scales or a larger window.stride make fewer"
        );
        assert_eq!(check(600, 600, 800, 1), Ok(())); // One window is the whole input.
    }

    #[test]
    fn cells_are_those_of_all_scales_and_windows() {
        assert_eq!(cells(&[(448, 336), (33, 17)], None, 16), 28 * 21 + 2);
        // Two rows of three windows of 14 x 14 cells; the smaller input is seen as a whole.
        let window = Some(Window { side: 224, stride: 112 });
        assert_eq!(cells(&[(448, 336), (224, 168)], window, 16), 6 * 14 * 14 + 14 * 10);
    }

    #[test]
    fn scales_add_up_with_windows_and_without() {
        let check = |sizes: &[(u32, u32)], window| check_sizes(sizes, window, 16, &limits());
        assert_eq!(check(&[(400, 400), (600, 400)], None), Ok(()));
        let error = check(&[(400, 400), (601, 400)], None).expect_err("160000 and 240400");
        assert!(
            error
                .to_string()
                .contains("of 400 x 400, 601 x 400 pixels comes to 400400 pixels"),
            "{error}"
        );
        // The smaller input is seen as a whole, the larger one through six windows.
        let window = Some(Window { side: 224, stride: 112 });
        assert_eq!(check(&[(224, 168), (448, 336)], window), Ok(()));
        let error = check(&[(448, 336), (336, 224)], window).expect_err("6 and 2");
        assert!(
            error
                .to_string()
                .contains("of 448 x 336, 336 x 224 pixels has 8 windows"),
            "{error}"
        );
    }

    #[test]
    fn a_scale_is_limited_as_the_short_side_is() {
        let limits = InputLimits {
            max_short_side: 500,
            ..limits()
        };
        let scaled = |short_side, scale| scaled_short_side(short_side, scale, &limits);
        assert_eq!(scaled(333, 1.5), Ok(500)); // 499.5
        assert_eq!(
            scaled(334, 1.5).expect_err("501").to_string(),
            "the short side at scale 1.5 is 501 pixels, more than limits.max_short_side = 500; a smaller scale or short_side \
             makes it smaller"
        );
        assert_eq!(scaled(3, 0.1), Ok(1));
        assert!(scaled(3, 1e300).is_err());
        assert_eq!(scaled(600, 1.0), Ok(600)); // The model's own short side: no request asked for it.
    }

    #[test]
    fn a_window_shows_at_least_a_patch() {
        let window = Some(Window { side: 15, stride: 15 });
        assert_eq!(
            check_sizes(&[(32, 32)], window, 16, &limits())
                .expect_err("15 < 16")
                .to_string(),
            "window.side must be at least the model's patch of 16 pixels, not 15"
        );
    }

    #[test]
    fn only_what_compares_cells_is_limited_in_them() {
        let check = |cells, attention| check_pairs(cells, attention, &limits());
        assert_eq!(check(101, Attention::Clearclip), Ok(()));
        assert_eq!(check(100, Attention::Naclip), Ok(()));
        assert_eq!(
            check(101, Attention::Naclip).expect_err("101 > 100").to_string(),
            "the attention naclip compares every two of 101 cells, more than limits.max_paired_cells = 100; a smaller \
             short_side, or windows, make fewer"
        );
    }

    #[test]
    fn a_refinement_is_weighed_by_pixels_and_texts() {
        let check = |refinement, queries| {
            let options = RefinementOptions::new(refinement, 80, 100.0);
            check_refinement(&options, queries, (20, 50), &limits())
        };
        // 16 floats and 4 for each text at 1000 pixels, and one for each text at 52 x 82 padded ones.
        assert_eq!(check(Refinement::Pamr, 3), Ok(()));
        assert_eq!(check(Refinement::None, 4), Ok(()));
        assert_eq!(
            check(Refinement::Pamr, 4).expect_err("49056 floats").to_string(),
            "the refinement of 4 texts at 1000 pixels takes 196224 bytes, more than limits.max_refinement_bytes = 184000; a \
             smaller image or fewer classes take less"
        );
    }

    #[test]
    fn scores_are_weighed_by_texts_and_cells() {
        assert_eq!(check_scores(10, 100, &limits()), Ok(()));
        assert_eq!(
            check_scores(10, 101, &limits()).expect_err("4040 > 4000").to_string(),
            "the scores of 10 texts in 101 cells take 4040 bytes, more than limits.max_score_bytes = 4000; fewer classes, \
             synonyms: mean or a smaller short_side take less"
        );
        assert!(check_scores(usize::MAX, u64::MAX, &limits()).is_err());
    }

    #[test]
    fn a_label_map_is_weighed_by_texts_and_pixels_and_by_what_travels() {
        let check = |queries, pixels, maps| check_label_map(queries, pixels, maps, &limits());
        let png = Maps::default();
        assert_eq!(check(1, 1000, png), Ok(()));
        assert_eq!(
            check(2, 501, png).expect_err("1002 > 1000").to_string(),
            "2 texts at 501 pixels are more than limits.max_pixel_texts = 1000; fewer classes, synonyms: mean or a smaller \
             image make fewer"
        );
        let raw = Maps {
            is_raw: true,
            confidence: true,
            ..png
        };
        assert_eq!(check(1, 100, raw), Ok(()));
        assert_eq!(
            check(1, 101, raw),
            Err(CostError::RawPixels {
                pixels: 101,
                limit: 100
            })
        );
        let confidence = Maps {
            confidence: true,
            ..png
        };
        assert_eq!(check(1, 200, confidence), Ok(()));
        assert_eq!(
            check(1, 201, confidence),
            Err(CostError::ConfidencePixels {
                pixels: 201,
                limit: 200
            })
        );
        let probabilities = Maps {
            probabilities: 3,
            ..png
        };
        assert_eq!(check(1, 100, probabilities), Ok(()));
        assert_eq!(
            check(1, 101, probabilities).expect_err("303 > 300").to_string(),
            "3 probability maps of 101 pixels take 303 bytes, more than limits.max_probability_bytes = 300; fewer classes or \
             a smaller image take less"
        );
    }

    #[test]
    fn more_cells_make_the_propagation_dearer() {
        let check = |cells| {
            let options = RefinementOptions::new(Refinement::PearlPropagation, cells, 100.0);
            let limits = InputLimits {
                max_refinement_bytes: 40_000_000,
                ..limits()
            };
            check_refinement(&options, 10, (1000, 1000), &limits)
        };
        assert_eq!(check(80), Ok(()));
        // 32 bytes for each of a million pixels, plus 32 bytes for each of 10 texts in each of 335 x 335 cells.
        let error = check(224).expect_err("more than 40 million bytes").to_string();
        assert!(error.contains("takes 67912000 bytes"), "{error}");
    }
}
