//! The engine's metrics: stages, passes, queues, workers, refusals, budgets, cached features and held images.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};
use strum::{IntoStaticStr, VariantArray};

use super::Stage;
use super::budget::Budget;
use super::features::FeatureCache;
use super::images::HeldImages;
use super::request::EngineError;
use crate::labeller::ModelInfo;
use crate::telemetry::{MetricsRegistry, Reading, Readings};

/// Upper bounds of the histogram buckets for the number of images that share a pass.
const PASS_BUCKETS: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];

/// What attempts to load a model again come to, as a label.
const RELOAD_OUTCOMES: [&str; 2] = ["failed", "succeeded"];

/// The engine's counters and timers. Clones share their values.
#[derive(Debug, Clone)]
pub(super) struct EngineMetrics {
    stage_seconds: HistogramVec,
    pass_images: HistogramVec,
    model_info: IntGaugeVec,
    queue_depth: IntGaugeVec,
    workers_live: IntGaugeVec,
    worker_panics: IntCounterVec,
    model_reloads: IntCounterVec,
    /// Requests in the engine, waiting or running.
    pub(super) requests_in_flight: IntGauge,
    /// Requests that the engine may hold.
    pub(super) requests_capacity: IntGauge,
    refusals: IntCounterVec,
}

/// Why a request was refused that a quieter server would have answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Refusal {
    /// All slots are taken.
    Slots,
    /// The caller has its share of the slots.
    Share,
    /// There is no room for the request's body.
    BodyBytes,
    /// More texts would wait to be embedded than may.
    WaitingTexts,
    /// The deadline would pass before the answer, by the times measured so far.
    Deadline,
    /// The server goes down.
    Draining,
    /// The model is not ready.
    Model,
}

impl Refusal {
    fn name(self) -> &'static str {
        self.into()
    }

    /// Returns why a request was refused, or `None` if its error is none of the server's load or state.
    pub(super) fn of(error: &EngineError) -> Option<Self> {
        match error {
            EngineError::Overloaded { .. } => Some(Self::Slots),
            EngineError::ShareTaken { .. } => Some(Self::Share),
            EngineError::BodyBytes { .. } => Some(Self::BodyBytes),
            EngineError::TooManyTexts { .. } => Some(Self::WaitingTexts),
            EngineError::TooManyNewTexts { .. } | EngineError::TooMuchWork { .. } | EngineError::TooBusy { .. } => {
                Some(Self::Deadline)
            }
            EngineError::Unavailable(_) => Some(Self::Draining),
            EngineError::ModelUnavailable { .. } => Some(Self::Model),
            _ => None,
        }
    }
}

impl EngineMetrics {
    /// Creates the engine's metrics in a registry that holds no other engine's.
    pub(super) fn new(registry: &MetricsRegistry) -> Self {
        Self {
            stage_seconds: registry.seconds(
                "maskclip_stage_seconds",
                "Seconds per stage of a segmentation request.",
                &["model", "stage"],
            ),
            pass_images: registry.histograms(
                "maskclip_pass_images",
                "Images that passed through a model together.",
                &["model"],
                &PASS_BUCKETS,
            ),
            model_info: registry.gauges(
                "maskclip_model_info",
                "1 for each loaded model.",
                &["model", "architecture", "weights_sha256", "precision", "device"],
            ),
            queue_depth: registry.gauges("maskclip_queue_depth", "Jobs waiting for a worker.", &["model"]),
            workers_live: registry.gauges("maskclip_workers_live", "Worker threads with a warm model.", &["model"]),
            worker_panics: registry.counters(
                "maskclip_worker_panics_total",
                "Panics of a model over a job or over a pass that several images shared.",
                &["model"],
            ),
            model_reloads: registry.counters(
                "maskclip_model_reloads_total",
                "Attempts to load a model again after a panic or a failed attempt.",
                &["model", "outcome"],
            ),
            requests_in_flight: registry.gauge(
                "maskclip_requests_in_flight",
                "Requests the engine holds, waiting or running.",
            ),
            requests_capacity: registry.gauge(
                "maskclip_requests_capacity",
                "Requests the engine may hold (engine.queue_capacity).",
            ),
            refusals: registry.counters(
                "maskclip_refusals_total",
                "Requests refused for the server's load or state, by reason.",
                &["reason"],
            ),
        }
        .declare_refusals()
    }

