//! The request to segment as clients write it, and its checks that need no image.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::background::BackgroundBody;
use super::probability_maps::ProbabilityMapsBody;
use crate::api::class_choice::chosen_vocabulary;
use crate::api::error::ApiError;
use crate::api::upload::UploadBody;
use crate::api::wire::{
    Attention, ClassBody, FurtherLabelMapFormat, KeySmoothingBody, LabelMapFormat, Orientation, Refinement, Resize,
    Synonyms, TemplateSet, WindowBody, feature_fields, object, optional_whole_number,
};
use crate::engine::{OutputOptions, Protocol, SegmentFields};
use crate::label_map::LabelStyle;
use crate::support::excerpt;

/// What to look for in an image, and how. Unknown fields are refused.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SegmentBody {
    /// The encoded image (JPEG, PNG, WebP, GIF, BMP or TIFF) as base64 or a base64 data URI. In JSON, either this or `image_id`;
    /// absent in the `request` part of a multipart form. At most `limits.max_image_pixels`
    /// pixels. A file whose pixels are damaged or not all there is refused (422).
    #[schema(
        example = json!(crate::api::wire::EXAMPLE_IMAGE)
    )]
    pub image: Option<String>,
    /// The id that `POST /v1/images` answered with, in place of the image.
    pub image_id: Option<String>,
    /// The model that must answer, one of `GET /v1/models`; without it, the first of them.
    #[schema(example = "demo")]
    pub model: Option<String>,
    /// The classes, in the order of their ids. Either this or `vocabulary`. At most `limits.max_classes`.
    #[schema(min_items = 1, example = json!(["tiger", {"name": "person", "synonyms": ["man", "woman"]}]))]
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
    /// five "... in the scene"; `simple`, "a photo of a {}." alone, the quickest to embed; `none`, the name as it is.
    /// `defaults.templates` without it.
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
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 4_294_967_295_u32, example = 448)]
    #[serde(default, deserialize_with = "optional_whole_number")]
    pub short_side: Option<u32>,
    /// Factors on the short side: the image is scored at each of these sizes, and cosines are averaged at the image's size.
    /// Costs the time of all of them; does not go with the key smoothing `formula`. At most `limits.max_scales`;
    /// `defaults.scales`, then the model's own, without it.
    #[schema(min_items = 1, example = json!([0.75, 1, 1.5]))]
    pub scales: Option<Vec<f64>>,
    /// How the image's pixels are turned: `exif`, as the file's EXIF (or TIFF) orientation says and viewers show it; `stored`,
    /// not at all, as most programs for annotations read it. Sizes, boxes and the label map are those of the turned image.
    /// `exif` without it.
    pub orientation: Option<Orientation>,
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
    /// `defaults.refinement`, then the model's own, without it.
    pub refinement: Option<Refinement>,
    /// Factor on cosines before the softmax: more makes probabilities sharper. Without it `defaults.temperature`, which is the
    /// scale that the model learned unless set otherwise (100 for OpenAI's models, 42.8 for `demo`; `GET /v1/models` has each
    /// model's). A student is trained without: its factor, on products with features of any length, is 1.
    #[schema(exclusive_minimum = 0, maximum = 1000)]
    pub temperature: Option<f32>,
    /// Seconds after which the answer is of no use, counted from the arrival of the request's head. At most
    /// `engine.max_deadline_seconds`; `engine.default_deadline_seconds` without it.
    #[schema(exclusive_minimum = 0, example = 30)]
    pub deadline_seconds: Option<f64>,
    /// How the result is written.
    #[serde(default, deserialize_with = "object")]
    pub output: OutputBody,
}

