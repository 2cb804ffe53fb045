//! Flags that several commands have, and how flags become a layer of the settings.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use figment::value::{Dict, Value};

/// Where the settings come from.
#[derive(Debug, Args)]
pub struct ConfigArguments {
    /// A YAML file over the compiled-in defaults (config/default.yaml explains every key).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Which model, where.
#[derive(Debug, Default, Args)]
pub struct ModelArguments {
    /// The model (model.name): "demo", one that `maskclip fetch` brought, or the path of a checkpoint, file or folder.
    #[arg(long, value_name = "NAME|PATH")]
    model: Option<String>,
    /// Where it runs (model.device): auto, cpu or cuda:N.
    #[arg(long)]
    device: Option<String>,
    /// Element type (model.precision): auto, float32, bfloat16 or float16.
    #[arg(long)]
    precision: Option<String>,
}

impl ModelArguments {
    /// The settings' section `model`.
    pub fn section(&self) -> (String, Value) {
        section(
            "model",
            &[
                ("name", self.model.clone()),
                ("device", self.device.clone()),
                ("precision", self.precision.clone()),
            ],
        )
    }
}

/// A section of the settings with the flags that were given.
pub fn section(name: &str, entries: &[(&str, Option<String>)]) -> (String, Value) {
    let given = entries
        .iter()
        .filter_map(|(key, value)| Some(((*key).to_owned(), Value::from(value.clone()?))));
    (name.to_owned(), Value::from(given.collect::<Dict>()))
}

/// Takes one of some values by its name; help and errors list the names.
pub fn one_of<T: Copy + Send + Sync + 'static>(
    values: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(values.iter().map(|value| name(*value))).map(move |text| {
        let mut values = values.iter().copied();
        let value = values.find(|value| name(*value) == text);
        value.expect("the parser lets nothing else through")
    })
}
