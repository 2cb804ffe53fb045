//! `/v1/images`: images that are left here, to be asked about again and again.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::problem::problems;
use super::routing::with_image;
use super::upload::{self, Upload, UploadBody};
use super::wire::{
    Attention, BodyInForm, EXAMPLE_IMAGE, KeySmoothingBody, Orientation, Resize, Timings, WindowBody, feature_fields,
    optional_whole_number,
};
use crate::engine::{Caller, ImageRequest, Protocol};

/// An image, and how a model looks at it. The fields are those of a request to segment; requests that say the same later find the
/// features. Unknown fields are refused.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageBody {
    /// The encoded image (JPEG, PNG, WebP, GIF, BMP or TIFF) as base64 or a base64 data URI. Required in JSON, absent in the
    /// `request` part of a multipart form. At most `limits.max_image_pixels` pixels.
    #[schema(
        value_type = String,
        required = true,
        example = json!(EXAMPLE_IMAGE)
    )]
    pub image: Option<String>,
    /// The model that looks at it, one of `GET /v1/models`; without it, the first of them.
    #[schema(example = "demo")]
    pub model: Option<String>,
    /// A published test protocol, of which the fields below are taken.
    #[schema(value_type = Option<String>, example = "sclip-voc21")]
    pub protocol: Option<Protocol>,
    /// What the model's last attention does. `defaults.attention` without it.
    pub attention: Option<Attention>,
    /// The key smoothing that requests will ask for: its keys are kept with the features. `defaults.key_smoothing` without it.
    pub key_smoothing: Option<KeySmoothingBody>,
    /// Short side of the model's input in pixels, at most `limits.max_short_side`; `defaults.short_side`, then the model's own,
    /// without it.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 4_294_967_295_u32, example = 448)]
    #[serde(default, deserialize_with = "optional_whole_number")]
    pub short_side: Option<u32>,
    /// Factors on the short side, at most `limits.max_scales`; `defaults.scales`, then the model's own, without it.
    #[schema(min_items = 1, example = json!([0.75, 1, 1.5]))]
    pub scales: Option<Vec<f64>>,
    /// How the image's pixels are turned: `exif` without it. Requests about the held image name it again.
    pub orientation: Option<Orientation>,
    /// How the image comes to that size. `defaults.resize` without it.
    pub resize: Option<Resize>,
    /// Windows through which the model sees its input, at most `limits.max_windows`. `defaults.window` without it.
    pub window: Option<WindowBody>,
    /// Seconds after which the answer is of no use, counted from the arrival of the request's head. At most
    /// `engine.max_deadline_seconds`; `engine.default_deadline_seconds` without it.
    #[schema(exclusive_minimum = 0, example = 30)]
    pub deadline_seconds: Option<f64>,
}

impl UploadBody for ImageBody {
    fn take_image(&mut self) -> Option<String> {
        self.image.take()
    }

    fn deadline_seconds(&mut self) -> &mut Option<f64> {
        &mut self.deadline_seconds
    }
}

/// The parts of a multipart request.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes the multipart form in the OpenAPI document")]
pub struct ImageForm {
    /// The encoded image: JPEG, PNG, WebP, GIF, BMP or TIFF.
    #[schema(value_type = String, format = Binary)]
    image: Vec<u8>,
    /// Everything else, as JSON without `image`.
    #[schema(required = false)]
    request: ImageBodyInForm,
    /// `deadline_seconds` of `request`, as a part of its own, and the shorter counts if both are there.
    #[schema(value_type = f64, required = false, exclusive_minimum = 0, example = 30)]
    deadline_seconds: Option<f64>,
}

/// [`ImageBody`] as a part of a form.
type ImageBodyInForm = BodyInForm<ImageBody>;

/// An image that is held.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ImageReply {
    /// What stands for the image in `POST /v1/segment`. Random and listed nowhere: whoever has it can use the image and drop it.
    /// On a server with keys, it is of use to the same key's client alone.
    #[schema(example = "6f1c2ab09d3e4f5781a2b3c4d5e6f708")]
    pub image_id: String,
    /// The model that looked at it. Others can be asked about it, too; they look at it then.
    #[schema(example = "demo")]
    pub model: String,
    /// Width of the image in pixels, after orientation.
    #[schema(example = 640)]
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    #[schema(example = 480)]
    pub height: u32,
    /// Seconds from now for which it is held (`images.keep_seconds`), unless more recently used ones need the room.
    #[schema(example = 3600)]
    pub expires_in_seconds: f64,
    /// Whether the other replicas of this server know the image, too; only where replicas share images (`shared.url`). False
    /// for one with more bytes than `shared.max_image_bytes`, and while the shared state is out of reach or full: others then
    /// answer 404, `/problems/image-not-held`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = true)]
    pub shared: Option<bool>,
    /// Whether what the model makes of the image was held already.
    #[schema(example = false)]
    pub features_cached: bool,
    /// Where the time went.
    pub timings: Timings,
}

/// What is known of an image that is held.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HeldImageReply {
    /// What stands for the image in `POST /v1/segment`.
    #[schema(example = "6f1c2ab09d3e4f5781a2b3c4d5e6f708")]
    pub image_id: String,
    /// Width of the image in pixels, after the orientation with which it was left.
    #[schema(example = 640)]
    pub width: u32,
    /// Height of the image in pixels, after the orientation with which it was left.
    #[schema(example = 480)]
    pub height: u32,
    /// Bytes of the encoded image.
    #[schema(example = 81920)]
    pub bytes: u64,
    /// Seconds from now for which it is held, unless more recently used ones need the room.
    #[schema(example = 3540.5)]
    pub expires_in_seconds: f64,
}

