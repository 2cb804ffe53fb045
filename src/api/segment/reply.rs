//! The answer to a request to segment as clients read it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::error::ApiError;
use crate::api::wire::{MapFormat, Timings, VocabularyState, WarningReply};
use crate::engine::{ClassResult, Segmentation};
use crate::label_map::{self, ClassPolygons, EncodedLabelMap, coco_category};

/// A labelled image.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SegmentReply {
    /// The model that answered.
    #[schema(example = "demo")]
    pub model: String,
    /// Width of the image in pixels, after orientation.
    #[schema(example = 640)]
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    #[schema(example = 480)]
    pub height: u32,
    /// The class list that was used.
    pub vocabulary: VocabularyState,
    /// One entry per class in request order, absent ones included.
    pub classes: Vec<ClassReply>,
    /// The label map.
    pub label_map: LabelMapReply,
    /// The same label map in the forms of `output.label_maps`, in their order; only when asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub label_maps: Vec<LabelMapReply>,
    /// Which color means which class, in the form of CVAT's `labelmap.txt`; only when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legend: Option<String>,
    /// Probability of each pixel's own label times 255; only when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence_map: Option<ConfidenceMapReply>,
    /// The probability maps of the classes in `output.probability_maps`, by ascending id; only when asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub probability_maps: Vec<ProbabilityMapReply>,
    /// What the caller should know about this result.
    pub warnings: Vec<WarningReply>,
    /// Whether what the model makes of the image was held already, so that it did not look at it: `image_id`, or the same bytes
    /// before.
    #[schema(example = false)]
    pub features_cached: bool,
    /// Where the time went.
    pub timings: Timings,
}

/// What the result says of one class.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClassReply {
    /// Position in the request, from 0; the pixel value in the label map.
    #[schema(example = 0)]
    pub id: u16,
    /// The name, as given, without white space around it and without invisible characters.
    #[schema(example = "tiger")]
    pub name: String,
    /// Its color in the PNG's palette, `#rrggbb`; the same for every request that does not name its own.
    #[schema(example = "#800000")]
    pub color: String,
    /// Pixels that carry the class.
    #[schema(example = 51200)]
    pub pixels: u64,
    /// Those pixels as a fraction of the image, 0 to 1.
    #[schema(minimum = 0, maximum = 1, example = 0.167)]
    pub fraction: f64,
    /// `[x, y, width, height]` in pixels of the smallest box around them, null when there are none.
    #[schema(required, example = json!([12, 40, 300, 220]))]
    pub bbox: Option<[u32; 4]>,
    /// Probability of the class over its own pixels.
    pub confidence: Confidence,
    /// The largest probability of the class anywhere in the image, whether or not it won there. Low
    /// for a class that is absent.
    #[schema(minimum = 0, maximum = 1, example = 0.99)]
    pub presence: f32,
    /// The best raw cosine between the class's text and any position of the image, -1 to 1, of a student as of CLIP. Unlike the
    /// probabilities it does not depend on the other classes.
    #[schema(minimum = -1, maximum = 1, example = 0.31)]
    pub similarity: f32,
    /// The image-level answer: the probability of the class from one feature of the whole image. CLIP's is the one it was
    /// trained to pool; a student has none, and takes the mean of its features over the image, whose logits go through the
    /// softmax as those of a position do.
    #[schema(minimum = 0, maximum = 1, example = 0.72)]
    pub image_probability: f32,
}

/// Softmax probability of a class over the pixels that carry it: relative to the class list, not
/// calibrated. Null when no pixel does.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Confidence {
    /// Mean over the class's own pixels.
    #[schema(required, minimum = 0, maximum = 1, example = 0.81)]
    pub mean: Option<f32>,
    /// Largest over the class's own pixels.
    #[schema(required, minimum = 0, maximum = 1, example = 0.97)]
    pub max: Option<f32>,
}

/// The label map in the form that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "format", content = "data", rename_all = "kebab-case")]
pub enum LabelMapReply {
    /// A PNG file as base64: indexed with a stable palette, or 16-bit grey above 255 classes.
    Png(String),
    /// A PNG file as base64 whose grey values are class ids: of 8 bits, or of 16 above 255 classes.
    PngGrey(String),
    /// COCO run-length encoding, one mask per class that has pixels.
    CocoRle(Vec<CocoMask>),
    /// COCO's polygons, an entry per class that has pixels.
    Polygons(Vec<CocoPolygons>),
    /// COCO's panoptic form, a segment per class that has pixels.
    Panoptic(CocoPanoptic),
    /// Rows of class ids; 255 (65535 above 255 classes) for unlabelled unless the request names another value.
    Raw(Vec<Vec<u16>>),
    /// Not asked for.
    None,
}

