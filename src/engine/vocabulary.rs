//! Vocabularies as the engine sees them: a request's class list, named definitions embedded ahead.

use std::sync::Arc;
use std::time::SystemTime;

use super::Engine;
use super::request::{SegmentError, SegmentRequest, VocabularyChoice};
use crate::vocabulary::{
    ClassList, NamedVocabulary, Precondition, RecentLists, Registry, Stored, TemplateSet, VocabularyError,
};

impl Engine {
    /// The named vocabularies.
    pub fn vocabularies(&self) -> &Registry {
        &self.registry
    }

    /// The class lists that requests brought along lately.
    pub fn recent_lists(&self) -> &RecentLists {
        &self.recent
    }

    /// Defines a vocabulary, or defines it anew, and starts to embed its texts with `templates` if
    /// the engine has a slot free; [`Engine::embedded`] tells how far that is.
    ///
    /// Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When the name or the precondition is refused.
    pub fn define_vocabulary(
        self: &Arc<Self>,
        name: &str,
        list: ClassList,
        precondition: &Precondition,
        templates: TemplateSet,
    ) -> Result<(Arc<NamedVocabulary>, Stored), VocabularyError> {
        let (vocabulary, stored) = self.registry.put(name, list, precondition, SystemTime::now())?;
        if let (Ok(model), Ok(slot)) = (self.ready_model(), self.take_slot()) {
            let (engine, list) = (Arc::clone(self), Arc::clone(&vocabulary.list));
            tokio::spawn(async move {
                if let Err(error) = engine.embed(&list, templates, &model, &slot).await {
                    tracing::warn!(%error, "a vocabulary could not be embedded ahead; its first request will");
                }
            });
        }
        Ok((vocabulary, stored))
    }

    /// What a request looks for. Inline lists are remembered among the recent ones.
    pub(super) fn class_list(&self, request: &SegmentRequest) -> Result<Arc<ClassList>, SegmentError> {
        let limits = &self.settings.limits;
        let background = request.background.names.clone();
        match &request.vocabulary {
            VocabularyChoice::Inline(classes) => {
                let list = ClassList::new(classes.clone(), background.unwrap_or_default(), limits);
                let list = Arc::new(list.map_err(VocabularyError::from)?);
                self.recent.record(&list, request.templates, SystemTime::now());
                Ok(list)
            }
            VocabularyChoice::Named(name) => {
                let list = Arc::clone(&self.registry.get_for_request(name)?.list);
                match background {
                    Some(names) => Ok(Arc::new(
                        list.with_background(&names, limits).map_err(VocabularyError::from)?,
                    )),
                    None => Ok(list),
                }
            }
        }
    }
}
