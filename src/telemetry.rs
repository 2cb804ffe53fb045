//! Logs and metrics: the tracing subscriber and the Prometheus registry.
//!
//! Owns every metric's name, labels and help text; others call the methods of [`Metrics`] and never
//! see a label string. All label sets exist from the start, those of a model from when it is declared, so that a rate over
//! them is never undefined.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, TelemetryConfig};
use crate::engine::{FeatureCache, HeldImages, ModelInfo};
use crate::vocabulary::EmbeddingStore;

/// The parts of a request's time, in the order they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Bytes to pixels.
    Decode,
    /// Resize and normalisation.
    Preprocess,
    /// Text embeddings that were not held yet.
    Text,
    /// Waiting for a worker.
    Queue,
    /// The visual tower and the scores.
    Model,
    /// Scores to labels at image size.
    LabelMap,
    /// Writing the label map and the confidence map.
    Encode,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 7] = [
        Self::Decode,
        Self::Preprocess,
        Self::Text,
        Self::Queue,
        Self::Model,
        Self::LabelMap,
        Self::Encode,
    ];

    /// The name in metrics, and with `_seconds` behind it in a reply's timings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Preprocess => "preprocess",
            Self::Text => "text",
            Self::Queue => "queue",
            Self::Model => "model",
            Self::LabelMap => "label_map",
            Self::Encode => "encode",
        }
    }
}

/// The server's metrics. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    http_requests: IntCounterVec,
    http_request_seconds: HistogramVec,
    stage_seconds: HistogramVec,
    pass_images: HistogramVec,
    model_info: IntGaugeVec,
    queue_depth: IntGaugeVec,
    workers_live: IntGaugeVec,
    /// Requests the engine holds, waiting or running.
    pub requests_in_flight: IntGauge,
}

/// Upper bounds in seconds, from a cached PNG to a cold vocabulary.
const SECONDS_BUCKETS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

/// Upper bounds of images that share a pass.
const PASS_BUCKETS: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];

