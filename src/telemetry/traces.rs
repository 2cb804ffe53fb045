//! Traces: a span for each request, with a span for each stage below it, sent to a collector by OTLP.
//!
//! OpenTelemetry's SDK keeps spans and sends them in batches from a thread of its own. Names of attributes are those of
//! its semantic conventions for HTTP servers; what these do not have begins with `maskclip.`.

use std::time::{Duration, SystemTime};

use opentelemetry::context::FutureExt;
use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceContextExt, TraceState, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue, SpanId, TraceFlags, TraceId, Value};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};

use super::otlp::{Collector, OtlpSettings, SEND_LIMIT, resource};

/// Longest `tracestate` that is kept, in characters: as much as the standard wants to be passed on. Every span of a
/// request has a copy, and they wait for the collector.
const MAX_TRACE_STATE: usize = 512;

/// The longest time that a span waits for others before they are sent.
const SEND_AFTER: Duration = Duration::from_secs(1);

/// The traces of a server. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Tracing>);

#[derive(Debug, Clone)]
struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// The tracer of a request, in its context.
struct RequestTracer(SdkTracer);

impl Traces {
    /// Starts to send traces to the collector in the settings. Without one, there are none.
    pub fn start(settings: &OtlpSettings) -> Self {
        let tracing = |collector| {
            let exporter = Exporter {
                collector,
                resource: ResourceAttributesWithSchema::default(),
            };
            let batches = BatchConfigBuilder::default().with_scheduled_delay(SEND_AFTER).build();
            let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
            let new = Sampler::TraceIdRatioBased(settings.sample_ratio);
            let provider = SdkTracerProvider::builder()
                .with_span_processor(processor)
                .with_sampler(Sampler::ParentBased(Box::new(new)))
                .with_resource(resource())
                .build();
            let tracer = provider.tracer("maskclip");
            Tracing { provider, tracer }
        };
        Self(Collector::new(settings).map(tracing))
    }

    /// Whether there is a collector for them.
    pub fn are_sent(&self) -> bool {
        self.0.is_some()
    }

    /// Begins the span of a request. `None` where no traces are sent.
    pub fn begin(
        &self,
        name: String,
        parent: Option<&TraceParent>,
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Option<RequestTrace> {
        let Tracing { tracer, .. } = self.0.as_ref()?;
        let around = match parent {
            Some(TraceParent(parent)) => Context::new().with_remote_span_context(parent.clone()),
            None => Context::new(),
        };
        let attributes = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value));
        let span = tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_attributes(attributes)
            .start_with_context(tracer, &around);
        Some(RequestTrace(
            around.with_span(span).with_value(RequestTracer(tracer.clone())),
        ))
    }

    /// Sends what is left, and ends. Blocks for as long as the collector may take.
    pub fn end(&self) {
        if let Some(Tracing { provider, .. }) = &self.0
            && let Err(error) = provider.shutdown_with_timeout(SEND_LIMIT)
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// The span of a request, around those of its stages.
#[derive(Debug)]
pub struct RequestTrace(Context);

impl RequestTrace {
    /// Returns the id of the trace, 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        self.0.span().span_context().trace_id().to_string()
    }

    /// Returns the span's place in its trace, as in the header `traceparent`.
    pub fn place(&self) -> String {
        let span = self.0.span();
        let place = span.span_context();
        let flags = place.trace_flags().to_u8();
        format!("00-{}-{}-{flags:02x}", place.trace_id(), place.span_id())
    }

    /// Ends the span.
    pub fn end(self, attributes: impl IntoIterator<Item = (&'static str, Value)>, error: Option<&'static str>) {
        let span = self.0.span();
        span.set_attributes(attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)));
        if let Some(error) = error {
            span.set_attribute(KeyValue::new("error.type", error));
            span.set_status(Status::error(error));
        }
        span.end();
    }
}

/// Runs a future within the span of a request, if it has one: what the future notes is in that span.
pub fn within<F: Future>(trace: Option<&RequestTrace>, future: F) -> impl Future<Output = F::Output> + use<F> {
    future.with_context(trace.map_or_else(Context::new, |RequestTrace(context)| context.clone()))
}

