//! Flags that several commands have, and how flags become a layer of the settings.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use figment::value::{Dict, Value};
use strum::VariantNames;

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
    /// The model (models): "demo", one that `maskclip fetch` brought, the path of a checkpoint, file or folder, or of a student's
    /// folder. Without it, the first of the settings.
    #[arg(long, value_name = "NAME|PATH")]
    model: Option<String>,
    #[command(flatten)]
    place: PlaceArguments,
}

impl ModelArguments {
    /// The settings that were given, nested like the configuration file.
    pub fn settings(&self) -> Dict {
        self.place.settings(self.model.as_slice())
    }
}

/// Which models, where.
#[derive(Debug, Default, Args)]
pub struct ModelsArguments {
    /// A model (models): "demo", one that `maskclip fetch` brought, the path of a checkpoint, file or folder, or of a student's
    /// folder. May be repeated; requests that name none get the first.
    #[arg(long, value_name = "NAME|PATH")]
    model: Vec<String>,
    #[command(flatten)]
    place: PlaceArguments,
}

impl ModelsArguments {
    /// The settings that were given, nested like the configuration file.
    pub fn settings(&self) -> Dict {
        self.place.settings(&self.model)
    }
}

/// Where models compute, and in what.
#[derive(Debug, Default, Args)]
struct PlaceArguments {
    /// Where it runs (model.device): auto, cpu or cuda:N.
    #[arg(long)]
    device: Option<String>,
    /// Element type (model.precision): auto, float32, bfloat16 or float16.
    #[arg(long)]
    precision: Option<String>,
}

impl PlaceArguments {
    /// These and the models, if any are named.
    fn settings(&self, models: &[String]) -> Dict {
        let place = section(
            "model",
            &[("device", self.device.clone()), ("precision", self.precision.clone())],
        );
        let models = (!models.is_empty()).then(|| ("models".to_owned(), Value::from(models.to_vec())));
        std::iter::once(place).chain(models).collect()
    }
}

/// A section of the settings with the flags that were given.
pub fn section(name: &str, entries: &[(&str, Option<String>)]) -> (String, Value) {
    let given = entries
        .iter()
        .filter_map(|(key, value)| Some(((*key).to_owned(), Value::from(value.clone()?))));
    (name.to_owned(), Value::from(given.collect::<Dict>()))
}

/// Takes a value of an enumeration by its name; help and errors list the names.
pub fn one_of<T>() -> impl TypedValueParser<Value = T>
where
    T: FromStr + VariantNames + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(T::VARIANTS).map(|text| {
        let value = text.parse().ok();
        value.expect("the parser lets nothing but names through")
    })
}

/// Takes one variant of an enum by its name; help and errors list the names.
pub fn one_variant<T>() -> impl TypedValueParser<Value = T>
where
    T: VariantNames + FromStr<Err = strum::ParseError> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(T::VARIANTS).map(|name| {
        name.parse()
            .expect("the parser lets nothing but the variants' names through")
    })
}
