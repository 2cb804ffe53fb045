//! How many bytes a request needs at most in each of its stages, known from the image's header, the class list and the
//! options.
//!
//! This file owns the sums. They count what grows with the request: pixels, the model's input, features, scores, label
//! maps and replies. What a model takes for itself while it computes is bounded by `limits.max_input_pixels` and by the
//! number of its workers.

use super::request::OutputOptions;
use crate::label_map::LabelMapFormat;

/// Bytes of a 32-bit float.
const FLOAT: u64 = size_of::<f32>() as u64;

/// Copies of the scores that exist at once while they are computed: cosines, logits twice, and the plain data.
const SCORE_COPIES: u64 = 4;

/// Bytes of a pixel of a raw label map as JSON at most: five digits and a comma.
const RAW_JSON_BYTES: u64 = 6;

/// Bytes of a corner of a polygon at most: its ring and line with what allocations add to the smallest ones, and the JSON
/// while it grows.
const CORNER_BYTES: u64 = 80;

/// Corners for each pixel of a map at most: four, and three quarters of a cut's four.
const CORNERS_OF_A_PIXEL: u64 = 7;

/// Bytes of a pixel while polygons are traced.
const TRACED_PIXEL_BYTES: u64 = 5;

/// Bytes of a pixel of an RGB image.
const RGB_BYTES: u64 = 3;

/// Bytes of a number of an embedding at most: the float, its copy for the reply, and 16 characters of JSON.
const EMBEDDING_NUMBER_BYTES: u64 = 2 * FLOAT + 16;

/// Bytes of the JSON around a vector or about a class, and of the plain data that it is made of, at most.
const ENTRY_BYTES: u64 = 512;

/// Bytes of a pixel of a grey PNG at most that hardly compresses, its base64, and the JSON around it.
const GREY_PNG_BYTES: u64 = 4;

/// Everything that a request's footprint depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Dimensions {
    /// Bytes for decoding the image; 0 if it is not decoded.
    pub(super) decoding_bytes: u64,
    /// Pixels of the image.
    pub(super) pixels: u64,
    /// Pixels of the model's input, over all scales; 0 if the image is not decoded.
    pub(super) input_pixels: u64,
    /// Cells of the model's grid, over all scales and windows.
    pub(super) cells: u64,
    /// Floats of a cell's feature and key.
    pub(super) cell_floats: u64,
    /// Texts that are scored on their own; 0 for features alone.
    pub(super) queries: u64,
    /// Floats of a text's embedding.
    pub(super) text_floats: u64,
    /// Bytes for refining the scores; 0 without a refinement.
    pub(super) refinement_bytes: u64,
    /// Bytes of a label in a PNG: 1, or 2 above 255 classes.
    pub(super) label_bytes: u64,
    /// Classes of which there is a probability map.
    pub(super) probability_maps: u64,
    /// Corners that the polygons of a label map may have.
    pub(super) most_corners: u64,
    /// Bytes that the reply has about classes.
    pub(super) class_bytes: u64,
}

/// The bytes that a request needs at most at once, in each of its stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Footprint {
    /// Decoding and resizing.
    pixels: u64,
    /// Waiting for the model with the input, features and scores.
    model: u64,
    /// The label map.
    label_map: u64,
    /// The encoded result.
    reply: u64,
}

impl Footprint {
    /// Returns the footprint of a request that asks for features alone, or compares them with texts as a whole.
    pub(super) fn of_features(dimensions: &Dimensions) -> Self {
        let Dimensions {
            decoding_bytes,
            pixels,
            input_pixels,
            cells,
            cell_floats,
            queries,
            text_floats,
            ..
        } = *dimensions;
        // An image of 8-bit RGB, its rows at the width of the input, and the input as three planes of floats.
        let input = product([3, FLOAT, input_pixels]);
        let resizing = if input_pixels > 0 {
            sum([product([4, pixels]), product([2, input])])
        } else {
            0
        };
        let features = product([FLOAT, cells, cell_floats]);
        let texts = product([FLOAT, queries, text_floats]);
        Self {
            pixels: decoding_bytes.max(resizing),
            // The input and the texts once more as tensors.
            model: sum([product([2, input]), features, product([2, texts])]),
            label_map: 0,
            reply: 0,
        }
    }

