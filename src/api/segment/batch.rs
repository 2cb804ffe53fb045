//! `POST /v1/segment/batch`: several images and one class list in, a line of JSON for each image as soon as it is done.
//!
//! Owns how many images of a batch are worked on at a time, and how long one waits for room. Each of them is a request
//! of its own to the engine and to the quota of its key.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::task::JoinSet;
use tracing::{Instrument, Span};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ArrayBuilder, KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

use super::SegmentProblems;
use super::body::SegmentBody;
use super::reply::SegmentReply;
use crate::access::ApiKey;
use crate::api::AppState;
use crate::api::accept;
use crate::api::class_choice::note_classes;
use crate::api::error::ApiError;
use crate::api::metered::held_bytes;
use crate::api::middleware::X_REQUEST_ID;
use crate::api::problem::{Limit, Problem};
use crate::api::upload::{self, Part, UploadBody};
use crate::api::wire::without_image;
use crate::engine::{Caller, HeldBytes, ImageSource, SegmentFields, SegmentRequest, Segmentation};
use crate::support::run_blocking;

const NDJSON: &str = "application/x-ndjson";

/// The fewest images of a batch that are worked on at a time: while one is with the model, another is decoded or its
/// label map made.
const LEAST_AT_A_TIME: usize = 2;

/// The parts of a batch.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes the multipart form in the OpenAPI document")]
pub struct BatchForm {
    #[schema(inline)]
    image: ImageParts,
    /// Everything else, as JSON without `image` and `image_id`.
    request: BatchBody,
    /// `deadline_seconds` of `request`, as a part of its own, and the shorter counts if both are there.
    #[schema(value_type = f64, required = false, exclusive_minimum = 0, example = 30)]
    deadline_seconds: Option<f64>,
}

/// One file or more.
struct ImageParts;

impl PartialSchema for ImageParts {
    fn schema() -> RefOr<Schema> {
        let file = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
        ArrayBuilder::new()
            .items(file)
            .min_items(Some(1))
            .description(Some(
                "The encoded images, each in a part `image` of its own. The part's file name, if any, comes back as `name`. At \
                 most `limits.max_batch_images`.",
            ))
            .into()
    }
}

impl ToSchema for ImageParts {}

/// [`SegmentBody`] as a part of a batch, whose images are parts of their own.
struct BatchBody;

impl PartialSchema for BatchBody {
    fn schema() -> RefOr<Schema> {
        let mut schema = without_image::<SegmentBody>();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.properties.remove("image_id");
        }
        schema
    }
}

impl ToSchema for BatchBody {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        SegmentBody::schemas(schemas);
    }
}

/// What became of one image of a batch: a line of the answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchLine {
    /// The image's place among the parts `image`, from 0.
    #[schema(example = 0)]
    index: usize,
    /// The file name of its part.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "cat.jpg")]
    name: Option<String>,
    /// The status with which `POST /v1/segment` would have answered.
    #[schema(minimum = 200, maximum = 599, example = 200)]
    status: u16,
    /// The labelled image, if the status is 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<SegmentReply>,
    /// What is wrong, with any other status.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
    /// Seconds after which the image is worth another try, where waiting helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