/// Leave an image here
///
/// Holds the image and what the model makes of it, so that class lists to come cost milliseconds: send the `image_id` in place of
/// the image in `POST /v1/segment`. Requests may ask for anything; where their options have the model look at the image in
/// another way, it does, and that is kept, too.
///
/// The image is held for `images.keep_seconds` at most, and images and features have room for `images.held_bytes` and
/// `images.cache_bytes`, of which the least recently used go first. An `image_id` that is not held any more is answered with
/// 404, `/problems/image-not-held`: send the image again. Nothing is written to disk.
#[utoipa::path(
    post,
    path = "/v1/images",
    operation_id = "post_image",
    security(("ApiKey" = ["use"])),
    tag = "segmentation",
    params(("x-request-id" = Option<String>, Header,
        description = "An id to find the request by in the server's log. It comes back; without it the server makes one.")),
    request_body(
        description = "The image; all else is optional.",
        content(
            (ImageBody = "application/json", example = json!({"image": EXAMPLE_IMAGE})),
            (ImageForm = "multipart/form-data"),
        ),
    ),
    responses(
        (status = 201, description = "The image is held.", body = ImageReply,
            headers(
                ("location" = String, description = "Where it can be dropped, relative to this address: `images/{id}`."),
                ("x-maskclip-image" = String,
                    description = "SHA-256 of the encoded image, by which a proxy finds the replica that has its features."),
            )),
        PostProblems,
    ),
)]
pub(super) async fn post_image(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrival = state.engine.arrive(&caller)?;
    let Upload { image, body } = upload::read::<ImageBody>(request, &state, arrival.body()).await?;
    let image = image.ok_or_else(|| ApiError::invalid("image", "an image is required"))?;
    let body = body.unwrap_or_default();
    let fields = feature_fields!(body);
    let request = ImageRequest { image, fields };
    let held = state.engine.hold_image(arrival, request).await?;
    let location = format!("images/{}", held.id);
    let reply = ImageReply {
        image_id: held.id,
        model: held.model,
        width: held.width,
        height: held.height,
        expires_in_seconds: held.expires_in.as_secs_f64(),
        shared: held.is_shared,
        features_cached: held.features_cached,
        timings: held.timings.into(),
    };
    let response = (StatusCode::CREATED, [(header::LOCATION, location)], Json(reply)).into_response();
    Ok(with_image(response, Some(&held.image_sha256)))
}

/// Is an image still held?
///
/// What is known of a held image, or 404 `/problems/image-not-held`. Does not count as use, so that it prolongs nothing. `HEAD`
/// answers with the same status and no body. On a server with keys, what other clients left is answered with 404 as if there
/// were none.
#[utoipa::path(
    get,
    path = "/v1/images/{id}",
    operation_id = "get_image",
    security(("ApiKey" = ["use"])),
    tag = "segmentation",
    params(("id" = String, Path, description = "The image's id.", example = "6f1c2ab09d3e4f5781a2b3c4d5e6f708")),
    responses(
        (status = 200, description = "The image is held.", body = HeldImageReply,
            headers(("x-maskclip-image" = String,
                description = "SHA-256 of the encoded image, by which a proxy finds the replica that has its features."))),
        HeldProblems,
    ),
)]
pub(super) async fn get_image(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id?;
    let status = state.engine.held_image(&caller, &id).await?;
    let reply = HeldImageReply {
        image_id: id,
        width: status.width,
        height: status.height,
        bytes: status.bytes,
        expires_in_seconds: status.expires_in.as_secs_f64(),
    };
    let response = ([(header::CACHE_CONTROL, "no-store")], Json(reply)).into_response();
    Ok(with_image(response, Some(&status.sha256)))
}

/// Drop an image
///
/// Requests that use it already are answered. What models made of its bytes goes with it. On a server with keys, what other
/// clients left stays: their images are answered with 404 as if there were none. Where replicas share images (`shared.url`), no
/// other answers from it either; while they cannot be told, the answer is 503, and the image is dropped on this replica alone.
#[utoipa::path(
    delete,
    path = "/v1/images/{id}",
    operation_id = "delete_image",
    security(("ApiKey" = ["use"])),
    tag = "segmentation",
    params(("id" = String, Path, description = "The image's id.", example = "6f1c2ab09d3e4f5781a2b3c4d5e6f708")),
    responses((status = 204, description = "Dropped."), DropProblems),
)]
pub(super) async fn delete_image(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let Path(id) = id?;
    state.engine.drop_image(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

problems! {
    /// The problems of `POST /v1/images`.
    PostProblems = Problem.with_key(OF_BODY + OF_LABELLING + [ImageTooLargeToHold, UnsupportedMediaType, UnknownModel]);

    /// The problems of `DELETE /v1/images/{id}`.
    DropProblems = Problem.with_key([Malformed, ImageNotHeld, SharedStateUnavailable]);

    /// The problems of `GET /v1/images/{id}`.
    HeldProblems = Problem.with_key([Malformed, ImageNotHeld, SharedStateUnavailable]);
}