    /// Returns the footprint of a request for a label map.
    pub(super) fn of_label_map(dimensions: &Dimensions, output: &OutputOptions) -> Self {
        let Dimensions {
            pixels,
            cells,
            queries,
            refinement_bytes,
            probability_maps,
            class_bytes,
            ..
        } = *dimensions;
        let scores = product([FLOAT, queries, cells]);
        let confidence = if output.confidence_map { pixels } else { 0 };
        let probabilities = product([probability_maps, pixels]);
        let map = sum([product([2, pixels]), confidence, probabilities]);
        let of_features = Self::of_features(dimensions);
        Self {
            model: sum([
                of_features.model,
                product([SCORE_COPIES, scores]).max(sum([scores, refinement_bytes])),
            ]),
            label_map: sum([scores.max(refinement_bytes), map]),
            reply: sum([
                map,
                encoded_bytes(dimensions, output),
                product([GREY_PNG_BYTES, probabilities]),
                class_bytes,
            ]),
            ..of_features
        }
    }

    /// Returns the same footprint with a reply of so many bytes, which grows from the beginning on.
    pub(super) fn with_reply(self, bytes: u64) -> Self {
        Self {
            pixels: sum([self.pixels, bytes]),
            model: sum([self.model, bytes]),
            reply: sum([self.reply, bytes]),
            ..self
        }
    }

    /// Returns the bytes that the request needs at most from its beginning on.
    pub(super) fn total(&self) -> u64 {
        self.pixels.max(self.after_pixels())
    }

    /// Returns the bytes that it needs at most once the image is decoded and resized.
    pub(super) fn after_pixels(&self) -> u64 {
        self.model.max(self.after_scores())
    }

    /// Returns the bytes that it needs at most once there are scores.
    pub(super) fn after_scores(&self) -> u64 {
        self.label_map.max(self.reply)
    }

    /// Returns the bytes that it needs at most once there is a label map.
    pub(super) fn after_label_map(&self) -> u64 {
        self.reply
    }
}

/// Returns the bytes of a reply with so many embeddings at most.
pub(super) fn embedding_bytes(embeddings: usize, dimension: usize) -> u64 {
    let vector = product([EMBEDDING_NUMBER_BYTES, dimension as u64]);
    product([embeddings as u64, sum([ENTRY_BYTES, vector])])
}

/// Returns the bytes that a reply has at most about classes of these names.
pub(super) fn class_bytes<'name>(names: impl Iterator<Item = &'name str>) -> u64 {
    // The name as it is, and in JSON with an escape for each character.
    names
        .map(|name| ENTRY_BYTES + 3 * name.len() as u64)
        .fold(0, u64::saturating_add)
}

/// Returns the bytes of an encoded result and of the JSON around it at most.
fn encoded_bytes(dimensions: &Dimensions, output: &OutputOptions) -> u64 {
    let Dimensions {
        pixels,
        label_bytes,
        most_corners,
        class_bytes,
        ..
    } = *dimensions;
    let label_map = |format| match format {
        // The samples. Labels are alike over many pixels, so that a file and its base64 are below a byte a pixel.
        LabelMapFormat::Png | LabelMapFormat::PngGrey => product([label_bytes + 1, pixels]),
        LabelMapFormat::Raw => product([2 + RAW_JSON_BYTES, pixels]),
        // Lengths of runs and their text; label maps have far fewer runs than pixels.
        LabelMapFormat::CocoRle => product([4, pixels]),
        LabelMapFormat::Polygons => {
            let corners = product([CORNERS_OF_A_PIXEL, pixels]).min(most_corners);
            let traced = product([TRACED_PIXEL_BYTES, pixels]);
            sum([product([CORNER_BYTES, corners]), traced, class_bytes])
        }
        // The samples, of which each byte of an id hardly compresses.
        LabelMapFormat::Panoptic => {
            let png = product([GREY_PNG_BYTES, label_bytes]);
            sum([product([RGB_BYTES + png, pixels]), class_bytes])
        }
        LabelMapFormat::None => 0,
    };
    let label_maps = output.formats().map(label_map).fold(0, u64::saturating_add);
    let confidence = if output.confidence_map {
        product([GREY_PNG_BYTES, pixels])
    } else {
        0
    };
    sum([label_maps, confidence])
}

fn product<const N: usize>(factors: [u64; N]) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

