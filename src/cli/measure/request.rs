//! The fields of a segmentation request as flags, and the settings that `compare` varies.

use std::str::FromStr;

use clap::Args;
use serde_json::{Value, json};

use super::Result;
use crate::engine::{
    EngineError, EngineSettings, Field, FieldError, KeySmoothingFields, SegmentFields, SegmentOptions, Surroundings,
    WindowFields,
};
use crate::labeller::ModelInfo;
use crate::support::named;
use crate::vocabulary::VocabularyOptions;

/// The fields of a segmentation request as flags. Values have the form of the API, whose checks apply.
#[derive(Debug, Args)]
pub struct RequestArguments {
    #[command(flatten)]
    scoring: ScoringArguments,
    /// How the scores of a class's synonyms are combined (field synonyms): mean or max.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    synonyms: Vec<String>,
    /// A pixel whose best class has a lower probability is background (field background.threshold).
    #[arg(long, value_name = "PROBABILITY", value_delimiter = ',')]
    background_threshold: Vec<String>,
    /// A class that covers at most this share of the foreground is dropped (field background.area).
    #[arg(long, value_name = "SHARE", value_delimiter = ',')]
    background_area: Vec<String>,
}

/// The flags that decide how texts score an image.
#[derive(Debug, Args)]
pub struct ScoringArguments {
    /// What the last attention computes (field attention): clip or maskclip; on a ResNet also clip-no-positions; on a
    /// ViT also maskclip-no-residual, sclip, clearclip, naclip, pearl, pearl-newton-schulz, sc-clip, resclip,
    /// resclip-repaired or gem.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    attention: Vec<String>,
    /// Key smoothing (field key_smoothing): none, formula, reference, reference:THRESHOLD or likeness.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    key_smoothing: Vec<String>,
    /// Threshold of prompt denoising (field prompt_denoising); 0 turns it off.
    #[arg(long, value_name = "THRESHOLD", value_delimiter = ',')]
    prompt_denoising: Vec<String>,
    /// Short side of the model's input in pixels (field short_side).
    #[arg(long, value_name = "PIXELS", value_delimiter = ',')]
    short_side: Vec<String>,
    /// Factors on the short side (field scales), joined by '+', as in 0.75+1+1.5. The image is scored at each of these
    /// sizes.
    #[arg(long, value_name = "FACTOR+...", value_delimiter = ',')]
    scales: Vec<String>,
    /// How the image's pixels are turned (field orientation): exif, as viewers show it, or stored, as most programs for
    /// annotations read it.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    orientation: Vec<String>,
    /// How the image is resized to the model's input (field resize): bicubic or mmcv.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    resize: Vec<String>,
    /// Windows through which the model sees its input (field window): none, or SIDE/STRIDE in pixels.
    #[arg(long, value_name = "SIDE/STRIDE", value_delimiter = ',')]
    window: Vec<String>,
    /// How scores are refined at the image's size (field refinement): none, pamr or pearl-propagation.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    refinement: Vec<String>,
    /// Prompt templates (field templates): maskclip-85, imagenet-80, simple or none.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    templates: Vec<String>,
    /// Factor on cosines before the softmax (field temperature). By default the model's own: 100 for OpenAI's.
    #[arg(long, value_name = "FACTOR", value_delimiter = ',')]
    temperature: Vec<String>,
}

/// A setting that `compare` can vary, with its given values.
pub struct Axis<'a> {
    /// Name of the setting in tables.
    pub name: &'static str,
    /// The flag that sets it.
    flag: &'static str,
    /// JSON pointer to the setting in a request.
    pointer: &'static str,
    /// Parses a value and puts it into the fields of a request.
    set: fn(&mut SegmentFields, &str) -> Result<(), String>,
    /// The values as given on the command line.
    pub values: &'a [String],
}