    /// Makes the counter of every reason exist from the start.
    fn declare_refusals(self) -> Self {
        for &refusal in Refusal::VARIANTS {
            self.refusals.with_label_values(&[refusal.name()]);
        }
        self
    }

    /// Counts a refusal.
    pub(super) fn refused(&self, refusal: Refusal) {
        self.refusals.with_label_values(&[refusal.name()]).inc();
    }

    /// Creates all label sets of a model with the value 0.
    pub(super) fn declare_model(&self, model: &str) {
        for &stage in Stage::VARIANTS {
            self.stage_seconds.with_label_values(&[model, stage.name()]);
        }
        self.pass_images.with_label_values(&[model]);
        self.queue_depth(model);
        self.workers_live(model);
        self.worker_panics.with_label_values(&[model]);
        for outcome in RELOAD_OUTCOMES {
            self.model_reloads.with_label_values(&[model, outcome]);
        }
    }

    /// Counts a panic of a model.
    pub(super) fn worker_panicked(&self, model: &str) {
        self.worker_panics.with_label_values(&[model]).inc();
    }

    /// Counts an attempt to load a model again.
    pub(super) fn reloaded(&self, model: &str, succeeded: bool) {
        let outcome = RELOAD_OUTCOMES[usize::from(succeeded)];
        self.model_reloads.with_label_values(&[model, outcome]).inc();
    }

    /// Returns the gauge of jobs that wait for a worker of a model.
    pub(super) fn queue_depth(&self, model: &str) -> IntGauge {
        self.queue_depth.with_label_values(&[model])
    }

    /// Returns the gauge of a model's worker threads with a warm model.
    pub(super) fn workers_live(&self, model: &str) -> IntGauge {
        self.workers_live.with_label_values(&[model])
    }

    /// Records the time that one request to a model spent in one stage.
    pub(super) fn stage(&self, model: &str, stage: Stage, elapsed: Duration) {
        self.stage_seconds
            .with_label_values(&[model, stage.name()])
            .observe(elapsed.as_secs_f64());
    }

    /// Records how many images passed through a model together.
    pub(super) fn pass(&self, model: &str, images: usize) {
        self.pass_images.with_label_values(&[model]).observe(images as f64);
    }

    /// Sets the information gauge of a loaded model to 1. Loading a model again changes nothing.
    pub(super) fn model_loaded(&self, model: &ModelInfo) {
        self.model_info
            .with_label_values(&[
                model.name.as_str(),
                &model.architecture,
                &model.weights_sha256,
                model.precision.name(),
                &model.device,
            ])
            .set(1);
    }
}

/// Registers the metrics of cached features and held images.
pub(super) fn register_images(registry: &MetricsRegistry, features: &Arc<FeatureCache>, images: &Arc<HeldImages>) {
    let (features, images) = (Arc::clone(features), Arc::clone(images));
    registry.register(Box::new(Readings::new(move || {
        let (features, images) = (features.statistics(), images.statistics(Instant::now()));
        vec![
            Reading::Counter(
                "maskclip_feature_hits_total",
                "Images whose features were held, so that the model did not look at them.",
                features.hits,
            ),
            Reading::Counter(
                "maskclip_feature_misses_total",
                "Images whose features were not held, while any are kept.",
                features.misses,
            ),
            Reading::Gauge(
                "maskclip_feature_bytes",
                "Bytes of image features held in memory.",
                features.bytes,
            ),
            Reading::Gauge(
                "maskclip_feature_entries",
                "Feature entries held in memory: an image has one for each set of options it was computed with.",
                features.entries as u64,
            ),
            Reading::Gauge(
                "maskclip_held_images",
                "Encoded images held for requests to come.",
                images.images as u64,
            ),
            Reading::Gauge(
                "maskclip_held_image_bytes",
                "Bytes of encoded images held for requests to come.",
                images.bytes,
            ),
        ]
    })));
}

