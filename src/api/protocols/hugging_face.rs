//! `POST /`: the tasks `image-segmentation` and `zero-shot-image-classification` as Hugging Face's inference client
//! asks for them.
//!
//! The client sends an image as bytes, often without a content type, or inside JSON once there are parameters. Image
//! segmentation has no place for classes, so they stand in the address that the client is given.

use std::collections::HashMap;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::masks::{masks, pixels};
use crate::api::AppState;
use crate::api::body::{media_type, parse_json, read_bytes, read_json_text};
use crate::api::error::ApiError;
use crate::api::metered::held_json;
use crate::api::problem::problems;
use crate::api::upload::decode_base64;
use crate::api::wire::{Name, object_or_null};
use crate::engine::{
    Arrival, BackgroundFields, BackgroundNames, Caller, Classification, ClassifyFields, ClassifyRequest, FeatureFields,
    HeldBytes, ImageSource, OutputOptions, SegmentFields, SegmentRequest, Segmentation, VocabularyChoice,
};
use crate::label_map::{LabelMapFormat, grey_png};
use crate::support::{excerpt, run_blocking, visible};
use crate::vocabulary::{Class, TemplateSet};

/// The sentence that Hugging Face's pipeline puts labels into when the request has none.
const HYPOTHESIS: &str = "This is a photo of {}.";

/// The place of the label in the sentence.
const SLOT: &str = "{}";

/// What the address says.
#[derive(Debug, Default, PartialEq)]
struct Address {
    vocabulary: Option<String>,
    classes: Vec<String>,
    model: Option<String>,
    templates: Option<TemplateSet>,
    background: Option<bool>,
}

impl Address {
    /// Reads the parameters of a query.
    ///
    /// # Errors
    /// For a parameter that is unknown or cannot be read.
    fn read(parameters: Vec<(String, String)>) -> Result<Self, ApiError> {
        let mut address = Self::default();
        for (name, value) in parameters {
            let wrong = |expected: &str| {
                let detail = format!("{name} must be {expected}, not {:?}", excerpt(&value));
                ApiError::invalid(&excerpt(&name), detail)
            };
            match name.as_str() {
                "vocabulary" => address.vocabulary = Some(value),
                "classes" => {
                    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                    address.classes.extend(names.map(str::to_owned));
                }
                "model" => address.model = Some(value),
                "templates" => {
                    let templates = value.parse::<TemplateSet>();
                    address.templates = Some(templates.map_err(|_| wrong("maskclip-85, imagenet-80, simple or none"))?);
                }
                "background" => address.background = Some(value.parse::<bool>().map_err(|_| wrong("true or false"))?),
                _ => {
                    let known = "vocabulary, classes, model, templates and background";
                    let detail = format!("the query may have {known}, and not {:?}", excerpt(&name));
                    return Err(ApiError::invalid(&excerpt(&name), detail));
                }
            }
        }
        Ok(address)
    }
}

/// An image with parameters. Unknown fields are refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubBody {
    /// The encoded image (JPEG, PNG, WebP, GIF, BMP or TIFF) as base64 or a base64 data URI.
    #[schema(example = json!(crate::api::wire::EXAMPLE_IMAGE))]
    pub inputs: String,
    /// What the task knows of. With `candidate_labels` the image is classified, else it is segmented.
    #[serde(default, deserialize_with = "object_or_null")]
    #[schema(value_type = Option<HubParameters>)]
    pub parameters: HubParameters,
    /// What Hugging Face's own servers are told of their caches and queues, as in `{"wait_for_model": true}`. Passed over.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "there is nothing to tell this server of them")]
    pub options: Option<HashMap<String, IgnoredAny>>,
}

/// The parameters of both tasks.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubParameters {
    /// The labels to choose from: classifies the image as a whole.
    #[schema(value_type = Option<Vec<Name>>, min_items = 1, example = json!(["tiger", "lemon"]))]
    pub candidate_labels: Option<Vec<String>>,
    /// The sentence that labels are put into, with `{}` for the label; "This is a photo of {}." without it.
    #[schema(pattern = r"^[^{}]*\{\}[^{}]*$", example = "This is a photo of {}.")]
    pub hypothesis_template: Option<String>,
    /// Results whose score is below this are left out, 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub threshold: Option<f32>,
    /// Of a segmentation: pixels whose best class has a lower probability belong to no segment, 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub mask_threshold: Option<f32>,
    /// Refused: segments do not overlap.
    #[schema(ignore)]
    pub overlap_mask_area_threshold: Option<f32>,
    /// The kind of segmentation: `semantic` alone.
    #[expect(dead_code, reason = "its one value is what the server does")]
    pub subtask: Option<HubSubtask>,
}

