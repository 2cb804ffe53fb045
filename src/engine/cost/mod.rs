//! Checks the work for a request against the limits: scales, windows, pairs of cells, scores, refinement, label map.

mod error;

use super::InputLimits;
use crate::dense::{Attention, RefinementOptions, Window, refinement_bytes};
use crate::scores::Windows;

pub use error::{CostError, Sizes};

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
mod tests;