/// How the result is written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputBody {
    /// Form of the label map: `png`, indexed with a stable palette, 16-bit grey above 255 classes; `png-grey`, class ids as
    /// grey values without a palette, of 8 bits, 16 above 255 classes; `coco-rle`, one mask per class; `polygons`, COCO's
    /// polygons of each class, at most `limits.max_polygon_corners` corners; `panoptic`, COCO's PNG of segment ids and its
    /// `segments_info`; `raw`, rows of class ids; `none`, statistics alone. `png` without it.
    #[serde(default)]
    pub label_map: LabelMapFormat,
    /// Further forms of the same label map in the same reply, each once.
    #[serde(default)]
    #[schema(value_type = HashSet<FurtherLabelMapFormat>, example = json!(["coco-rle"]))]
    pub label_maps: Vec<FurtherLabelMapFormat>,
    /// Classes of which a probability map comes along: an 8-bit grey PNG of the class's probability in each pixel times 255,
    /// whichever class won. `all`, or a list of names. A byte for each map and pixel, at most
    /// `limits.max_probability_bytes`; none without it.
    #[schema(example = json!(["tiger"]))]
    pub probability_maps: Option<ProbabilityMapsBody>,
    /// Whether a confidence map comes along: an 8-bit grey PNG of each pixel's own probability times 255. It does not without
    /// it.
    #[serde(default)]
    pub confidence_map: bool,
    /// The value of unlabelled pixels in `png`, `png-grey` and `raw`: no smaller than the number of classes, and at most 255, or 65535
    /// above 255 classes. That largest value without it.
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 65_535, example = 21)]
    #[serde(default, deserialize_with = "optional_whole_number")]
    pub unlabelled: Option<u32>,
    /// Colors of the first classes in the PNG's palette, `#rrggbb`. The others have the usual ones.
    #[serde(default)]
    #[schema(example = json!(["#ff8000", "#0080ff"]))]
    pub colors: Vec<Color>,
    /// Whether a text comes along that says which color means which class, in the form of the `labelmap.txt` in CVAT's
    /// "Segmentation mask". It does not without it.
    #[serde(default)]
    pub legend: bool,
}

/// A color, `#rrggbb`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, pattern = "^#[0-9a-fA-F]{6}$")]
pub struct Color(String);

impl SegmentBody {
    /// The fields as the engine takes them.
    ///
    /// # Errors
    /// When the body has both classes and a vocabulary's name, a color that is none, or a form of the label map twice.
    pub(in crate::api) fn into_fields(self) -> Result<SegmentFields, ApiError> {
        check_forms(&self.output.label_maps)?;
        let style = LabelStyle {
            unlabelled: self.output.unlabelled.map(unlabelled).transpose()?,
            colors: colors(&self.output.colors)?,
        };
        Ok(SegmentFields {
            features: feature_fields!(self),
            vocabulary: chosen_vocabulary(self.classes, self.vocabulary)?,
            background: self.background.map(Into::into).unwrap_or_default(),
            templates: self.templates.map(Into::into),
            synonyms: self.synonyms.map(Into::into),
            prompt_denoising: self.prompt_denoising,
            refinement: self.refinement.map(Into::into),
            temperature: self.temperature,
            output: OutputOptions {
                label_map: self.output.label_map.into(),
                label_maps: self
                    .output
                    .label_maps
                    .into_iter()
                    .map(|format| LabelMapFormat::from(format).into())
                    .collect(),
                probability_maps: self.output.probability_maps.map(Into::into).unwrap_or_default(),
                confidence_map: self.output.confidence_map,
                legend: self.output.legend,
            },
            style,
        })
    }
}

impl UploadBody for SegmentBody {
    fn take_image(&mut self) -> Option<String> {
        self.image.take()
    }

    fn deadline_seconds(&mut self) -> &mut Option<f64> {
        &mut self.deadline_seconds
    }
}

/// Checks that the further forms are different ones.
fn check_forms(forms: &[FurtherLabelMapFormat]) -> Result<(), ApiError> {
    match (0..forms.len()).find(|&index| forms[..index].contains(&forms[index])) {
        None => Ok(()),
        Some(index) => {
            let path = format!("output.label_maps[{index}]");
            let detail = format!("{path} is in the list already");
            Err(ApiError::invalid(&path, detail))
        }
    }
}

/// The value of unlabelled pixels that the body names. The engine compares it with the number of classes.
fn unlabelled(value: u32) -> Result<u16, ApiError> {
    let detail = || format!("output.unlabelled must be at most 65535, not {value}");
    u16::try_from(value).map_err(|_| ApiError::invalid("output.unlabelled", detail()))
}

/// The colors that the body names.
fn colors(texts: &[Color]) -> Result<Vec<[u8; 3]>, ApiError> {
    let color = |(index, Color(text)): (usize, &Color)| {
        let mut color = [0; 3];
        let digits = text.strip_prefix('#').unwrap_or_default();
        hex::decode_to_slice(digits, &mut color).map(|()| color).map_err(|_| {
            let detail = format!("{:?} is no color in the form #rrggbb", excerpt(text));
            ApiError::invalid(&format!("output.colors[{index}]"), detail)
        })
    };
    texts.iter().enumerate().map(color).collect()
}