impl Metrics {
    /// A registry of its own with every metric in it.
    pub fn new() -> Self {
        let registry = Registry::new();
        let metrics = Self {
            http_requests: IntCounterVec::new(
                Opts::new("maskclip_http_requests_total", "HTTP requests answered."),
                &["route", "method", "status"],
            )
            .expect("the metric's definition is constant"),
            http_request_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "maskclip_http_request_seconds",
                    "Seconds from a request's head to its reply's head.",
                )
                .buckets(SECONDS_BUCKETS.to_vec()),
                &["route"],
            )
            .expect("the metric's definition is constant"),
            stage_seconds: HistogramVec::new(
                HistogramOpts::new("maskclip_stage_seconds", "Seconds per stage of a segmentation request.")
                    .buckets(SECONDS_BUCKETS.to_vec()),
                &["model", "stage"],
            )
            .expect("the metric's definition is constant"),
            pass_images: HistogramVec::new(
                HistogramOpts::new("maskclip_pass_images", "Images that passed through a model together.")
                    .buckets(PASS_BUCKETS.to_vec()),
                &["model"],
            )
            .expect("the metric's definition is constant"),
            model_info: IntGaugeVec::new(
                Opts::new("maskclip_model_info", "1 for each loaded model."),
                &["model", "architecture", "weights_sha256", "precision", "device"],
            )
            .expect("the metric's definition is constant"),
            queue_depth: gauge_per_model("maskclip_queue_depth", "Jobs waiting for a worker."),
            requests_in_flight: gauge(
                "maskclip_requests_in_flight",
                "Requests the engine holds, waiting or running.",
            ),
            workers_live: gauge_per_model("maskclip_workers_live", "Worker threads with a warm model."),
            registry,
        };
        let build_info = IntGaugeVec::new(
            Opts::new("maskclip_build_info", "1 for the running build."),
            &["version", "commit"],
        )
        .expect("the metric's definition is constant");
        build_info.with_label_values(&[crate::VERSION, crate::COMMIT]).set(1);
        let collectors: [Box<dyn Collector>; 9] = [
            Box::new(metrics.http_requests.clone()),
            Box::new(metrics.http_request_seconds.clone()),
            Box::new(metrics.stage_seconds.clone()),
            Box::new(metrics.pass_images.clone()),
            Box::new(metrics.model_info.clone()),
            Box::new(metrics.queue_depth.clone()),
            Box::new(metrics.requests_in_flight.clone()),
            Box::new(metrics.workers_live.clone()),
            Box::new(build_info),
        ];
        for collector in collectors {
            metrics
                .registry
                .register(collector)
                .expect("every metric has a name of its own");
        }
        metrics
    }

    /// Shows what a text-embedding store does and holds. Once per registry.
    pub fn watch_store(&self, store: Arc<EmbeddingStore>) {
        self.registry
            .register(Box::new(StoreCollector::new(store)))
            .expect("one store is watched");
    }

    /// Shows what is kept of images. Once per registry.
    pub(crate) fn watch_images(&self, features: Arc<FeatureCache>, images: Arc<HeldImages>) {
        self.registry
            .register(Box::new(ImagesCollector::new(features, images)))
            .expect("one set of images is watched");
    }

    /// Makes a model's label sets exist at 0.
    pub fn declare_model(&self, model: &str) {
        for stage in Stage::ALL {
            self.stage_seconds.with_label_values(&[model, stage.name()]);
        }
        self.pass_images.with_label_values(&[model]);
        self.queue_depth(model);
        self.workers_live(model);
    }

    /// Jobs waiting for a worker of a model.
    pub fn queue_depth(&self, model: &str) -> IntGauge {
        self.queue_depth.with_label_values(&[model])
    }

    /// Worker threads with a warm model.
    pub fn workers_live(&self, model: &str) -> IntGauge {
        self.workers_live.with_label_values(&[model])
    }

    /// Makes the label set of a route's status exist at 0.
    pub fn declare_http(&self, route: &str, method: &str, status: u16) {
        self.http_requests
            .with_label_values(&[route, method, &status.to_string()]);
        self.http_request_seconds.with_label_values(&[route]);
    }

    /// Counts an answered request.
    pub fn http_request(&self, route: &str, method: &str, status: u16, elapsed: Duration) {
        self.http_requests
            .with_label_values(&[route, method, &status.to_string()])
            .inc();
        self.http_request_seconds
            .with_label_values(&[route])
            .observe(elapsed.as_secs_f64());
    }

    /// Records the seconds one request to a model spent in one stage.
    pub fn stage(&self, model: &str, stage: Stage, elapsed: Duration) {
        self.stage_seconds
            .with_label_values(&[model, stage.name()])
            .observe(elapsed.as_secs_f64());
    }

    /// Records how many images passed through a model together.
    pub fn pass(&self, model: &str, images: usize) {
        self.pass_images.with_label_values(&[model]).observe(images as f64);
    }

    /// Says that a model is loaded. Loaded anew it is the same.
    pub fn model_loaded(&self, model: &ModelInfo) {
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

    /// All metrics in Prometheus' text format 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory does not fail");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("the metric's definition is constant")
}

fn gauge_per_model(name: &str, help: &str) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name, help), &["model"]).expect("the metric's definition is constant")
}

/// Reads a store's own counts whenever metrics are gathered, so that they are kept in one place.
struct StoreCollector {
    store: Arc<EmbeddingStore>,
    hits: Desc,
    disk_hits: Desc,
    misses: Desc,
    bytes: Desc,
    disk_bytes: Desc,
}

impl StoreCollector {
    fn new(store: Arc<EmbeddingStore>) -> Self {
        Self {
            store,
            hits: describe("maskclip_vocabulary_hits_total", "Text embeddings served from memory."),
            disk_hits: describe(
                "maskclip_vocabulary_disk_hits_total",
                "Text embeddings read from the store on disk.",
            ),
            misses: describe(
                "maskclip_vocabulary_misses_total",
                "Text embeddings that had to be computed.",
            ),
            bytes: describe("maskclip_vocabulary_bytes", "Bytes of text embeddings held in memory."),
            disk_bytes: describe("maskclip_vocabulary_disk_bytes", "Bytes of the store on disk."),
        }
    }
}

impl Collector for StoreCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.hits, &self.disk_hits, &self.misses, &self.bytes, &self.disk_bytes]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let statistics = self.store.statistics();
        [
            counter(&self.hits, statistics.hits),
            counter(&self.disk_hits, statistics.disk_hits),
            counter(&self.misses, statistics.misses),
            level(&self.bytes, statistics.bytes),
            level(&self.disk_bytes, statistics.disk_bytes),
        ]
        .concat()
    }
}