impl RequestArguments {
    /// Returns all settings. A new field of the request needs a flag above and an entry here or below.
    pub fn axes(&self) -> Vec<Axis<'_>> {
        let mut axes = self.scoring.axes();
        axes.extend([
            Axis {
                name: "synonyms",
                flag: "--synonyms",
                pointer: "/synonyms",
                set: |fields, text| put(&mut fields.synonyms, named(text)),
                values: &self.synonyms,
            },
            Axis {
                name: "background threshold",
                flag: "--background-threshold",
                pointer: "/background/threshold",
                set: |fields, text| put(&mut fields.background.threshold, number(text)),
                values: &self.background_threshold,
            },
            Axis {
                name: "background area",
                flag: "--background-area",
                pointer: "/background/area",
                set: |fields, text| put(&mut fields.background.area, number(text)),
                values: &self.background_area,
            },
        ]);
        // Tables show the axes in the order of `COLUMNS`.
        let place = |axis: &Axis<'_>| COLUMNS.iter().position(|name| *name == axis.name);
        axes.sort_by_key(place);
        axes
    }
}

/// The names of the settings in the order of a table's columns.
const COLUMNS: [&str; 14] = [
    "attention",
    "key smoothing",
    "prompt denoising",
    "short side",
    "scales",
    "orientation",
    "resize",
    "window",
    "refinement",
    "templates",
    "synonyms",
    "temperature",
    "background threshold",
    "background area",
];

impl ScoringArguments {
    /// Returns the settings of these flags.
    #[expect(clippy::too_many_lines, reason = "one table, with a row for each flag")]
    pub fn axes(&self) -> Vec<Axis<'_>> {
        vec![
            Axis {
                name: "attention",
                flag: "--attention",
                pointer: "/attention",
                set: |fields, text| put(&mut fields.features.attention, named(text)),
                values: &self.attention,
            },
            Axis {
                name: "key smoothing",
                flag: "--key-smoothing",
                pointer: "/key_smoothing",
                set: |fields, text| put(&mut fields.features.key_smoothing, key_smoothing(text)),
                values: &self.key_smoothing,
            },
            Axis {
                name: "prompt denoising",
                flag: "--prompt-denoising",
                pointer: "/prompt_denoising",
                set: |fields, text| put(&mut fields.prompt_denoising, number(text)),
                values: &self.prompt_denoising,
            },
            Axis {
                name: "short side",
                flag: "--short-side",
                pointer: "/short_side",
                set: |fields, text| put(&mut fields.features.short_side, number(text)),
                values: &self.short_side,
            },
            Axis {
                name: "scales",
                flag: "--scales",
                pointer: "/scales",
                set: |fields, text| put(&mut fields.features.scales, text.split('+').map(number).collect()),
                values: &self.scales,
            },
            Axis {
                name: "orientation",
                flag: "--orientation",
                pointer: "/orientation",
                set: |fields, text| put(&mut fields.features.orientation, named(text)),
                values: &self.orientation,
            },
            Axis {
                name: "resize",
                flag: "--resize",
                pointer: "/resize",
                set: |fields, text| put(&mut fields.features.resize, named(text)),
                values: &self.resize,
            },
            Axis {
                name: "window",
                flag: "--window",
                pointer: "/window",
                set: |fields, text| put(&mut fields.features.window, window(text)),
                values: &self.window,
            },
            Axis {
                name: "refinement",
                flag: "--refinement",
                pointer: "/refinement",
                set: |fields, text| put(&mut fields.refinement, named(text)),
                values: &self.refinement,
            },
            Axis {
                name: "templates",
                flag: "--templates",
                pointer: "/templates",
                set: |fields, text| put(&mut fields.templates, named(text)),
                values: &self.templates,
            },
            Axis {
                name: "temperature",
                flag: "--temperature",
                pointer: "/temperature",
                set: |fields, text| put(&mut fields.temperature, number(text)),
                values: &self.temperature,
            },
        ]
    }

    /// Returns the given flags that concern only whole images.
    pub fn of_whole_images(&self) -> Vec<&'static str> {
        let flags = [
            ("--short-side", &self.short_side),
            ("--scales", &self.scales),
            ("--resize", &self.resize),
        ];
        let given = flags.into_iter().filter(|(_, values)| !values.is_empty());
        given.map(|(name, _)| name).collect()
    }
}

