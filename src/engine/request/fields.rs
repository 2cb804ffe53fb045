//! The only builder of requests. It takes the fields that a caller names and fills in every default.
//!
//! This file owns the checks of values and the order of defaults: the request first, then its protocol or its
//! vocabulary, then the settings, then the model's own options. Each caller names fields in its own words, such as a
//! JSON path or a flag; [`FieldError`] supports both.

use std::fmt;

use super::field_error::FieldError;
use super::{Background, EngineError, InputOptions, OutputOptions};
use crate::dense::{
    Attention, DenseOptions, FeatureOptions, KeySmoothing, KeySmoothingMethod, MAX_TEMPERATURE, PROPAGATION_CELLS,
    Refinement, RefinementOptions, ScoreOptions, Window,
};
use crate::engine::{DefaultSettings, EngineSettings, Field, InputLimits, Protocol, QueueSettings};
use crate::image::{Orientation, Resize};
use crate::label_map::LabelStyle;
use crate::labeller::{CLIP_TEMPERATURE, ModelKind, ModelOptions};
use crate::support::ExceededLimit;
use crate::vocabulary::{Class, Synonyms, TemplateSet, VocabularyDefinition, VocabularyOptions};

/// The fields of a request to label an image. `None` means that the caller did not name the field.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SegmentFields {
    /// The fields that the features of the image depend on.
    pub features: FeatureFields,
    /// The classes to look for. A protocol brings a vocabulary of its own.
    pub vocabulary: Option<VocabularyChoice>,
    /// Which pixels are background.
    pub background: BackgroundFields,
    /// The set of prompt templates that texts are put into.
    pub templates: Option<TemplateSet>,
    /// How the scores of a class's synonyms are combined.
    pub synonyms: Option<Synonyms>,
    /// Prompt denoising threshold, 0 to 1; 0 turns denoising off.
    pub prompt_denoising: Option<f32>,
    /// How scores are refined at the image's size.
    pub refinement: Option<Refinement>,
    /// Factor on cosines before the softmax, above 0 and at most [`MAX_TEMPERATURE`].
    pub temperature: Option<f32>,
    /// How the result is encoded.
    pub output: OutputOptions,
    /// The values and colours of the label map.
    pub style: LabelStyle,
}

/// The fields that the features of an image depend on, with the model and the deadline. `None` means that the caller
/// did not name the field.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeatureFields {
    /// The name of the model that must answer; `None` for the first model.
    pub model: Option<String>,
    /// A published test protocol. Its settings replace the defaults of the fields left out.
    pub protocol: Option<Protocol>,
    /// What the last attention of the visual tower computes.
    pub attention: Option<Attention>,
    /// Key smoothing. The features keep the keys that it compares.
    pub key_smoothing: Option<KeySmoothingFields>,
    /// Short side of the model's input in pixels.
    pub short_side: Option<u32>,
    /// Factors on the short side, each above 0. The image is scored at each of these sizes.
    pub scales: Option<Vec<f64>>,
    /// How the image's pixels are turned. By default as EXIF says.
    pub orientation: Option<Orientation>,
    /// How the image is resized to the model's input.
    pub resize: Option<Resize>,
    /// Windows over the model's input.
    pub window: Option<WindowFields>,
    /// Seconds after which the caller no longer needs the answer.
    pub deadline_seconds: Option<f64>,
}

/// A key smoothing method with its threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeySmoothingFields {
    /// The method.
    pub method: KeySmoothingMethod,
    /// Only for [`KeySmoothingMethod::Reference`]: positions whose best probability reaches this threshold stay as they
    /// are. 0 to 1, 1 by default.
    pub threshold: Option<f32>,
}

/// Windows over the model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowFields {
    /// The model sees its input as a whole.
    Whole,
    /// The model sees its input through square windows.
    Square {
        /// Side of a window in pixels.
        side: u32,
        /// Pixels from one window to the next, 1 to `side`; `None` for half the side, rounded up.
        stride: Option<u32>,
    },
}

/// The classes to look for.
#[derive(Debug, Clone, PartialEq)]
pub enum VocabularyChoice {
    /// Classes given with the request, in the order of their ids.
    Inline(Vec<Class>),
    /// The name of a stored or shipped vocabulary.
    Named(String),
    /// A vocabulary definition that the caller holds.
    Defined(VocabularyDefinition),
}

/// Which pixels are background.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BackgroundFields {
    /// The background names, which compete with the classes.
    pub names: BackgroundNames,
    /// A pixel whose best class probability is below this is background, 0 to 1; 0 turns the threshold off.
    pub threshold: Option<f32>,
    /// A class that covers at most this share of the foreground is dropped, 0 to 1; 0 keeps all classes.
    pub area: Option<f64>,
}

