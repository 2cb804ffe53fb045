//! The fields of a request to segment as flags, and the settings that `compare` varies.

use clap::Args;
use serde_json::{Value, json};

use super::Result;
use crate::api::error::ApiError;
use crate::api::segment;
use crate::config::Config;
use crate::engine::SegmentRequest;
use crate::labeller::ModelInfo;
use crate::vocabulary::VocabularyOptions;

/// The fields of a request to segment, each a flag. Values are those of the API, which checks them.
#[derive(Debug, Args)]
pub struct RequestArguments {
    #[command(flatten)]
    scoring: ScoringArguments,
    /// What a class's synonyms come to (synonyms): mean or max.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    synonyms: Vec<String>,
    /// A pixel whose best class has a lower probability is background (background.threshold).
    #[arg(long, value_name = "PROBABILITY", value_delimiter = ',')]
    background_threshold: Vec<String>,
    /// A class that covers at most this share of what has a class is dropped (background.area).
    #[arg(long, value_name = "SHARE", value_delimiter = ',')]
    background_area: Vec<String>,
}

/// Those that say how texts score an image, whatever becomes of the scores.
#[derive(Debug, Args)]
pub struct ScoringArguments {
    /// What the last attention does (attention): clip or maskclip; on a ViT also maskclip-no-residual, sclip, clearclip, naclip,
    /// pearl, pearl-newton-schulz, sc-clip, resclip, resclip-repaired or gem.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    attention: Vec<String>,
    /// Key smoothing (key_smoothing): none, formula, reference, reference:THRESHOLD or likeness.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    key_smoothing: Vec<String>,
    /// Prompt denoising (prompt_denoising), 0 for none.
    #[arg(long, value_name = "THRESHOLD", value_delimiter = ',')]
    prompt_denoising: Vec<String>,
    /// Short side of the model's input in pixels (short_side).
    #[arg(long, value_name = "PIXELS", value_delimiter = ',')]
    short_side: Vec<String>,
    /// Factors on the short side (scales), joined by '+': the image is scored at each of these sizes, as in 0.75+1+1.5.
    #[arg(long, value_name = "FACTOR+...", value_delimiter = ',')]
    scales: Vec<String>,
    /// How the image comes to that size (resize): bicubic or mmcv.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    resize: Vec<String>,
    /// Windows through which the model sees its input (window): none, or SIDE/STRIDE in pixels.
    #[arg(long, value_name = "SIDE/STRIDE", value_delimiter = ',')]
    window: Vec<String>,
    /// What is done to scores at the image's size (refinement): none, pamr or pearl-propagation.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    refinement: Vec<String>,
    /// Prompt templates (templates): maskclip-85, imagenet-80 or simple.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    templates: Vec<String>,
    /// Factor on cosines before the softmax (temperature); CLIP's own is 100.
    #[arg(long, value_name = "FACTOR", value_delimiter = ',')]
    temperature: Vec<String>,
}

/// A setting with the values it was given.
pub struct Axis<'a> {
    /// What tables call it.
    pub name: &'static str,
    /// Where it stands in the request, a JSON pointer.
    pointer: &'static str,
    /// What a typed value is there.
    read: fn(&str) -> Value,
    /// The values, as they were typed.
    pub values: &'a [String],
}

impl RequestArguments {
    /// Every setting. A new field of the request is a flag above and a line here or below.
    pub fn axes(&self) -> [Axis<'_>; 13] {
        let [
            attention,
            key_smoothing,
            prompt_denoising,
            short_side,
            scales,
            resize,
            window,
            refinement,
            templates,
            temperature,
        ] = self.scoring.axes();
        [
            attention,
            key_smoothing,
            prompt_denoising,
            short_side,
            scales,
            resize,
            window,
            refinement,
            templates,
            Axis::new("synonyms", "/synonyms", &self.synonyms),
            temperature,
            Axis::new(
                "background threshold",
                "/background/threshold",
                &self.background_threshold,
            ),
            Axis::new("background area", "/background/area", &self.background_area),
        ]
    }
}

