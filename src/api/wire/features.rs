//! The fields that say how a model looks at an image. Several bodies have them, each described in its own words.

/// Returns these fields of a body as the engine takes them.
macro_rules! feature_fields {
    ($body:ident) => {
        $crate::engine::FeatureFields {
            model: $body.model,
            protocol: $body.protocol,
            attention: $body.attention.map(Into::into),
            key_smoothing: $body.key_smoothing.map(Into::into),
            short_side: $body.short_side,
            scales: $body.scales,
            orientation: $body.orientation.map(Into::into),
            resize: $body.resize.map(Into::into),
            window: $body.window.map(Into::into),
            deadline_seconds: $body.deadline_seconds,
        }
    };
}

pub(in crate::api) use feature_fields;
