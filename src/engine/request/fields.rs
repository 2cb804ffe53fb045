//! The one builder of requests: the fields that a caller names, and what they come to with every default filled in.
//!
//! Owns the checks of values and the order of defaults: what the request says itself, else what its protocol or its vocabulary says,
//! else the settings. Callers name fields in their own words, a JSON path or a flag; [`FieldError`] lets each do so.

use std::fmt;

use super::{Background, InputOptions, OutputOptions, SegmentError};
use crate::dense::{
    Attention, DenseOptions, FeatureOptions, KeySmoothing, KeySmoothingMethod, MAX_TEMPERATURE, PROPAGATION_CELLS,
    Refinement, RefinementOptions, ScoreOptions, Window,
};
use crate::engine::{DefaultSettings, EngineSettings, InputLimits, Protocol};
use crate::image::Resize;
use crate::labeller::ModelKind;
use crate::vocabulary::{Class, Synonyms, TemplateSet, VocabularyDefinition, VocabularyOptions};

/// The fields of a request to label an image, as far as its caller names them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SegmentFields {
    /// The fields that the features of the image depend on.
    pub features: FeatureFields,
    /// What to look for; a protocol has a vocabulary of its own.
    pub vocabulary: Option<VocabularyChoice>,
    /// What counts as none of the classes.
    pub background: BackgroundFields,
    /// The prompts that texts are put into.
    pub templates: Option<TemplateSet>,
    /// What the synonyms of a class come to.
    pub synonyms: Option<Synonyms>,
    /// Prompt denoising threshold, 0 to 1; 0 for none.
    pub prompt_denoising: Option<f32>,
    /// What is done to scores at the size of the image.
    pub refinement: Option<Refinement>,
    /// Factor on cosines before the softmax.
    pub temperature: Option<f32>,
    /// How the result is written.
    pub output: OutputOptions,
}

/// The fields that the features of an image depend on, with the model and the deadline.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeatureFields {
    /// The name of the model that must answer; the first one without it.
    pub model: Option<String>,
    /// A published test protocol, whose settings stand for what is left out.
    pub protocol: Option<Protocol>,
    /// What the last attention does.
    pub attention: Option<Attention>,
    /// Key smoothing; features keep the keys that it compares.
    pub key_smoothing: Option<KeySmoothingFields>,
    /// Short side of the model's input in pixels.
    pub short_side: Option<u32>,
    /// Factors on the short side.
    pub scales: Option<Vec<f64>>,
    /// How the image comes to that size.
    pub resize: Option<Resize>,
    /// Windows over the model's input.
    pub window: Option<WindowFields>,
    /// Seconds after which the answer is of no use.
    pub deadline_seconds: Option<f64>,
}

/// A method of key smoothing with its threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeySmoothingFields {
    /// The method.
    pub method: KeySmoothingMethod,
    /// For [`KeySmoothingMethod::Reference`] alone: positions whose best probability reaches this are left as they are.
    pub threshold: Option<f32>,
}

/// Windows over the model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowFields {
    /// The input is seen as a whole.
    Whole,
    /// Square windows.
    Square {
        /// Side in pixels.
        side: u32,
        /// Pixels from one window to the next; half the side without it.
        stride: Option<u32>,
    },
}

/// What to look for.
#[derive(Debug, Clone, PartialEq)]
pub enum VocabularyChoice {
    /// Classes in the order of their ids.
    Inline(Vec<Class>),
    /// The name of a defined vocabulary.
    Named(String),
    /// A definition that the caller has.
    Defined(VocabularyDefinition),
}

/// What counts as none of the classes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BackgroundFields {
    /// The names that compete with the classes.
    pub names: BackgroundNames,
    /// Best class probability below which a pixel is background, 0 to 1; 0 for none.
    pub threshold: Option<f32>,
    /// Share of the pixels with a class up to which a class is nowhere, 0 to 1; 0 for none.
    pub area: Option<f64>,
}

/// The names that compete with the classes for the background.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum BackgroundNames {
    /// Those of the vocabulary's definition.
    #[default]
    OfVocabulary,
    /// The shipped list, `vocabulary.background`.
    Shipped,
    /// These; none at all when empty.
    These(Vec<String>),
}

