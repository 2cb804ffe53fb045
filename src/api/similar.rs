//! `POST /v1/images/{id}/similar`: which cells of a held image are like one of its points.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ApiError;
use super::problem::problems;
use super::routing::with_image;
use super::wire::{
    Attention, KeySmoothingBody, MapFormat, Orientation, Resize, Timings, WindowBody, feature_fields,
    optional_whole_number,
};
use super::{AppState, body};
use crate::engine::{Caller, Protocol, Similarity, SimilarityRequest};

/// A point of an image, and how a model looks at the image. Unknown fields are refused.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimilarityBody {
    /// Pixels from the left edge of the image, after orientation, 0 to below its width.
    #[schema(minimum = 0, example = 320)]
    pub x: f64,
    /// Pixels from the top edge of the image, after orientation, 0 to below its height.
    #[schema(minimum = 0, example = 240)]
    pub y: f64,
    /// The model that looks at it, one of `GET /v1/models`; without it, the first of them.
    #[schema(example = "demo")]
    pub model: Option<String>,
    /// A published test protocol, of which the fields below are taken.
    #[schema(value_type = Option<String>, example = "sclip-voc21")]
    pub protocol: Option<Protocol>,
    /// What the model's last attention does; of one with two passes, the first counts. `defaults.attention` without it.
    pub attention: Option<Attention>,
    /// The key smoothing with which the image was left, so that its features are found. `defaults.key_smoothing` without it.
    pub key_smoothing: Option<KeySmoothingBody>,
    /// Short side of the model's input in pixels, at most `limits.max_short_side`; `defaults.short_side`, then the model's own,
    /// without it.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 4_294_967_295_u32, example = 448)]
    #[serde(default, deserialize_with = "optional_whole_number")]
    pub short_side: Option<u32>,
    /// Factors on the short side, at most `limits.max_scales`; `defaults.scales` without it. The point's feature is that of the
    /// first, and cosines are averaged.
    #[schema(min_items = 1, example = json!([0.75, 1, 1.5]))]
    pub scales: Option<Vec<f64>>,
    /// How the image's pixels are turned: `exif` without it.
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

/// How alike the cells of an image are to one of its points.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SimilarityReply {
    /// The model that looked at it.
    #[schema(example = "demo")]
    pub model: String,
    /// Width of the image in pixels, after orientation.
    #[schema(example = 640)]
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    #[schema(example = 480)]
    pub height: u32,
    /// Cells from left to right.
    #[schema(example = 28)]
    pub columns: u32,
    /// Cells from top to bottom.
    #[schema(example = 21)]
    pub rows: u32,
    /// The cosine of each cell's feature with the point's.
    pub map: SimilarityMap,
    /// The cosines for which the values 0 and 255 stand; those between are spread evenly.
    #[schema(example = json!([0.21, 1.0]))]
    pub range: [f32; 2],
    /// Whether what the model makes of the image was held already.
    #[schema(example = true)]
    pub features_cached: bool,
    /// Where the time went.
    pub timings: Timings,
}

/// A map of cosines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SimilarityMap {
    /// The form of `data`.
    pub format: MapFormat,
    /// An 8-bit grey PNG file of `columns` x `rows` pixels as base64: a pixel for each cell.
    pub data: String,
}

/// What in an image is like this point?
///
/// Compares the feature of the cell at a point of a held image with those of all cells, in the space of the texts. With the options
/// with which the image was left, its features are there, and the answer costs milliseconds; with others the model looks at it,
/// and that is kept, too.
#[utoipa::path(
    post,
    path = "/v1/images/{id}/similar",
    operation_id = "post_image_similar",
    security(("ApiKey" = ["use"])),
    tag = "segmentation",
    params(("id" = String, Path, description = "The image's id.", example = "6f1c2ab09d3e4f5781a2b3c4d5e6f708")),
    request_body(content = SimilarityBody),
    responses(
        (status = 200, description = "The cosines.", body = SimilarityReply,
            headers(("x-maskclip-image" = String,
                description = "SHA-256 of the encoded image, by which a proxy finds the replica that has its features."))),
        SimilarityProblems,
    ),
)]
pub(super) async fn post_similar(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Path(image_id) = id?;
    let arrival = state.engine.arrive(&caller)?;
    let body: SimilarityBody = body::read_json(request, &state, arrival.body()).await?;
    let request = SimilarityRequest {
        image_id,
        point: (body.x, body.y),
        fields: feature_fields!(body),
    };
    let similarity = state.engine.similarity(arrival, request).await?;
    let sha256 = similarity.image_sha256.clone();
    let reply = Json(SimilarityReply::try_from(similarity)?);
    Ok(with_image(reply.into_response(), sha256.as_deref()))
}

impl TryFrom<Similarity> for SimilarityReply {
    type Error = ApiError;

    /// # Errors
    /// [`ApiError::Internal`] when the model gave a number that is not finite: JSON has none.
    fn try_from(similarity: Similarity) -> Result<Self, ApiError> {
        let Similarity {
            model,
            width,
            height,
            columns,
            rows,
            map,
            range,
            features_cached,
            timings,
            image_sha256: _,
        } = similarity;
        if !range.iter().all(|cosine| cosine.is_finite()) {
            return Err(ApiError::Internal(format!(
                "cosines reach from {} to {}",
                range[0], range[1]
            )));
        }
        Ok(Self {
            model,
            width,
            height,
            columns,
            rows,
            map: SimilarityMap {
                format: MapFormat::Png,
                data: BASE64_STANDARD.encode(map),
            },
            range,
            features_cached,
            timings: timings.into(),
        })
    }
}

problems! {
    /// The problems of `POST /v1/images/{id}/similar`.
    SimilarityProblems = Problem.with_key(OF_BODY + OF_LABELLING + [ImageNotHeld, UnsupportedMediaType, UnknownModel, SharedStateUnavailable]);
}
