//! The request to segment as clients write it, and its checks that need no image.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::api::error::ApiError;
use crate::api::problem::Limit;
use crate::api::wire::ClassBody;
use crate::config::{Config, LimitsConfig};
use crate::dense::{Attention, DenseOptions, KeySmoothing};
use crate::engine::{Background, ModelInfo, OutputOptions, SegmentRequest, VocabularyChoice};
use crate::label_map::LabelMapFormat;
use crate::vocabulary::TemplateSet;

/// The largest temperature a request may ask for: ten times CLIP's own.
const MAX_TEMPERATURE: f32 = 1000.0;

/// What to look for in an image, and how. Unknown fields are refused.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SegmentBody {
    /// The encoded image (JPEG, PNG, WebP, GIF, BMP or TIFF) as base64 or a base64 data URI. Required in
    /// JSON, absent in the `request` part of a multipart form. At most `limits.max_image_pixels`
    /// pixels; EXIF orientation is applied.
    #[schema(example = "data:image/jpeg;base64,/9j/4AAQSkZJRg...")]
    pub image: Option<String>,
    /// The model that must answer, one of `GET /v1/models`; without it, the one that is loaded.
    #[schema(example = "demo")]
    pub model: Option<String>,
    /// The classes, in the order of their ids. Either this or `vocabulary`. At most `limits.max_classes`.
    #[schema(example = json!(["tiger", {"name": "person", "synonyms": ["man", "woman"]}]))]
    pub classes: Option<Vec<ClassBody>>,
    /// The name of a vocabulary that was defined before. Either this or `classes`.
    pub vocabulary: Option<String>,
    /// What counts as none of the classes; without it, every pixel gets a class (or the vocabulary's own background),
    /// with the warning `no-background` where that is likely a mistake.
    pub background: Option<BackgroundBody>,
    /// Prompt templates that every name is put into: `imagenet-80`, CLIP's own for ImageNet; `maskclip-85`, these and
    /// five "... in the scene"; `simple`, "a photo of a {}." alone, the quickest to embed. `defaults.templates`
    /// without it.
    pub templates: Option<TemplateSet>,
    /// What the model's last attention does: `clip`, no change, the papers' baseline; `maskclip`, every position
    /// keeps its own value, as MaskCLIP's reference implementation has it; `maskclip-no-residual`, on vision
    /// transformers, the same without the last block's residual and MLP, which later papers call MaskCLIP.
    /// `GET /v1/models` lists those the model has; `defaults.attention` without it.
    pub attention: Option<Attention>,
    /// Prompt denoising: a class whose best probability anywhere is below this is dropped. 0 turns it
    /// off; `defaults.prompt_denoising` without it.
    #[schema(minimum = 0, maximum = 1)]
    pub prompt_denoising: Option<f32>,
    /// Key smoothing: `formula` as printed in the paper, or `reference` as its implementation computes it, which
    /// the published figures are from; none without it.
    pub key_smoothing: Option<KeySmoothingBody>,
    /// Short side of the model's input in pixels, at most `limits.max_short_side`. More sees smaller things
    /// and costs more time; `defaults.short_side`, then the model's own, without it.
    #[schema(minimum = 1, example = 448)]
    pub short_side: Option<u32>,
    /// Factor on cosines before the softmax: more makes probabilities sharper. CLIP's learned one is
    /// 100; `defaults.temperature` without it.
    #[schema(exclusive_minimum = 0, maximum = 1000)]
    pub temperature: Option<f32>,
    /// Seconds after which the answer is of no use, counted from the request's last byte. At most
    /// `engine.max_deadline_seconds`; `engine.default_deadline_seconds` without it.
    #[schema(exclusive_minimum = 0, example = 30)]
    pub deadline_seconds: Option<f64>,
    /// How the result is written.
    #[serde(default)]
    pub output: OutputBody,
}

/// Pixels that belong to none of the classes. They get the unlabelled value (255, or 65535 in 16-bit maps).
#[derive(Debug, Clone, PartialEq, ToSchema)]
#[serde(untagged)]
pub enum BackgroundBody {
    /// `true` lets the shipped list of stuff names (`vocabulary.background`: sky, wall, ...) compete with
    /// the classes.
    Switch(bool),
    /// Names that compete with the classes instead of the shipped ones.
    Names(Vec<String>),
    /// Names and a threshold.
    Detail(BackgroundDetail),
}