/// Puts the values of the axes into the fields of a request. Fails if a setting has several values.
pub fn set_all(fields: &mut SegmentFields, axes: &[Axis<'_>]) -> Result<()> {
    for axis in axes {
        match axis.values {
            [] => {}
            [value] => axis.set(fields, value)?,
            _ => return Err(several(axis.name).into()),
        }
    }
    Ok(())
}

/// Resolves the fields for a model and a vocabulary with these options. Errors name flags.
pub fn resolve(
    fields: &SegmentFields,
    settings: &EngineSettings,
    options: &VocabularyOptions,
    model: &ModelInfo,
) -> Result<SegmentOptions> {
    let surroundings = Surroundings {
        settings,
        model: (model.name.as_str(), model.kind()),
        own: Some(&model.options),
    };
    let resolved = fields.resolve(surroundings, options);
    Ok(resolved.map_err(|error| match error {
        EngineError::Field(error) => in_flags(&error),
        error => error.to_string(),
    })?)
}

/// Returns the text of a field's error with the names of flags.
fn in_flags(error: &FieldError) -> String {
    let message = error.message(|field| flag(field).to_owned());
    match error {
        FieldError::OutOfRange { field, .. } if !matches!(field, Field::Scale(_)) => message,
        FieldError::Stride { .. } => message,
        _ => format!("{}: {message}", flag(error.field())),
    }
}

/// Returns the flag that sets a field.
fn flag(field: Field) -> &'static str {
    match field {
        Field::Attention => "--attention",
        Field::BackgroundArea => "--background-area",
        Field::BackgroundThreshold => "--background-threshold",
        Field::DeadlineSeconds => "engine.max_deadline_seconds",
        Field::KeySmoothing | Field::KeySmoothingThreshold => "--key-smoothing",
        // No flag: a measurement does not choose them.
        Field::Image => "the image",
        Field::OutputColors
        | Field::OutputConfidenceMap
        | Field::OutputLabelMap
        | Field::OutputProbabilityMap(_)
        | Field::OutputProbabilityMaps
        | Field::OutputUnlabelled => "the label map",
        Field::PointX | Field::PointY => "the point",
        Field::PromptDenoising => "--prompt-denoising",
        Field::Protocol => "--protocol",
        Field::Refinement => "--refinement",
        Field::Scale(_) | Field::Scales => "--scales",
        Field::ShortSide => "--short-side",
        Field::Temperature => "--temperature",
        Field::Classes | Field::Vocabulary => "--classes",
        Field::Window => "--window",
        Field::WindowSide => "the side of --window",
        Field::WindowStride => "the stride of --window",
    }
}

/// Returns the error for several values where one is needed.
pub fn several(name: &str) -> String {
    format!("several values of {name}: `maskclip compare` takes those")
}

impl Axis<'_> {
    /// Puts one value into the fields of a request.
    pub fn set(&self, fields: &mut SegmentFields, text: &str) -> Result<()> {
        Ok((self.set)(fields, text).map_err(|reason| format!("{} {text}: {reason}", self.flag))?)
    }

    /// Writes one value into a request as JSON, for reports.
    pub fn report(&self, request: &mut Value, text: &str) {
        let (folder, field) = self.pointer.rsplit_once('/').expect("a pointer starts with a slash");
        let parent = request
            .pointer_mut(folder)
            .expect("a request in JSON has an object for the background");
        parent[field] = match self.pointer {
            "/scales" => text.split('+').map(json_value).collect(),
            _ => json_value(text),
        };
    }
}

/// Puts a value into its field.
fn put<T>(field: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    *field = Some(value?);
    Ok(())
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number that fits"))
}

/// Parses a method, or a method with its threshold as in `reference:0.9`.
fn key_smoothing(text: &str) -> Result<KeySmoothingFields, String> {
    let (method, threshold) = match text.split_once(':') {
        None => (text, None),
        Some((method, threshold)) => (method, Some(number(threshold)?)),
    };
    Ok(KeySmoothingFields {
        method: named(method)?,
        threshold,
    })
}

/// Parses `none`, or a side and a stride as in `224/112`.
fn window(text: &str) -> Result<WindowFields, String> {
    if text == "none" {
        return Ok(WindowFields::Whole);
    }
    let (side, stride) = text.split_once('/').ok_or("none or SIDE/STRIDE")?;
    Ok(WindowFields::Square {
        side: number(side)?,
        stride: Some(number(stride)?),
    })
}

