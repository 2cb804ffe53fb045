//! `/v1/vocabularies`: class lists with a name, and those that requests brought along lately.

use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::ApiError;
use super::etag::{Precondition, entity_tag, malformed_condition};
use super::problem::problems;
use super::wire::{ClassBody, Name, Synonyms, TemplateSet, object};
use super::{AppState, body};
use crate::engine::{Caller, ModelState, SegmentError};
use crate::vocabulary::{
    self, ClassList, NamedVocabulary, RecentList, Stored, VocabularyDefinition, VocabularyError, VocabularyText,
};

/// The longest time after which a client is told to ask again whether a vocabulary is ready.
const MAX_RETRY_SECONDS: u64 = 60;

/// Names that a summary shows.
const SUMMARY_NAMES: usize = 10;

/// What a vocabulary is defined with. Unknown fields are refused.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VocabularyBody {
    /// The classes, in the order of their ids. At most `limits.max_classes`.
    #[schema(min_items = 1, example = json!(["apple", {"name": "pear", "synonyms": ["williams pear"]}]))]
    pub classes: Vec<ClassBody>,
    /// Names that compete with the classes for what is none of them, in requests that do not say
    /// `background` themselves. At most `limits.max_background_names`.
    #[serde(default)]
    #[schema(value_type = Vec<Name>, example = json!(["table", "wall"]))]
    pub background: Vec<String>,
    /// What takes the place of the server's defaults in requests that do not say so themselves.
    #[serde(default, deserialize_with = "object")]
    pub options: VocabularyOptions,
}

/// Options that a vocabulary brings along. Each takes the place of the server's default of the same name (`defaults.`) in
/// requests with the vocabulary; what a request says itself goes before.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VocabularyOptions {
    /// Prompt templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templates: Option<TemplateSet>,
    /// What the synonyms of a class come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synonyms: Option<Synonyms>,
    /// Prompt denoising threshold, 0 to 1; 0 for off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1, example = 0.5)]
    pub prompt_denoising: Option<f32>,
    /// Best class probability below which a pixel is background, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1, example = 0.1)]
    pub background_threshold: Option<f32>,
    /// Share of the foreground up to which a class is nowhere, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1, example = 0.1)]
    pub background_area: Option<f64>,
}

impl VocabularyOptions {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<VocabularyOptions> for vocabulary::VocabularyOptions {
    fn from(options: VocabularyOptions) -> Self {
        let VocabularyOptions {
            templates,
            synonyms,
            prompt_denoising,
            background_threshold,
            background_area,
        } = options;
        Self {
            templates: templates.map(Into::into),
            synonyms: synonyms.map(Into::into),
            prompt_denoising,
            background_threshold,
            background_area,
        }
    }
}

impl From<vocabulary::VocabularyOptions> for VocabularyOptions {
    fn from(options: vocabulary::VocabularyOptions) -> Self {
        let vocabulary::VocabularyOptions {
            templates,
            synonyms,
            prompt_denoising,
            background_threshold,
            background_area,
        } = options;
        Self {
            templates: templates.map(Into::into),
            synonyms: synonyms.map(Into::into),
            prompt_denoising,
            background_threshold,
            background_area,
        }
    }
}

/// A vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Vocabulary {
    /// The name that requests use.
    #[schema(example = "fruit")]
    pub name: String,
    /// Whether it came with the server and is read-only.
    pub shipped: bool,
    /// The classes, in the order of their ids.
    pub classes: Vec<ClassBody>,
    /// Names that compete with the classes for what is none of them.
    pub background: Vec<String>,
    /// What takes the place of the server's defaults in requests that do not say so themselves.
    #[serde(skip_serializing_if = "VocabularyOptions::is_empty")]
    pub options: VocabularyOptions,
    /// Requests that used this definition.
    pub hits: u64,
    /// Seconds since it was defined; for a shipped one, since the server started.
    pub age_seconds: f64,
    /// How much of it is embedded, per model; nothing for a model that is not loaded yet. A student has its teacher's
    /// texts, so that both count the same ones.
    pub embeddings: Vec<EmbeddingState>,
}

/// How much of a class list is embedded for one model.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct EmbeddingState {
    /// The model.
    #[schema(example = "demo")]
    pub model: String,
    /// The prompt templates.
    pub templates: TemplateSet,
    /// Texts that are embedded.
    #[schema(example = 2)]
    pub embedded: usize,
    /// Texts of the list.
    #[schema(example = 3)]
    pub total: usize,
    /// Bytes of their embeddings.
    #[schema(example = 4096)]
    pub bytes: usize,
}

/// How far the embedding of a vocabulary's texts has come.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct VocabularyStatus {
    /// The name that requests use.
    #[schema(example = "fruit")]
    pub name: String,
    /// Whether all texts are embedded for every model that answers requests, so that no request waits for them. False while
    /// no model does.
    #[schema(example = false)]
    pub ready: bool,
    /// How much of it is embedded, per model; nothing for a model that is not loaded yet.
    pub embeddings: Vec<EmbeddingState>,
}

/// Vocabularies of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct VocabularyList {
    /// Named ones by name, shipped ones first; recent ones by the time they were last used, latest first.
    pub vocabularies: Vec<VocabularySummary>,
    /// Whether named vocabularies outlive the server. They do not if `vocabulary.store_path` is `none`, or if its file
    /// cannot be used, as the log says.
    pub durable: bool,
}

