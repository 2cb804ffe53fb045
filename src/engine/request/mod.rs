//! A request and its result, as plain data.

mod error;
mod field_error;
mod fields;
mod warning;
mod whole_image;

use std::time::Duration;

use bytes::Bytes;

use super::Stage;
use super::budget::HeldBytes;
use crate::image::{Orientation, Resize};
use crate::label_map::{ClassStatistics, EncodedLabelMap, LabelMapFormat};
use crate::vocabulary::ClassList;

pub use error::EngineError;
pub use field_error::FieldError;
pub(in crate::engine) use fields::deadline_seconds;
pub use fields::{
    BackgroundFields, BackgroundNames, FeatureFields, KeySmoothingFields, SegmentFields, SegmentOptions, Surroundings,
    VocabularyChoice, WindowFields,
};
pub use warning::{Warning, WarningCode};
pub use whole_image::{
    ClassScore, Classification, ClassifyFields, ClassifyRequest, EmbedError, EmbedInput, EmbedRequest, Embeddings,
};

/// A request to label one image.
#[derive(Debug, Clone)]
pub struct SegmentRequest {
    /// The image.
    pub image: ImageSource,
    /// The fields that the caller names. The engine fills in the others.
    pub fields: SegmentFields,
}

/// The image of a request: sent along, or held by the server.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// The encoded image (JPEG, PNG, ...), not decoded yet.
    Upload(Bytes),
    /// The id of a held image, see [`Engine::hold_image`](super::Engine::hold_image).
    Held(String),
}

/// How an image becomes the model's input.
#[derive(Debug, Clone, PartialEq)]
pub struct InputOptions {
    /// Short side of the model's input in pixels; `None` for the model's own.
    pub short_side: Option<u32>,
    /// Factors on the short side: at least one, each above 0. The image is scored at each of these sizes.
    pub scales: Vec<f64>,
    /// How the image is resized to the model's input.
    pub resize: Resize,
    /// How the image's pixels are turned.
    pub orientation: Orientation,
}

/// A request to hold one image with its features for later requests.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    /// The encoded image (JPEG, PNG, ...), not decoded yet.
    pub image: Bytes,
    /// The fields that the caller names. The engine fills in the others.
    pub fields: FeatureFields,
}

/// The result of holding an image.
#[derive(Debug, Clone)]
pub struct HeldImage {
    /// The id by which requests name the image. It is random, so only those who are told can know it.
    pub id: String,
    /// Name of the model that computed the features.
    pub model: String,
    /// Width of the image in pixels, after orientation.
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    pub height: u32,
    /// How long the image is held from now on, unless other images need the room.
    pub expires_in: Duration,
    /// SHA-256 of the image's bytes in lower-case hexadecimal digits.
    pub image_sha256: String,
    /// Whether other replicas know the image, too; `None` where nothing is shared.
    pub is_shared: Option<bool>,
    /// Whether the features were cached already, so that the model did no work.
    pub features_cached: bool,
    /// Seconds that each stage took.
    pub timings: Timings,
}

/// A request to compare a held image with one of its points.
#[derive(Debug, Clone)]
pub struct SimilarityRequest {
    /// The image's id.
    pub image_id: String,
    /// The point in pixels from the left and the top edge, after orientation.
    pub point: (f64, f64),
    /// The fields that the caller names. The engine fills in the others.
    pub fields: FeatureFields,
}

/// How alike the cells of an image are to one of its points.
#[derive(Debug, Clone)]
pub struct Similarity {
    /// Name of the model that computed the features.
    pub model: String,
    /// Width of the image in pixels, after orientation.
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    pub height: u32,
    /// Cells from left to right.
    pub columns: u32,
    /// Cells from top to bottom.
    pub rows: u32,
    /// SHA-256 of the image's bytes in lower-case hexadecimal digits.
    pub image_sha256: Option<String>,
    /// The cosine of each cell's feature with the point's, as an 8-bit grey PNG with a pixel for each cell.
    pub map: Vec<u8>,
    /// The cosines for which the values 0 and 255 stand. Those between are spread evenly.
    pub range: [f32; 2],
    /// Whether the features were cached already, so that the model did not compute them.
    pub features_cached: bool,
    /// Seconds that each stage took.
    pub timings: Timings,
}

/// The options that decide which pixels belong to no class.
#[derive(Debug, Clone, PartialEq)]
pub struct Background {
    /// Names that compete with the classes; where one wins, the pixel is background. Empty for no names, `None` for
    /// those of the vocabulary's definition.
    pub names: Option<Vec<String>>,
    /// A pixel whose best class probability is below this is background, 0 to 1; 0 turns the threshold off.
    pub threshold: f32,
    /// A class that covers at most this share of the foreground is dropped, 0 to 1; 0 keeps all classes. The pixels of
    /// a dropped class get the next best class, or become background.
    pub area: f64,
}

/// How the result is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutputOptions {
    /// The format of the label map.
    pub label_map: LabelMapFormat,
    /// Further formats in which the result has the label map, too.
    pub label_maps: Vec<LabelMapFormat>,
    /// The classes of which the result includes a probability map (8-bit grey PNG).
    pub probability_maps: ProbabilityMaps,
    /// Whether the result includes a confidence map (8-bit grey PNG).
    pub confidence_map: bool,
    /// Whether the result says which colour means which class.
    pub legend: bool,
}

