//! Logs and metrics: the tracing subscriber and the Prometheus registry.
//!
//! Owns how metrics are registered and written. Each room defines and registers its own metrics. All sets of labels
//! exist from the start, so that a rate over them is never undefined.

mod logs;
mod metrics;

pub(crate) use logs::first_line;
pub use logs::{LogFormat, TelemetrySettings, start_logs, writes_json};
pub use metrics::{MetricsRegistry, Reading, Readings};