/// Returns a given value as JSON: a number, a method with its threshold (`reference:0.9`), a window (`224/112`), or a
/// name.
fn json_value(text: &str) -> Value {
    let number = |text: &str| serde_json::from_str(text).ok().filter(Value::is_number);
    if let Some(number) = number(text) {
        return number;
    }
    if let Some((side, stride)) = text.split_once('/')
        && let (Some(side), Some(stride)) = (number(side), number(stride))
    {
        return json!({"side": side, "stride": stride});
    }
    if let Some((method, threshold)) = text.split_once(':')
        && let Some(threshold) = number(threshold)
    {
        return json!({"method": method, "threshold": threshold});
    }
    json!(text)
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};
    use strum::VariantNames;

    use super::*;
    use crate::dense::{Attention, KeySmoothingMethod, Refinement};
    use crate::vocabulary::{Synonyms, TemplateSet};

    #[test]
    fn every_value_is_in_the_help() {
        let help = RequestArguments::augment_args(Command::new("eval"))
            .render_long_help()
            .to_string();
        let words: Vec<_> = help.split(|c: char| !c.is_alphanumeric() && c != '-').collect();
        let all = [
            Attention::VARIANTS,
            KeySmoothingMethod::VARIANTS,
            Refinement::VARIANTS,
            Synonyms::VARIANTS,
            TemplateSet::VARIANTS,
        ];
        for name in all.concat() {
            assert!(words.contains(&name), "{name} is not in\n{help}");
        }
    }

    #[test]
    fn typed_values_are_numbers_names_or_methods_with_a_threshold() {
        assert_eq!(json_value("0.5"), json!(0.5));
        assert_eq!(json_value("448"), json!(448));
        assert_eq!(json_value("maskclip-85"), json!("maskclip-85"));
        assert_eq!(
            json_value("reference:0.9"),
            json!({"method": "reference", "threshold": 0.9})
        );
        assert_eq!(json_value("224/112"), json!({"side": 224, "stride": 112}));
        assert_eq!(json_value("true"), json!("true"));
    }

    /// Parses arguments that give one flag a value.
    fn arguments(flag: &str, value: &str) -> RequestArguments {
        let command = RequestArguments::augment_args(Command::new("eval"));
        let matches = command
            .try_get_matches_from(["eval", flag, value])
            .expect("the flag takes a value");
        RequestArguments::from_arg_matches(&matches).expect("clap has checked them")
    }

    #[test]
    fn an_axis_sets_its_own_field_and_reports_it() {
        let given = arguments("--background-threshold", "0.3");
        let mut fields = SegmentFields::default();
        set_all(&mut fields, &given.axes()).expect("one value");
        assert_eq!(fields.background.threshold, Some(0.3));
        let mut request = json!({"classes": [], "background": {"names": ["sky"]}});
        let axes = given.axes();
        let axis = axes.iter().find(|axis| !axis.values.is_empty()).expect("it was given");
        axis.report(&mut request, "0.3");
        assert_eq!(
            request,
            json!({"classes": [], "background": {"names": ["sky"], "threshold": 0.3}})
        );

        let mut fields = SegmentFields::default();
        set_all(&mut fields, &arguments("--scales", "0.75+1").axes()).expect("one value");
        assert_eq!(fields.features.scales, Some(vec![0.75, 1.0]));
        let mut fields = SegmentFields::default();
        set_all(&mut fields, &arguments("--window", "224/112").axes()).expect("one value");
        let stride = Some(112);
        assert_eq!(fields.features.window, Some(WindowFields::Square { side: 224, stride }));
    }

    #[test]
    fn every_axis_has_its_column() {
        let given = arguments("--attention", "clip");
        let names: Vec<_> = given.axes().iter().map(|axis| axis.name).collect();
        assert_eq!(names, COLUMNS);
    }

    #[test]
    fn what_is_wrong_speaks_of_flags() {
        let mut fields = SegmentFields::default();
        let wrong = set_all(&mut fields, &arguments("--short-side", "many").axes()).expect_err("no number");
        assert_eq!(
            wrong.to_string(),
            "--short-side many: \"many\" is not a number that fits"
        );
        let wrong = set_all(&mut fields, &arguments("--synonyms", "least").axes()).expect_err("no method");
        assert_eq!(wrong.to_string(), "--synonyms least: there is no least: mean, max");
        let stride = FieldError::Stride { side: 4, stride: 5 };
        assert_eq!(
            in_flags(&stride),
            "the stride of --window must be 1 to the side of --window = 4 pixels, not 5"
        );
        assert_eq!(
            in_flags(&FieldError::ThresholdWithoutReference),
            "--key-smoothing: only the method reference has a threshold"
        );
    }
}
