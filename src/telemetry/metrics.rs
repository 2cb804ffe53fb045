//! The registry of metrics, and the helpers with which rooms register theirs.

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Upper bounds of the buckets of histograms in seconds. They range from a cached PNG to a cold vocabulary.
const SECONDS_BUCKETS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

/// All metrics of a server. Clones share one registry.
#[derive(Debug, Clone)]
pub struct MetricsRegistry(Registry);

impl MetricsRegistry {
    /// Creates a registry that holds only the metrics of the build and the process.
    pub fn new() -> Self {
        let registry = Self(Registry::new());
        let build_info = registry.gauges(
            "maskclip_build_info",
            "1 for the running build.",
            &["version", "commit"],
        );
        build_info.with_label_values(&[crate::VERSION, crate::COMMIT]).set(1);
        registry.register(Box::new(ProcessCollector::for_self()));
        registry
    }

    /// Adds a collector to the registry.
    ///
    /// # Panics
    /// Panics when one of the collector's metrics is registered already.
    pub fn register(&self, collector: Box<dyn Collector>) {
        self.0
            .register(collector)
            .expect("every metric has a name of its own and is registered once");
    }

    /// Creates and registers a gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect("the metric's definition is constant");
        self.register(Box::new(gauge.clone()));
        gauge
    }

    /// Creates and registers a gauge with labels.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect("the metric's definition is constant");
        self.register(Box::new(gauges.clone()));
        gauges
    }

    /// Creates and registers a counter.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect("the metric's definition is constant");
        self.register(Box::new(counter.clone()));
        counter
    }

    /// Creates and registers a counter with labels.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("the metric's definition is constant");
        self.register(Box::new(counters.clone()));
        counters
    }

    /// Creates and registers a histogram of seconds with labels.
    pub fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.histograms(name, help, labels, &SECONDS_BUCKETS)
    }

    /// Creates and registers a histogram with labels and the given upper bounds of buckets.
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histograms = HistogramVec::new(options, labels).expect("the metric's definition is constant");
        self.register(Box::new(histograms.clone()));
        histograms
    }

    /// Returns all metrics with their values.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.0.gather()
    }

    /// Returns all metrics in Prometheus' text format 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.gather(), &mut text)
            .expect("writing to memory does not fail");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

impl Default for MetricsRegistry {
    fn default() -> Self {
        Self::new()
    }
}

/// One metric without labels. Its value is kept elsewhere and read whenever metrics are gathered.
#[derive(Debug)]
pub enum Reading {
    /// A count that only grows: its name, help text and value.
    Counter(&'static str, &'static str, u64),
    /// A value that rises and falls: its name, help text and value.
    Gauge(&'static str, &'static str, u64),
}

/// A collector that reads values kept elsewhere, so that no value is kept twice.
pub struct Readings<F> {
    descriptions: Vec<Desc>,
    read: F,
}

impl<F: Fn() -> Vec<Reading>> Readings<F> {
    /// Creates a collector that calls `read` whenever metrics are gathered. Each call of `read` must return the same
    /// metrics.
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
                let counter = IntCounter::new(name, help).expect("the metric's definition is constant");
                counter.inc_by(value);
                counter.collect()
            }
            Reading::Gauge(name, help, value) => {
                let gauge = IntGauge::new(name, help).expect("the metric's definition is constant");
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.collect()
            }
        };
        (self.read)().into_iter().flat_map(families).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_tells_of_the_build_and_the_process() {
        let text = MetricsRegistry::new().render();
        for name in [
            "maskclip_build_info{",
            "process_cpu_seconds_total ",
            "process_open_fds ",
            "process_max_fds ",
            "process_resident_memory_bytes ",
            "process_start_time_seconds ",
            "process_threads ",
            "process_virtual_memory_bytes ",
        ] {
            assert!(
                text.lines().any(|line| line.starts_with(name)),
                "{name} is not in\n{text}"
            );
        }
    }
}
