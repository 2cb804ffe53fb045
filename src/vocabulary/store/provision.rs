//! The way of texts that nobody provides yet: from the disk, from other replicas, or computed chunk by chunk.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::pending::{Interest, Urgency};
use super::{Claim, EmbeddingError, EmbeddingStore, TextEmbedder, TooManyWaiting};
use crate::shared::Token;
use crate::vocabulary::TemplateSet;
use crate::vocabulary::embedding::TextEmbedding;

/// Largest number of tokens in a chunk, without the tokens of the templates' own words. The embedder gets one chunk at
/// a time, so that images get their turn between the chunks of a long vocabulary. A chunk holds about 20 class names
/// with 85 templates, or 1,800 with one template.
pub(super) const CHUNK_TOKENS: usize = 16_384;

/// How often a replica looks for texts that another computes.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The duty to provide some texts.
pub(super) struct Provision {
    store: Arc<EmbeddingStore>,
    /// The texts that are still to be provided.
    claims: Vec<Claim>,
    /// Those that another replica computes.
    elsewhere: Vec<Claim>,
    templates: TemplateSet,
    embedder: Arc<dyn TextEmbedder>,
    urgency: Urgency,
    token: Token,
}

impl Provision {
    pub fn new(
        store: Arc<EmbeddingStore>,
        claims: Vec<Claim>,
        templates: TemplateSet,
        embedder: Arc<dyn TextEmbedder>,
        urgency: Urgency,
    ) -> Self {
        Self {
            store,
            claims,
            elsewhere: Vec::new(),
            templates,
            embedder,
            urgency,
            token: Token::new(),
        }
    }

    /// Provides the texts of all claims from the disk or from other replicas, or computes them chunk by chunk. The
    /// first failure ends all remaining claims.
    pub async fn run(mut self, refuse: oneshot::Sender<TooManyWaiting>) {
        self.claims = self.store.settle_from_disk(self.claims).await;
        self.claims = match with_room(&self.store, self.claims, self.urgency).await {
            Ok(claims) => claims,
            Err((claims, error)) => {
                // Sending fails only if nobody waits any more.
                let _ = refuse.send(error);
                return fail(claims, &error.into());
            }
        };
        while let Some(chunk) = self.next_chunk().await {
            if let Err((claims, error)) = self.compute(chunk).await {
                let rest = claims.into_iter().chain(self.claims).chain(self.elsewhere);
                return fail(rest.collect(), &error);
            }
        }
    }

    /// Returns the next texts that are to be computed here; `None` when nothing is left to do. Waits while all that is
    /// left is computed elsewhere.
    async fn next_chunk(&mut self) -> Option<Vec<Claim>> {
        loop {
            self.claims = self.store.drop_unwanted(std::mem::take(&mut self.claims));
            self.elsewhere = self.store.drop_unwanted(std::mem::take(&mut self.elsewhere));
            if self.claims.is_empty() {
                if self.elsewhere.is_empty() {
                    return None;
                }
                tokio::time::sleep(LOOK_EVERY).await;
                self.claims = std::mem::take(&mut self.elsewhere);
            }
            self.claims.sort_by_key(|claim| Reverse(claim.pending.urgency()));
            let length = chunk_length(self.claims.iter().map(|claim| &*claim.key.text), self.templates);
            let rest = self.claims.split_off(length);
            let chunk = std::mem::replace(&mut self.claims, rest);
            let (ours, others) = self.store.take_duty(chunk, self.token).await;
            self.elsewhere.extend(others);
            if !ours.is_empty() {
                return Some(ours);
            }
        }
    }

    /// Has a chunk computed. Fails with the claims that are not settled.
    async fn compute(&mut self, mut chunk: Vec<Claim>) -> Result<(), (Vec<Claim>, EmbeddingError)> {
        let texts = chunk.iter().map(|claim| claim.key.text.clone()).collect();
        let pending = |claims: &[Claim]| claims.iter().map(|claim| Arc::clone(&claim.pending)).collect();
        let interest = Interest::new(pending(&chunk), pending(&self.claims));
        let error = match self.embedder.embed(texts, self.templates, interest).await {
            Ok(Some(embeddings)) if embeddings.len() == chunk.len() && fit(&chunk, &embeddings) => {
                let shared = self.store.settle_and_keep(chunk, embeddings);
                self.store.share(&shared, self.token).await;
                return Ok(());
            }
            Ok(Some(embeddings)) if embeddings.len() == chunk.len() => {
                let error = "an embedding has another dimension than the model's, or no direction";
                Some(EmbeddingError::Failed(error.to_owned()))
            }
            Ok(Some(embeddings)) => {
                let error = format!("{} embeddings came back for {} texts", embeddings.len(), chunk.len());
                Some(EmbeddingError::Failed(error))
            }
            Ok(None) => None,
            Err(error) => Some(error),
        };
        self.store.give_duty_back(&chunk, self.token).await;
        match error {
            Some(error) => Err((chunk, error)),
            // Somebody may have joined since; then the text is in the next chunk.
            None => {
                self.claims.append(&mut chunk);
                Ok(())
            }
        }
    }
}

/// Returns the claims once they count among the texts that wait. Background work waits for room.
async fn with_room(
    store: &EmbeddingStore,
    mut claims: Vec<Claim>,
    urgency: Urgency,
) -> Result<Vec<Claim>, (Vec<Claim>, TooManyWaiting)> {
    loop {
        // Created before the look, so that no wake-up is missed.
        let has_room = store.has_room.notified();
        match store.take_room(&mut claims) {
            Ok(()) => return Ok(claims),
            Err(error) if urgency != Urgency::Background || error.texts > error.limit => return Err((claims, error)),
            Err(_) => has_room.await,
        }
        claims = store.drop_unwanted(claims);
    }
}

/// Returns how many of the texts form the next chunk, at least one.
pub(super) fn chunk_length<'a>(texts: impl Iterator<Item = &'a str>, templates: TemplateSet) -> usize {
    // A token is at least one byte long, and a prompt has about two more tokens for the end of its sentence.
    let most_tokens = |text: &str| templates.templates().len() * (text.len() + 2);
    let totals = texts.scan(0, |total, text| {
        *total += most_tokens(text);
        Some(*total)
    });
    totals.take_while(|total| *total <= CHUNK_TOKENS).count().max(1)
}

/// Returns whether all embeddings can be those of a chunk's texts, so that they may be kept and shared.
fn fit(chunk: &[Claim], embeddings: &[TextEmbedding]) -> bool {
    let mut pairs = chunk.iter().zip(embeddings);
    pairs.all(|(claim, embedding)| claim.key.fits(embedding))
}

fn fail(claims: Vec<Claim>, error: &EmbeddingError) {
    tracing::warn!(%error, texts = claims.len(), "could not embed texts");
    claims.into_iter().for_each(|claim| claim.settle(Err(error.clone())));
}
