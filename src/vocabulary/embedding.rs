//! A text embedding and its key.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::TemplateSet;
use super::checksum::checksum;

/// Whether the text was cut off, in the first byte after the checksum.
const TRUNCATED: u8 = 1;

/// Lengths that an embedding may have. One of no length has no direction, and no model gives one that is longer.
const LENGTHS: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

/// The embedding that a model computes from a text.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEmbedding {
    /// The embedding, `[dimension]`. It has unit length unless a student learned it.
    pub vector: Arc<[f32]>,
    /// Whether a prompt with the text was too long for the model and lost its end.
    pub truncated: bool,
}

impl TextEmbedding {
    /// Returns whether this can be an embedding of a model with so many dimensions.
    fn is_sound(&self, dimension: usize) -> bool {
        let squares = self.vector.iter().map(|value| f64::from(*value).powi(2));
        // Neither infinity nor what is no number is within the lengths.
        self.vector.len() == dimension && LENGTHS.contains(&squares.sum::<f64>().sqrt())
    }

    /// Returns the embedding as bytes that replicas share: a checksum over key and content, a byte of flags, and the
    /// vector.
    pub(super) fn to_bytes(&self, key: &[u8; 32]) -> Vec<u8> {
        let mut content = Vec::with_capacity(1 + 4 * self.vector.len());
        content.push(if self.truncated { TRUNCATED } else { 0 });
        content.extend(self.vector.iter().flat_map(|value| value.to_le_bytes()));
        let mut bytes = checksum(&[key, &content]).to_vec();
        bytes.append(&mut content);
        bytes
    }

    /// Reads what [`TextEmbedding::to_bytes`] wrote. Returns `None` for bytes that are damaged, or of another key.
    pub(super) fn from_bytes(key: &[u8; 32], bytes: &[u8]) -> Option<Self> {
        let (found, content) = bytes.split_first_chunk::<16>()?;
        let (flags, vector) = content.split_first()?;
        let (values, rest) = vector.as_chunks::<4>();
        if *found != checksum(&[key, content]) || !rest.is_empty() || values.is_empty() {
            return None;
        }
        Some(Self {
            vector: values.iter().map(|value| f32::from_le_bytes(*value)).collect(),
            truncated: flags & TRUNCATED != 0,
        })
    }
}

/// Texts with the embedding of each.
pub type EmbeddedTexts = HashMap<String, TextEmbedding>;

/// Everything that a text embedding depends on, except its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EmbeddingSpace {
    /// SHA-256 of the model's weights file, lower-case hexadecimal.
    pub weights_sha256: Arc<str>,
    /// Name of the element type of the model's arithmetic. Half precision gives other numbers.
    pub precision: &'static str,
    /// What the text tower computes otherwise than that of OpenAI's models with the same weights; empty where nothing. The
    /// weights do not tell it: it is read from a file beside them, which may be corrected.
    pub variant: Arc<str>,
    /// The templates that each text is put into.
    pub templates: TemplateSet,
    /// Number of values in an embedding. It follows from the weights.
    pub dimension: usize,
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

    /// Returns whether this can be the embedding of the key. Whoever writes to a disk or to the shared state may write
    /// anything, with a checksum that fits.
    pub fn fits(&self, embedding: &TextEmbedding) -> bool {
        embedding.is_sound(self.space.dimension)
    }

    /// Returns the SHA-256 of the whole key. It covers the templates' sentences, so a changed template set has other
    /// keys. A variant is part of the key where there is one, so that the keys of most models stay those of versions that
    /// knew no variants.
    pub fn digest(&self) -> [u8; 32] {
        let EmbeddingSpace {
            weights_sha256,
            precision,
            variant,
            templates,
            dimension: _,
        } = &self.space;
        let variant = Some(&**variant).filter(|variant| !variant.is_empty());
        let mut digest = Sha256::new();
        for part in [&**weights_sha256, *precision, templates.digest(), &self.text]
            .into_iter()
            .chain(variant)
        {
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
    fn an_embedding_is_read_as_it_was_written_and_neither_damaged_nor_of_another_key() {
        for truncated in [false, true] {
            let embedding = TextEmbedding {
                vector: [0.25, -1.5].into(),
                truncated,
            };
            let bytes = embedding.to_bytes(&[1; 32]);
            assert_eq!(TextEmbedding::from_bytes(&[1; 32], &bytes), Some(embedding));
            assert_eq!(TextEmbedding::from_bytes(&[2; 32], &bytes), None);
            for place in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[place] ^= 1;
                assert_eq!(TextEmbedding::from_bytes(&[1; 32], &damaged), None, "byte {place}");
                assert_eq!(
                    TextEmbedding::from_bytes(&[1; 32], &bytes[..place]),
                    None,
                    "{place} bytes"
                );
            }
        }
    }

    #[test]
    fn an_embedding_has_the_models_dimension_and_a_direction() {
        let is_sound = |values: &[f32]| {
            let embedding = TextEmbedding {
                vector: values.into(),
                truncated: false,
            };
            embedding.is_sound(2)
        };
        assert!(is_sound(&[0.6, -0.8]) && is_sound(&[31.0, 0.0]));
        for values in [
            &[][..],
            &[1.0],
            &[0.6, 0.8, 0.0],
            &[0.0, 0.0],
            &[f32::NAN, 1.0],
            &[f32::INFINITY, 1.0],
            &[1e38, 0.0],
        ] {
            assert!(!is_sound(values), "{values:?}");
        }
    }

    fn space() -> EmbeddingSpace {
        EmbeddingSpace {
            weights_sha256: "w".into(),
            precision: "float32",
            variant: "".into(),
            templates: TemplateSet::Simple,
            dimension: 2,
        }
    }

    #[test]
    fn everything_an_embedding_depends_on_is_in_its_digest() {
        let space = space();
        let other_weights = EmbeddingSpace {
            weights_sha256: "v".into(),
            ..space.clone()
        };
        let other_precision = EmbeddingSpace {
            precision: "bfloat16",
            ..space.clone()
        };
        let other_variant = EmbeddingSpace {
            variant: "gelu".into(),
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
            EmbeddingKey::new(&other_variant, "cat").digest(),
            EmbeddingKey::new(&other_templates, "cat").digest(),
        ];
        assert_eq!(digests.iter().collect::<std::collections::HashSet<_>>().len(), 6);
        assert_eq!(EmbeddingKey::new(&space, "cat").digest(), digests[0]);
    }

    #[test]
    fn without_a_variant_the_key_is_that_of_versions_that_knew_none() {
        let space = space();
        let mut digest = Sha256::new();
        for part in ["w", "float32", TemplateSet::Simple.digest(), "cat"] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let former: [u8; 32] = digest.finalize().into();
        assert_eq!(EmbeddingKey::new(&space, "cat").digest(), former);
    }
}
