//! Labels on another machine: a running server answers over HTTP.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::arguments::LabelArguments;
use super::{Job, class_labels, inputs, request_of};
use crate::api::ClassBody;
use crate::cli::classes::listed;
use crate::cli::input::read_text;
use crate::cli::measure::{Result, find_file, names_no_file, with_background};
use crate::cli::output::note;
use crate::client::Client;
use crate::config::Config;
use crate::engine::ProbabilityMaps;
use crate::image::Orientation;
use crate::labelling::Plan;
use crate::support::run_blocking;
use crate::vocabulary::{Class, VocabularyDefinition, VocabularyText};

/// The number of images that are on their way at once by default: the server's model has one at hand while others
/// travel.
const JOBS: usize = 8;

/// The vocabulary of a server, as far as it is read.
#[derive(Deserialize)]
struct ServedVocabulary {
    classes: Vec<ClassBody>,
    #[serde(default)]
    background: Vec<String>,
    #[serde(default)]
    options: Value,
}

/// Labels with the server that the flag names.
pub fn run(arguments: &LabelArguments, config: &Config) -> Result<()> {
    let address = arguments.run.server.as_deref().unwrap_or_default();
    let key = arguments.run.key_file.as_deref().map(key).transpose()?;
    let client = Client::new(address, key, |text| note(text))?;
    let inputs = inputs(arguments)?;
    let fields = arguments.fields()?;
    let (vocabulary, options) = vocabulary(arguments, config, &client)?;
    let classes: Vec<ClassBody> = vocabulary.list.classes().iter().cloned().map(Into::into).collect();
    let given = json!({"classes": classes, "background": {"names": vocabulary.list.background()}});
    let mut request = request_of(
        with_options(given, &options, arguments.request.protocol.is_some()),
        arguments,
    );
    let model = model(arguments, &client)?;
    request["model"] = model["name"].clone();
    let names = vocabulary.list.classes().iter().map(|class| class.name.as_str());
    let style = arguments.results.style();
    let plan = Plan {
        version: crate::VERSION.to_owned(),
        model,
        request: request.clone(),
        classes: class_labels(names, &style),
        unlabelled: arguments.results.unlabelled,
        keeps_endings: arguments.results.keep_endings,
        drawings: Plan::drawings(&arguments.results.formats(), arguments.results.drawing()),
    };
    let output = arguments.results.output();
    let colors: Vec<String> = style
        .colors
        .iter()
        .map(|color| format!("#{}", hex::encode(color)))
        .collect();
    request["output"] = json!({
        "label_map": "coco-rle",
        "confidence_map": output.confidence_map,
        "probability_maps": (output.probability_maps == ProbabilityMaps::All).then_some("all"),
        "unlabelled": style.unlabelled,
        "colors": colors,
    });
    let orientation = fields.features.orientation.unwrap_or(Orientation::default());
    let runtime = tokio::runtime::Runtime::new()?;
    let done = runtime.block_on(async {
        let job = Job::open(arguments, config, inputs, &plan, orientation, JOBS)?;
        let request = Arc::new(request);
        let ask = move |image: Bytes| {
            let (client, request) = (client.clone(), Arc::clone(&request));
            async move { run_blocking(move || client.segment(&request, &image)).await }
        };
        job.work(ask).await
    });
    runtime.shutdown_background();
    done
}

fn key(file: &Path) -> Result<String> {
    Ok(read_text(file)?.trim().to_owned())
}

/// Returns the vocabulary that the flags name, with its options as JSON: names and files as they are here, and every
/// other name as the server knows it.
fn vocabulary(arguments: &LabelArguments, config: &Config, client: &Client) -> Result<(VocabularyDefinition, Value)> {
    let source = arguments.vocabulary.source(arguments.request.protocol)?;
    let limits = &config.limits.vocabulary;
    let (mut vocabulary, options) = match listed(source) {
        Some(text) => (VocabularyDefinition::new(text, limits)?, Value::Null),
        None if names_no_file(source) => {
            let served: ServedVocabulary = serde_json::from_value(client.get(&format!("v1/vocabularies/{source}"))?)?;
            let text = VocabularyText {
                classes: served.classes.into_iter().map(Class::from).collect(),
                background: served.background,
                ..VocabularyText::default()
            };
            (VocabularyDefinition::new(text, limits)?, served.options)
        }
        None => {
            let vocabulary = find_file(source, config)?;
            let options = vocabulary.options;
            let options = json!({
                "templates": options.templates.map(|templates| templates.name()),
                "synonyms": options.synonyms.map(|synonyms| synonyms.name()),
                "prompt_denoising": options.prompt_denoising,
                "background_threshold": options.background_threshold,
                "background_area": options.background_area,
            });
            (vocabulary, options)
        }
    };
    if let Some(background) = &arguments.vocabulary.background {
        vocabulary.list = with_background(&vocabulary.list, background, config)?;
    }
    Ok((vocabulary, options))
}

/// Puts the options of a vocabulary into a request, unless a protocol brings its own.
fn with_options(mut request: Value, options: &Value, has_protocol: bool) -> Value {
    if !has_protocol {
        for (option, field) in [
            ("templates", "/templates"),
            ("synonyms", "/synonyms"),
            ("prompt_denoising", "/prompt_denoising"),
            ("background_threshold", "/background/threshold"),
            ("background_area", "/background/area"),
        ] {
            let (folder, name) = field.rsplit_once('/').expect("a field begins with a slash");
            let place = request
                .pointer_mut(folder)
                .expect("the request has an object for the background");
            place[name] = options[option].clone();
        }
    }
    request
}

/// Returns what the server says of the model that is asked for: its name, the digest of its weights and its precision.
fn model(arguments: &LabelArguments, client: &Client) -> Result<Value> {
    let list = client.get("v1/models")?;
    let models = list["models"].as_array().map_or(&[][..], Vec::as_slice);
    let names = || {
        models
            .iter()
            .filter_map(|model| model["name"].as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let model = match arguments.model.name() {
        None => models.first().ok_or("the server has no model yet")?,
        Some(name) => models
            .iter()
            .find(|model| model["name"] == name)
            .ok_or_else(|| format!("the server has no model {name:?}: {}", names()))?,
    };
    Ok(json!({
        "name": model["name"],
        "weights_sha256": model["weights_sha256"],
        "precision": model["precision"],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_s_options_are_fields_unless_a_protocol_is_named() {
        let request = json!({"classes": ["cat"], "background": {"names": []}});
        let options = json!({"templates": "simple", "background_area": 0.5});
        let with = with_options(request.clone(), &options, false);
        assert_eq!(
            (&with["templates"], &with["background"]["area"]),
            (&json!("simple"), &json!(0.5))
        );
        assert_eq!(with_options(request.clone(), &options, true), request);
    }
}