/// The kind of segmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HubSubtask {
    /// One segment for each class.
    Semantic,
}

/// A class that an image shows.
#[derive(Debug, Serialize, ToSchema)]
pub struct HubResult {
    /// The class's name, or the label as given.
    #[schema(example = "tiger")]
    pub label: String,
    /// Of a segmentation, the mean probability of the class over its own pixels; of a classification, the probability
    /// of the label among all.
    #[schema(minimum = 0, maximum = 1, example = 0.81)]
    pub score: f32,
    /// Of a segmentation alone: a grey PNG as base64, 255 where the class is, 0 elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
}

/// What a request asks for.
enum Task {
    /// One mask for each class.
    Segment { fields: SegmentFields },
    /// One probability for each label.
    Classify {
        fields: ClassifyFields,
        labels: Vec<String>,
    },
}

impl Task {
    /// The task of an address and of parameters.
    ///
    /// # Errors
    /// When both or neither have classes, or a parameter is out of its range or of the other task.
    fn new(address: Address, parameters: HubParameters) -> Result<Self, ApiError> {
        let thresholds = [
            ("threshold", parameters.threshold),
            ("mask_threshold", parameters.mask_threshold),
        ];
        for (name, value) in thresholds {
            if value.is_some_and(|value| !(0.0..=1.0).contains(&value)) {
                let detail = format!("{name} must be 0 to 1");
                return Err(ApiError::invalid(&format!("parameters.{name}"), detail));
            }
        }
        match parameters.candidate_labels {
            Some(_) => Self::classification(address, parameters),
            None => Self::segmentation(address, &parameters),
        }
    }

    fn segmentation(address: Address, parameters: &HubParameters) -> Result<Self, ApiError> {
        if parameters.hypothesis_template.is_some() {
            let detail = "hypothesis_template goes with candidate_labels";
            return Err(ApiError::invalid("parameters.hypothesis_template", detail));
        }
        if parameters.overlap_mask_area_threshold.is_some() {
            let detail = "overlap_mask_area_threshold is not supported: the segments of this server do not overlap";
            return Err(ApiError::invalid("parameters.overlap_mask_area_threshold", detail));
        }
        let names = match address.background {
            None => BackgroundNames::OfVocabulary,
            Some(true) => BackgroundNames::Shipped,
            Some(false) => BackgroundNames::These(Vec::new()),
        };
        let fields = SegmentFields {
            features: FeatureFields {
                model: address.model.clone(),
                ..FeatureFields::default()
            },
            background: BackgroundFields {
                names,
                threshold: parameters.mask_threshold,
                ..BackgroundFields::default()
            },
            templates: address.templates,
            output: OutputOptions {
                label_map: LabelMapFormat::CocoRle,
                ..OutputOptions::default()
            },
            vocabulary: Some(vocabulary(address)?),
            ..SegmentFields::default()
        };
        Ok(Self::Segment { fields })
    }