/// Label several images
///
/// Labels each image as `POST /v1/segment` does, with the same fields for all. The answer is a line of JSON for each image, in
/// the order in which they are done: `application/x-ndjson`, as many lines as images. An image that fails has its own problem
/// in its line, and the others go on. Fields that are wrong for every image are refused as a whole.
///
/// Each image is admitted on its own, with a deadline from then on, and counts as a request of its key. An image for which
/// there is no room now waits for room, as long as its deadline is; then its line says so. A client that leaves takes the
/// images with it that are not done.
#[utoipa::path(
    post,
    path = "/v1/segment/batch",
    operation_id = "segment_batch",
    security(("ApiKey" = ["use"])),
    tag = "segmentation",
    params(("x-request-id" = Option<String>, Header,
        description = "An id to find the request by in the server's log. It comes back; without it the server makes one.")),
    request_body(
        description = "The images, and either `classes` or the name of a `vocabulary`; all else is optional.",
        content((BatchForm = "multipart/form-data")),
    ),
    responses(
        (status = 200, description = "A line of JSON for each image, of which the schema describes one.",
            body = BatchLine, content_type = "application/x-ndjson"),
        SegmentProblems,
    ),
)]
pub(in crate::api) async fn segment_batch(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    key: Option<Extension<Arc<ApiKey>>>,
    request: Request,
) -> Result<Response, ApiError> {
    accept::negotiate(request.headers(), &[NDJSON])?;
    let request_id = request_id(request.headers());
    let arrival = state.engine.arrive(&caller)?;
    let held = arrival.body().clone();
    let (images, mut body) = read(request, &state, &held).await?;
    if body.take_image().is_some() {
        return Err(ApiError::invalid(
            "image",
            "the images come as parts image, not inside the part request",
        ));
    }
    if body.image_id.is_some() {
        return Err(ApiError::invalid("image_id", "the images of a batch are in its parts"));
    }
    let with_names = state.server.log_class_names;
    note_classes(body.vocabulary.as_deref(), body.classes.as_deref(), with_names);
    let queue = &state.engine.settings().queue;
    let at_a_time = queue.max_batch.max(LEAST_AT_A_TIME).min(queue.queue_capacity);
    let patience = patience(&state, &body);
    let fields = body.into_fields()?;
    state.engine.check_fields(&caller, &fields).await?;
    let bytes = images.iter().map(|image| image.bytes.len() as u64).sum();
    let batch = Arc::new(Batch {
        patience,
        fields,
        state,
        caller,
        key: key.map(|Extension(key)| key),
        request_id,
        unread_bytes: AtomicU64::new(bytes),
        held,
    });
    let span = Span::current();
    let lines = stream::unfold(
        (images.into_iter().enumerate(), JoinSet::new()),
        move |(mut images, mut tasks)| {
            let (batch, span) = (Arc::clone(&batch), span.clone());
            async move {
                while tasks.len() < at_a_time
                    && let Some((index, image)) = images.next()
                {
                    let span = tracing::info_span!(parent: &span, "image", index);
                    tasks.spawn(Arc::clone(&batch).line(index, image).instrument(span));
                }
                let line = tasks.join_next().await?;
                let line = line.expect("the engine catches panics, and nothing ends a task before the batch");
                Some((Ok::<_, Infallible>(line), (images, tasks)))
            }
        },
    );
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response())
}

/// An image that is not done.
struct BatchImage {
    name: Option<String>,
    bytes: Bytes,
}

/// What all images of a batch have in common.
struct Batch {
    state: AppState,
    caller: Caller,
    key: Option<Arc<ApiKey>>,
    fields: SegmentFields,
    /// How long an image waits for room.
    patience: Duration,
    request_id: Option<String>,
    /// Bytes of the images that are not done.
    unread_bytes: AtomicU64,
    /// The bytes of the body.
    held: HeldBytes,
}

impl Batch {
    /// Labels an image and returns its line.
    async fn line(self: Arc<Self>, index: usize, BatchImage { name, bytes }: BatchImage) -> Bytes {
        let size = bytes.len() as u64;
        let segmentation = self.segment(bytes).await;
        let unread = self.unread_bytes.fetch_sub(size, Ordering::Relaxed) - size;
        self.held.shrink_to(unread);
        let request_id = self.request_id.clone();
        // Serialising a reply takes long enough to hold up other requests.
        run_blocking(move || {
            let (held, replied) = match segmentation {
                Ok(segmentation) => (
                    Some(segmentation.held_bytes.clone()),
                    SegmentReply::try_from(segmentation),
                ),
                Err(error) => (None, Err(error)),
            };
            let line = BatchLine::new(index, name, replied, request_id);
            let mut line = serde_json::to_vec(&line).expect("a line is plain data with finite numbers");
            line.push(b'\n');
            match held {
                Some(held) => held_bytes(line, held),
                None => line.into(),
            }
        })
        .await
    }

