//! Log lines: the settings of the room and the subscriber that writes them.

use std::backtrace::Backtrace;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::otlp::OtlpSettings;
use crate::support::OutOfRange;

/// The settings of logs, traces and metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySettings {
    /// A filter of the tracing crate, such as `info,maskclip=debug`.
    pub log_filter: String,
    /// The form of the log lines.
    pub log_format: LogFormat,
    /// The collector of traces and metrics.
    pub otlp: OtlpSettings,
}

impl TelemetrySettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        self.otlp.check()
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people to read.
    Text,
    /// One JSON object per line.
    Json,
}

/// Whether logs are JSON, from the moment they are written.
static IS_JSON: OnceLock<bool> = OnceLock::new();

/// Whether the program writes logs, and all of them as JSON. Whatever else it prints must be no text between them then.
pub fn writes_json() -> bool {
    IS_JSON.get().copied().unwrap_or(false)
}

/// Starts to write logs to standard error, messages of panics among them. The program calls this function once.
///
/// # Errors
/// Fails when `log_filter` is not a filter of the tracing crate.
pub fn start_logs(settings: &TelemetrySettings) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::builder().parse(&settings.log_filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.log_format {
        LogFormat::Text => registry.with(layer).init(),
        // The span of a request is the only one, so a list of spans would repeat it.
        LogFormat::Json => registry
            .with(layer.json().flatten_event(true).with_span_list(false))
            .init(),
    }
    let _ = IS_JSON.set(settings.log_format == LogFormat::Json);
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Writes a panic as one line of the log. The rest of its message, such as libtorch's call stack, is for the level
/// debug. Whoever catches the panic says what came of it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let location = panic.location().map(ToString::to_string);
    let message = panic.payload_as_str().unwrap_or("a panic without a message");
    tracing::error!(thread, location, message = first_line(message), "a thread panicked");
    let backtrace = Backtrace::capture();
    tracing::debug!(thread, message, %backtrace, "the whole message of the panic");
}

/// Returns the first line of a message. libtorch puts its call stack below the first line. In the message of a panic
/// over a `Result`, line breaks are escaped, and the first words name only the panic's kind.
pub(crate) fn first_line(message: &str) -> &str {
    let reason = message
        .strip_prefix("called `Result::unwrap()` on an `Err` value: ")
        .unwrap_or(message);
    let ends = [reason.find('\n'), reason.find("\\n")];
    let end = ends.into_iter().flatten().min().unwrap_or(reason.len());
    reason[..end].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_leaves_out_call_stacks() {
        assert_eq!(first_line("as it stands"), "as it stands");
        assert_eq!(first_line("too large\nException raised from f\nframe #0"), "too large");
        let of_a_result = "called `Result::unwrap()` on an `Err` value: Torch(\"too large\\nframe #0\")";
        assert_eq!(first_line(of_a_result), "Torch(\"too large");
    }
}
