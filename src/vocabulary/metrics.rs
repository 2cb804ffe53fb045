//! The metrics of the text embedding store.

use std::sync::Arc;

use super::{EmbeddingStore, RecentLists, VocabularyRegistry};
use crate::telemetry::{MetricsRegistry, Reading, Readings};

impl EmbeddingStore {
    /// Registers the metrics of the store.
    ///
    /// # Panics
    /// When the registry holds the metrics of a store already.
    pub fn register(self: &Arc<Self>, registry: &MetricsRegistry) {
        let store = Arc::clone(self);
        registry.register(Box::new(Readings::new(move || {
            let statistics = store.statistics();
            vec![
                Reading::Counter(
                    "maskclip_vocabulary_hits_total",
                    "Text embeddings served from memory.",
                    statistics.hits,
                ),
                Reading::Counter(
                    "maskclip_vocabulary_disk_hits_total",
                    "Text embeddings read from the store on disk.",
                    statistics.disk_hits,
                ),
                Reading::Counter(
                    "maskclip_vocabulary_shared_hits_total",
                    "Text embeddings that other replicas had computed (shared.url).",
                    statistics.shared_hits,
                ),
                Reading::Counter(
                    "maskclip_vocabulary_misses_total",
                    "Text embeddings that had to be computed.",
                    statistics.misses,
                ),
                Reading::Gauge(
                    "maskclip_waiting_texts",
                    "Texts that wait to be embedded, or are being embedded.",
                    statistics.waiting as u64,
                ),
                Reading::Gauge(
                    "maskclip_waiting_texts_capacity",
                    "Texts that may wait to be embedded (engine.max_waiting_texts).",
                    statistics.max_waiting as u64,
                ),
                Reading::Gauge(
                    "maskclip_vocabulary_bytes",
                    "Bytes of text embeddings held in memory.",
                    statistics.bytes,
                ),
                Reading::Gauge(
                    "maskclip_vocabulary_disk_bytes",
                    "Bytes of the store on disk: both files with their logs.",
                    statistics.disk_bytes,
                ),
                Reading::Counter(
                    "maskclip_vocabulary_unwritten_total",
                    "Text embeddings that could not be written to the store on disk.",
                    statistics.unwritten,
                ),
            ]
        })));
    }
}

/// Registers the metrics of the named vocabularies and of the recent class lists.
///
/// # Panics
/// When the registry holds such metrics already.
pub fn register_lists(registry: &MetricsRegistry, vocabularies: &Arc<VocabularyRegistry>, recent: &Arc<RecentLists>) {
    let (vocabularies, recent) = (Arc::clone(vocabularies), Arc::clone(recent));
    registry.register(Box::new(Readings::new(move || {
        let (defined, bytes) = vocabularies.size();
        vec![
            Reading::Gauge(
                "maskclip_vocabularies_defined",
                "Named vocabularies that clients have defined.",
                defined as u64,
            ),
            Reading::Gauge(
                "maskclip_vocabularies_defined_bytes",
                "Bytes that their definitions take in memory, at most vocabulary.definitions_bytes.",
                bytes,
            ),
            Reading::Gauge(
                "maskclip_vocabularies_durable",
                "1 if definitions outlive the server, 0 if they are in memory only.",
                u64::from(vocabularies.is_durable()),
            ),
            Reading::Gauge(
                "maskclip_recent_lists_bytes",
                "Bytes of recent class lists in memory, at most vocabulary.recent_bytes.",
                recent.bytes(),
            ),
        ]
    })));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_holds_is_shown_from_the_start() {
        let registry = MetricsRegistry::new();
        EmbeddingStore::new(0, 7, None).register(&registry);
        let text = registry.render();
        for name in [
            "maskclip_vocabulary_hits_total 0",
            "maskclip_vocabulary_disk_hits_total 0",
            "maskclip_vocabulary_shared_hits_total 0",
            "maskclip_vocabulary_misses_total 0",
            "maskclip_waiting_texts 0",
            "maskclip_waiting_texts_capacity 7",
            "maskclip_vocabulary_bytes 0",
            "maskclip_vocabulary_disk_bytes 0",
            "maskclip_vocabulary_unwritten_total 0",
        ] {
            assert!(text.contains(name), "{name} is missing from\n{text}");
        }
    }
}
