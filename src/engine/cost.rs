//! What a request may cost in the model beyond its input: windows, pairs of cells and refinement.

use crate::config::LimitsConfig;
use crate::dense::{Attention, Refinement, Window, refinement_bytes};
use crate::label_map::Windows;

/// Windows, an attention or a refinement that the server does not allow. Each limit is named as in the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CostError {
    /// A window that shows the model nothing.
    #[error("window.side must be at least the model's patch of {patch_pixels} pixels, not {side}")]
    SmallWindow {
        /// The window's side in pixels.
        side: u32,
        /// The patch's.
        patch_pixels: u32,
    },
    /// More windows than the server takes.
    #[error(
        "the model's input of {width} x {height} pixels has {count} windows, more than limits.max_windows = {limit}; a larger \
         window.stride makes fewer"
    )]
    TooManyWindows {
        /// Width of the model's input in pixels.
        width: usize,
        /// Height of the model's input in pixels.
        height: usize,
        /// The windows.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// Windows with more pixels than the server takes.
    #[error(
        "{count} windows have {pixels} pixels in all, more than limits.max_input_pixels = {limit}; a larger window.stride or a \
         smaller short_side makes fewer"
    )]
    WindowPixels {
        /// The windows.
        count: usize,
        /// Pixels of all windows.
        pixels: u64,
        /// The limit.
        limit: u64,
    },
    /// More cells than may be compared two by two.
    #[error(
        "the attention {attention} compares every two of {cells} cells, more than limits.max_paired_cells = {limit}; a smaller \
         short_side, or windows, make fewer"
    )]
    PairedCells {
        /// The attention that was asked for.
        attention: &'static str,
        /// Cells that the model would see at once.
        cells: usize,
        /// The limit.
        limit: usize,
    },
    /// A refinement that takes too much memory.
    #[error(
        "the refinement of {queries} texts at {pixels} pixels takes {bytes} bytes, more than limits.max_refinement_bytes = \
         {limit}; a smaller image or fewer classes take less"
    )]
    Refinement {
        /// Texts that are scored apart.
        queries: usize,
        /// Pixels of the image.
        pixels: u64,
        /// Bytes that refining them takes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

/// Checks the windows over an input of `height` x `width` pixels.
pub(super) fn check_windows(
    height: usize,
    width: usize,
    window: Option<Window>,
    patch_pixels: u32,
    limits: &LimitsConfig,
) -> Result<(), CostError> {
    let Some(Window { side, stride }) = window else {
        return Ok(());
    };
    if side < patch_pixels {
        return Err(CostError::SmallWindow { side, patch_pixels });
    }
    let Some(windows) = Windows::new(height, width, side as usize, stride as usize) else {
        return Ok(());
    };
    let count = windows.count();
    if count > limits.max_windows {
        return Err(CostError::TooManyWindows {
            width,
            height,
            count,
            limit: limits.max_windows,
        });
    }
    let pixels = (count * windows.rows.side * windows.columns.side) as u64;
    if pixels > limits.max_input_pixels {
        return Err(CostError::WindowPixels {
            count,
            pixels,
            limit: limits.max_input_pixels,
        });
    }
    Ok(())
}

/// Checks the number of cells that the model sees at once.
pub(super) fn check_pairs(cells: usize, attention: Attention, limits: &LimitsConfig) -> Result<(), CostError> {
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

/// Checks the refinement of an image of `pixels` pixels.
pub(super) fn check_refinement(
    refinement: Refinement,
    queries: usize,
    pixels: u64,
    limits: &LimitsConfig,
) -> Result<(), CostError> {
    let bytes = refinement_bytes(refinement, queries, pixels);
    let limit = limits.max_refinement_bytes;
    if bytes > limit {
        return Err(CostError::Refinement {
            queries,
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
    use crate::config::Config;

    fn limits() -> LimitsConfig {
        LimitsConfig {
            max_windows: 6,
            max_input_pixels: 400_000,
            max_paired_cells: 100,
            max_refinement_bytes: 4 * 50 * 100,
            ..Config::for_testing().limits
        }
    }

    #[test]
    fn windows_are_counted_and_so_are_their_pixels() {
        let check =
            |height, width, side, stride| check_windows(height, width, Some(Window { side, stride }), 16, &limits());
        assert_eq!(check(336, 448, 224, 112), Ok(()));
        assert_eq!(
            check(336, 449, 224, 112).expect_err("2 x 4").to_string(),
            "the model's input of 449 x 336 pixels has 8 windows, more than limits.max_windows = 6; a larger window.stride \
             makes fewer"
        );
        assert_eq!(
            check(600, 600, 400, 200).expect_err("4 x 160000").to_string(),
            "4 windows have 640000 pixels in all, more than limits.max_input_pixels = 400000; a larger window.stride or a \
             smaller short_side makes fewer"
        );
        // One window is the whole input, which has a limit of its own.
        assert_eq!(check(600, 600, 800, 1), Ok(()));
    }

    #[test]
    fn a_window_shows_at_least_a_patch() {
        let window = Some(Window { side: 15, stride: 15 });
        assert_eq!(
            check_windows(32, 32, window, 16, &limits())
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
        assert_eq!(check_refinement(Refinement::Pamr, 2, 100, &limits()), Ok(()));
        assert_eq!(check_refinement(Refinement::None, 3, 100, &limits()), Ok(()));
        assert_eq!(
            check_refinement(Refinement::Pamr, 3, 100, &limits())
                .expect_err("51 floats a pixel")
                .to_string(),
            "the refinement of 3 texts at 100 pixels takes 20400 bytes, more than limits.max_refinement_bytes = 20000; a \
             smaller image or fewer classes take less"
        );
    }
}
