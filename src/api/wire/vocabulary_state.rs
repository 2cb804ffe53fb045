//! The class list of a result, in replies.

use serde::Serialize;
use utoipa::ToSchema;

/// A class list and how much of it is embedded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct VocabularyState {
    /// Equal for equal lists with equal templates and background.
    pub id: String,
    /// Texts whose embeddings are held: all of them by now.
    #[schema(example = 2)]
    pub embedded: usize,
    /// Texts of the list.
    #[schema(example = 2)]
    pub total: usize,
}
