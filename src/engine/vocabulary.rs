//! The engine's vocabularies: the class list of a request, and named vocabularies whose texts are embedded ahead.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use super::caller::Share;
use super::host::{ModelHost, StateChanges};
use super::request::{EngineError, VocabularyChoice};
use super::{Caller, Engine};
use crate::support::{is_plain_name, run_blocking};
use crate::vocabulary::{
    ClassList, EmbedAhead, NamedVocabulary, RecentList, StorePath, Stored, TemplateSet, Urgency, VocabularyDefinition,
    VocabularyError, VocabularyOptions, VocabularyRegistry,
};

/// What stands for the shipped background names among the digests of vocabularies.
const BACKGROUND: &str = "background";

/// How often a replica without requests looks for what others have defined.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Engine {
    /// Returns the vocabulary that the caller knows by this name.
    ///
    /// # Errors
    /// [`VocabularyError::NotFound`] when none has that name.
    pub async fn vocabulary(&self, caller: &Caller, name: &str) -> Result<Arc<NamedVocabulary>, VocabularyError> {
        let whole = self.known_name(caller, name)?;
        let found = self.with_registry(move |registry| registry.get(&whole)).await;
        found.map_err(|error| error.about(name))
    }

    /// Returns the named vocabularies that the caller can use: shipped ones first, each part sorted by name.
    pub async fn vocabularies(&self, caller: &Caller) -> Vec<Arc<NamedVocabulary>> {
        let space = self.space(caller).map(str::to_owned);
        self.with_registry(move |registry| registry.list_of(space.as_deref()))
            .await
    }

    /// Returns the space of the caller's vocabularies; `None` for the common one.
    fn space<'a>(&self, caller: &'a Caller) -> Option<&'a str> {
        caller.name().filter(|_| self.settings.vocabulary.per_key)
    }

    /// Returns the whole name of the vocabulary that the caller calls so. Callers reach no other space than theirs.
    fn whole_name(&self, caller: &Caller, name: &str) -> Option<String> {
        let space = self.space(caller);
        is_plain_name(name).then(|| space.map_or_else(|| name.to_owned(), |space| format!("{space}/{name}")))
    }

    /// Returns the whole name of a vocabulary that may be there.
    ///
    /// # Errors
    /// [`VocabularyError::NotFound`] when no vocabulary can have that name.
    fn known_name(&self, caller: &Caller, name: &str) -> Result<String, VocabularyError> {
        let whole = self.whole_name(caller, name);
        whole.ok_or_else(|| VocabularyError::NotFound { name: name.to_owned() })
    }

    /// Returns whether named vocabularies outlive the server.
    pub fn is_durable(&self) -> bool {
        self.registry.is_durable()
    }

    /// Returns whether named vocabularies end with the server, though the settings ask for a store on disk.
    pub fn lacks_store(&self) -> bool {
        !self.is_durable() && self.settings.vocabulary.store_path != StorePath::None
    }

    /// Returns the class lists that recent requests of the caller sent along, most recent first.
    pub fn recent_lists(&self, caller: &Caller) -> Vec<RecentList> {
        self.recent.list(caller.id().0)
    }

    /// Stores a vocabulary under a caller's name for it, new or in place of an older one. Then starts to embed its texts with
    /// `templates` for every model that is ready, when no request waits for texts. [`Engine::keep_embedded`] does so
    /// for the others once they are. [`Engine::embedded`] tells how many texts are done.
    ///
    /// `condition` is that of [`VocabularyRegistry::put`]. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`EngineError::Vocabulary`] when the name is refused, the condition does not hold, there is no room, or the
    /// change cannot be written to disk, and [`EngineError::TooManyTexts`] when more of its texts are new than may
    /// wait. Then nothing is stored.
    pub async fn define_vocabulary(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        definition: VocabularyDefinition,
        condition: impl Fn(Option<&str>) -> bool + Send + 'static,
        templates: TemplateSet,
    ) -> Result<(Arc<NamedVocabulary>, Stored), EngineError> {
        let whole = self.whole_name(caller, name);
        let whole = whole.ok_or_else(|| VocabularyError::InvalidName { name: name.to_owned() })?;
        let share = self.check_room(caller, &definition.list, templates).await?;
        let put = self.registry.put(whole, definition, condition, SystemTime::now());
        let (vocabulary, stored) = put.await.map_err(|error| error.about(name))?;
        let (engine, defined) = (Arc::clone(self), Arc::clone(&vocabulary));
        tokio::spawn(async move {
            engine.embed_for_all(&defined, templates).await;
            drop(share);
        });
        Ok((vocabulary, stored))
    }

    /// Checks that the texts of a caller's class list that each model has to embed may wait for it. They count until the
    /// share is dropped.
    async fn check_room(
        &self,
        caller: &Caller,
        list: &ClassList,
        templates: TemplateSet,
    ) -> Result<Share, EngineError> {
        let mut most = 0;
        for host in &self.models {
            if let Ok(model) = self.ready_model(host) {
                let (embedded, all) = self.embedded(&model, list, templates).await;
                let room = self.embeddings.check_room(all - embedded);
                room.map_err(|error| self.counted(error.into()))?;
                most = most.max(all - embedded);
            }
        }
        self.take_text_share(caller, most).map_err(|error| self.counted(error))
    }

    /// Embeds the texts of a vocabulary for every model that is ready, one model after the other.
    async fn embed_for_all(&self, vocabulary: &NamedVocabulary, templates: TemplateSet) {
        let texts = vocabulary.list.texts();
        for host in &self.models {
            // Where the model does not answer, `keep_embedded` takes the vocabulary up when it is ready.
            self.embed_or_warn(host, &vocabulary.name, &texts, templates).await;
        }
    }

    /// Embeds those of some texts that have no embeddings for a model, ahead of the requests for them. Warns when the
    /// model fails. `name` says in the warning which texts they are.
    async fn embed_or_warn(&self, host: &ModelHost, name: &str, texts: &[String], templates: TemplateSet) -> Ahead {
        match self.embed_missing(host, texts, templates).await {
            Ok(()) => Ahead::Embedded,
            Err(EngineError::ModelUnavailable { .. } | EngineError::Unavailable(_)) => Ahead::NoModel,
            Err(error) => {
                let model = &host.name;
                tracing::warn!(%error, model, name, "could not embed texts ahead; their first request will embed them");
                Ahead::Failed
            }
        }
    }

    /// Embeds those of some texts that have no embeddings for a model.
    async fn embed_missing(
        &self,
        host: &ModelHost,
        texts: &[String],
        templates: TemplateSet,
    ) -> Result<(), EngineError> {
        let model = self.ready_model(host)?;
        if self.missing_texts(&model, texts, templates).await > 0 {
            self.embed(&Caller::default(), texts, templates, host, &model, Urgency::Background)
                .await?;
        }
        Ok(())
    }

    /// Starts a task for each model. Whenever the model becomes ready, the task embeds what is missing of all defined
    /// vocabularies: those that were defined while the model was not ready, and those whose embedding an earlier
    /// process or a failure cut off. Then it embeds the shipped texts that the settings name. The tasks end with the
    /// engine. Must be called inside a tokio runtime.
    pub fn keep_embedded(self: &Arc<Self>) {
        for (model, host) in self.models.iter().enumerate() {
            tokio::spawn(keep_embedded(Arc::downgrade(self), model, host.changes()));
        }
    }

    /// Starts a task that takes over what other replicas define and delete, also while no request asks for it. So a shared
    /// state that lost what this replica knows gets it back, and images that were deleted elsewhere go. The task ends with
    /// the engine. Must be called inside a tokio runtime.
    pub fn keep_in_step(self: &Arc<Self>) {
        if self.shared.is_none() {
            return;
        }
        let engine = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut last = None;
            while let Some(engine) = engine.upgrade() {
                // Where it fails, the shared state's own task says so.
                let _ = engine.registry.take_over_shared().await;
                last = engine.drop_deleted_images(last).await;
                drop(engine);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
    }

    /// Embeds what is missing for a model of all defined vocabularies and of the shipped texts that the settings name, but
    /// for those in `given_up`. Stops when the model does not answer any more.
    async fn embed_defined(&self, host: &ModelHost, given_up: &mut HashSet<String>) {
        let vocabularies = self.with_registry(VocabularyRegistry::list).await;
        let (shipped, defined): (Vec<_>, Vec<_>) = vocabularies.into_iter().partition(|named| named.shipped);
        let ahead = self.settings.vocabulary.embed_ahead;
        for vocabulary in defined {
            if !self.embed_named(host, &vocabulary, given_up).await {
                return;
            }
        }
        if ahead != EmbedAhead::None {
            let (texts, templates) = (&self.settings.vocabulary.background, self.settings.defaults.templates);
            if !self
                .embed_unless_given_up(host, ("vocabulary.background", BACKGROUND), texts, templates, given_up)
                .await
            {
                return;
            }
        }
        if ahead == EmbedAhead::Vocabularies {
            for vocabulary in shipped {
                if !self.embed_named(host, &vocabulary, given_up).await {
                    return;
                }
            }
        }
    }

    /// Embeds what is missing of a named vocabulary as [`Engine::embed_unless_given_up`] does.
    async fn embed_named(
        &self,
        host: &ModelHost,
        vocabulary: &NamedVocabulary,
        given_up: &mut HashSet<String>,
    ) -> bool {
        let NamedVocabulary { name, list, digest, .. } = vocabulary;
        let templates = self.settings.defaults.with(&vocabulary.options).templates;
        self.embed_unless_given_up(host, (&**name, &**digest), &list.texts(), templates, given_up)
            .await
    }

    /// Embeds what is missing of texts with a name for people and a key, unless `given_up` has the key. Adds it there
    /// when the model fails. Returns whether the model still answers.
    async fn embed_unless_given_up(
        &self,
        host: &ModelHost,
        (name, key): (&str, &str),
        texts: &[String],
        templates: TemplateSet,
        given_up: &mut HashSet<String>,
    ) -> bool {
        if given_up.contains(key) {
            return true;
        }
        let ahead = self.embed_or_warn(host, name, texts, templates).await;
        if ahead == Ahead::Failed {
            given_up.insert(key.to_owned());
        }
        ahead != Ahead::NoModel
    }

    /// Deletes the vocabulary that the caller knows by this name. `condition` is that of [`VocabularyRegistry::put`].
    ///
    /// # Errors
    /// When no vocabulary has that name, the vocabulary is shipped, the condition does not hold, or the change cannot
    /// be written to disk.
    pub async fn drop_vocabulary(
        &self,
        caller: &Caller,
        name: &str,
        condition: impl Fn(Option<&str>) -> bool + Send + 'static,
    ) -> Result<(), VocabularyError> {
        let whole = self.known_name(caller, name)?;
        let deleted = self.registry.delete(whole, condition).await;
        deleted.map_err(|error| error.about(name))
    }

    /// Calls `ask` on the registry, on the blocking pool because it reads the disk. What other replicas have changed is
    /// known by then, unless the shared state cannot be reached.
    async fn with_registry<T: Send + 'static>(&self, ask: impl FnOnce(&VocabularyRegistry) -> T + Send + 'static) -> T {
        let _ = self.registry.take_over_shared().await;
        let registry = Arc::clone(&self.registry);
        run_blocking(move || ask(&registry)).await
    }

    /// Returns the class list that a request chooses, with the options of its vocabulary. A request calls this once.
    pub(super) async fn find_vocabulary(
        &self,
        caller: &Caller,
        choice: VocabularyChoice,
    ) -> Result<FoundVocabulary, EngineError> {
        let limits = &self.settings.vocabulary_limits;
        match choice {
            VocabularyChoice::Inline(classes) => {
                let list = ClassList::new(classes, Vec::new(), limits).map_err(VocabularyError::from)?;
                Ok(FoundVocabulary {
                    list: Arc::new(list),
                    options: VocabularyOptions::default(),
                    is_inline: true,
                })
            }
            VocabularyChoice::Named(name) => {
                let whole = self.known_name(caller, &name)?;
                let found = self
                    .with_registry(move |registry| registry.get_for_request(&whole))
                    .await;
                let vocabulary = found.map_err(|error| error.about(&name))?;
                Ok(FoundVocabulary {
                    list: Arc::clone(&vocabulary.list),
                    options: vocabulary.options,
                    is_inline: false,
                })
            }
            VocabularyChoice::Defined(VocabularyDefinition { list, options }) => Ok(FoundVocabulary {
                list: Arc::new(list),
                options,
                is_inline: false,
            }),
        }
    }

    /// Returns the class list of a vocabulary with the request's background names, or with its own for `None`. Records
    /// lists that came with the request among the caller's recent ones.
    pub(super) fn class_list(
        &self,
        caller: &Caller,
        vocabulary: FoundVocabulary,
        background_names: Option<&[String]>,
        templates: TemplateSet,
    ) -> Result<Arc<ClassList>, VocabularyError> {
        let FoundVocabulary { list, is_inline, .. } = vocabulary;
        let list = match background_names {
            Some(names) => Arc::new(list.with_background(names, &self.settings.vocabulary_limits)?),
            None => list,
        };
        if is_inline {
            self.recent.record(caller.id().0, &list, templates, SystemTime::now());
        }
        Ok(list)
    }
}

/// Embeds the defined vocabularies whenever a model becomes ready. A vocabulary over which the model fails is not tried
/// again: a text that makes it panic would keep it from ever being ready for long.
async fn keep_embedded(engine: Weak<Engine>, model: usize, mut changes: StateChanges) {
    let mut given_up = HashSet::new();
    loop {
        if changes.is_ready_now() {
            let Some(engine) = engine.upgrade() else { return };
            engine.embed_defined(&engine.models[model], &mut given_up).await;
        }
        if !changes.next().await {
            return;
        }
    }
}

/// What came of embedding texts ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ahead {
    /// All texts have embeddings.
    Embedded,
    /// The model does not answer now.
    NoModel,
    /// The model failed over the texts.
    Failed,
}

/// The vocabulary that a request chose.
pub(super) struct FoundVocabulary {
    list: Arc<ClassList>,
    /// The vocabulary's options, which replace the server's defaults.
    pub(super) options: VocabularyOptions,
    /// Whether the classes came with the request.
    is_inline: bool,
}
