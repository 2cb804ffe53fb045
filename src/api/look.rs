//! How a request has a model look at its image: the fields that `POST /v1/segment` and `POST /v1/images` have in common, their
//! checks and what stands in for those that are left out.

use std::time::{Duration, Instant};

use super::error::ApiError;
use super::problem::Limit;
use super::segment::{KeySmoothingBody, WindowBody};
use crate::dense::{Attention, DenseOptions, KeySmoothing};
use crate::engine::{DefaultSettings, EngineSettings, InputLimits, Protocol};
use crate::engine::{InputOptions, SegmentError};
use crate::image::Resize;
use crate::labeller::ModelKind;

/// The fields, as they stand in a request.
pub(super) struct LookFields {
    pub(super) protocol: Option<Protocol>,
    pub(super) attention: Option<Attention>,
    pub(super) key_smoothing: Option<KeySmoothingBody>,
    pub(super) short_side: Option<u32>,
    pub(super) scales: Option<Vec<f64>>,
    pub(super) resize: Option<Resize>,
    pub(super) window: Option<WindowBody>,
    pub(super) deadline_seconds: Option<f64>,
}

/// What they come to.
pub(super) struct Look {
    /// What does not depend on these fields is as by default.
    pub(super) dense: DenseOptions,
    pub(super) input: InputOptions,
    pub(super) deadline: Instant,
}

impl LookFields {
    /// Checks every value against its range and its limit, and takes absent ones from the protocol's settings, or whatever the
    /// request's defaults are. The protocol's constants come along.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] with the field's path; when the model has nothing that a field is about.
    pub(super) fn fill_in(
        self,
        settings: &EngineSettings,
        defaults: &DefaultSettings,
        (model, kind): (&str, ModelKind),
        now: Instant,
    ) -> Result<Look, ApiError> {
        self.check_kind(model, kind)?;
        let short_side = match self.short_side {
            None if defaults.short_side == 0 => None,
            None => Some(short_side(defaults.short_side, &settings.input_limits)?),
            Some(pixels) => Some(short_side(pixels, &settings.input_limits)?),
        };
        let dense = DenseOptions {
            attention: self.attention.unwrap_or(match kind {
                ModelKind::Clip => defaults.attention,
                ModelKind::Student => Attention::default(), // not looked at
            }),
            key_smoothing: match (self.key_smoothing, kind) {
                (Some(smoothing), _) => smoothing.try_into()?,
                (None, ModelKind::Clip) => KeySmoothingBody::from(defaults.key_smoothing).try_into()?,
                (None, ModelKind::Student) => KeySmoothing::None,
            },
            window: self.window.map_or(Ok(defaults.window), WindowBody::window)?,
            constants: self.protocol.map(Protocol::method_constants).unwrap_or_default(),
            ..DenseOptions::default()
        };
        let scales = scales(
            self.scales.unwrap_or_else(|| defaults.scales.clone()),
            &settings.input_limits,
        )?;
        if scales.len() > 1 && dense.key_smoothing == KeySmoothing::Formula {
            return Err(ApiError::invalid(
                "key_smoothing",
                "formula gives sums over the cells of an input, which have no mean over several scales; another method, or one \
                 of scales, does",
            ));
        }
        let deadline = match self.deadline_seconds {
            None => settings.queue.default_deadline_seconds,
            Some(seconds) => deadline_seconds(seconds, settings.queue.max_deadline_seconds)?,
        };
        Ok(Look {
            dense,
            input: InputOptions {
                short_side,
                scales,
                resize: self.resize.unwrap_or(defaults.resize),
            },
            deadline: now + Duration::from_secs_f64(deadline),
        })
    }

    /// Whether a model of this kind has what the request names. Its key smoothing is the engine's to refuse.
    fn check_kind(&self, model: &str, kind: ModelKind) -> Result<(), ApiError> {
        let named = match (kind, self.attention, self.protocol) {
            (ModelKind::Clip, ..) | (ModelKind::Student, None, None) => return Ok(()),
            (ModelKind::Student, Some(attention), _) => format!("attention {}", attention.name()),
            (ModelKind::Student, None, Some(protocol)) => format!("protocol {protocol}"),
        };
        let why = format!("the model {model} is a student, which has no attention; the request's {named} is about one");
        Err(SegmentError::Unsupported(why).into())
    }
}

fn short_side(pixels: u32, limits: &InputLimits) -> Result<u32, ApiError> {
    let max = limits.max_short_side;
    if (1..=max).contains(&pixels) {
        return Ok(pixels);
    }
    Err(ApiError::Invalid {
        path: Some("short_side".to_owned()),
        detail: format!("short_side must be 1 to limits.max_short_side = {max} pixels, not {pixels}"),
        limit: (pixels > max).then(|| Limit::whole("limits.max_short_side", max.into())),
    })
}

fn scales(factors: Vec<f64>, limits: &InputLimits) -> Result<Vec<f64>, ApiError> {
    let (count, max) = (factors.len(), limits.max_scales);
    if !(1..=max).contains(&count) {
        return Err(ApiError::Invalid {
            path: Some("scales".to_owned()),
            detail: format!("scales must be 1 to limits.max_scales = {max} factors, not {count}"),
            limit: (count > max).then(|| Limit::whole("limits.max_scales", max as u64)),
        });
    }
    match factors.iter().position(|&factor| factor <= 0.0) {
        None => Ok(factors),
        Some(index) => Err(ApiError::invalid(
            &format!("scales[{index}]"),
            format!("a scale must be above 0, not {}", factors[index]),
        )),
    }
}

fn deadline_seconds(value: f64, max: f64) -> Result<f64, ApiError> {
    if value > 0.0 && value <= max {
        return Ok(value);
    }
    Err(ApiError::Invalid {
        path: Some("deadline_seconds".to_owned()),
        detail: format!(
            "deadline_seconds must be above 0 and at most engine.max_deadline_seconds = {max}, not {value}"
        ),
        limit: (value > max).then(|| Limit::fractional("engine.max_deadline_seconds", max)),
    })
}