/// The source of the background names, which compete with the classes.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum BackgroundNames {
    /// The background names of the vocabulary's definition.
    #[default]
    OfVocabulary,
    /// The shipped list, setting `vocabulary.background`.
    Shipped,
    /// These names. An empty list means no background names.
    These(Vec<String>),
}

/// A resolved request: all options except the image and the classes.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentOptions {
    /// Which pixels are background.
    pub background: Background,
    /// The set of prompt templates that texts are put into.
    pub templates: TemplateSet,
    /// How the scores of a class's synonyms are combined.
    pub synonyms: Synonyms,
    /// Options of the features, of scoring and of refinement.
    pub dense: DenseOptions,
    /// How the image becomes the model's input.
    pub input: InputOptions,
    /// How the label map is encoded.
    pub output: OutputOptions,
    /// The values and colours of the label map.
    pub style: LabelStyle,
}

impl SegmentOptions {
    /// Checks the style of the label map against the number of classes.
    ///
    /// # Errors
    /// [`FieldError::OutOfRange`] for more colours than classes, and for an unlabelled value that is a class or has more
    /// bits than the map.
    pub(in crate::engine) fn check_style(&self, classes: usize) -> Result<(), FieldError> {
        let refuse = |field, range: String, value: String| {
            Err(FieldError::OutOfRange {
                field,
                range,
                value,
                limit: None,
            })
        };
        let colors = self.style.colors.len();
        if colors > classes {
            let range = format!("one for each of the {classes} classes at most");
            return refuse(Field::OutputColors, range, colors.to_string());
        }
        let largest = if classes <= usize::from(u8::MAX) {
            u8::MAX.into()
        } else {
            u16::MAX
        };
        match self.style.unlabelled {
            Some(value) if usize::from(value) < classes || value > largest => {
                let range = format!("{classes} to {largest}, which is no class");
                refuse(Field::OutputUnlabelled, range, value.to_string())
            }
            _ => Ok(()),
        }
    }
}

/// The settings and the model against which a request's fields are resolved.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Limits and defaults.
    pub settings: &'a EngineSettings,
    /// Name and kind of the model that will answer.
    pub model: (&'a str, ModelKind),
    /// The options that the model brings; `None` before it is known to be loaded. Then the values of OpenAI's models
    /// take their place.
    pub own: Option<&'a ModelOptions>,
}

impl SegmentFields {
    /// Returns the caller's choice of classes, or the vocabulary of the protocol.
    ///
    /// # Errors
    /// [`FieldError::NoVocabulary`] when the request names neither.
    pub(in crate::engine) fn choice(&self) -> Result<VocabularyChoice, FieldError> {
        let of_protocol = |protocol: Protocol| VocabularyChoice::Named(protocol.vocabulary().to_owned());
        let choice = self.vocabulary.clone();
        choice
            .or_else(|| self.features.protocol.map(of_protocol))
            .ok_or(FieldError::NoVocabulary)
    }

    /// Checks every value against its range and its limit and fills in the fields left out: from the protocol if there
    /// is one, else from the options of the vocabulary, else from the settings, else from the model.
    ///
    /// # Errors
    /// [`EngineError::Field`] when a value is refused. [`EngineError::Unsupported`] when the request names an
    /// attention and the model has none.
    pub fn resolve(
        &self,
        surroundings: Surroundings<'_>,
        vocabulary: &VocabularyOptions,
    ) -> Result<SegmentOptions, EngineError> {
        let Surroundings { settings, own, .. } = surroundings;
        let protocol = self.features.protocol;
        let defaults = match protocol {
            Some(protocol) => protocol.settings(),
            None => settings.defaults.with(vocabulary),
        };
        let (features, key_smoothing, input) = self.features.resolve_with(surroundings, &defaults)?;
        let denoising = self.prompt_denoising.unwrap_or(defaults.prompt_denoising);
        let denoising = share(Field::PromptDenoising, denoising)?;
        let temperature = temperature(self.temperature, surroundings, &defaults)?;
        let refinement = self.refinement.or(defaults.refinement);
        let refinement = refinement.or(own.map(|own| own.refinement)).unwrap_or_default();
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
            output: self.output.clone(),
            style: self.style.clone(),
        })
    }
}

impl FeatureFields {
    /// Resolves the fields that features depend on, as [`SegmentFields::resolve`] does.
    ///
    /// # Errors
    /// The same as [`SegmentFields::resolve`].
    pub fn resolve(&self, surroundings: Surroundings<'_>) -> Result<(FeatureOptions, InputOptions), EngineError> {
        let of_protocol = self.protocol.map(Protocol::settings);
        let defaults = of_protocol.as_ref().unwrap_or(&surroundings.settings.defaults);
        let (features, _, input) = self.resolve_with(surroundings, defaults)?;
        Ok((features, input))
    }

