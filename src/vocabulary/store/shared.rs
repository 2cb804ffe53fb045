//! The store's embeddings in common with other replicas: reading theirs, sharing ours, and agreeing on who computes.
//!
//! What other replicas have shared is held here from then on, in memory and on disk, so that each text is asked for
//! once. While the shared state is out of reach, each replica computes what it needs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Claim, EmbeddingStore};
use crate::shared::{Claimed, TextKey, Token};
use crate::vocabulary::embedding::{EmbeddingKey, TextEmbedding};

impl EmbeddingStore {
    /// Holds those of the texts that other replicas have shared. Returns the others.
    pub(super) async fn hold_shared(&self, keys: Vec<EmbeddingKey>) -> Vec<EmbeddingKey> {
        let Some(shared) = &self.shared else { return keys };
        let digests: Vec<TextKey> = keys.iter().map(EmbeddingKey::digest).collect();
        // Whoever needs the others computes them.
        let Ok(found) = shared.read(&digests).await else {
            return keys;
        };
        let mut missing = Vec::new();
        for ((key, digest), bytes) in keys.into_iter().zip(digests).zip(found) {
            match bytes.and_then(|bytes| read(&key, &digest, &bytes)) {
                Some(embedding) => self.take_over(key, embedding),
                None => missing.push(key),
            }
        }
        missing
    }

    /// Settles the claims whose texts are shared, and takes the duty to compute those that nobody computes. Returns
    /// the latter, and those that another replica computes. Without the shared state, all are to be computed here.
    pub(super) async fn take_duty(&self, claims: Vec<Claim>, token: Token) -> (Vec<Claim>, Vec<Claim>) {
        let Some(shared) = &self.shared else {
            return (claims, Vec::new());
        };
        let digests = digests(&claims);
        let Ok(claimed) = shared.claim(&digests, token).await else {
            return (claims, Vec::new());
        };
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for ((claim, digest), claimed) in claims.into_iter().zip(digests).zip(claimed) {
            match claimed {
                Claimed::Found(bytes) => match read(&claim.key, &digest, &bytes) {
                    Some(embedding) => {
                        self.take_over(claim.key.clone(), embedding.clone());
                        claim.settle(Ok(embedding));
                    }
                    // Damaged, or no embedding of this model: what is computed now replaces it.
                    None => ours.push(claim),
                },
                Claimed::Ours => ours.push(claim),
                Claimed::Others => others.push(claim),
            }
        }
        (ours, others)
    }

    /// Shares embeddings with other replicas, and gives the duty for them back.
    pub(super) async fn share(&self, embeddings: &[(EmbeddingKey, TextEmbedding)], token: Token) {
        let Some(shared) = &self.shared else { return };
        let entries = embeddings.iter().map(|(key, embedding)| {
            let digest = key.digest();
            (digest, embedding.to_bytes(&digest))
        });
        let entries: Vec<_> = entries.collect();
        if let Err(error) = shared.write(&entries, token).await {
            tracing::debug!(%error, texts = entries.len(), "could not share text embeddings");
        }
    }

    /// Gives the duty for texts back that were not computed.
    pub(super) async fn give_duty_back(&self, claims: &[Claim], token: Token) {
        if let Some(shared) = &self.shared {
            // What cannot be given back ends by itself.
            let _ = shared.release(&digests(claims), token).await;
        }
    }

    /// Holds an embedding of another replica, in memory and on disk.
    fn take_over(&self, key: EmbeddingKey, embedding: TextEmbedding) {
        self.shared_hits.fetch_add(1, Ordering::Relaxed);
        if let Some(disk) = &self.disk {
            Arc::clone(disk).write_behind(vec![(key.clone(), embedding.clone())]);
        }
        self.hold(key, embedding);
    }
}

/// Reads an embedding that was shared. Returns `None` for what is not one of this key.
fn read(key: &EmbeddingKey, digest: &TextKey, bytes: &[u8]) -> Option<TextEmbedding> {
    TextEmbedding::from_bytes(digest, bytes).filter(|embedding| key.fits(embedding))
}

fn digests(claims: &[Claim]) -> Vec<TextKey> {
    claims.iter().map(|claim| claim.key.digest()).collect()
}