/// Registers the gauges of the budgets in bytes.
pub(super) fn register_budgets(registry: &MetricsRegistry, bodies: &Arc<Budget>, work: &Arc<Budget>) {
    let (bodies, work) = (Arc::clone(bodies), Arc::clone(work));
    registry.register(Box::new(Readings::new(move || {
        vec![
            Reading::Gauge(
                "maskclip_body_bytes",
                "Bytes of request bodies that are being read or worked on.",
                bodies.bytes().saturating_sub(bodies.free_bytes()),
            ),
            Reading::Gauge(
                "maskclip_body_bytes_capacity",
                "Bytes for request bodies (engine.body_bytes).",
                bodies.bytes(),
            ),
            Reading::Gauge(
                "maskclip_work_bytes",
                "Bytes that requests have reserved for pixels, scores, label maps and replies.",
                work.bytes().saturating_sub(work.free_bytes()),
            ),
            Reading::Gauge(
                "maskclip_work_bytes_capacity",
                "Bytes for the work on requests (engine.work_bytes).",
                work.bytes(),
            ),
        ]
    })));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_exist_from_the_start() {
        let registry = MetricsRegistry::new();
        let metrics = EngineMetrics::new(&registry);
        let images = Arc::new(HeldImages::new(0, Duration::ZERO));
        register_images(&registry, &Arc::new(FeatureCache::new(0)), &images);
        let [bodies, work] = [2048, 4096].map(|bytes| Arc::new(Budget::new(bytes)));
        let held = work.empty();
        assert!(held.try_grow(1024));
        register_budgets(&registry, &bodies, &work);
        metrics.declare_model("demo");
        let text = registry.render();
        for &stage in Stage::VARIANTS {
            let stage = stage.name();
            let name = format!("maskclip_stage_seconds_count{{model=\"demo\",stage=\"{stage}\"}} 0");
            assert!(text.contains(&name), "{text}");
        }
        for name in [
            "maskclip_queue_depth{model=\"demo\"} 0",
            "maskclip_workers_live{model=\"demo\"} 0",
            "maskclip_worker_panics_total{model=\"demo\"} 0",
            "maskclip_model_reloads_total{model=\"demo\",outcome=\"failed\"} 0",
            "maskclip_model_reloads_total{model=\"demo\",outcome=\"succeeded\"} 0",
            "maskclip_feature_hits_total 0",
            "maskclip_feature_misses_total 0",
            "maskclip_feature_bytes 0",
            "maskclip_feature_entries 0",
            "maskclip_held_images 0",
            "maskclip_held_image_bytes 0",
            "maskclip_body_bytes 0",
            "maskclip_body_bytes_capacity 2048",
            "maskclip_work_bytes 1024",
            "maskclip_work_bytes_capacity 4096",
            "maskclip_requests_capacity 0",
            "maskclip_refusals_total{reason=\"slots\"} 0",
            "maskclip_refusals_total{reason=\"share\"} 0",
            "maskclip_refusals_total{reason=\"body_bytes\"} 0",
            "maskclip_refusals_total{reason=\"waiting_texts\"} 0",
            "maskclip_refusals_total{reason=\"deadline\"} 0",
            "maskclip_refusals_total{reason=\"draining\"} 0",
            "maskclip_refusals_total{reason=\"model\"} 0",
        ] {
            assert!(text.contains(name), "{name} is missing from\n{text}");
        }
    }
}
