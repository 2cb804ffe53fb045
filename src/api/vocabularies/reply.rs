//! What is known of vocabularies, as clients read it.

use std::time::SystemTime;

use serde::Serialize;
use utoipa::ToSchema;

use super::body::VocabularyOptions;
use crate::api::AppState;
use crate::api::wire::{ClassBody, TemplateSet};
use crate::vocabulary::{self, ClassList, NamedVocabulary, RecentList};

/// Names that a summary shows.
const SUMMARY_NAMES: usize = 10;

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

impl Vocabulary {
    /// Tells all of a vocabulary.
    pub(super) async fn describe(state: &AppState, vocabulary: &NamedVocabulary) -> Self {
        Self {
            name: vocabulary.local_name().to_owned(),
            shipped: vocabulary.shipped,
            classes: vocabulary.list.classes().iter().cloned().map(Into::into).collect(),
            background: vocabulary.list.background().to_vec(),
            options: vocabulary.options.into(),
            hits: vocabulary.hits(),
            age_seconds: seconds_since(vocabulary.defined_at),
            embeddings: EmbeddingState::of_named(state, vocabulary).await,
        }
    }

    /// Whether all texts are embedded for all models.
    pub(super) fn is_embedded(&self) -> bool {
        self.embeddings.iter().all(EmbeddingState::is_complete)
    }
}

impl VocabularySummary {
    /// Sums up a named vocabulary.
    pub(super) async fn of_named(state: &AppState, vocabulary: &NamedVocabulary) -> Self {
        Self {
            name: Some(vocabulary.local_name().to_owned()),
            id: None,
            shipped: vocabulary.shipped,
            class_count: vocabulary.list.classes().len(),
            first_names: first_names(&vocabulary.list),
            hits: vocabulary.hits(),
            age_seconds: seconds_since(vocabulary.defined_at),
            embeddings: EmbeddingState::of_named(state, vocabulary).await,
        }
    }

    /// Sums up a class list that requests brought along.
    pub(super) async fn of_recent(state: &AppState, recent: &RecentList) -> Self {
        Self {
            name: None,
            id: Some(recent.id.clone()),
            shipped: false,
            class_count: recent.list.classes().len(),
            first_names: first_names(&recent.list),
            hits: recent.hits,
            age_seconds: seconds_since(recent.first_seen),
            embeddings: EmbeddingState::of_list(state, &recent.list, recent.templates).await,
        }
    }
}

impl EmbeddingState {
    /// The states of a named vocabulary with the prompts of requests that name the vocabulary and none, one for each model.
    pub(super) async fn of_named(state: &AppState, vocabulary: &NamedVocabulary) -> Vec<Self> {
        let templates = state.engine.settings().defaults.with(&vocabulary.options).templates;
        Self::of_list(state, &vocabulary.list, templates).await
    }

    /// The states of a class list, one for each model. What a model that is not loaded yet has on disk is not known, and
    /// counts as none.
    async fn of_list(state: &AppState, list: &ClassList, templates: vocabulary::TemplateSet) -> Vec<Self> {
        let mut states = Vec::new();
        for (name, model) in state.engine.names() {
            let (embedded, total, dimension) = match model {
                Some(model) => {
                    let (embedded, total) = state.engine.embedded(&model, list, templates).await;
                    (embedded, total, model.embedding_dimension)
                }
                None => (0, list.texts().len(), 0),
            };
            states.push(Self {
                model: name.to_owned(),
                templates: templates.into(),
                embedded,
                total,
                bytes: embedded * dimension * size_of::<f32>(),
            });
        }
        states
    }

    /// Whether all texts are embedded.
    pub(super) fn is_complete(&self) -> bool {
        self.embedded == self.total
    }
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
