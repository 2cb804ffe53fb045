//! CLIP's text tower with its tokenizer: turns texts and templates into embeddings.

use tch::Device;

use crate::clip::{TextTower, Tokenizer, Tokens};
use crate::labeller::LabellerError;
use crate::vocabulary::{TemplateSet, TextEmbedding};

/// CLIP's text tower with its tokenizer.
#[derive(Debug)]
pub struct TextEncoder {
    pub(super) tower: TextTower,
    pub(super) tokenizer: Tokenizer,
}

impl TextEncoder {
    /// Embeds texts as [`Labeller::embed_texts`](crate::labeller::Labeller::embed_texts) describes.
    ///
    /// # Errors
    /// [`LabellerError::Model`] when libtorch returns no vectors.
    pub fn embed(&self, texts: &[String], templates: TemplateSet) -> Result<Vec<TextEmbedding>, LabellerError> {
        let prompts: Vec<_> = texts
            .iter()
            .flat_map(|text| templates.prompts(text))
            .map(|prompt| self.tokenizer.encode(&prompt))
            .collect();
        let ensemble = templates.templates().len();
        // One mean embedding per text: [texts, embedding].
        let vectors = self.tower.encode_ensembles(&prompts, ensemble);
        let vectors = Vec::<Vec<f32>>::try_from(vectors.to_device(Device::Cpu))
            .map_err(|error| LabellerError::Model(error.to_string()))?;
        let embeddings = vectors.into_iter().zip(prompts.chunks(ensemble));
        let embedding = |(vector, prompts): (Vec<f32>, &[Tokens])| TextEmbedding {
            vector: vector.into(),
            truncated: prompts.iter().any(|prompt| prompt.truncated),
        };
        Ok(embeddings.map(embedding).collect())
    }
}
