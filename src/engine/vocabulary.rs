//! Vocabularies as the engine sees them: a request's class list, named definitions embedded ahead.

use std::sync::Arc;
use std::time::SystemTime;

use super::Engine;
use super::request::{Background, SegmentError, VocabularyChoice};
use super::slots::Slot;
use crate::support::run_blocking;
use crate::vocabulary::{
    ClassList, NamedVocabulary, RecentLists, Stored, TemplateSet, VocabularyDefinition, VocabularyError,
    VocabularyOptions, VocabularyRegistry,
};

impl Engine {
    /// The named vocabulary.
    ///
    /// # Errors
    /// [`VocabularyError::NotFound`].
    pub async fn vocabulary(&self, name: &str) -> Result<Arc<NamedVocabulary>, VocabularyError> {
        let name = name.to_owned();
        self.with_registry(move |registry| registry.get(&name)).await
    }

    /// All named vocabularies, shipped ones first, each part sorted by name.
    pub async fn vocabularies(&self) -> Vec<Arc<NamedVocabulary>> {
        self.with_registry(VocabularyRegistry::list).await
    }

    /// The class lists that requests brought along lately.
    pub fn recent_lists(&self) -> &RecentLists {
        &self.recent
    }

    /// Defines a vocabulary, or defines it anew, and starts to embed its texts with `templates` for every
    /// model that is ready, if the engine has a slot free; [`Engine::embedded`] tells how far that is.
    ///
    /// `condition` is that of [`VocabularyRegistry::put`]. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When the name is refused, the condition does not hold, or the disk fails.
    pub async fn define_vocabulary(
        self: &Arc<Self>,
        name: &str,
        definition: VocabularyDefinition,
        condition: impl Fn(Option<&str>) -> bool + Send + 'static,
        templates: TemplateSet,
    ) -> Result<(Arc<NamedVocabulary>, Stored), VocabularyError> {
        let name = name.to_owned();
        let put = move |registry: &VocabularyRegistry| registry.put(&name, definition, condition, SystemTime::now());
        let (vocabulary, stored) = self.with_registry(put).await?;
        if let Ok(slot) = self.take_slot() {
            let (engine, list) = (Arc::clone(self), Arc::clone(&vocabulary.list));
            tokio::spawn(async move { engine.embed_for_all(&list, templates, &slot).await });
        }
        Ok((vocabulary, stored))
    }

    /// Embeds a class list's texts for every model that is ready, one after the other.
    async fn embed_for_all(&self, list: &ClassList, templates: TemplateSet, slot: &Arc<Slot>) {
        for host in &self.models {
            let Ok(model) = self.ready_model(host) else { continue };
            if let Err(error) = self.embed(&list.texts(), templates, host, &model, slot).await {
                let model = &host.name;
                tracing::warn!(%error, model, "a vocabulary could not be embedded ahead; its first request will");
            }
        }
    }

    /// Drops a vocabulary. `condition` is that of [`VocabularyRegistry::put`].
    ///
    /// # Errors
    /// When there is none of that name, it is shipped, the condition does not hold, or the disk fails.
    pub async fn drop_vocabulary(
        &self,
        name: &str,
        condition: impl Fn(Option<&str>) -> bool + Send + 'static,
    ) -> Result<(), VocabularyError> {
        let name = name.to_owned();
        self.with_registry(move |registry| registry.delete(&name, condition))
            .await
    }

    /// Asks the registry, which may have to wait for the disk.
    async fn with_registry<T: Send + 'static>(&self, ask: impl FnOnce(&VocabularyRegistry) -> T + Send + 'static) -> T {
        let registry = Arc::clone(&self.registry);
        run_blocking(move || ask(&registry)).await
    }

    /// What a request looks for, found once: the class list that is chosen and the options that come with it.
    pub(super) async fn find_vocabulary(&self, choice: VocabularyChoice) -> Result<FoundVocabulary, SegmentError> {
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
                let vocabulary = self
                    .with_registry(move |registry| registry.get_for_request(&name))
                    .await?;
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

    /// The class list of a vocabulary with the background names that a request asks for. Lists that came with a request are
    /// remembered among the recent ones.
    pub(super) fn class_list(
        &self,
        vocabulary: FoundVocabulary,
        background: &Background,
        templates: TemplateSet,
    ) -> Result<Arc<ClassList>, VocabularyError> {
        let FoundVocabulary { list, is_inline, .. } = vocabulary;
        let list = match &background.names {
            Some(names) => Arc::new(list.with_background(names, &self.settings.vocabulary_limits)?),
            None => list,
        };
        if is_inline {
            self.recent.record(&list, templates, SystemTime::now());
        }
        Ok(list)
    }
}

/// A vocabulary that a request has chosen.
pub(super) struct FoundVocabulary {
    list: Arc<ClassList>,
    /// What takes the place of the defaults.
    pub(super) options: VocabularyOptions,
    /// Whether the classes came with the request.
    is_inline: bool,
}