    /// Labels an image. One that finds no room tries again while its time lasts.
    async fn segment(&self, image: Bytes) -> Result<Segmentation, ApiError> {
        let until = Instant::now() + self.patience;
        loop {
            let error = match self.try_segment(image.clone()).await {
                Ok(segmentation) => return Ok(segmentation),
                Err(error) => error,
            };
            let retry = error.retry_when_there_is_room().map(|wait| Instant::now() + wait);
            match retry.filter(|retry| *retry < until) {
                Some(retry) => tokio::time::sleep_until(retry.into()).await,
                None => return Err(error),
            }
        }
    }

    async fn try_segment(&self, image: Bytes) -> Result<Segmentation, ApiError> {
        let _in_flight = self.key.as_ref().map(|key| key.admit()).transpose()?;
        let arrival = self.state.engine.arrive(&self.caller)?;
        let request = SegmentRequest {
            image: ImageSource::Upload(image),
            fields: self.fields.clone(),
        };
        Ok(self.state.engine.segment(arrival, request).await?)
    }
}

impl BatchLine {
    fn new(
        index: usize,
        name: Option<String>,
        replied: Result<SegmentReply, ApiError>,
        request_id: Option<String>,
    ) -> Self {
        let line = Self {
            index,
            name,
            status: 200,
            result: None,
            problem: None,
            retry_after_seconds: None,
        };
        match replied {
            Ok(result) => Self {
                result: Some(result),
                ..line
            },
            Err(error) => {
                let problem = Problem {
                    instance: request_id,
                    ..error.told()
                };
                Self {
                    status: problem.status,
                    problem: Some(problem),
                    retry_after_seconds: error.retry_after_seconds(),
                    ..line
                }
            }
        }
    }
}

/// The images of a batch and what is asked of all of them.
///
/// # Errors
/// Those of [`upload::read_parts`], and 422 without images, with more than `limits.max_batch_images`, or without the part
/// `request`.
async fn read(
    request: Request,
    state: &AppState,
    held: &HeldBytes,
) -> Result<(Vec<BatchImage>, SegmentBody), ApiError> {
    let limit = state.max_batch_images;
    let (mut images, mut body, mut deadline) = (Vec::new(), None, None);
    let take = |Part { name, file_name, bytes }: Part| match name.as_str() {
        "image" if images.len() == limit => Err(ApiError::Invalid {
            path: Some("image".to_owned()),
            detail: format!("the batch has more than limits.max_batch_images = {limit} images"),
            limit: Some(Limit::whole("limits.max_batch_images", limit as u64)),
        }),
        "image" => {
            let name = file_name;
            images.push(BatchImage { name, bytes });
            Ok(())
        }
        "request" | upload::DEADLINE => {
            let slot = if name == "request" { &mut body } else { &mut deadline };
            if slot.is_some() {
                return Err(ApiError::invalid(&name, format!("the part {name} comes twice")));
            }
            *slot = Some(bytes);
            Ok(())
        }
        _ => Err(upload::unknown_part(&name)),
    };
    upload::read_parts(request, state, held, take).await?;
    if images.is_empty() {
        return Err(ApiError::invalid("image", "a batch has at least one part image"));
    }
    let body = body.ok_or_else(|| ApiError::invalid("request", "the part request is missing"))?;
    let mut body: SegmentBody = upload::parse_part(body, state, held).await?;
    if let Some(deadline) = deadline {
        upload::set_deadline(body.deadline_seconds(), &deadline)?;
    }
    Ok((images, body))
}

/// How long an image of a batch waits for room: as long as its deadline.
fn patience(state: &AppState, body: &SegmentBody) -> Duration {
    let queue = &state.engine.settings().queue;
    let seconds = body.deadline_seconds.unwrap_or(queue.default_deadline_seconds);
    // A deadline out of its range is refused after this.
    Duration::from_secs_f64(seconds.clamp(0.0, queue.max_deadline_seconds))
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(X_REQUEST_ID)?.to_str().ok()?.to_owned())
}