/// What a request comes to, everything but its image and its classes.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentOptions {
    /// What counts as none of the classes.
    pub background: Background,
    /// The prompts texts are put into.
    pub templates: TemplateSet,
    /// What the synonyms of a class come to.
    pub synonyms: Synonyms,
    /// The last attention, windows, temperature, denoising, smoothing, refinement.
    pub dense: DenseOptions,
    /// How the image becomes the model's input.
    pub input: InputOptions,
    /// How the label map is written.
    pub output: OutputOptions,
}

/// A field of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// What the last attention does.
    Attention,
    /// Share of the pixels with a class up to which a class is nowhere.
    BackgroundArea,
    /// Best class probability below which a pixel is background.
    BackgroundThreshold,
    /// Seconds after which the answer is of no use.
    DeadlineSeconds,
    /// Key smoothing.
    KeySmoothing,
    /// The threshold of key smoothing.
    KeySmoothingThreshold,
    /// Prompt denoising threshold.
    PromptDenoising,
    /// A published test protocol.
    Protocol,
    /// One of the scales, by its place.
    Scale(usize),
    /// Factors on the short side.
    Scales,
    /// Short side of the model's input.
    ShortSide,
    /// Factor on cosines before the softmax.
    Temperature,
    /// What to look for.
    Vocabulary,
    /// Side of the windows.
    WindowSide,
    /// Pixels from one window to the next.
    WindowStride,
}

/// A setting that a field exceeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExceededLimit {
    /// The key of the setting.
    pub key: &'static str,
    /// Its value.
    pub value: LimitValue,
}

/// The value of a limit, in the unit that its key names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LimitValue {
    /// A count.
    Whole(u64),
    /// A measure.
    Fractional(f64),
}

/// A field that is missing, out of its range, or does not go with another one.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldError {
    /// A value outside its range.
    OutOfRange {
        /// The field.
        field: Field,
        /// The values that are possible, in words.
        range: String,
        /// The value that was given, in words.
        value: String,
        /// The setting that the value exceeds.
        limit: Option<ExceededLimit>,
    },
    /// Windows that would leave pixels out, or overlap wholly.
    Stride {
        /// Side of the windows in pixels.
        side: u32,
        /// The stride that was given.
        stride: u32,
    },
    /// Key smoothing by the formula gives sums over the cells of one input, which have no mean over several.
    FormulaAtScales,
    /// A threshold for a method of key smoothing that has none.
    ThresholdWithoutReference,
    /// Nothing to look for.
    NoVocabulary,
}

impl FieldError {
    /// The field at fault.
    pub fn field(&self) -> Field {
        match self {
            Self::OutOfRange { field, .. } => *field,
            Self::Stride { .. } => Field::WindowStride,
            Self::FormulaAtScales => Field::KeySmoothing,
            Self::ThresholdWithoutReference => Field::KeySmoothingThreshold,
            Self::NoVocabulary => Field::Vocabulary,
        }
    }

    /// The setting that the field exceeds.
    pub fn limit(&self) -> Option<ExceededLimit> {
        match self {
            Self::OutOfRange { limit, .. } => *limit,
            _ => None,
        }
    }