/// What is known of one vocabulary or recent class list.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct VocabularySummary {
    /// The name of a named vocabulary.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "fruit")]
    pub name: Option<String>,
    /// The identifier of a recent class list, as in the reply to the request that brought it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether it came with the server and is read-only.
    pub shipped: bool,
    /// How many classes it has.
    #[schema(example = 2)]
    pub class_count: usize,
    /// The names of the first ten classes.
    #[schema(example = json!(["apple", "pear"]))]
    pub first_names: Vec<String>,
    /// Requests that used it.
    pub hits: u64,
    /// Seconds since it was defined or first seen.
    pub age_seconds: f64,
    /// How much of it is embedded, per model; nothing for a model that is not loaded yet. A student has its teacher's
    /// texts, so that both count the same ones.
    pub embeddings: Vec<EmbeddingState>,
}

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
                summaries.push(summarise_named(&state, &vocabulary).await);
            }
            summaries
        }
        VocabularyKind::Recent => {
            let mut summaries = Vec::new();
            for recent in state.engine.recent_lists(&caller) {
                summaries.push(summarise_recent(&state, &recent).await);
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
    let VocabularyBody {
        classes,
        background,
        options,
    } = body::read_json(request, &state, &held).await?;
    let text = VocabularyText {
        classes: classes.into_iter().map(Into::into).collect(),
        background,
        options: options.into(),
    };
    let definition =
        VocabularyDefinition::new(text, &state.engine.settings().vocabulary_limits).map_err(VocabularyError::from)?;
    let templates = state.engine.settings().defaults.with(&definition.options).templates;
    let (vocabulary, stored) = state
        .engine
        .define_vocabulary(&caller, &name, definition, condition(&headers), templates)
        .await
        .map_err(|error| match error {
            // The name is the address here, and the vocabulary is the body.
            SegmentError::Vocabulary(error) => ApiError::Vocabulary(error),
            other => ApiError::Segment(other),
        })?;
    let reply = describe(&state, &vocabulary).await;
    let is_embedded = reply.embeddings.iter().all(|state| state.embedded == state.total);
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
    Ok((headers, Json(describe(&state, &vocabulary).await)).into_response())
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
    let embeddings = embeddings(&state, &vocabulary.list, templates_of(&state, &vocabulary)).await;
    let models = state.engine.model_states();
    let answers = |name: &str| {
        let mut models = models.iter();
        models.any(|model| model.name == name && model.state == ModelState::Ready)
    };
    let mut answering = embeddings.iter().filter(|state| answers(&state.model)).peekable();
    let ready = answering.peek().is_some() && answering.all(|state| state.embedded == state.total);
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

async fn describe(state: &AppState, vocabulary: &NamedVocabulary) -> Vocabulary {
    Vocabulary {
        name: vocabulary.local_name().to_owned(),
        shipped: vocabulary.shipped,
        classes: vocabulary.list.classes().iter().cloned().map(Into::into).collect(),
        background: vocabulary.list.background().to_vec(),
        options: vocabulary.options.into(),
        hits: vocabulary.hits(),
        age_seconds: seconds_since(vocabulary.defined_at),
        embeddings: embeddings(state, &vocabulary.list, templates_of(state, vocabulary)).await,
    }
}

async fn summarise_named(state: &AppState, vocabulary: &NamedVocabulary) -> VocabularySummary {
    VocabularySummary {
        name: Some(vocabulary.local_name().to_owned()),
        id: None,
        shipped: vocabulary.shipped,
        class_count: vocabulary.list.classes().len(),
        first_names: first_names(&vocabulary.list),
        hits: vocabulary.hits(),
        age_seconds: seconds_since(vocabulary.defined_at),
        embeddings: embeddings(state, &vocabulary.list, templates_of(state, vocabulary)).await,
    }
}

async fn summarise_recent(state: &AppState, recent: &RecentList) -> VocabularySummary {
    VocabularySummary {
        name: None,
        id: Some(recent.id.clone()),
        shipped: false,
        class_count: recent.list.classes().len(),
        first_names: first_names(&recent.list),
        hits: recent.hits,
        age_seconds: seconds_since(recent.first_seen),
        embeddings: embeddings(state, &recent.list, recent.templates).await,
    }
}

/// The prompts of requests that name the vocabulary and none.
fn templates_of(state: &AppState, vocabulary: &NamedVocabulary) -> vocabulary::TemplateSet {
    state.engine.settings().defaults.with(&vocabulary.options).templates
}

fn first_names(list: &ClassList) -> Vec<String> {
    list.classes()
        .iter()
        .take(SUMMARY_NAMES)
        .map(|class| class.name.clone())
        .collect()
}

/// Seconds since a moment; 0 when the clock has been set back behind it.
fn seconds_since(moment: SystemTime) -> f64 {
    moment.elapsed().map_or(0.0, |age| age.as_secs_f64())
}

/// The embeddings of each model. What a model that is not loaded yet has on disk is not known, and counts as none.
async fn embeddings(state: &AppState, list: &ClassList, templates: vocabulary::TemplateSet) -> Vec<EmbeddingState> {
    let mut states = Vec::new();
    for (name, model) in state.engine.names() {
        let (embedded, total, dimension) = match model {
            Some(model) => {
                let (embedded, total) = state.engine.embedded(&model, list, templates).await;
                (embedded, total, model.embedding_dimension)
            }
            None => (0, list.texts().len(), 0),
        };
        states.push(EmbeddingState {
            model: name.to_owned(),
            templates: templates.into(),
            embedded,
            total,
            bytes: embedded * dimension * size_of::<f32>(),
        });
    }
    states
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
    GetProblems = Problem.with_key([Malformed, VocabularyNotFound]);

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
