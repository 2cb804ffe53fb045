//! Logs, metrics and traces: the tracing subscriber, the Prometheus registry, and OpenTelemetry's collector.
//!
//! Owns how metrics are registered and written. Each room defines and registers its own metrics. All sets of labels
//! exist from the start, so that a rate over them is never undefined.

mod logs;
mod metrics;
mod otlp;
mod push;
mod traces;

pub(crate) use logs::first_line;
pub use logs::{LogFormat, TelemetrySettings, start_logs, writes_json};
pub use metrics::{MetricsRegistry, Reading, Readings};
pub use otlp::OtlpSettings;
pub use push::MetricsPush;
pub use traces::{RequestTrace, TraceParent, Traces, within};
pub(crate) use traces::{note, note_stage};
