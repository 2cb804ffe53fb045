//! Tests of the checks, at their limits.

use super::*;
use crate::dense::Refinement;
use crate::support::LimitValue;

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

#[test]
fn a_text_names_the_limit_with_its_key() {
    let (sizes, pixels, limit) = (Sizes(vec![(1, 1)]), 9, 7);
    for error in [
        CostError::ScaledShortSide {
            scale: 2.0,
            pixels: 9,
            limit: 7,
        },
        CostError::TooManyWindows {
            sizes: sizes.clone(),
            count: 9,
            limit: 7,
        },
        CostError::InputPixels { sizes, pixels, limit },
        CostError::PairedCells {
            attention: "naclip",
            cells: 9,
            limit: 7,
        },
        CostError::Refinement {
            queries: 1,
            pixels,
            bytes: 9,
            limit,
        },
        CostError::ScoreBytes {
            queries: 1,
            cells: 1,
            bytes: 9,
            limit,
        },
        CostError::PixelTexts {
            queries: 1,
            pixels,
            limit,
        },
        CostError::RawPixels { pixels, limit },
        CostError::WorkBytes { bytes: 9, limit },
        CostError::ProbabilityBytes {
            maps: 1,
            pixels,
            bytes: 9,
            limit,
        },
        CostError::PolygonCorners { limit },
        CostError::ConfidencePixels { pixels, limit },
    ] {
        let exceeded = error.limit().expect("a limit");
        assert_eq!(exceeded.value, LimitValue::Whole(7));
        let text = error.to_string();
        assert!(text.contains(&format!("{} = 7", exceeded.key)), "{text}");
    }
}
