//! Metrics by OTLP: the same that Prometheus scrapes, sent to a collector again and again.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::proto::{LabelPair, MetricFamily, MetricType};

use super::metrics::MetricsRegistry;
use super::otlp::{Collector, OtlpSettings, resource};

/// Sends metrics until it is ended.
#[derive(Debug)]
pub struct MetricsPush {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl MetricsPush {
    /// Starts to send the metrics of a registry from a thread of its own. `None` where the settings have no collector,
    /// or do not want metrics there.
    pub fn start(settings: &OtlpSettings, metrics: MetricsRegistry) -> Option<Self> {
        let collector = Collector::new(settings).filter(|_| settings.metrics_seconds > 0.0)?;
        let interval = Duration::from_secs_f64(settings.metrics_seconds);
        let (stop, stopped) = mpsc::channel();
        let begin = nanoseconds(SystemTime::now());
        let send = move || {
            loop {
                let is_over = stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout);
                // The collector says in the log that it cannot be reached.
                let _ = collector.send("/v1/metrics", &message(&metrics.gather(), begin));
                if is_over {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("metrics-push".to_owned());
        let thread = thread.spawn(send).expect("a thread can be started");
        Some(Self { stop, thread })
    }

    /// Sends the last values, and ends. Blocks for as long as the collector may take.
    pub fn end(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::warn!("the last metrics were not sent");
        }
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

fn message(families: &[MetricFamily], begin: u64) -> ExportMetricsServiceRequest {
    let now = nanoseconds(SystemTime::now());
    let attributes = resource()
        .iter()
        .map(|(key, value)| attribute(key.as_str(), &value.as_str()))
        .collect();
    let scope = InstrumentationScope {
        name: "maskclip".to_owned(),
        version: crate::VERSION.to_owned(),
        ..Default::default()
    };
    let scope_metrics = ScopeMetrics {
        scope: Some(scope),
        metrics: families.iter().map(|family| converted(family, begin, now)).collect(),
        ..Default::default()
    };
    let resource = Resource {
        attributes,
        ..Default::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![scope_metrics],
            ..Default::default()
        }],
    }
}

/// A metric of Prometheus as one of OTLP, with its name (OpenTelemetry, "Prometheus and OpenMetrics Compatibility").
fn converted(family: &MetricFamily, begin: u64, now: u64) -> Metric {
    let number = |labels: &[LabelPair], value: f64| NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: begin,
        time_unix_nano: now,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..Default::default()
    };
    let cumulative = AggregationTemporality::Cumulative.into();
    let points = family.get_metric().iter();
    let data = match family.get_field_type() {
        MetricType::COUNTER => metric::Data::Sum(Sum {
            data_points: points
                .map(|point| number(point.get_label(), point.get_counter().get_value()))
                .collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        MetricType::HISTOGRAM => metric::Data::Histogram(Histogram {
            data_points: points
                .map(|point| histogram(point.get_label(), point.get_histogram(), begin, now))
                .collect(),
            aggregation_temporality: cumulative,
        }),
        // The rooms register no other kinds.
        MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => metric::Data::Gauge(Gauge {
            data_points: points
                .map(|point| number(point.get_label(), point.get_gauge().get_value()))
                .collect(),
        }),
    };
    Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        unit: unit(family.name()).to_owned(),
        data: Some(data),
        ..Default::default()
    }
}

/// The buckets of Prometheus count everything below their bound; those of OTLP what lies between two bounds.
fn histogram(
    labels: &[LabelPair],
    histogram: &prometheus::proto::Histogram,
    begin: u64,
    now: u64,
) -> HistogramDataPoint {
    let count = histogram.get_sample_count();
    let finite = histogram
        .get_bucket()
        .iter()
        .filter(|bucket| bucket.upper_bound().is_finite());
    let (bounds, below): (Vec<f64>, Vec<u64>) = finite
        .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
        .unzip();
    let mut before = 0;
    let between = below.into_iter().chain([count]).map(|below| {
        let between = below.saturating_sub(before);
        before = below;
        between
    });
    HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: begin,
        time_unix_nano: now,
        count,
        sum: Some(histogram.get_sample_sum()),
        bucket_counts: between.collect(),
        explicit_bounds: bounds,
        ..Default::default()
    }
}

/// The unit that a name ends with, in UCUM.
fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "By"
    } else {
        ""
    }
}

fn attributes(labels: &[LabelPair]) -> Vec<KeyValue> {
    labels
        .iter()
        .map(|label| attribute(label.name(), label.value()))
        .collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue {
        value: Some(Value::StringValue(value.to_owned())),
    };
    KeyValue {
        key: key.to_owned(),
        value: Some(value),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_metric_is_sent_with_its_values() {
        let metrics = MetricsRegistry::new();
        metrics.counter("maskclip_things_total", "Things.").inc_by(3);
        metrics.gauge("maskclip_room_bytes", "Room.").set(-2);
        let seconds = metrics.histograms("maskclip_way_seconds", "Way.", &["route"], &[1.0, 2.0]);
        for value in [0.5, 1.5, 1.7, 9.0] {
            seconds.with_label_values(&["/"]).observe(value);
        }
        let families = metrics.gather();
        let find = |name: &str| {
            let family = families
                .iter()
                .find(|family| family.name() == name)
                .expect("it is registered");
            converted(family, 1, 2)
        };

        let things = find("maskclip_things_total");
        let Some(metric::Data::Sum(sum)) = &things.data else {
            panic!("{things:?}")
        };
        assert!(sum.is_monotonic);
        assert_eq!(sum.data_points[0].value, Some(number_data_point::Value::AsDouble(3.0)));

        let room = find("maskclip_room_bytes");
        let Some(metric::Data::Gauge(gauge)) = &room.data else {
            panic!("{room:?}")
        };
        assert_eq!(
            gauge.data_points[0].value,
            Some(number_data_point::Value::AsDouble(-2.0))
        );
        assert_eq!(room.unit, "By");

        let way = find("maskclip_way_seconds");
        let Some(metric::Data::Histogram(histogram)) = &way.data else {
            panic!("{way:?}")
        };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (4, Some(12.7)));
        assert_eq!(
            (&*point.explicit_bounds, &*point.bucket_counts),
            (&[1.0, 2.0][..], &[1, 2, 1][..])
        );
        assert_eq!(point.attributes, [attribute("route", "/")]);
        assert_eq!((way.unit.as_str(), way.description.as_str()), ("s", "Way."));
    }
}
