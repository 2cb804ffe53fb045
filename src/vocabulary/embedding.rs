//! A text embedding and its key.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::TemplateSet;

/// The embedding that a model computes from a text.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEmbedding {
    /// The embedding, `[dimension]`. It has unit length unless a student learned it.
    pub vector: Arc<[f32]>,
    /// Whether a prompt with the text was too long for the model and lost its end.
    pub truncated: bool,
}

/// Everything that a text embedding depends on, except its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EmbeddingSpace {
    /// SHA-256 of the model's weights file, lower-case hexadecimal.
    pub weights_sha256: Arc<str>,
    /// Name of the element type of the model's arithmetic. Half precision gives other numbers.
    pub precision: &'static str,
    /// The templates that each text is put into.
    pub templates: TemplateSet,
}

/// The key of an embedding: its space and its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct EmbeddingKey {
    pub space: EmbeddingSpace,
    pub text: String,
}

impl EmbeddingKey {
    pub fn new(space: &EmbeddingSpace, text: &str) -> Self {
        Self {
            space: space.clone(),
            text: text.to_owned(),
        }
    }

    /// Returns the SHA-256 of the whole key. It covers the templates' sentences, so a changed template set has other
    /// keys.
    pub fn digest(&self) -> [u8; 32] {
        let EmbeddingSpace {
            weights_sha256,
            precision,
            templates,
        } = &self.space;
        let mut digest = Sha256::new();
        for part in [&**weights_sha256, *precision, templates.digest(), &self.text] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_an_embedding_depends_on_is_in_its_digest() {
        let space = EmbeddingSpace {
            weights_sha256: "w".into(),
            precision: "float32",
            templates: TemplateSet::Simple,
        };
        let other_weights = EmbeddingSpace {
            weights_sha256: "v".into(),
            ..space.clone()
        };
        let other_precision = EmbeddingSpace {
            precision: "bfloat16",
            ..space.clone()
        };
        let other_templates = EmbeddingSpace {
            templates: TemplateSet::Imagenet80,
            ..space.clone()
        };
        let digests = [
            EmbeddingKey::new(&space, "cat").digest(),
            EmbeddingKey::new(&space, "cats").digest(),
            EmbeddingKey::new(&other_weights, "cat").digest(),
            EmbeddingKey::new(&other_precision, "cat").digest(),
            EmbeddingKey::new(&other_templates, "cat").digest(),
        ];
        assert_eq!(digests.iter().collect::<std::collections::HashSet<_>>().len(), 5);
        assert_eq!(EmbeddingKey::new(&space, "cat").digest(), digests[0]);
    }
}