/// Names that compete with the classes, and a threshold.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackgroundDetail {
    /// The names; the shipped list without it, none at all when empty. At most
    /// `limits.max_background_names`.
    pub names: Option<Vec<String>>,
    /// A pixel whose best class has a lower probability than this is background, too.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1, example = 0.3)]
    pub threshold: f32,
}

impl<'de> Deserialize<'de> for BackgroundBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = BackgroundBody;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("true, false, a list of names or an object with names and threshold")
            }

            fn visit_bool<E>(self, value: bool) -> Result<BackgroundBody, E> {
                Ok(BackgroundBody::Switch(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<BackgroundBody, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(names)).map(BackgroundBody::Names)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BackgroundBody, A::Error> {
                BackgroundDetail::deserialize(MapAccessDeserializer::new(map)).map(BackgroundBody::Detail)
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

/// Key smoothing (MaskCLIP, section 3.3): class probabilities averaged over positions whose keys are alike.
#[derive(Debug, Clone, PartialEq, ToSchema)]
#[serde(untagged)]
pub enum KeySmoothingBody {
    /// A method alone.
    Method(KeySmoothingMethod),
    /// A method with its threshold.
    Detail(KeySmoothingDetail),
}

/// Ways of key smoothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeySmoothingMethod {
    /// No smoothing.
    None,
    /// The paper's formula.
    Formula,
    /// The reference implementation's variant, whose keys are normalised over positions per channel.
    Reference,
}

/// A way of key smoothing with its threshold.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeySmoothingDetail {
    /// The method.
    pub method: KeySmoothingMethod,
    /// For `reference` alone: positions whose best probability reaches this are left as they are; 1
    /// without it, which smooths every position.
    #[schema(minimum = 0, maximum = 1, example = 0.9)]
    pub threshold: Option<f32>,
}

impl<'de> Deserialize<'de> for KeySmoothingBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = KeySmoothingBody;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("none, formula, reference or an object with method and threshold")
            }

            fn visit_str<E: de::Error>(self, method: &str) -> Result<KeySmoothingBody, E> {
                KeySmoothingMethod::deserialize(method.into_deserializer()).map(KeySmoothingBody::Method)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeySmoothingBody, A::Error> {
                KeySmoothingDetail::deserialize(MapAccessDeserializer::new(map)).map(KeySmoothingBody::Detail)
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

/// How the result is written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutputBody {
    /// Form of the label map: `png`, indexed with a stable palette, 16-bit grey above 255 classes; `coco-rle`,
    /// one mask per class; `raw`, rows of class ids; `none`, statistics alone.
    pub label_map: LabelMapFormat,
    /// Whether a confidence map comes along: an 8-bit grey PNG of each pixel's own probability times 255.
    pub confidence_map: bool,
}

impl SegmentBody {
    /// The engine's request: every value checked against its range and its limit, every absent one
    /// filled in.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] with the field's path, [`ApiError::UnknownModel`].
    pub(super) fn into_request(
        self,
        image: Bytes,
        config: &Config,
        model: Option<&ModelInfo>,
        now: Instant,
    ) -> Result<SegmentRequest, ApiError> {
        // Before a model is loaded the engine refuses every request, whatever it names.
        if let (Some(asked), Some(model)) = (&self.model, model)
            && *asked != model.name
        {
            return Err(ApiError::UnknownModel {
                asked: asked.clone(),
                loaded: model.name.clone(),
            });
        }
        let defaults = &config.defaults;
        let denoising = probability(
            "prompt_denoising",
            self.prompt_denoising.unwrap_or(defaults.prompt_denoising),
        )?;
        let short_side = short_side(self.short_side, &config.limits)?.unwrap_or(defaults.short_side);
        let dense = DenseOptions {
            attention: self.attention.unwrap_or(defaults.attention),
            temperature: temperature(self.temperature.unwrap_or(defaults.temperature))?,
            prompt_denoising: (denoising > 0.0).then_some(denoising),
            key_smoothing: self
                .key_smoothing
                .map_or(Ok(KeySmoothing::None), KeySmoothing::try_from)?,
        };
        let deadline = match self.deadline_seconds {
            None => config.engine.default_deadline_seconds,
            Some(seconds) => deadline_seconds(seconds, config.engine.max_deadline_seconds)?,
        };
        Ok(SegmentRequest {
            image,
            vocabulary: vocabulary(self.classes, self.vocabulary)?,
            background: background(self.background, config)?,
            templates: self.templates.unwrap_or(defaults.templates),
            dense,
            short_side: (short_side > 0).then_some(short_side),
            output: OutputOptions {
                label_map: self.output.label_map,
                confidence_map: self.output.confidence_map,
            },
            deadline: now + Duration::from_secs_f64(deadline),
        })
    }
}

fn vocabulary(classes: Option<Vec<ClassBody>>, name: Option<String>) -> Result<VocabularyChoice, ApiError> {
    let invalid = |detail: &str| ApiError::Invalid {
        path: None,
        detail: detail.to_owned(),
        limit: None,
    };
    match (classes, name) {
        (Some(classes), None) => Ok(VocabularyChoice::Inline(classes.into_iter().map(Into::into).collect())),
        (None, Some(name)) => Ok(VocabularyChoice::Named(name)),
        (Some(_), Some(_)) => Err(invalid("classes and vocabulary exclude each other; give one of them")),
        (None, None) => Err(invalid("one of classes and vocabulary is required")),
    }
}

fn background(body: Option<BackgroundBody>, config: &Config) -> Result<Background, ApiError> {
    let shipped = || config.vocabulary.background.clone();
    let (names, threshold) = match body {
        None => (None, 0.0),
        Some(BackgroundBody::Switch(false)) => (Some(Vec::new()), 0.0),
        Some(BackgroundBody::Switch(true)) => (Some(shipped()), 0.0),
        Some(BackgroundBody::Names(names)) => (Some(names), 0.0),
        Some(BackgroundBody::Detail(detail)) => (
            Some(detail.names.unwrap_or_else(shipped)),
            probability("background.threshold", detail.threshold)?,
        ),
    };
    Ok(Background { names, threshold })
}

impl TryFrom<KeySmoothingBody> for KeySmoothing {
    type Error = ApiError;

    fn try_from(body: KeySmoothingBody) -> Result<Self, ApiError> {
        let (method, threshold) = match body {
            KeySmoothingBody::Method(method) => (method, None),
            KeySmoothingBody::Detail(KeySmoothingDetail { method, threshold }) => (method, threshold),
        };
        match (method, threshold) {
            (KeySmoothingMethod::None, None) => Ok(Self::None),
            (KeySmoothingMethod::Formula, None) => Ok(Self::Formula),
            (KeySmoothingMethod::Reference, threshold) => {
                let threshold = probability("key_smoothing.threshold", threshold.unwrap_or(1.0))?;
                Ok(Self::Reference { threshold })
            }
            (KeySmoothingMethod::None | KeySmoothingMethod::Formula, Some(_)) => Err(ApiError::invalid(
                "key_smoothing.threshold",
                "only the method reference has a threshold",
            )),
        }
    }
}

/// A probability, 0 to 1.
fn probability(path: &str, value: f32) -> Result<f32, ApiError> {
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(ApiError::invalid(path, format!("{path} must be 0 to 1, not {value}")))
    }
}

