//! Which shipped texts are embedded before anybody asks for them.

use serde::{Deserialize, Serialize};

/// The setting of the shipped texts that a model embeds once it is ready, when no request waits for texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmbedAhead {
    /// None of them: the first request that needs a text waits for it.
    None,
    /// The background names of the settings.
    Background,
    /// These, and all shipped vocabularies.
    Vocabularies,
}