    /// What is wrong, in words for a caller who calls fields as `name` does.
    pub fn message(&self, name: impl Fn(Field) -> String) -> String {
        match self {
            Self::OutOfRange {
                field: Field::Scale(_),
                range,
                value,
                ..
            } => format!("a scale must be {range}, not {value}"),
            Self::OutOfRange {
                field, range, value, ..
            } => format!("{} must be {range}, not {value}", name(*field)),
            Self::Stride { side, stride } => format!(
                "{} must be 1 to {} = {side} pixels, not {stride}",
                name(Field::WindowStride),
                name(Field::WindowSide)
            ),
            Self::FormulaAtScales => {
                "formula gives sums over the cells of an input, which have no mean over several scales; \
                                      another method, or one of scales, does"
                    .to_owned()
            }
            Self::ThresholdWithoutReference => "only the method reference has a threshold".to_owned(),
            Self::NoVocabulary => "one of classes, vocabulary and protocol is required".to_owned(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message(|field| field.path()))
    }
}

impl std::error::Error for FieldError {}

impl Field {
    /// Where the field stands in a request, as in `scales[1]`.
    pub fn path(self) -> String {
        let path = match self {
            Self::Attention => "attention",
            Self::BackgroundArea => "background.area",
            Self::BackgroundThreshold => "background.threshold",
            Self::DeadlineSeconds => "deadline_seconds",
            Self::KeySmoothing => "key_smoothing",
            Self::KeySmoothingThreshold => "key_smoothing.threshold",
            Self::PromptDenoising => "prompt_denoising",
            Self::Protocol => "protocol",
            Self::Scale(index) => return format!("scales[{index}]"),
            Self::Scales => "scales",
            Self::ShortSide => "short_side",
            Self::Temperature => "temperature",
            Self::Vocabulary => "vocabulary",
            Self::WindowSide => "window.side",
            Self::WindowStride => "window.stride",
        };
        path.to_owned()
    }
}

/// What a request's fields are resolved against.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Limits and defaults.
    pub settings: &'a EngineSettings,
    /// The model that is to answer: its name and what it is.
    pub model: (&'a str, ModelKind),
}

impl SegmentFields {
    /// What to look for: the caller's choice, else the vocabulary of the protocol.
    ///
    /// # Errors
    /// When there is neither.
    pub(in crate::engine) fn choice(&self) -> Result<VocabularyChoice, FieldError> {
        let of_protocol = |protocol: Protocol| VocabularyChoice::Named(protocol.vocabulary().to_owned());
        let choice = self.vocabulary.clone();
        choice
            .or_else(|| self.features.protocol.map(of_protocol))
            .ok_or(FieldError::NoVocabulary)
    }

    /// What the fields come to: every value checked against its range and its limit, every absent one taken from the protocol, else
    /// from the options of the vocabulary, else from the settings.
    ///
    /// # Errors
    /// [`SegmentError::Field`]; [`SegmentError::Unsupported`] when the model has nothing that a field is about.
    pub fn resolve(
        &self,
        surroundings: Surroundings<'_>,
        vocabulary: &VocabularyOptions,
    ) -> Result<SegmentOptions, SegmentError> {
        let Surroundings { settings, model } = surroundings;
        let (_, kind) = model;
        let protocol = self.features.protocol;
        let defaults = match protocol {
            Some(protocol) => protocol.settings(),
            None => settings.defaults.with(vocabulary),
        };
        let (features, key_smoothing, input) = self.features.resolve_with(settings, model, &defaults)?;
        let denoising = self.prompt_denoising.unwrap_or(defaults.prompt_denoising);
        let denoising = share(Field::PromptDenoising, denoising)?;
        let temperature = self.temperature.unwrap_or(kind.temperature(defaults.temperature));
        check_temperature(temperature)?;
        let refinement = self.refinement.unwrap_or(defaults.refinement);
        let cells = protocol.map_or(PROPAGATION_CELLS, Protocol::propagation_cells);
        Ok(SegmentOptions {
            background: self.background.resolve(settings, &defaults)?,
            templates: self.templates.unwrap_or(defaults.templates),
            synonyms: self.synonyms.unwrap_or(defaults.synonyms),
            dense: DenseOptions {
                features,
                scoring: ScoreOptions {
                    temperature,
                    prompt_denoising: (denoising > 0.0).then_some(denoising),
                    key_smoothing,
                },
                refinement: RefinementOptions::new(refinement, cells, temperature),
            },
            input,
            output: self.output,
        })
    }
}

impl FeatureFields {
    /// What the fields come to, as in [`SegmentFields::resolve`].
    ///
    /// # Errors
    /// As there.
    pub fn resolve(&self, surroundings: Surroundings<'_>) -> Result<(FeatureOptions, InputOptions), SegmentError> {
        let Surroundings { settings, model } = surroundings;
        let of_protocol = self.protocol.map(Protocol::settings);
        let defaults = of_protocol.as_ref().unwrap_or(&settings.defaults);
        let (features, _, input) = self.resolve_with(settings, model, defaults)?;
        Ok((features, input))
    }