fn temperature(value: f32) -> Result<f32, ApiError> {
    if value > 0.0 && value <= MAX_TEMPERATURE {
        Ok(value)
    } else {
        Err(ApiError::invalid(
            "temperature",
            format!("temperature must be above 0 and at most {MAX_TEMPERATURE}, not {value}"),
        ))
    }
}

fn short_side(value: Option<u32>, limits: &LimitsConfig) -> Result<Option<u32>, ApiError> {
    let max = limits.max_short_side;
    match value {
        Some(pixels) if pixels == 0 || pixels > max => Err(ApiError::Invalid {
            path: Some("short_side".to_owned()),
            detail: format!("short_side must be 1 to limits.max_short_side = {max} pixels, not {pixels}"),
            limit: (pixels > max).then(|| Limit::whole("limits.max_short_side", max.into())),
        }),
        within => Ok(within),
    }
}

fn deadline_seconds(value: f64, max: f64) -> Result<f64, ApiError> {
    if value > 0.0 && value <= max {
        return Ok(value);
    }
    Err(ApiError::Invalid {
        path: Some("deadline_seconds".to_owned()),
        detail: format!(
            "deadline_seconds must be above 0 and at most engine.max_deadline_seconds = {max}, not {value}"
        ),
        limit: (value > max).then(|| Limit::fractional("engine.max_deadline_seconds", max)),
    })
}