impl OutputOptions {
    /// Returns all formats of the label map.
    pub fn formats(&self) -> impl Iterator<Item = LabelMapFormat> {
        [self.label_map].into_iter().chain(self.label_maps.iter().copied())
    }
}

/// The classes of which a result includes a probability map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ProbabilityMaps {
    /// None of them.
    #[default]
    None,
    /// All of them.
    All,
    /// Those that are called so.
    Named(Vec<String>),
}

impl ProbabilityMaps {
    /// Returns the ids of the classes, in ascending order and each once.
    ///
    /// # Errors
    /// [`FieldError::UnknownClass`] for a name that is none of the classes.
    pub(in crate::engine) fn of(&self, list: &ClassList) -> Result<Vec<u16>, FieldError> {
        let mut ids = match self {
            Self::None => Vec::new(),
            Self::All => (0..).take(list.classes().len()).collect(),
            Self::Named(names) => {
                let id = |(index, name): (usize, &String)| {
                    let unknown = || FieldError::UnknownClass {
                        index,
                        name: name.clone(),
                    };
                    list.class_called(name).ok_or_else(unknown)
                };
                names.iter().enumerate().map(id).collect::<Result<Vec<_>, _>>()?
            }
        };
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

/// A labelled image.
#[derive(Debug, Clone)]
pub struct Segmentation {
    /// Name of the model that answered.
    pub model: String,
    /// Width of the image in pixels, after orientation.
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    pub height: u32,
    /// Id of the class list with its templates and background. Equal lists have equal ids.
    pub vocabulary_id: String,
    /// Number of texts in the class list. All of them have embeddings now.
    pub vocabulary_texts: usize,
    /// One entry per class, in the order of the request.
    pub classes: Vec<ClassResult>,
    /// The label map.
    pub label_map: EncodedLabelMap,
    /// The same label map in the further formats that the request asked for.
    pub label_maps: Vec<EncodedLabelMap>,
    /// Which colour means which class, in the form of CVAT's `labelmap.txt`, if the request asked for it.
    pub legend: Option<String>,
    /// The confidence map if the request asked for it: 255 times the probability of each pixel's own label, as an 8-bit
    /// grey PNG.
    pub confidence_map: Option<Vec<u8>>,
    /// The probability maps that the request asked for, by ascending class id: 255 times the probability of the class in
    /// each pixel, as an 8-bit grey PNG.
    pub probability_maps: Vec<(u16, Vec<u8>)>,
    /// Warnings for the caller.
    pub warnings: Vec<Warning>,
    /// Whether the image's features were cached already, so that the model did not compute them.
    pub features_cached: bool,
    /// SHA-256 of the image's bytes in lower-case hexadecimal digits; `None` where no features are kept, and the image was
    /// sent along.
    pub image_sha256: Option<String>,
    /// Seconds that each stage took.
    pub timings: Timings,
    /// The bytes of `engine.work_bytes` that the result takes, free once the last clone is dropped.
    pub held_bytes: HeldBytes,
}

/// The result for one class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassResult {
    /// The class's name, as given.
    pub name: String,
    /// The colour of the class in the label map's palette.
    pub color: [u8; 3],
    /// Statistics of the class in the label map.
    pub statistics: ClassStatistics,
    /// Largest raw cosine of the class in any cell, -1 to 1.
    pub similarity: f32,
    /// The probability of the class in the image as a whole, relative to the class list, 0 to 1. It comes from CLIP's
    /// pooled feature, or from the mean feature of a student.
    pub image_probability: f32,
}

/// Seconds that each stage took, 0 for a stage that was not needed. The metrics use the same names.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// Seconds of waiting for a worker.
    pub queue_seconds: f64,
    /// Seconds of decoding the image's bytes to pixels.
    pub decode_seconds: f64,
    /// Seconds of resizing and normalising the pixels.
    pub preprocess_seconds: f64,
    /// Seconds of computing the text embeddings that were not cached.
    pub text_seconds: f64,
    /// Seconds of running the visual tower and computing the scores.
    pub model_seconds: f64,
    /// Seconds of turning scores into labels at the image's size.
    pub label_map_seconds: f64,
    /// Seconds of encoding the label map, the confidence map and the probability maps.
    pub encode_seconds: f64,
}

impl Timings {
    /// Records the time that one stage took.
    pub(in crate::engine) fn set(&mut self, stage: Stage, elapsed: Duration) {
        let seconds = match stage {
            Stage::Decode => &mut self.decode_seconds,
            Stage::Preprocess => &mut self.preprocess_seconds,
            Stage::Text => &mut self.text_seconds,
            Stage::Queue => &mut self.queue_seconds,
            Stage::Model => &mut self.model_seconds,
            Stage::LabelMap => &mut self.label_map_seconds,
            Stage::Encode => &mut self.encode_seconds,
        };
        *seconds = elapsed.as_secs_f64();
    }
}