/// A mask in COCO's compressed run-length encoding: column-major runs, zeros first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CocoMask {
    /// Class id.
    pub class_id: u16,
    /// `[height, width]` in pixels, COCO's order.
    pub size: [u32; 2],
    /// The runs as COCO's printable string.
    pub counts: String,
}

/// The polygons of one class, as an annotation of COCO has them: with an `id` and an `image_id` it is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CocoPolygons {
    /// Class id.
    #[schema(example = 0)]
    pub class_id: u16,
    /// The class's category in COCO's files, which count from 1: the class id plus 1.
    #[schema(example = 1)]
    pub category_id: u32,
    /// A polygon for each connected region, `[x1, y1, x2, y2, ...]`, clockwise as the image is seen, without the first corner
    /// again. Corners are those of pixels, so that a polygon covers exactly its region's pixels: those whose centres are
    /// inside. COCO's polygons have no holes: from the border a cut, which takes no area, leads to each hole and back on the
    /// same way. Regions are connected by edges of pixels.
    #[schema(example = json!([[0, 0, 3, 0, 3, 3, 0, 3, 0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 0, 1]]))]
    pub segmentation: Vec<Vec<u32>>,
    /// Pixels that carry the class.
    #[schema(example = 8)]
    pub area: u64,
    /// `[x, y, width, height]` in pixels of the smallest box around them.
    #[schema(example = json!([0, 0, 3, 3]))]
    pub bbox: [u32; 4],
    /// Always 0: not a crowd.
    #[schema(minimum = 0, maximum = 0, example = 0)]
    pub iscrowd: u8,
}

/// The label map in COCO's panoptic form: what panopticapi reads from a PNG and from an annotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CocoPanoptic {
    /// An 8-bit RGB PNG file as base64: `red + 256 green + 65536 blue` is the id of the segment, 0 for unlabelled.
    pub png: String,
    /// The segments, by ascending id.
    pub segments_info: Vec<CocoSegment>,
}

/// A segment: all pixels of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CocoSegment {
    /// The segment's id, by which the PNG names its pixels: the class id plus 1.
    #[schema(example = 1)]
    pub id: u32,
    /// The class's category in COCO's files, which count from 1: the class id plus 1.
    #[schema(example = 1)]
    pub category_id: u32,
    /// Class id.
    #[schema(example = 0)]
    pub class_id: u16,
    /// Pixels that carry the class.
    #[schema(example = 51200)]
    pub area: u64,
    /// `[x, y, width, height]` in pixels of the smallest box around them.
    #[schema(example = json!([12, 40, 300, 220]))]
    pub bbox: [u32; 4],
    /// Always 0: not a crowd.
    #[schema(minimum = 0, maximum = 0, example = 0)]
    pub iscrowd: u8,
}

/// The confidence map, in the same form as the label map.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "format", content = "data", rename_all = "kebab-case")]
pub enum ConfidenceMapReply {
    /// An 8-bit grey PNG file as base64.
    Png(String),
}

/// The probabilities of one class in every pixel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProbabilityMapReply {
    /// Class id.
    #[schema(example = 0)]
    pub class_id: u16,
    /// The class's name.
    #[schema(example = "tiger")]
    pub name: String,
    /// The form of `data`.
    pub format: MapFormat,
    /// An 8-bit grey PNG file of the image's size, as base64: the probability of the class in each pixel times 255, rounded,
    /// whichever class won there and whatever the threshold says. 0 everywhere for a class that prompt denoising or the area
    /// of `background` has dropped.
    pub data: String,
}

impl From<label_map::CocoMask> for CocoMask {
    fn from(mask: label_map::CocoMask) -> Self {
        let label_map::CocoMask { class_id, size, counts } = mask;
        Self { class_id, size, counts }
    }
}

impl CocoPolygons {
    fn new(ClassPolygons { class_id, lines }: ClassPolygons, classes: &[ClassResult]) -> Self {
        let statistics = &classes[usize::from(class_id)].statistics;
        Self {
            class_id,
            category_id: coco_category(class_id),
            segmentation: lines.into_iter().map(Vec::into_flattened).collect(),
            area: statistics.pixels,
            bbox: statistics.bounding_box.expect("a class with polygons has pixels"),
            iscrowd: 0,
        }
    }
}

