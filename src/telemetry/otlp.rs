//! OTLP, the protocol of OpenTelemetry's collectors: its settings, and the way of a message to the collector.
//!
//! Messages are protobuf over HTTP. [`traces`](super::traces) and [`push`](super::push) say what they hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::support::{OutOfRange, PrivateUrl, in_range};

/// The longest time that the collector may take for one message.
pub(super) const SEND_LIMIT: Duration = Duration::from_secs(3);

/// The settings of OTLP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpSettings {
    /// The collector's address, as in `http://127.0.0.1:4318`; `None` sends nothing.
    pub endpoint: Option<PrivateUrl>,
    /// Headers of each message, such as a key of the collector's.
    pub headers: BTreeMap<String, String>,
    /// The share of traces that are sent, 0 to 1, of those that begin here. Callers decide on theirs.
    pub sample_ratio: f64,
    /// Seconds between two messages of metrics. 0 sends none.
    pub metrics_seconds: f64,
}

impl OtlpSettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        if let Some(endpoint) = &self.endpoint {
            let whole = endpoint.whole();
            let is_http = matches!(whole.scheme(), "http" | "https");
            // Paths are added to its end.
            let is_usable = is_http && whole.query().is_none() && whole.fragment().is_none();
            let range = "an http or https address that ends with its path";
            in_range("telemetry.otlp.endpoint", is_usable, endpoint, range)?;
        }
        for (name, value) in &self.headers {
            let is_header =
                ureq::http::HeaderName::try_from(name).is_ok() && ureq::http::HeaderValue::try_from(value).is_ok();
            // The value may be a key.
            in_range(
                "telemetry.otlp.headers",
                is_header,
                name,
                "names and values of HTTP headers",
            )?;
        }
        let ratio = self.sample_ratio;
        in_range(
            "telemetry.otlp.sample_ratio",
            (0.0..=1.0).contains(&ratio),
            ratio,
            "0 to 1",
        )?;
        let seconds = self.metrics_seconds;
        let is_interval = seconds == 0.0 || (0.1..=86400.0).contains(&seconds);
        in_range(
            "telemetry.otlp.metrics_seconds",
            is_interval,
            seconds,
            "0, or 0.1 to 86400",
        )
    }
}

/// What sends the telemetry, for the collector.
pub(super) fn resource() -> Resource {
    Resource::builder()
        .with_service_name("maskclip")
        .with_attribute(KeyValue::new("service.version", crate::VERSION))
        .build()
}

/// The way to a collector. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Collector {
    agent: ureq::Agent,
    endpoint: String,
    /// The endpoint as the log shows it.
    shown: String,
    headers: BTreeMap<String, String>,
    /// Whether the last message was lost.
    is_failing: Arc<AtomicBool>,
}

impl Collector {
    /// Returns the way to the collector in the settings, if there is one.
    pub(super) fn new(settings: &OtlpSettings) -> Option<Self> {
        let endpoint = settings.endpoint.as_ref()?;
        // Another address would get the headers, which may hold a key. A redirect is a failure, as every other status is.
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(SEND_LIMIT))
            .max_redirects(0);
        Some(Self {
            agent: config.build().into(),
            endpoint: without_slash(endpoint.whole().as_str()),
            shown: without_slash(&endpoint.to_string()),
            headers: settings.headers.clone(),
            is_failing: Arc::default(),
        })
    }

    /// Sends a message to a path below the endpoint. Blocks. A message that does not arrive is lost: telemetry that
    /// waits would take memory for as long as the collector is away. The log says so at the first of them, and when it
    /// is over.
    pub(super) fn send(&self, path: &str, message: &impl Message) -> Result<(), String> {
        let whole = format!("{}{path}", self.endpoint);
        let mut request = self.agent.post(&whole).content_type("application/x-protobuf");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let sent = request
            .send(&message.encode_to_vec())
            .map_err(|error| error.to_string())
            .and_then(|reply| match reply.status() {
                status if status.is_success() => Ok(()),
                status => Err(format!("http status: {status}")),
            });
        let was_failing = self.is_failing.swap(sent.is_err(), Ordering::Relaxed);
        let url = format!("{}{path}", self.shown);
        match &sent {
            Err(error) if !was_failing => {
                tracing::warn!(
                    url,
                    error,
                    "the collector takes no telemetry; what is meant for it is lost"
                );
            }
            Ok(()) if was_failing => tracing::info!(url, "the collector takes telemetry again"),
            _ => {}
        }
        sent
    }
}

fn without_slash(address: &str) -> String {
    address.trim_end_matches('/').to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Seek};
    use std::net::TcpListener;

    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

    use super::*;

    fn settings(endpoint: &str) -> OtlpSettings {
        OtlpSettings {
            endpoint: Some(endpoint.parse().unwrap()),
            headers: BTreeMap::new(),
            sample_ratio: 1.0,
            metrics_seconds: 60.0,
        }
    }

    #[test]
    fn an_endpoint_is_an_address_of_http_to_which_paths_can_be_added() {
        for endpoint in ["http://127.0.0.1:4318", "https://user:secret@collector.example/otlp/"] {
            assert_eq!(settings(endpoint).check(), Ok(()), "{endpoint}");
        }
        for endpoint in [
            "grpc://collector",
            "http://collector?token=secret",
            "http://collector/#secret",
            "ftp://user:secret@collector",
        ] {
            let error = settings(endpoint).check().unwrap_err();
            assert_eq!(error.key, "telemetry.otlp.endpoint", "{endpoint}");
            assert!(
                !error.to_string().contains("token") && !error.to_string().contains("user:secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_log_says_which_collector_is_away_without_its_password() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        drop(taken);
        let collector = Collector::new(&settings(&format!("http://user:secret@{address}/otlp/"))).unwrap();
        let mut log = tempfile::tempfile().unwrap();
        let writer = Arc::new(log.try_clone().unwrap());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, || {
            let message = ExportTraceServiceRequest::default();
            collector.send("/v1/traces", &message).unwrap_err();
        });
        let mut lines = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut lines).unwrap();
        assert!(
            lines.contains(&format!("url=\"http://user:...@{address}/otlp/v1/traces\"")),
            "{lines}"
        );
        assert!(!lines.contains("secret"), "{lines}");
    }
}