fn sum<const N: usize>(parts: [u64; N]) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A grey image of 49 megapixels for a model with an input of 224 x 224 pixels.
    fn large_and_grey() -> Dimensions {
        Dimensions {
            decoding_bytes: 4 * 49_000_000,
            pixels: 49_000_000,
            input_pixels: 224 * 224,
            cells: 14 * 14,
            cell_floats: 512,
            queries: 2,
            text_floats: 512,
            refinement_bytes: 0,
            label_bytes: 1,
            probability_maps: 0,
            most_corners: 0,
            class_bytes: 0,
        }
    }

    fn png() -> OutputOptions {
        OutputOptions::default()
    }

    #[test]
    fn a_large_image_takes_most_for_its_pixels_and_less_from_stage_to_stage() {
        let footprint = Footprint::of_label_map(&large_and_grey(), &png());
        assert_eq!(footprint.total(), 4 * 49_000_000 + 2 * 3 * 4 * 224 * 224);
        assert!(footprint.after_pixels() <= footprint.total());
        assert!(footprint.after_scores() <= footprint.after_pixels());
        assert!(footprint.after_label_map() <= footprint.after_scores());
        let features = Footprint::of_features(&large_and_grey());
        assert!(features.total() >= 196_000_000 && features.after_pixels() < 2_000_000);
        assert_eq!(features.after_label_map(), 0);
    }

    #[test]
    fn scores_refinements_and_replies_have_their_bytes() {
        let small = Dimensions {
            pixels: 1000,
            cells: 100,
            ..Dimensions::default()
        };
        let of = |dimensions, output: &OutputOptions| Footprint::of_label_map(&dimensions, output).total();
        let scored = Dimensions { queries: 1000, ..small };
        assert_eq!(of(scored, &png()), 4 * 4 * 1000 * 100);
        let of_long_texts = Dimensions {
            text_floats: 512,
            ..scored
        };
        assert_eq!(of(of_long_texts, &png()), 4 * 4 * 1000 * 100 + 2 * 4 * 1000 * 512);
        let refined = Dimensions {
            refinement_bytes: 9_000_000,
            ..scored
        };
        assert_eq!(of(refined, &png()), 9_000_000 + 400_000);
        let raw = OutputOptions {
            label_map: LabelMapFormat::Raw,
            confidence_map: true,
            ..OutputOptions::default()
        };
        assert_eq!(of(small, &raw), (2 + 1 + 8 + 4) * 1000);
        let more = OutputOptions {
            label_maps: vec![LabelMapFormat::CocoRle],
            ..raw.clone()
        };
        assert_eq!(of(small, &more), (2 + 1 + 8 + 4 + 4) * 1000);
        let with_maps = Dimensions {
            probability_maps: 3,
            ..small
        };
        assert_eq!(of(with_maps, &raw), (2 + 1 + 8 + 4 + 3 * 5) * 1000);
        let with_classes = Dimensions {
            class_bytes: 9000,
            ..small
        };
        assert_eq!(of(with_classes, &raw), (2 + 1 + 8 + 4) * 1000 + 9000);
        let with_reply = Footprint::of_features(&small).with_reply(7000);
        assert_eq!(with_reply.after_label_map(), 7000);
        assert_eq!(with_reply.total(), Footprint::of_features(&small).total() + 7000);
        let extreme = Dimensions {
            queries: u64::MAX,
            pixels: u64::MAX,
            ..small
        };
        assert_eq!(of(extreme, &raw), u64::MAX);
    }

    #[test]
    fn polygons_take_what_their_pixels_or_their_limit_let_them_have() {
        let small = Dimensions {
            pixels: 1000,
            ..Dimensions::default()
        };
        let of = |dimensions, output: &OutputOptions| Footprint::of_label_map(&dimensions, output).total();
        let as_polygons = OutputOptions {
            label_map: LabelMapFormat::Polygons,
            ..OutputOptions::default()
        };
        let bounded = |most_corners| Dimensions {
            most_corners,
            class_bytes: 600,
            ..small
        };
        assert_eq!(of(bounded(50), &as_polygons), (2 + 5) * 1000 + 80 * 50 + 2 * 600);
        assert_eq!(of(bounded(7001), &as_polygons), (2 + 5 + 80 * 7) * 1000 + 2 * 600);
        let panoptic = OutputOptions {
            label_map: LabelMapFormat::Panoptic,
            ..OutputOptions::default()
        };
        let of_16_bits = Dimensions {
            label_bytes: 2,
            ..bounded(0)
        };
        assert_eq!(of(of_16_bits, &panoptic), (2 + 3 + 4 * 2) * 1000 + 2 * 600);
    }

    #[test]
    fn replies_of_numbers_and_names_take_more_than_their_text() {
        let least = f32::MIN_POSITIVE.to_string().len().min(16) as u64;
        assert!(embedding_bytes(3, 512) > 3 * 512 * (8 + least));
        assert_eq!(class_bytes(["a", "\u{e9}t\u{e9}"].into_iter()), 2 * 512 + 3 * (1 + 5));
        assert_eq!(class_bytes(std::iter::empty()), 0);
    }
}