/// Reads what is kept of images whenever metrics are gathered.
struct ImagesCollector {
    features: Arc<FeatureCache>,
    images: Arc<HeldImages>,
    hits: Desc,
    misses: Desc,
    feature_bytes: Desc,
    feature_entries: Desc,
    held_images: Desc,
    held_image_bytes: Desc,
}

impl ImagesCollector {
    fn new(features: Arc<FeatureCache>, images: Arc<HeldImages>) -> Self {
        Self {
            features,
            images,
            hits: describe(
                "maskclip_feature_hits_total",
                "Images whose features were held, so that the model did not look at them.",
            ),
            misses: describe(
                "maskclip_feature_misses_total",
                "Images whose features were not held, while any are kept.",
            ),
            feature_bytes: describe("maskclip_feature_bytes", "Bytes of image features held in memory."),
            feature_entries: describe(
                "maskclip_feature_entries",
                "Images whose features are held, each as often as it was looked at in another way.",
            ),
            held_images: describe("maskclip_held_images", "Encoded images held for requests to come."),
            held_image_bytes: describe("maskclip_held_image_bytes", "Bytes of these."),
        }
    }
}

impl Collector for ImagesCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![
            &self.hits,
            &self.misses,
            &self.feature_bytes,
            &self.feature_entries,
            &self.held_images,
            &self.held_image_bytes,
        ]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (features, images) = (self.features.statistics(), self.images.statistics(Instant::now()));
        [
            counter(&self.hits, features.hits),
            counter(&self.misses, features.misses),
            level(&self.feature_bytes, features.bytes),
            level(&self.feature_entries, features.entries as u64),
            level(&self.held_images, images.images as u64),
            level(&self.held_image_bytes, images.bytes),
        ]
        .concat()
    }
}

fn describe(name: &str, help: &str) -> Desc {
    Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new())
        .expect("the metric's definition is constant")
}

/// A counter at a value that is counted elsewhere.
fn counter(description: &Desc, value: u64) -> Vec<MetricFamily> {
    let counter = IntCounter::new(&description.fq_name, &description.help).expect("described before");
    counter.inc_by(value);
    counter.collect()
}

/// A gauge at a value that is kept elsewhere.
fn level(description: &Desc, value: u64) -> Vec<MetricFamily> {
    let level = gauge(&description.fq_name, &description.help);
    level.set(i64::try_from(value).unwrap_or(i64::MAX));
    level.collect()
}

/// Starts writing logs to standard error. Called once, by the binary.
///
/// # Errors
/// When `log_filter` is not a tracing filter.
pub fn start_logs(config: &TelemetryConfig) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::builder().parse(&config.log_filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => registry.with(layer).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_exist_from_the_start() {
        let metrics = Metrics::new();
        metrics.watch_store(EmbeddingStore::new(0, None));
        let images = Arc::new(HeldImages::new(0, Duration::ZERO));
        metrics.watch_images(Arc::new(FeatureCache::new(0)), images);
        metrics.declare_model("demo");
        let text = metrics.render();
        for stage in Stage::ALL {
            assert!(
                text.contains(&format!(
                    "maskclip_stage_seconds_count{{model=\"demo\",stage=\"{}\"}} 0",
                    stage.name()
                )),
                "{text}"
            );
        }
        for name in [
            "maskclip_queue_depth{model=\"demo\"} 0",
            "maskclip_vocabulary_misses_total 0",
            "maskclip_vocabulary_disk_hits_total 0",
            "maskclip_vocabulary_disk_bytes 0",
            "maskclip_workers_live{model=\"demo\"} 0",
            "maskclip_feature_hits_total 0",
            "maskclip_feature_misses_total 0",
            "maskclip_feature_bytes 0",
            "maskclip_feature_entries 0",
            "maskclip_held_images 0",
            "maskclip_held_image_bytes 0",
        ] {
            assert!(text.contains(name), "{name} is missing from\n{text}");
        }
    }

    #[test]
    fn requests_are_counted_by_route_method_and_status() {
        let metrics = Metrics::new();
        metrics.declare_http("/v1/segment", "POST", 429);
        metrics.http_request("/v1/segment", "POST", 200, Duration::from_millis(3));
        let text = metrics.render();
        assert!(text.contains(r#"maskclip_http_requests_total{method="POST",route="/v1/segment",status="200"} 1"#));
        assert!(text.contains(r#"maskclip_http_requests_total{method="POST",route="/v1/segment",status="429"} 0"#));
    }
}