impl ScoringArguments {
    /// Each of them.
    pub fn axes(&self) -> [Axis<'_>; 10] {
        [
            Axis::new("attention", "/attention", &self.attention),
            Axis::new("key smoothing", "/key_smoothing", &self.key_smoothing),
            Axis::new("prompt denoising", "/prompt_denoising", &self.prompt_denoising),
            Axis::new("short side", "/short_side", &self.short_side),
            Axis {
                read: json_list,
                ..Axis::new("scales", "/scales", &self.scales)
            },
            Axis::new("resize", "/resize", &self.resize),
            Axis::new("window", "/window", &self.window),
            Axis::new("refinement", "/refinement", &self.refinement),
            Axis::new("templates", "/templates", &self.templates),
            Axis::new("temperature", "/temperature", &self.temperature),
        ]
    }

    /// Names of the settings that were given and are about an image as a whole.
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

/// Puts the axes' values into a request that has one value for each setting.
pub fn set_all<'a>(request: &mut Value, axes: impl IntoIterator<Item = Axis<'a>>) -> Result<()> {
    for axis in axes {
        match axis.values {
            [] => {}
            [value] => axis.set(request, value),
            _ => return Err(several(axis.name).into()),
        }
    }
    Ok(())
}

/// The engine's request for one in JSON, whose classes come from a vocabulary with these options.
pub fn engine_request(
    request: &Value,
    config: &Config,
    options: &VocabularyOptions,
    model: &ModelInfo,
) -> Result<SegmentRequest> {
    let request = segment::request_from_json(request, &config.engine_settings(), options, model);
    Ok(request.map_err(|error| match error {
        ApiError::Invalid {
            path: Some(path),
            detail,
            ..
        } => format!("{path}: {detail}"),
        error => error.to_string(),
    })?)
}

/// What is wrong where one value is needed.
pub fn several(name: &str) -> String {
    format!("several values of {name}: `maskclip compare` takes those")
}

impl<'a> Axis<'a> {
    fn new(name: &'static str, pointer: &'static str, values: &'a [String]) -> Self {
        Self {
            name,
            pointer,
            read: json_value,
            values,
        }
    }
}

impl Axis<'_> {
    /// Puts one of the values into a request.
    pub fn set(&self, request: &mut Value, text: &str) {
        let (folder, field) = self.pointer.rsplit_once('/').expect("a pointer starts with a slash");
        let parent = request
            .pointer_mut(folder)
            .expect("a request has its background from the start");
        parent[field] = (self.read)(text);
    }
}

/// What a typed value is in JSON: a number, a method with its threshold (`reference:0.9`), a window (`224/112`), or a name.
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

/// Values joined by '+' as a list.
fn json_list(text: &str) -> Value {
    text.split('+').map(json_value).collect()
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::*;
    use crate::dense::{Attention, Refinement};
    use crate::vocabulary::{Synonyms, TemplateSet};

    #[test]
    fn every_value_is_in_the_help() {
        let help = RequestArguments::augment_args(Command::new("eval"))
            .render_long_help()
            .to_string();
        let words: Vec<_> = help.split(|c: char| !c.is_alphanumeric() && c != '-').collect();
        let attentions = Attention::ALL.map(Attention::name);
        let templates = TemplateSet::ALL.map(TemplateSet::name);
        let others = [
            Refinement::ALL.map(Refinement::name).as_slice(),
            &Synonyms::ALL.map(Synonyms::name),
        ]
        .concat();
        for name in attentions.into_iter().chain(templates).chain(others) {
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
        assert_eq!(json_list("0.75+1"), json!([0.75, 1]));
        assert_eq!(json_list("2"), json!([2]));
    }

    #[test]
    fn an_axis_sets_its_own_field() {
        let mut request = json!({"classes": [], "background": {"names": ["sky"]}});
        let axis = |pointer| Axis::new("", pointer, &[]);
        axis("/background/threshold").set(&mut request, "0.3");
        axis("/attention").set(&mut request, "clip");
        assert_eq!(
            request,
            json!({"classes": [], "background": {"names": ["sky"], "threshold": 0.3}, "attention": "clip"})
        );
    }
}
