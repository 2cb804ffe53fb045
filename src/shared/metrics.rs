//! The metrics of the shared state.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGauge};
use strum::{IntoStaticStr, VariantArray};

use super::error::SharedError;
use crate::telemetry::MetricsRegistry;

/// Upper bounds of the buckets of operations in seconds: a look at Redis on the same machine takes a tenth of a
/// millisecond, a large image over a network tens of milliseconds.
const BUCKETS: [f64; 11] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5,
];

/// What is asked of the shared state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Operation {
    /// Looks whether any definition has changed.
    Look,
    /// Reads what is defined, and definitions.
    ReadDefinitions,
    /// Writes or deletes a definition.
    WriteDefinition,
    /// Reads text embeddings.
    ReadTexts,
    /// Takes the duty to compute texts.
    ClaimTexts,
    /// Writes text embeddings, or gives the duty back.
    WriteTexts,
    /// Looks whether an image is there.
    LookAtImage,
    /// Reads an image.
    ReadImage,
    /// Writes an image.
    WriteImage,
    /// Drops an image.
    DropImage,
}

impl Operation {
    /// Returns whether an operation moves images, which take a connection of their own.
    pub(super) fn moves_images(self) -> bool {
        matches!(self, Self::ReadImage | Self::WriteImage)
    }

    /// Returns whether an operation that was perhaps done already may be sent once more: a read, or a write that comes
    /// to the same.
    pub(super) fn is_repeatable(self) -> bool {
        // Who drops an image is told whether there was one.
        self != Self::DropImage
    }
}

/// The metrics of the shared state.
#[derive(Debug)]
pub(super) struct SharedMetrics {
    pub(super) reachable: IntGauge,
    operations: IntCounterVec,
    failures: IntCounterVec,
    seconds: HistogramVec,
}

impl SharedMetrics {
    /// Creates and registers the metrics, with all their labels.
    pub(super) fn new(registry: &MetricsRegistry) -> Self {
        let metrics = Self {
            reachable: registry.gauge(
                "maskclip_shared_reachable",
                "1 if the shared state (shared.url) can be reached, 0 if the replica goes on without it.",
            ),
            operations: registry.counters(
                "maskclip_shared_operations_total",
                "Operations on the shared state, with those that failed.",
                &["operation"],
            ),
            failures: registry.counters(
                "maskclip_shared_failures_total",
                "Operations on the shared state that failed: it was unreachable, full, or damaged.",
                &["operation", "reason"],
            ),
            seconds: registry.histograms(
                "maskclip_shared_operation_seconds",
                "Time of operations that were sent to the shared state.",
                &["operation"],
                &BUCKETS,
            ),
        };
        for operation in Operation::VARIANTS {
            let operation: &str = operation.into();
            metrics.operations.with_label_values(&[operation]);
            metrics.seconds.with_label_values(&[operation]);
            for error in [SharedError::Unreachable, SharedError::Full, SharedError::Damaged] {
                metrics.failures.with_label_values(&[operation, error.reason()]);
            }
        }
        metrics
    }

    /// Counts an operation. `took` is `None` where nothing was sent.
    pub(super) fn count<T>(&self, operation: Operation, took: Option<Duration>, done: &Result<T, SharedError>) {
        let operation: &str = operation.into();
        self.operations.with_label_values(&[operation]).inc();
        if let Err(error) = done {
            self.failures.with_label_values(&[operation, error.reason()]).inc();
        }
        if let Some(took) = took {
            self.seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
        }
    }
}
