//! Logs and metrics: the tracing subscriber and the Prometheus registry.
//!
//! Owns how metrics are registered and written. Which metrics there are is for each room to say, which registers its own. All label
//! sets exist from the start, so that a rate over them is never undefined.

mod logs;
mod metrics;

pub use logs::{LogFormat, TelemetrySettings, start_logs};
pub use metrics::{MetricsRegistry, Reading, Readings};