    /// Seconds after which the answer is of no use.
    ///
    /// # Errors
    /// When the field is out of its range.
    pub(in crate::engine) fn deadline_seconds(&self, settings: &EngineSettings) -> Result<f64, FieldError> {
        let queue = &settings.queue;
        let Some(seconds) = self.deadline_seconds else {
            return Ok(queue.default_deadline_seconds);
        };
        let (key, max) = ("engine.max_deadline_seconds", queue.max_deadline_seconds);
        if seconds > 0.0 && seconds <= max {
            return Ok(seconds);
        }
        Err(FieldError::OutOfRange {
            field: Field::DeadlineSeconds,
            range: format!("above 0 and at most {key} = {max}"),
            value: seconds.to_string(),
            limit: (seconds > max).then_some(ExceededLimit {
                key,
                value: LimitValue::Fractional(max),
            }),
        })
    }

    fn resolve_with(
        &self,
        settings: &EngineSettings,
        (model, kind): (&str, ModelKind),
        defaults: &DefaultSettings,
    ) -> Result<(FeatureOptions, KeySmoothing, InputOptions), SegmentError> {
        self.check_kind(model, kind)?;
        let limits = &settings.input_limits;
        let short_side = match self.short_side {
            None if defaults.short_side == 0 => None,
            None => Some(check_short_side(defaults.short_side, limits)?),
            Some(pixels) => Some(check_short_side(pixels, limits)?),
        };
        let key_smoothing = match (self.key_smoothing, kind) {
            (Some(fields), _) => fields.resolve()?,
            (None, ModelKind::Clip) => KeySmoothingFields::from(defaults.key_smoothing).resolve()?,
            (None, ModelKind::Student) => KeySmoothing::None,
        };
        let attention = self.attention.unwrap_or(match kind {
            ModelKind::Clip => defaults.attention,
            ModelKind::Student => Attention::default(), // not looked at
        });
        let constants = self.protocol.map(Protocol::attention_constants);
        let features = FeatureOptions {
            attention,
            window: self.window.map_or(Ok(defaults.window), WindowFields::resolve)?,
            keys: key_smoothing.keys(),
            constants: constants.unwrap_or_default().read_by(attention),
        };
        let scales = self.scales.as_ref().unwrap_or(&defaults.scales);
        check_scales(scales, limits)?;
        if scales.len() > 1 && key_smoothing == KeySmoothing::Formula {
            return Err(FieldError::FormulaAtScales.into());
        }
        let input = InputOptions {
            short_side,
            scales: scales.clone(),
            resize: self.resize.unwrap_or(defaults.resize),
        };
        Ok((features, key_smoothing, input))
    }

