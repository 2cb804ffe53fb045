//! `/v1/vocabularies`: class lists with a name, and those that requests brought along lately.

mod body;
mod reply;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::body::read_json;
use super::error::ApiError;
use super::etag::{Precondition, entity_tag, malformed_condition};
use super::problem::problems;
use crate::engine::{Caller, EngineError, ModelState};
use crate::vocabulary::{Stored, VocabularyDefinition, VocabularyError};
use body::VocabularyBody;
use reply::{EmbeddingState, Vocabulary, VocabularyList, VocabularyStatus, VocabularySummary};

/// The longest time after which a client is told to ask again whether a vocabulary is ready.
const MAX_RETRY_SECONDS: u64 = 60;

/// Which vocabularies are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Named vocabularies, or class lists that requests brought along lately (at most
    /// `vocabulary.recent_lists`; on a server with keys, requests of the same client alone).
    #[serde(default)]
    #[param(inline)]
    kind: VocabularyKind,
}

/// Kinds of class lists.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum VocabularyKind {
    #[default]
    Named,
    Recent,
}

/// List vocabularies
///
/// What is defined, or what was asked for lately, with hits, age and how much is embedded.
#[utoipa::path(
    get,
    path = "/v1/vocabularies",
    operation_id = "list_vocabularies",
    security(("ApiKey" = ["use"]), ("ApiKey" = ["vocabularies"])),
    tag = "vocabularies",
    params(ListQuery),
    responses((status = 200, description = "The vocabularies.", body = VocabularyList), ListProblems),
)]
pub(super) async fn list_vocabularies(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<VocabularyList>, ApiError> {
    let Query(ListQuery { kind }) = query?;
    let vocabularies = match kind {
        VocabularyKind::Named => {
            let mut summaries = Vec::new();
            for vocabulary in state.engine.vocabularies(&caller).await {
                summaries.push(VocabularySummary::of_named(&state, &vocabulary).await);
            }
            summaries
        }
        VocabularyKind::Recent => {
            let mut summaries = Vec::new();
            for recent in state.engine.recent_lists(&caller) {
                summaries.push(VocabularySummary::of_recent(&state, &recent).await);
            }
            summaries
        }
    };
    Ok(Json(VocabularyList {
        vocabularies,
        durable: state.engine.is_durable(),
    }))
}

/// Define a vocabulary
///
/// Requests can then name it instead of sending its classes. Its texts are embedded in the background for all models,
/// for each as soon as it is ready, with the vocabulary's own templates, else `defaults.templates`: the answer is 202
/// with the progress so far when that has work to do. What a restart cuts off goes on afterwards. A vocabulary can be
/// used at once; a request that needs texts still missing waits for them.
///
/// Definitions and embeddings outlive the server in the store on disk (`vocabulary.store_path`); without one they are
/// held in memory, and `durable` in the list of vocabularies is false. There are at most `limits.max_vocabularies`
/// definitions of at most `vocabulary.definitions_bytes` in sum. A name has 1 to 64 characters of `a-z`,
/// `0-9`, `.`, `_` and `-`, the first a letter or digit.
#[utoipa::path(
    put,
    path = "/v1/vocabularies/{name}",
    operation_id = "put_vocabulary",
    security(("ApiKey" = ["vocabularies"])),
    tag = "vocabularies",
    params(
        ("name" = String, Path, pattern = "^[a-z0-9][a-z0-9._-]{0,63}$", description = "The vocabulary's name.", example = "fruit"),
        ("If-Match" = Option<String>, Header, pattern = r#"^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$"#,
            description = "Replace this definition only; `*` for any that exists."),
        ("If-None-Match" = Option<String>, Header, pattern = r#"^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$"#,
            description = "`*` to create it only when the name is free."),
    ),
    request_body(content = VocabularyBody),
    responses(
        (status = 200, description = "Defined anew, all texts embedded.", body = Vocabulary,
            headers(("etag" = String, description = "The definition's entity tag."))),
        (status = 201, description = "Created, all texts embedded.", body = Vocabulary,
            headers(("etag" = String, description = "The definition's entity tag."))),
        (status = 202, description = "Defined; `embeddings` says how many texts are embedded so far.", body = Vocabulary,
            headers(
                ("etag" = String, description = "The definition's entity tag."),
                ("retry-after" = u64, description = "About how many seconds the rest takes."),
            )),
        PutProblems,
    ),
)]
pub(super) async fn put_vocabulary(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let Path(name) = name?;
    check_conditions(&headers)?;
    let held = state.engine.body(&caller);
    let body: VocabularyBody = read_json(request, &state, &held).await?;
    let limits = &state.engine.settings().vocabulary_limits;
    let definition = VocabularyDefinition::new(body.into(), limits).map_err(VocabularyError::from)?;
    let templates = state.engine.settings().defaults.with(&definition.options).templates;
    let (vocabulary, stored) = state
        .engine
        .define_vocabulary(&caller, &name, definition, condition(&headers), templates)
        .await
        .map_err(|error| match error {
            // The name is the address here, and the vocabulary is the body.
            EngineError::Vocabulary(error) => ApiError::Vocabulary(error),
            other => ApiError::Engine(other),
        })?;
    let reply = Vocabulary::describe(&state, &vocabulary).await;
    let is_embedded = reply.is_embedded();
    let status = match stored {
        _ if !is_embedded => StatusCode::ACCEPTED,
        Stored::Created => StatusCode::CREATED,
        Stored::Replaced => StatusCode::OK,
    };
    let tag = [(header::ETAG, entity_tag(&vocabulary.digest))];
    let retry_after = (!is_embedded).then(|| retry_after(&state, &reply.embeddings));
    Ok((status, tag, retry_after, Json(reply)).into_response())
}

