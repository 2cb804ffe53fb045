//! `POST /v1/segment`: an image and a list of classes in, a label map and statistics out.

mod background;
pub(super) mod batch;
mod body;
mod probability_maps;
mod reply;

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::ToSchema;

use super::class_choice::note_classes;
use super::error::ApiError;
use super::metered::{held_bytes, held_json};
use super::problem::problems;
use super::routing::with_image;
use super::upload::{self, Upload, image_source};
use super::wire::{BodyInForm, EXAMPLE_IMAGE, LabelMapFormat, MASKCLIP_WARNINGS};
use super::{AppState, accept};
use crate::engine::{Caller, SegmentRequest, Warning};
use crate::label_map::EncodedLabelMap;
use crate::support::run_blocking;
use body::OutputBody;

pub(super) use body::SegmentBody;
use reply::SegmentReply;

const JSON: &str = "application/json";
const PNG: &str = "image/png";

/// The parts of a multipart request.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes the multipart form in the OpenAPI document")]
pub struct SegmentForm {
    /// The encoded image: JPEG, PNG, WebP, GIF, BMP or TIFF. Left out where `request` has an `image_id`.
    #[schema(value_type = String, format = Binary, required = false)]
    image: Option<Vec<u8>>,
    /// Everything else, as JSON without `image`.
    request: SegmentBodyInForm,
    /// `deadline_seconds` of `request`, as a part of its own, and the shorter counts if both are there.
    #[schema(value_type = f64, required = false, exclusive_minimum = 0, example = 30)]
    deadline_seconds: Option<f64>,
}

/// [`SegmentBody`] as a part of a form.
type SegmentBodyInForm = BodyInForm<SegmentBody>;

/// A PNG file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(
    dead_code,
    reason = "describes the answer to Accept: image/png in the OpenAPI document"
)]
struct PngFile(Vec<u8>);

/// Label an image
///
/// Says for every pixel which of the classes it shows, and for every class where it is and how sure
/// the model is. Send the image inside JSON (base64 or a data URI) or as a multipart form; the latter is
/// a third smaller.
///
/// With `Accept: image/png` the answer is the label map itself, an indexed PNG whose pixel values are the
/// classes' positions in the request (16-bit grey above 255 classes), or a grey one with `output.label_map` `png-grey`.
/// Statistics do not travel with it; the codes of warnings do, in the header `maskclip-warnings`.
#[utoipa::path(
    post,
    path = "/v1/segment",
    operation_id = "segment",
    security(("ApiKey" = ["use"])),
    tag = "segmentation",
    params(("x-request-id" = Option<String>, Header,
        description = "An id to find the request by in the server's log. It comes back; without it the server makes one.")),
    request_body(
        description = "The image or its `image_id`, and either `classes` or the name of a `vocabulary`; all else is optional.",
        content(
            (SegmentBody = "application/json", example = json!({
                "image": EXAMPLE_IMAGE,
                "classes": ["tiger", {"name": "person", "synonyms": ["man", "woman"]}],
                "background": true,
            })),
            (SegmentForm = "multipart/form-data"),
        ),
    ),
    responses(
        (status = 200, description = "The labelled image.",
            content(
                (SegmentReply = "application/json", example = json!({
                    "model": "demo", "width": 640, "height": 480,
                    "vocabulary": {"id": "3f2a90c1d45e67b8a1c2d3e4f5061728", "embedded": 2, "total": 2},
                    "classes": [
                        {"id": 0, "name": "tiger", "color": "#800000", "pixels": 51200, "fraction": 0.167,
                         "bbox": [12, 40, 300, 220], "confidence": {"mean": 0.81, "max": 0.97}, "presence": 0.99,
                         "similarity": 0.31, "image_probability": 0.72},
                        {"id": 1, "name": "person", "color": "#008000", "pixels": 0, "fraction": 0.0, "bbox": null,
                         "confidence": {"mean": null, "max": null}, "presence": 0.02, "similarity": 0.18,
                         "image_probability": 0.28},
                    ],
                    "label_map": {"format": "png", "data": "iVBORw0KGgo..."},
                    "warnings": [],
                    "features_cached": false,
                    "timings": {"queue_seconds": 0.0, "decode_seconds": 0.004, "preprocess_seconds": 0.003,
                                "text_seconds": 0.0, "model_seconds": 0.11, "label_map_seconds": 0.006,
                                "encode_seconds": 0.002},
                })),
                (inline(PngFile) = "image/png"),
            ),
            headers(
                ("maskclip-warnings" = String,
                    description = "Codes of the warnings separated by commas; only with `image/png`, only when there are any."),
                ("x-maskclip-image" = String,
                    description = "SHA-256 of the encoded image, by which a proxy finds the replica that has its features."),
            )),
        SegmentProblems,
    ),
)]
pub(super) async fn segment(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let media_type = accept::negotiate(request.headers(), &[JSON, PNG])?;
    let arrival = state.engine.arrive(&caller)?;
    let Upload { image, body } = upload::read::<SegmentBody>(request, &state, arrival.body()).await?;
    let mut body = body.ok_or_else(|| ApiError::invalid("request", "the part request is missing"))?;
    let image = image_source(image, body.image_id.take())?;
    let with_names = state.server.log_class_names;
    note_classes(body.vocabulary.as_deref(), body.classes.as_deref(), with_names);
    if media_type == PNG {
        require_png(&body.output)?;
    }
    let fields = body.into_fields()?;
    let request = SegmentRequest { image, fields };
    let segmentation = state.engine.segment(arrival, request).await?;
    if media_type == PNG
        && let EncodedLabelMap::Png(png) | EncodedLabelMap::PngGrey(png) = segmentation.label_map
    {
        let png = held_bytes(png, segmentation.held_bytes);
        let response = png_response(png, &segmentation.warnings);
        return Ok(with_image(response, segmentation.image_sha256.as_deref()));
    }
    // Serialising a raw label map takes long enough to hold up other requests.
    run_blocking(move || {
        let held = segmentation.held_bytes.clone();
        let sha256 = segmentation.image_sha256.clone();
        let response = held_json(&SegmentReply::try_from(segmentation)?, held);
        Ok(with_image(response, sha256.as_deref()))
    })
    .await
}

