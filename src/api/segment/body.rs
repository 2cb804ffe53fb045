//! The request to segment as clients write it, and its checks that need no image.

use std::fmt::Display;
use std::time::Instant;

use serde::Deserialize;
use utoipa::ToSchema;

use super::forms::{BackgroundBody, KeySmoothingBody, WindowBody, background};
use crate::api::error::ApiError;
use crate::api::look::{Look, LookFields};
use crate::api::upload::UploadBody;
use crate::api::wire::ClassBody;
use crate::dense::{Attention, DenseOptions, MAX_TEMPERATURE, Refinement};
use crate::engine::EngineSettings;
use crate::engine::Protocol;
use crate::engine::{ImageSource, OutputOptions, SegmentRequest, VocabularyChoice};
use crate::image::Resize;
use crate::label_map::LabelMapFormat;
use crate::labeller::ModelKind;
use crate::vocabulary::{Synonyms, TemplateSet, VocabularyOptions};

/// What to look for in an image, and how. Unknown fields are refused.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SegmentBody {
    /// The encoded image (JPEG, PNG, WebP, GIF, BMP or TIFF) as base64 or a base64 data URI. In JSON, either this or `image_id`;
    /// absent in the `request` part of a multipart form. At most `limits.max_image_pixels`
    /// pixels; EXIF orientation is applied.
    #[schema(example = "data:image/jpeg;base64,/9j/4AAQSkZJRg...")]
    pub image: Option<String>,
    /// The id that `POST /v1/images` answered with, in place of the image.
    #[schema(example = "6f1c2ab09d3e4f5781a2b3c4d5e6f708")]
    pub image_id: Option<String>,
    /// The model that must answer, one of `GET /v1/models`; without it, the first of them.
    #[schema(example = "demo")]
    pub model: Option<String>,
    /// The classes, in the order of their ids. Either this or `vocabulary`. At most `limits.max_classes`.
    #[schema(example = json!(["tiger", {"name": "person", "synonyms": ["man", "woman"]}]))]
    pub classes: Option<Vec<ClassBody>>,
    /// The name of a vocabulary that was defined before. Either this or `classes`. Its own options take the place of the
    /// `defaults.` of the same names; what the request says itself goes before both.
    pub vocabulary: Option<String>,
    /// A published test protocol by method and data set, as in `sclip-voc21`: what the request leaves out is as the method's
    /// released code has it on ViT-B/16, the vocabulary too. Methods: `sclip`, `clearclip`, `naclip`, `sc-clip`, `resclip`,
    /// `pearl`; data sets: `voc21`, `context60`, `object`, `voc20`, `context59`, `stuff`, `cityscapes`, `ade20k`. Goes before
    /// the vocabulary's options and the defaults. What changes with the data set inside the attention of `resclip` and `pearl`
    /// and in the refinement `pearl-propagation` has no field of its own. Not for students, which have no attention.
    #[schema(value_type = Option<String>, example = "sclip-voc21")]
    pub protocol: Option<Protocol>,
    /// What counts as none of the classes. Without it the vocabulary's own names, if any, and the thresholds of the
    /// defaults; where there are none, every pixel gets a class, with the warning `no-background` where that is likely a
    /// mistake.
    pub background: Option<BackgroundBody>,
    /// Prompt templates that every name is put into: `imagenet-80`, CLIP's own for ImageNet; `maskclip-85`, these and
    /// five "... in the scene"; `simple`, "a photo of a {}." alone, the quickest to embed. `defaults.templates`
    /// without it.
    pub templates: Option<TemplateSet>,
    /// What the synonyms of a class come to: `mean`, one query with the mean of their embeddings; `max`, a query each, and
    /// the class has the largest of its own probabilities. More synonyms make a class stronger under `max`.
    /// `defaults.synonyms` without it.
    pub synonyms: Option<Synonyms>,
    /// What the model's last attention does: `maskclip`, the unchanged `clip` it is compared with, or, on vision
    /// transformers, one of its successors. `GET /v1/models` lists those the model has; a student has none, and refuses one that
    /// is named. `defaults.attention` without it.
    pub attention: Option<Attention>,
    /// Prompt denoising: a class whose best probability anywhere is below this is dropped. 0 turns it
    /// off; `defaults.prompt_denoising` without it.
    #[schema(minimum = 0, maximum = 1)]
    pub prompt_denoising: Option<f32>,
    /// Key smoothing: `formula` as printed in the paper; `reference` as its implementation computes it, which the
    /// published figures are from; `likeness`, which the paper does not have: logits averaged over positions with weights
    /// `softmax(40 cos)` of their keys. On keys that share a large direction the formula makes all positions alike, and
    /// `likeness` does not. A student has no keys, and refuses all but `none`. `defaults.key_smoothing` without it.
    pub key_smoothing: Option<KeySmoothingBody>,
    /// Short side of the model's input in pixels, at most `limits.max_short_side`. More sees smaller things
    /// and costs more time; `defaults.short_side`, then the model's own, without it.
    #[schema(minimum = 1, example = 448)]
    pub short_side: Option<u32>,
    /// Factors on the short side: the image is scored at each of these sizes, and cosines are averaged at the image's size.
    /// Costs the time of all of them; does not go with the key smoothing `formula`. At most `limits.max_scales`;
    /// `defaults.scales`, one alone unless set otherwise, without it.
    #[schema(min_items = 1, example = json!([0.75, 1, 1.5]))]
    pub scales: Option<Vec<f64>>,
    /// How the image comes to that size: `bicubic`, as CLIP was trained; `mmcv`, as the published protocols of MaskCLIP's
    /// successors do it, bilinear without antialiasing, with what fills no patch left out. `defaults.resize` without it.
    pub resize: Option<Resize>,
    /// Windows through which the model sees its input one after the other, scores averaged where they overlap: `none`, or
    /// an object with `side` and `stride`. Costs as many passes; gains where the input is larger than what the model was
    /// trained on. At most `limits.max_windows`; `defaults.window` without it.
    pub window: Option<WindowBody>,
    /// What is done to scores at the image's size: `none`; `pamr`, pixel-adaptive mask refinement, which moves the labels'
    /// borders to those of the colours; or `pearl-propagation`, by which scores flow to unsure neighbours of one colour and one
    /// meaning. Takes memory and time for every pixel and text, at most `limits.max_refinement_bytes`;
    /// `defaults.refinement` without it.
    pub refinement: Option<Refinement>,
    /// Factor on cosines before the softmax: more makes probabilities sharper. CLIP's learned one is 100. A student is trained
    /// without: its factor, on products with features of any length, is 1 unless the request names another. For all other
    /// models `defaults.temperature` without it.
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
    /// The name of the vocabulary, if the request is to be answered with one.
    pub(super) fn vocabulary_name(&self) -> Option<&str> {
        match (&self.classes, &self.vocabulary) {
            (Some(_), _) => None,
            (None, Some(name)) => Some(name),
            (None, None) => self.protocol.map(Protocol::vocabulary),
        }
    }

    /// The engine's request: every value checked against its range and its limit, every absent one
    /// filled in from the protocol it names, else from the options of the vocabulary it names, then from the defaults.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] with the field's path; when the model has nothing that a field is about.
    pub(super) fn into_request(
        self,
        image: ImageSource,
        settings: &EngineSettings,
        vocabulary_options: &VocabularyOptions,
        (model, kind): (&str, ModelKind),
        now: Instant,
    ) -> Result<SegmentRequest, ApiError> {
        let defaults = &match self.protocol {
            Some(protocol) => protocol.settings(),
            None => settings.defaults.with(vocabulary_options),
        };
        let look = LookFields {
            protocol: self.protocol,
            attention: self.attention,
            key_smoothing: self.key_smoothing,
            short_side: self.short_side,
            scales: self.scales,
            resize: self.resize,
            window: self.window,
            deadline_seconds: self.deadline_seconds,
        };
        let Look { dense, input, deadline } = look.fill_in(settings, defaults, (model, kind), now)?;
        let denoising = fraction(
            "prompt_denoising",
            self.prompt_denoising.unwrap_or(defaults.prompt_denoising),
        )?;
        let dense = DenseOptions {
            temperature: temperature(self.temperature.unwrap_or(kind.temperature(defaults.temperature)))?,
            prompt_denoising: (denoising > 0.0).then_some(denoising),
            refinement: self.refinement.unwrap_or(defaults.refinement),
            ..dense
        };
        Ok(SegmentRequest {
            model: model.to_owned(),
            image,
            vocabulary: vocabulary(self.classes, self.vocabulary, self.protocol)?,
            background: background(self.background, settings, defaults)?,
            templates: self.templates.unwrap_or(defaults.templates),
            synonyms: self.synonyms.unwrap_or(defaults.synonyms),
            dense,
            input,
            output: OutputOptions {
                label_map: self.output.label_map,
                confidence_map: self.output.confidence_map,
            },
            deadline,
        })
    }
}

impl UploadBody for SegmentBody {
    fn take_image(&mut self) -> Option<String> {
        self.image.take()
    }
}

fn vocabulary(
    classes: Option<Vec<ClassBody>>,
    name: Option<String>,
    protocol: Option<Protocol>,
) -> Result<VocabularyChoice, ApiError> {
    let invalid = |detail: &str| ApiError::Invalid {
        path: None,
        detail: detail.to_owned(),
        limit: None,
    };
    match (classes, name, protocol) {
        (Some(classes), None, _) => Ok(VocabularyChoice::Inline(classes.into_iter().map(Into::into).collect())),
        (None, Some(name), _) => Ok(VocabularyChoice::Named(name)),
        (None, None, Some(protocol)) => Ok(VocabularyChoice::Named(protocol.vocabulary().to_owned())),
        (Some(_), Some(_), _) => Err(invalid("classes and vocabulary exclude each other; give one of them")),
        (None, None, None) => Err(invalid("one of classes, vocabulary and protocol is required")),
    }
}

/// A probability or a share of something, 0 to 1.
pub(super) fn fraction<T: Copy + Into<f64> + Display>(path: &str, value: T) -> Result<T, ApiError> {
    if (0.0..=1.0).contains(&value.into()) {
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