/// Look at a vocabulary
///
/// Its classes, how often it was used, and how far the embedding of its texts has come, which alone is at
/// `GET /v1/vocabularies/{name}/status`. The entity tag is the definition's; counts and progress do not change it, so a
/// condition on it is not looked at here.
#[utoipa::path(
    get,
    path = "/v1/vocabularies/{name}",
    operation_id = "get_vocabulary",
    security(("ApiKey" = ["use"]), ("ApiKey" = ["vocabularies"])),
    tag = "vocabularies",
    params(("name" = String, Path, description = "The vocabulary's name.", example = "fruit")),
    responses(
        (status = 200, description = "The vocabulary.", body = Vocabulary,
            headers(("etag" = String, description = "The definition's entity tag."))),
        GetProblems,
    ),
)]
pub(super) async fn get_vocabulary(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let vocabulary = state.engine.vocabulary(&caller, &name).await?;
    let headers = [
        (header::ETAG, entity_tag(&vocabulary.digest)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, Json(Vocabulary::describe(&state, &vocabulary).await)).into_response())
}

/// Is a vocabulary embedded?
///
/// How far the embedding of its texts has come, without its classes, for whoever waits for that. While `ready` is false,
/// `Retry-After` says after about how many seconds to ask again.
#[utoipa::path(
    get,
    path = "/v1/vocabularies/{name}/status",
    operation_id = "get_vocabulary_status",
    security(("ApiKey" = ["use"]), ("ApiKey" = ["vocabularies"])),
    tag = "vocabularies",
    params(("name" = String, Path, description = "The vocabulary's name.", example = "fruit")),
    responses(
        (status = 200, description = "How far it has come.", body = VocabularyStatus,
            headers(("retry-after" = u64, description = "Seconds to wait before asking again; only while `ready` is false."))),
        GetProblems,
    ),
)]
pub(super) async fn get_vocabulary_status(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let vocabulary = state.engine.vocabulary(&caller, &name).await?;
    let embeddings = EmbeddingState::of_named(&state, &vocabulary).await;
    let models = state.engine.model_states();
    let answers = |name: &str| {
        let mut models = models.iter();
        models.any(|model| model.name == name && model.state == ModelState::Ready)
    };
    let mut answering = embeddings.iter().filter(|state| answers(&state.model)).peekable();
    let ready = answering.peek().is_some() && answering.all(EmbeddingState::is_complete);
    let headers = [(header::CACHE_CONTROL, "no-store")];
    let retry_after = (!ready).then(|| retry_after(&state, &embeddings));
    let status = VocabularyStatus {
        name: vocabulary.local_name().to_owned(),
        ready,
        embeddings,
    };
    Ok((headers, retry_after, Json(status)).into_response())
}

/// The header that says when to ask again how much of a class list is embedded.
fn retry_after(state: &AppState, embeddings: &[EmbeddingState]) -> [(HeaderName, HeaderValue); 1] {
    let missing = embeddings.iter().map(|state| state.total - state.embedded);
    let seconds = state.engine.embedding_seconds(missing.max().unwrap_or(0));
    [(header::RETRY_AFTER, HeaderValue::from(seconds.min(MAX_RETRY_SECONDS)))]
}

/// Drop a vocabulary
///
/// Requests that use it already are answered. Its texts' embeddings stay until others need the room.
#[utoipa::path(
    delete,
    path = "/v1/vocabularies/{name}",
    operation_id = "delete_vocabulary",
    security(("ApiKey" = ["vocabularies"])),
    tag = "vocabularies",
    params(
        ("name" = String, Path, description = "The vocabulary's name.", example = "fruit"),
        ("If-Match" = Option<String>, Header, pattern = r#"^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$"#,
            description = "Drop this definition only."),
    ),
    responses((status = 204, description = "Dropped."), DeleteProblems),
)]
pub(super) async fn delete_vocabulary(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let Path(name) = name?;
    check_conditions(&headers)?;
    state
        .engine
        .drop_vocabulary(&caller, &name, condition(&headers))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses conditions that are no entity tags.
fn check_conditions(headers: &HeaderMap) -> Result<(), ApiError> {
    match malformed_condition(headers) {
        None => Ok(()),
        Some(name) => Err(ApiError::Malformed(format!(
            "the header {name} is neither * nor entity tags in double quotes"
        ))),
    }
}

/// The request's condition on the digest of the present definition.
fn condition(headers: &HeaderMap) -> impl Fn(Option<&str>) -> bool + use<> {
    let precondition = Precondition::read(headers);
    move |digest| precondition.holds(digest.map(entity_tag).as_deref())
}

problems! {
    /// The problems of `GET /v1/vocabularies`.
    ListProblems = Problem.with_key([InvalidRequest]);

    /// The problems of `PUT /v1/vocabularies/{name}`.
    PutProblems = Problem.with_key(
        OF_BODY
            + [
                VocabularyReadOnly,
                TooManyVocabularies,
                PreconditionFailed,
                UnsupportedMediaType,
                Unavailable,
                StoreBusy,
                SharedStateUnavailable,
                NotStored,
            ]
    );

    /// The problems of `GET /v1/vocabularies/{name}`.
    GetProblems = Problem.with_key([Malformed, VocabularyNotFound, SharedStateUnavailable]);

    /// The problems of `DELETE /v1/vocabularies/{name}`.
    DeleteProblems = Problem.with_key([
        Malformed,
        VocabularyNotFound,
        VocabularyReadOnly,
        PreconditionFailed,
        StoreBusy,
        SharedStateUnavailable,
        NotStored,
    ]);
}
