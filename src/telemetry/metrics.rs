//! The registry of metrics, and what rooms need to register theirs.

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Upper bounds of histograms of seconds, from a cached PNG to a cold vocabulary.
const SECONDS_BUCKETS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

/// All metrics of a server. A clone is the same registry.
#[derive(Debug, Clone)]
pub struct MetricsRegistry(Registry);

impl MetricsRegistry {
    /// A registry that holds nothing but the build's version.
    pub fn new() -> Self {
        let registry = Self(Registry::new());
        let build_info = registry.gauges(
            "maskclip_build_info",
            "1 for the running build.",
            &["version", "commit"],
        );
        build_info.with_label_values(&[crate::VERSION, crate::COMMIT]).set(1);
        registry
    }

    /// Shows a collector from now on.
    ///
    /// # Panics
    /// When one of its metrics is registered already.
    pub fn register(&self, collector: Box<dyn Collector>) {
        self.0
            .register(collector)
            .expect("every metric has a name of its own and is registered once");
    }

    /// A new gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect("the metric's definition is constant");
        self.register(Box::new(gauge.clone()));
        gauge
    }

    /// A new gauge for each set of labels.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect("the metric's definition is constant");
        self.register(Box::new(gauges.clone()));
        gauges
    }

    /// A new counter for each set of labels.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("the metric's definition is constant");
        self.register(Box::new(counters.clone()));
        counters
    }

    /// A new histogram of seconds for each set of labels.
    pub fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.histograms(name, help, labels, &SECONDS_BUCKETS)
    }

    /// A new histogram for each set of labels, with these upper bounds.
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histograms = HistogramVec::new(options, labels).expect("the metric's definition is constant");
        self.register(Box::new(histograms.clone()));
        histograms
    }

    /// All metrics in Prometheus' text format 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.0.gather(), &mut text)
            .expect("writing to memory does not fail");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

impl Default for MetricsRegistry {
    fn default() -> Self {
        Self::new()
    }
}

/// One metric without labels whose value is kept elsewhere and read whenever metrics are gathered.
#[derive(Debug)]
pub enum Reading {
    /// A count that only grows.
    Counter(&'static str, &'static str, u64),
    /// A value that goes up and down.
    Gauge(&'static str, &'static str, u64),
}

/// A collector of values that are kept elsewhere, so that each is kept in one place.
pub struct Readings<F> {
    descriptions: Vec<Desc>,
    read: F,
}

impl<F: Fn() -> Vec<Reading>> Readings<F> {
    /// A collector that calls `read` whenever metrics are gathered. `read` names the same metrics on every call.
    pub fn new(read: F) -> Self {
        let describe = |reading: Reading| {
            let (Reading::Counter(name, help, _) | Reading::Gauge(name, help, _)) = reading;
            Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new())
                .expect("the metric's definition is constant")
        };
        let descriptions = read().into_iter().map(describe).collect();
        Self { descriptions, read }
    }
}

impl<F: Fn() -> Vec<Reading> + Send + Sync> Collector for Readings<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let families = |reading| match reading {
            Reading::Counter(name, help, value) => {
                let counter = IntCounter::new(name, help).expect("described before");
                counter.inc_by(value);
                counter.collect()
            }
            Reading::Gauge(name, help, value) => {
                let gauge = IntGauge::new(name, help).expect("described before");
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.collect()
            }
        };
        (self.read)().into_iter().flat_map(families).collect()
    }
}