impl CocoSegment {
    /// The segment of a class, if it has pixels.
    fn new(class_id: u16, class: &ClassResult) -> Option<Self> {
        Some(Self {
            id: coco_category(class_id),
            category_id: coco_category(class_id),
            class_id,
            area: class.statistics.pixels,
            bbox: class.statistics.bounding_box?,
            iscrowd: 0,
        })
    }
}

impl LabelMapReply {
    fn new(map: EncodedLabelMap, classes: &[ClassResult]) -> Self {
        match map {
            EncodedLabelMap::Png(bytes) => Self::Png(BASE64_STANDARD.encode(bytes)),
            EncodedLabelMap::PngGrey(bytes) => Self::PngGrey(BASE64_STANDARD.encode(bytes)),
            EncodedLabelMap::CocoRle(masks) => Self::CocoRle(masks.into_iter().map(Into::into).collect()),
            EncodedLabelMap::Polygons(polygons) => {
                let polygons = polygons.into_iter().map(|class| CocoPolygons::new(class, classes));
                Self::Polygons(polygons.collect())
            }
            EncodedLabelMap::Panoptic(bytes) => {
                // The classes come first: after the last of 65535, no further id is asked for.
                let segments = classes
                    .iter()
                    .zip(0..)
                    .filter_map(|(class, id)| CocoSegment::new(id, class));
                Self::Panoptic(CocoPanoptic {
                    png: BASE64_STANDARD.encode(bytes),
                    segments_info: segments.collect(),
                })
            }
            EncodedLabelMap::Raw(rows) => Self::Raw(rows),
            EncodedLabelMap::None => Self::None,
        }
    }
}

impl TryFrom<Segmentation> for SegmentReply {
    type Error = ApiError;

    /// # Errors
    /// [`ApiError::Internal`] when the model gave a number that is not finite: JSON has none.
    fn try_from(segmentation: Segmentation) -> Result<Self, ApiError> {
        let image_pixels = u64::from(segmentation.width) * u64::from(segmentation.height);
        let probability_map = |(class_id, png): (u16, Vec<u8>)| ProbabilityMapReply {
            class_id,
            name: segmentation.classes[usize::from(class_id)].name.clone(),
            format: MapFormat::Png,
            data: BASE64_STANDARD.encode(png),
        };
        let probability_maps = segmentation.probability_maps.into_iter().map(probability_map).collect();
        let label_map = |map| LabelMapReply::new(map, &segmentation.classes);
        let further = segmentation.label_maps.into_iter().map(label_map).collect();
        let label_map = label_map(segmentation.label_map);
        // The classes come first: after the last of 65535, no further id is asked for.
        let classes = segmentation.classes.into_iter().zip(0..).map(|(class, id)| (id, class));
        Ok(Self {
            model: segmentation.model,
            width: segmentation.width,
            height: segmentation.height,
            vocabulary: VocabularyState {
                id: segmentation.vocabulary_id,
                embedded: segmentation.vocabulary_texts,
                total: segmentation.vocabulary_texts,
            },
            classes: classes
                .map(|(id, class)| class_reply(id, class, image_pixels))
                .collect::<Result<_, _>>()?,
            label_map,
            label_maps: further,
            legend: segmentation.legend,
            confidence_map: segmentation
                .confidence_map
                .map(|png| ConfidenceMapReply::Png(BASE64_STANDARD.encode(png))),
            probability_maps,
            warnings: segmentation.warnings.into_iter().map(Into::into).collect(),
            features_cached: segmentation.features_cached,
            timings: segmentation.timings.into(),
        })
    }
}

fn class_reply(id: u16, class: ClassResult, image_pixels: u64) -> Result<ClassReply, ApiError> {
    let ClassResult {
        name,
        color,
        statistics,
        similarity,
        image_probability,
    } = class;
    let finite = |value: f32, what: &str| {
        if value.is_finite() {
            Ok(value)
        } else {
            Err(ApiError::Internal(format!("{what} of class {name:?} is {value}")))
        }
    };
    let [red, green, blue] = color;
    Ok(ClassReply {
        id,
        color: format!("#{red:02x}{green:02x}{blue:02x}"),
        pixels: statistics.pixels,
        fraction: statistics.pixels as f64 / image_pixels as f64,
        bbox: statistics.bounding_box,
        confidence: Confidence {
            mean: statistics
                .mean_confidence
                .map(|value| finite(value, "mean confidence"))
                .transpose()?,
            max: statistics
                .max_confidence
                .map(|value| finite(value, "max confidence"))
                .transpose()?,
        },
        presence: finite(statistics.presence, "presence")?,
        similarity: finite(similarity, "similarity")?,
        image_probability: finite(image_probability, "image probability")?,
        name,
    })
}