    fn resolve_with(
        &self,
        surroundings: Surroundings<'_>,
        defaults: &DefaultSettings,
    ) -> Result<(FeatureOptions, KeySmoothing, InputOptions), EngineError> {
        let Surroundings {
            settings,
            model: (model, kind),
            own,
        } = surroundings;
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
            ModelKind::Student => Attention::default(), // A student ignores it.
        });
        let constants = self.protocol.map(Protocol::attention_constants);
        let features = FeatureOptions {
            attention,
            window: self.window.map_or(Ok(defaults.window), WindowFields::resolve)?,
            keys: key_smoothing.keys(),
            constants: constants.unwrap_or_default().read_by(attention),
        };
        let scales = match (&self.scales, defaults.scales.as_slice(), own) {
            (Some(scales), ..) => scales.as_slice(),
            // The formula has no meaning at several scales, so it is no choice of the model's that it stands against.
            (None, [], Some(own)) if key_smoothing != KeySmoothing::Formula => &own.scales,
            (None, [], _) => &[1.0],
            (None, scales, _) => scales,
        };
        check_scales(scales, limits)?;
        if scales.len() > 1 && key_smoothing == KeySmoothing::Formula {
            return Err(FieldError::FormulaAtScales.into());
        }
        let input = InputOptions {
            short_side,
            scales: scales.to_vec(),
            resize: self.resize.unwrap_or(defaults.resize),
            orientation: self.orientation.unwrap_or_default(),
        };
        Ok((features, key_smoothing, input))
    }

    /// Checks that a model of this kind has an attention if the request names one. Key smoothing is checked later, with
    /// the loaded model.
    fn check_kind(&self, model: &str, kind: ModelKind) -> Result<(), EngineError> {
        let named = match (kind, self.attention, self.protocol) {
            (ModelKind::Clip, ..) | (ModelKind::Student, None, None) => return Ok(()),
            (ModelKind::Student, Some(attention), _) => format!("attention {}", attention.name()),
            (ModelKind::Student, None, Some(protocol)) => format!("protocol {protocol}"),
        };
        Err(EngineError::Unsupported(format!(
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
    /// Returns the windows, checked as far as possible without an image.
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
    /// Returns fields without any background: every pixel gets a class, whatever the defaults say.
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

/// Returns the seconds after which the caller no longer needs the answer: those that the request names, else those of the
/// settings.
///
/// # Errors
/// [`FieldError::OutOfRange`] when the request names seconds out of their range.
pub(in crate::engine) fn deadline_seconds(named: Option<f64>, queue: &QueueSettings) -> Result<f64, FieldError> {
    let Some(seconds) = named else {
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
        limit: (seconds > max).then_some(ExceededLimit::fractional(key, max)),
    })
}

/// Returns the factor on cosines before the softmax: what the request names, else what the defaults and the model say.
pub(super) fn temperature(
    named: Option<f32>,
    surroundings: Surroundings<'_>,
    defaults: &DefaultSettings,
) -> Result<f32, FieldError> {
    let Surroundings {
        model: (_, kind), own, ..
    } = surroundings;
    let own = own.map_or(CLIP_TEMPERATURE, |own| own.temperature);
    let value = named.unwrap_or_else(|| kind.temperature(defaults.temperature, own));
    if value > 0.0 && value <= MAX_TEMPERATURE {
        return Ok(value);
    }
    Err(FieldError::OutOfRange {
        field: Field::Temperature,
        range: format!("above 0 and at most {MAX_TEMPERATURE}"),
        value: value.to_string(),
        limit: None,
    })
}

/// Checks a probability or a share, 0 to 1.
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

fn check_short_side(pixels: u32, limits: &InputLimits) -> Result<u32, FieldError> {
    let (key, max) = ("limits.max_short_side", limits.max_short_side);
    if (1..=max).contains(&pixels) {
        return Ok(pixels);
    }
    Err(FieldError::OutOfRange {
        field: Field::ShortSide,
        range: format!("1 to {key} = {max} pixels"),
        value: pixels.to_string(),
        limit: (pixels > max).then_some(ExceededLimit::whole(key, max.into())),
    })
}

fn check_scales(factors: &[f64], limits: &InputLimits) -> Result<(), FieldError> {
    let (key, max, count) = ("limits.max_scales", limits.max_scales, factors.len());
    if !(1..=max).contains(&count) {
        return Err(FieldError::OutOfRange {
            field: Field::Scales,
            range: format!("1 to {key} = {max} factors"),
            value: count.to_string(),
            limit: (count > max).then_some(ExceededLimit::whole(key, max as u64)),
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
