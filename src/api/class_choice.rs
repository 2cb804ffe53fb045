//! The classes that a request chooses: those that it brings along, or those of a vocabulary.

use super::error::ApiError;
use super::wire::ClassBody;
use crate::engine::VocabularyChoice;
use crate::support::excerpt;
use crate::telemetry::note;

/// The most class names of a request that are logged.
const MAX_LOGGED_CLASSES: usize = 100;

/// The classes or the name of a vocabulary, whichever the body has.
pub(super) fn chosen_vocabulary(
    classes: Option<Vec<ClassBody>>,
    name: Option<String>,
) -> Result<Option<VocabularyChoice>, ApiError> {
    match (classes, name) {
        (Some(_), Some(_)) => Err(ApiError::Invalid {
            path: None,
            detail: "classes and vocabulary exclude each other; give one of them".to_owned(),
            limit: None,
        }),
        (Some(classes), None) => {
            let classes = classes.into_iter().map(Into::into).collect();
            Ok(Some(VocabularyChoice::Inline(classes)))
        }
        (None, name) => Ok(name.map(VocabularyChoice::Named)),
    }
}

/// Says in the request's span which vocabulary it names, and its classes where the settings want them in the log.
pub(super) fn note_classes(vocabulary: Option<&str>, classes: Option<&[ClassBody]>, with_names: bool) {
    if let Some(vocabulary) = vocabulary {
        note("vocabulary", excerpt(vocabulary));
    }
    if with_names && let Some(classes) = classes {
        let names: Vec<_> = classes.iter().map(ClassBody::name).take(MAX_LOGGED_CLASSES).collect();
        tracing::Span::current().record("class_names", names.join(", "));
    }
}