    /// Whether a model of this kind has what the request names. Its key smoothing is checked with the model at hand.
    fn check_kind(&self, model: &str, kind: ModelKind) -> Result<(), SegmentError> {
        let named = match (kind, self.attention, self.protocol) {
            (ModelKind::Clip, ..) | (ModelKind::Student, None, None) => return Ok(()),
            (ModelKind::Student, Some(attention), _) => format!("attention {}", attention.name()),
            (ModelKind::Student, None, Some(protocol)) => format!("protocol {protocol}"),
        };
        Err(SegmentError::Unsupported(format!(
            "the model {model} is a student, which has no attention; the request's {named} is about one"
        )))
    }
}

impl KeySmoothingFields {
    fn resolve(self) -> Result<KeySmoothing, FieldError> {
        match (self.method, self.threshold) {
            (KeySmoothingMethod::None, None) => Ok(KeySmoothing::None),
            (KeySmoothingMethod::Formula, None) => Ok(KeySmoothing::Formula),
            (KeySmoothingMethod::Reference, threshold) => {
                let threshold = share(Field::KeySmoothingThreshold, threshold.unwrap_or(1.0))?;
                Ok(KeySmoothing::Reference { threshold })
            }
            (KeySmoothingMethod::Likeness, None) => Ok(KeySmoothing::Likeness),
            (KeySmoothingMethod::None | KeySmoothingMethod::Formula | KeySmoothingMethod::Likeness, Some(_)) => {
                Err(FieldError::ThresholdWithoutReference)
            }
        }
    }
}

impl From<KeySmoothingMethod> for KeySmoothingFields {
    fn from(method: KeySmoothingMethod) -> Self {
        Self {
            method,
            threshold: None,
        }
    }
}

impl WindowFields {
    /// The windows, checked as far as they can be without an image.
    fn resolve(self) -> Result<Option<Window>, FieldError> {
        let Self::Square { side, stride } = self else {
            return Ok(None);
        };
        if side == 0 {
            return Err(FieldError::OutOfRange {
                field: Field::WindowSide,
                range: "at least 1 pixel".to_owned(),
                value: side.to_string(),
                limit: None,
            });
        }
        let stride = stride.unwrap_or(side.div_ceil(2));
        if !(1..=side).contains(&stride) {
            return Err(FieldError::Stride { side, stride });
        }
        Ok(Some(Window { side, stride }))
    }
}

impl BackgroundFields {
    /// No background: every pixel gets a class, whatever the defaults are.
    pub fn off() -> Self {
        Self {
            names: BackgroundNames::These(Vec::new()),
            threshold: Some(0.0),
            area: Some(0.0),
        }
    }

    fn resolve(&self, settings: &EngineSettings, defaults: &DefaultSettings) -> Result<Background, FieldError> {
        Ok(Background {
            names: match &self.names {
                BackgroundNames::OfVocabulary => None,
                BackgroundNames::Shipped => Some(settings.vocabulary.background.clone()),
                BackgroundNames::These(names) => Some(names.clone()),
            },
            threshold: share(
                Field::BackgroundThreshold,
                self.threshold.unwrap_or(defaults.background_threshold),
            )?,
            area: share(Field::BackgroundArea, self.area.unwrap_or(defaults.background_area))?,
        })
    }
}

/// A probability or a share of something, 0 to 1.
fn share<T: Copy + Into<f64> + fmt::Display>(field: Field, value: T) -> Result<T, FieldError> {
    if (0.0..=1.0).contains(&value.into()) {
        return Ok(value);
    }
    Err(FieldError::OutOfRange {
        field,
        range: "0 to 1".to_owned(),
        value: value.to_string(),
        limit: None,
    })
}

fn check_temperature(value: f32) -> Result<(), FieldError> {
    if value > 0.0 && value <= MAX_TEMPERATURE {
        return Ok(());
    }
    Err(FieldError::OutOfRange {
        field: Field::Temperature,
        range: format!("above 0 and at most {MAX_TEMPERATURE}"),
        value: value.to_string(),
        limit: None,
    })
}

fn check_short_side(pixels: u32, limits: &InputLimits) -> Result<u32, FieldError> {
    let (key, max) = ("limits.max_short_side", limits.max_short_side);
    if (1..=max).contains(&pixels) {
        return Ok(pixels);
    }
    Err(FieldError::OutOfRange {
        field: Field::ShortSide,
        range: format!("1 to {key} = {max} pixels"),
        value: pixels.to_string(),
        limit: (pixels > max).then_some(ExceededLimit {
            key,
            value: LimitValue::Whole(max.into()),
        }),
    })
}

fn check_scales(factors: &[f64], limits: &InputLimits) -> Result<(), FieldError> {
    let (key, max, count) = ("limits.max_scales", limits.max_scales, factors.len());
    if !(1..=max).contains(&count) {
        let value = LimitValue::Whole(max as u64);
        return Err(FieldError::OutOfRange {
            field: Field::Scales,
            range: format!("1 to {key} = {max} factors"),
            value: count.to_string(),
            limit: (count > max).then_some(ExceededLimit { key, value }),
        });
    }
    match factors.iter().position(|&factor| factor <= 0.0) {
        None => Ok(()),
        Some(index) => Err(FieldError::OutOfRange {
            field: Field::Scale(index),
            range: "above 0".to_owned(),
            value: factors[index].to_string(),
            limit: None,
        }),
    }
}