    fn classification(address: Address, parameters: HubParameters) -> Result<Self, ApiError> {
        let labels = parameters.candidate_labels.unwrap_or_default();
        if address.vocabulary.is_some() || !address.classes.is_empty() {
            let detail = "candidate_labels and the classes or the vocabulary of the address exclude each other";
            return Err(ApiError::invalid("parameters.candidate_labels", detail));
        }
        // In a sentence an empty label would go unseen.
        if let Some(place) = labels.iter().position(|label| visible(label).is_empty()) {
            let detail = format!("label {place} is empty");
            return Err(ApiError::invalid("parameters.candidate_labels", detail));
        }
        let template = parameters.hypothesis_template.as_deref();
        if template.is_some_and(|template| template.matches(SLOT).count() != 1) {
            let detail = "hypothesis_template must have one {} for the label";
            return Err(ApiError::invalid("parameters.hypothesis_template", detail));
        }
        // Templates of the server in the address go before the sentence of Hugging Face's pipeline.
        let sentence = match (template, address.templates) {
            (None, Some(_)) => SLOT,
            (template, None) => template.unwrap_or(HYPOTHESIS),
            (Some(_), Some(_)) => {
                let detail = "hypothesis_template and the templates of the address exclude each other";
                return Err(ApiError::invalid("parameters.hypothesis_template", detail));
            }
        };
        let class = |label: &String| Class::from(sentence.replacen(SLOT, label, 1));
        let fields = ClassifyFields {
            model: address.model,
            vocabulary: VocabularyChoice::Inline(labels.iter().map(class).collect()),
            templates: address.templates.or(Some(TemplateSet::None)),
            synonyms: None,
            temperature: None,
            orientation: None,
            deadline_seconds: None,
        };
        Ok(Self::Classify { fields, labels })
    }

    /// The results, and the bytes that they take.
    async fn perform(
        self,
        state: &AppState,
        arrival: Arrival,
        image: Bytes,
    ) -> Result<(Vec<HubResult>, HeldBytes), ApiError> {
        let image = ImageSource::Upload(image);
        match self {
            Self::Segment { fields } => {
                let request = SegmentRequest { image, fields };
                let segmentation = state.engine.segment(arrival, request).await?;
                let held = segmentation.held_bytes.clone();
                Ok((run_blocking(move || segments(segmentation)).await?, held))
            }
            Self::Classify { fields, labels } => {
                let request = ClassifyRequest { image, fields };
                let classification = state.engine.classify(arrival, request).await?;
                let held = classification.held_bytes.clone();
                Ok((probabilities(classification, labels)?, held))
            }
        }
    }
}

/// The classes or the vocabulary of an address.
fn vocabulary(address: Address) -> Result<VocabularyChoice, ApiError> {
    let refused = |detail: &str| ApiError::Invalid {
        path: None,
        detail: detail.to_owned(),
        limit: None,
    };
    match (address.vocabulary, address.classes) {
        (None, classes) if classes.is_empty() => Err(refused(
            "the address must name classes, as in http://host/?classes=cat,dog, or a vocabulary, as in http://host/?vocabulary=voc-21",
        )),
        (Some(name), classes) if classes.is_empty() => Ok(VocabularyChoice::Named(name)),
        (None, classes) => Ok(VocabularyChoice::Inline(classes.into_iter().map(Class::from).collect())),
        (Some(_), _) => Err(refused(
            "classes and vocabulary exclude each other; the address has both",
        )),
    }
}

/// The segments of a label map.
///
/// # Errors
/// [`ApiError::Internal`] when the model gave a number that is not finite: JSON has none.
fn segments(segmentation: Segmentation) -> Result<Vec<HubResult>, ApiError> {
    let mut segments = Vec::new();
    let classes = segmentation.classes;
    for mask in masks(segmentation.label_map) {
        let class = &classes[usize::from(mask.class_id)];
        let score = class.statistics.mean_confidence.unwrap_or(0.0);
        if !score.is_finite() {
            return Err(ApiError::Internal(format!(
                "class {:?} has the confidence {score}",
                class.name
            )));
        }
        let [height, width] = mask.size;
        segments.push(HubResult {
            label: class.name.clone(),
            score,
            mask: Some(BASE64_STANDARD.encode(grey_png(width, height, &pixels(&mask, 255)))),
        });
    }
    Ok(segments)
}

/// The labels with their probabilities, the likeliest first.
///
/// # Errors
/// [`ApiError::Internal`] when the model gave a number that is not finite: JSON has none.
fn probabilities(classification: Classification, labels: Vec<String>) -> Result<Vec<HubResult>, ApiError> {
    let scores = classification.classes.into_iter().map(|class| class.probability);
    let mut found: Vec<_> = labels
        .into_iter()
        .zip(scores)
        .map(|(label, score)| HubResult {
            label,
            score,
            mask: None,
        })
        .collect();
    if let Some(HubResult { label, score, .. }) = found.iter().find(|label| !label.score.is_finite()) {
        return Err(ApiError::Internal(format!(
            "label {label:?} has the probability {score}"
        )));
    }
    found.sort_by(|left, right| right.score.total_cmp(&left.score));
    Ok(found)
}