/// A caller's place in a trace.
#[derive(Debug, Clone)]
pub struct TraceParent(SpanContext);

impl TraceParent {
    /// Reads the headers of these names (W3C Trace Context, sections 3.2 and 3.3). `None` where the first does not
    /// follow the standard: the SDK's own reader takes fewer digits and a sign, too.
    pub fn read(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let mut parts = traceparent.splitn(5, '-');
        let mut digits = |count| parts.next().filter(|part| are_digits(part, count));
        let (version, trace_id, span_id, flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
        // Later versions may add parts. There is no version 255.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        // Of the flags, the server knows one.
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
        let state = tracestate.filter(|state| state.len() <= MAX_TRACE_STATE);
        let state: Option<TraceState> = state.and_then(|state| state.parse().ok());
        let parent = SpanContext::new(
            TraceId::from_hex(trace_id).ok()?,
            SpanId::from_hex(span_id).ok()?,
            flags,
            true,
            state.unwrap_or_default(),
        );
        parent.is_valid().then_some(Self(parent))
    }

    /// Returns the id of the trace, 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        self.0.trace_id().to_string()
    }
}

/// Whether a text is so many hexadecimal digits, in lower case as the standard has them.
fn are_digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Notes in the log's span of the current request, where that has the field, and in its trace, what a field is.
pub fn note(field: &'static str, value: impl tracing::Value + Into<Value>) {
    tracing::Span::current().record(field, &value);
    Context::map_current(|context| {
        if context.has_active_span() {
            context
                .span()
                .set_attribute(KeyValue::new(format!("maskclip.{field}"), value));
        }
    });
}

/// Notes that a stage of the current request has just ended: its seconds in the log's span, where that has the field,
/// and a span in the trace.
pub fn note_stage(name: &'static str, seconds_field: &'static str, elapsed: Duration) {
    tracing::Span::current().record(seconds_field, elapsed.as_secs_f64());
    Context::map_current(|context| {
        if let Some(RequestTracer(tracer)) = context.get() {
            let now = SystemTime::now();
            let stage = tracer.span_builder(name).with_kind(SpanKind::Internal);
            let stage = stage.with_start_time(now.checked_sub(elapsed).unwrap_or(now));
            let mut stage = stage.start_with_context(tracer, context);
            opentelemetry::trace::Span::end_with_timestamp(&mut stage, now);
        }
    });
}

/// Sends batches of spans. The SDK calls it from its own thread.
#[derive(Debug)]
struct Exporter {
    collector: Collector,
    resource: ResourceAttributesWithSchema,
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let message = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &self.resource),
        };
        let sent = self.collector.send("/v1/traces", &message);
        sent.map_err(OTelSdkError::InternalFailure)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_known_by_its_header_as_the_standard_has_it() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (header, is_valid) in [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e473\"-00f067aa0ba902b7-01", false),
            // All flags are allowed.
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff", true),
            // A later version, which may have more to say.
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            (
                "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-next",
                true,
            ),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-", false),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-next",
                false,
            ),
            // Digits are in lower case, as many as there must be, and nothing else.
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A", false),
            ("0A-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-+0f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e47361-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", false),
            ("0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", false),
            ("", false),
            ("nonsense", false),
        ] {
            let parent = TraceParent::read(header, None);
            let found = parent.map(|parent| parent.trace_id());
            assert_eq!(found.as_deref(), is_valid.then_some(trace), "{header}");
        }
    }

    #[test]
    fn of_what_others_add_to_a_trace_no_more_is_kept_than_the_standard_wants() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let kept = |state: &str| {
            let parent = TraceParent::read(header, Some(state)).expect("the header is valid");
            parent.0.trace_state().header()
        };
        assert_eq!(kept("vendor=value,other=1"), "vendor=value,other=1");
        let longest = format!("vendor={}", "v".repeat(200));
        assert_eq!(kept(&longest), longest);
        let too_long = ["a", "b", "c"].map(|vendor| format!("{vendor}={}", "v".repeat(200)));
        assert_eq!(kept(&too_long.join(",")), "");
        assert_eq!(kept("no list"), "");
    }
}