/// The output that `Accept: image/png` leaves: a PNG and nothing beside it.
fn require_png(output: &OutputBody) -> Result<(), ApiError> {
    if !matches!(output.label_map, LabelMapFormat::Png | LabelMapFormat::PngGrey) {
        return Err(ApiError::invalid(
            "output.label_map",
            "Accept: image/png is answered with a label map of form png or png-grey",
        ));
    }
    let others = [
        ("output.label_maps", "another form", !output.label_maps.is_empty()),
        ("output.legend", "a legend", output.legend),
        ("output.confidence_map", "a confidence map", output.confidence_map),
        (
            "output.probability_maps",
            "probability maps",
            output.probability_maps.is_some(),
        ),
    ];
    match others.into_iter().find(|(.., is_wanted)| *is_wanted) {
        None => Ok(()),
        Some((path, what, _)) => {
            let detail = format!("Accept: image/png leaves no place for {what}");
            Err(ApiError::invalid(path, detail))
        }
    }
}

/// The label map as a file.
fn png_response(png: Bytes, warnings: &[Warning]) -> Response {
    let mut response = ([(header::CONTENT_TYPE, PNG)], png).into_response();
    let codes: Vec<_> = warnings.iter().map(|warning| warning.code.name()).collect();
    if !codes.is_empty() {
        let value = HeaderValue::from_str(&codes.join(", ")).expect("codes are kebab-case ASCII");
        response.headers_mut().insert(MASKCLIP_WARNINGS, value);
    }
    response
}

problems! {
    /// The problems of `POST /v1/segment` and `POST /v1/segment/batch`.
    SegmentProblems = Problem.with_key(
        OF_BODY
            + OF_LABELLING
            + [VocabularyNotFound, ImageNotHeld, NotAcceptable, UnsupportedMediaType, UnknownModel, SharedStateUnavailable]
    );
}