/// Ask as Hugging Face's client does
///
/// `image-segmentation` and `zero-shot-image-classification` of Hugging Face's inference client, which sends them to
/// the address that it is given: `InferenceClient("http://host/?classes=cat,dog").image_segmentation("pets.jpg")`, and
/// `InferenceClient("http://host").zero_shot_image_classification("pets.jpg", candidate_labels=["cat", "dog"])`. The
/// image is the body, of any content type or none, or inside of JSON. Errors are `{"error": "..."}`.
#[utoipa::path(
    post,
    path = "/",
    operation_id = "post_hub_task",
    security(("ApiKey" = ["use"])),
    tag = "protocols",
    params(
        ("classes" = Option<String>, Query, description = "Names of classes, separated by commas. Either this or `vocabulary` for a segmentation.", example = "tiger,lemon"),
        ("vocabulary" = Option<String>, Query, description = "The name of a vocabulary that was defined before."),
        ("model" = Option<String>, Query, description = "The model that must answer; without it, the first of them.", example = "demo"),
        ("templates" = Option<crate::api::wire::TemplateSet>, Query, description = "Prompt templates; `defaults.templates` for a segmentation without it."),
        ("background" = Option<bool>, Query, description = "Whether the shipped list of stuff names competes with the classes of a segmentation."),
    ),
    request_body(
        description = "The image, alone or with parameters.",
        content(
            (HubBody = "application/json", example = json!({
                "inputs": crate::api::wire::EXAMPLE_IMAGE, "parameters": {"candidate_labels": ["tiger", "lemon"]}})),
            (inline(HubImage) = "application/octet-stream"),
        ),
    ),
    responses(
        (status = 200, description = "Classes with masks in the order of the classes, or labels, the likeliest first.", body = Vec<HubResult>),
        HubProblems,
    ),
)]
pub(in crate::api) async fn post_hub_task(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(parameters) = query?;
    let address = Address::read(parameters)?;
    let arrival = state.engine.arrive(&caller)?;
    let is_json = media_type(request.headers()).as_deref() == Some("application/json");
    let (image, parameters) = if is_json {
        let bytes = read_json_text(request, &state, arrival.body()).await?;
        run_blocking(move || -> Result<_, ApiError> {
            let HubBody { inputs, parameters, .. } = parse_json(&bytes)?;
            let image = decode_base64(inputs).map_err(|error| error.at("inputs".to_owned()))?;
            Ok((image, parameters))
        })
        .await?
    } else {
        let image = read_bytes(request, &state, arrival.body(), 1).await?;
        (image, HubParameters::default())
    };
    let threshold = parameters.threshold.unwrap_or(0.0);
    let (mut reply, held) = Task::new(address, parameters)?.perform(&state, arrival, image).await?;
    reply.retain(|result| result.score >= threshold);
    run_blocking(move || Ok(held_json(&reply, held))).await
}

/// An encoded image.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes the body of image/* in the OpenAPI document")]
struct HubImage(Vec<u8>);

problems! {
    /// The problems of `POST /`.
    HubProblems = Message.with_key(OF_BODY + OF_LABELLING + [VocabularyNotFound, UnknownModel]);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Address, String> {
        let pairs = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Address::read(pairs.collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_lists_classes_with_commas_or_one_by_one() {
        let address = read(&[
            ("classes", "cat, black dog"),
            ("classes", "fish"),
            ("background", "true"),
        ])
        .unwrap();
        assert_eq!(address.classes, ["cat", "black dog", "fish"]);
        assert_eq!(address.background, Some(true));
        assert_eq!(
            read(&[("templates", "none")]).unwrap().templates,
            Some(TemplateSet::None)
        );
    }

    #[test]
    fn what_an_address_cannot_say_is_named() {
        for (name, value, told) in [
            ("background", "yes", "background must be true or false, not \"yes\""),
            (
                "templates",
                "best",
                "templates must be maskclip-85, imagenet-80, simple or none, not \"best\"",
            ),
            (
                "class",
                "cat",
                "the query may have vocabulary, classes, model, templates and background, and not \"class\"",
            ),
        ] {
            assert_eq!(read(&[(name, value)]).unwrap_err(), told);
        }
    }
}
