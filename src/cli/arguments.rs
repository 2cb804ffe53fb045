//! Flags that several commands share, and how flags become a layer of the settings.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use figment::value::{Dict, Value};
use strum::VariantNames;

use crate::config::Config;
use crate::telemetry;

/// The flag that names the configuration file.
#[derive(Debug, Args)]
pub struct ConfigArguments {
    /// A YAML file whose settings replace the compiled-in defaults (config/default.yaml explains every key).
    #[arg(long, env = "MASKCLIP_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigArguments {
    /// Loads the settings and sets up what belongs to the whole process: logs, and the memory of libtorch. Call it
    /// before the command starts threads.
    pub fn start(&self, flags: Dict) -> Result<Config, Box<dyn std::error::Error>> {
        let config = Config::load(self.config.as_deref(), flags)?;
        telemetry::start_logs(&config.telemetry)?;
        config.model.limit_kept_memory();
        Ok(config)
    }
}

/// The flags for one model and its place.
#[derive(Debug, Default, Args)]
pub struct ModelArguments {
    /// The model (setting models): "demo", one that `maskclip fetch` downloaded, or the path of a checkpoint (file or
    /// folder) or of a student's folder. By default, the first model of the settings.
    #[arg(long, value_name = "NAME|PATH")]
    model: Option<String>,
    #[command(flatten)]
    place: PlaceArguments,
}

impl ModelArguments {
    /// Returns the name or path as given.
    pub fn name(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Returns the given settings, nested like the configuration file.
    pub fn settings(&self) -> Dict {
        self.place.settings(self.model.as_slice())
    }
}

/// The flags for several models and their place.
#[derive(Debug, Default, Args)]
pub struct ModelsArguments {
    /// A model (setting models): "demo", one that `maskclip fetch` downloaded, or the path of a checkpoint (file or
    /// folder) or of a student's folder. May be repeated. Requests that name no model get the first.
    #[arg(long, value_name = "NAME|PATH")]
    model: Vec<String>,
    #[command(flatten)]
    place: PlaceArguments,
}

impl ModelsArguments {
    /// Returns the given settings, nested like the configuration file.
    pub fn settings(&self) -> Dict {
        self.place.settings(&self.model)
    }
}

/// The flags for the device and the element type of models.
#[derive(Debug, Default, Args)]
struct PlaceArguments {
    /// The device that models run on (setting model.device): auto, cpu or cuda:N.
    #[arg(long)]
    device: Option<String>,
    /// Element type of the models' arithmetic (setting model.precision): auto, float32, bfloat16 or float16.
    #[arg(long)]
    precision: Option<String>,
}

impl PlaceArguments {
    /// Returns these settings, and the models if any are named.
    fn settings(&self, models: &[String]) -> Dict {
        let place = section(
            "model",
            &[("device", self.device.clone()), ("precision", self.precision.clone())],
        );
        let models = (!models.is_empty()).then(|| ("models".to_owned(), Value::from(models.to_vec())));
        std::iter::once(place).chain(models).collect()
    }
}

/// Returns a section of the settings with the given flags.
pub fn section(name: &str, entries: &[(&str, Option<String>)]) -> (String, Value) {
    let given = entries
        .iter()
        .filter_map(|(key, value)| Some(((*key).to_owned(), Value::from(value.clone()?))));
    (name.to_owned(), Value::from(given.collect::<Dict>()))
}

/// Returns a parser that accepts a value of an enumeration by its name. Help and errors list the names.
pub fn one_of<T>() -> impl TypedValueParser<Value = T>
where
    T: FromStr + VariantNames + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(T::VARIANTS).map(|text| {
        let value = text.parse().ok();
        value.expect("the parser accepts only these names")
    })
}
