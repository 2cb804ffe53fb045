//! Merges layers of settings into one [`Config`]: defaults, file, environment, flags.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::providers::{Env, Serialized};
use figment::value::{Dict, Map};
use figment::{Figment, Metadata, Profile, Provider};

use super::Config;
use super::fit::unset_budgets;
use crate::support::{OutOfRange, read_regular_text};
use crate::vocabulary::{EmbedAhead, StorePath};

const DEFAULT_YAML: &str = include_str!("../../config/default.yaml");

/// The name of the layer that the program brings along.
const DEFAULTS: &str = "the compiled-in defaults";

/// Prefix of settings in the environment. Two underscores separate section and key.
const ENVIRONMENT_PREFIX: &str = "MASKCLIP_";

/// Why the settings were refused. The text names the key's path and its origin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A text is not valid YAML.
    #[error("{name} is not valid YAML: {reason}")]
    Syntax {
        /// The name of the text: the file's path, or "the compiled-in defaults".
        name: String,
        /// The parser's error.
        reason: String,
    },
    /// A key is unknown, or its value has the wrong type.
    #[error("{0}")]
    Key(Box<figment::Error>),
    /// A variable would be a setting, had it two underscores where it has one.
    #[error("{variable} is not read as a setting: two underscores separate section and key, as in {setting}")]
    Variable {
        /// The variable's name.
        variable: String,
        /// The name of the variable that is meant.
        setting: String,
    },
    /// A value is outside its range.
    #[error(transparent)]
    Value(#[from] OutOfRange),
}

impl Config {
    /// Loads the compiled-in defaults, then `file`, then the environment, then `flags`. Later layers replace values of
    /// earlier ones. `flags` is nested like the file and holds only given flags.
    ///
    /// # Errors
    /// [`ConfigError`] when a layer cannot be read or has an unknown key, or a value is outside its range.
    pub fn load(file: Option<&Path>, flags: Dict) -> Result<Self, ConfigError> {
        let defaults = Yaml::parse(DEFAULTS.to_owned(), DEFAULT_YAML)?;
        // A variable that is passed over may be the one that was to ask for keys.
        check_variables(std::env::vars_os().map(|(name, _)| name), &defaults.values)?;
        let mut layers = Figment::from(defaults);
        if let Some(path) = file {
            let text = read_regular_text(path).map_err(|source| ConfigError::Unreadable {
                path: path.to_owned(),
                source,
            })?;
            layers = layers.merge(Yaml::parse(path.display().to_string(), &text)?);
        }
        // Other variables with the prefix and without a section are not settings. The build uses some, and Kubernetes
        // makes some for a Service of that name.
        let environment = Env::prefixed(ENVIRONMENT_PREFIX)
            .filter(|name| name == "models" || name.as_str().contains("__"))
            .split("__");
        Self::from_layers(layers.merge(environment).merge(Serialized::defaults(flags)))
    }

    /// Returns the compiled-in defaults for tests: a free port on the loopback address, no store on disk, and no texts
    /// that nobody asked for.
    pub fn for_testing() -> Self {
        let defaults = Yaml::parse(DEFAULTS.to_owned(), DEFAULT_YAML);
        let mut config = defaults
            .and_then(|yaml| Self::from_layers(Figment::from(yaml)))
            .expect("the defaults are tested to be valid");
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.vocabulary.store_path = StorePath::None;
        config.vocabulary.embed_ahead = EmbedAhead::None;
        config
    }

    fn from_layers(layers: Figment) -> Result<Self, ConfigError> {
        let mut config: Self = layers.extract().map_err(|error| ConfigError::Key(Box::new(error)))?;
        config.memory.unset_budgets = unset_budgets(&layers, DEFAULTS);
        config.check()?;
        Ok(config)
    }
}

/// Refuses a variable that is a setting's name but for its single underscores.
fn check_variables(names: impl Iterator<Item = OsString>, known: &Dict) -> Result<(), ConfigError> {
    let mut settings = Vec::new();
    collect_variables(ENVIRONMENT_PREFIX, known, &mut settings);
    let single = |name: &str| name.replace("__", "_").to_ascii_uppercase();
    for variable in names.filter_map(|name| name.into_string().ok()) {
        let is_meant =
            |setting: &&String| single(setting) == single(&variable) && !setting.eq_ignore_ascii_case(&variable);
        if let Some(setting) = settings.iter().find(is_meant).cloned() {
            return Err(ConfigError::Variable { variable, setting });
        }
    }
    Ok(())
}

/// Adds the names of the variables that set the keys of a section, whose own name ends with its separator.
fn collect_variables(section: &str, keys: &Dict, settings: &mut Vec<String>) {
    for (key, value) in keys {
        let name = format!("{section}{}", key.to_ascii_uppercase());
        if let Some(inner) = value.as_dict() {
            collect_variables(&format!("{name}__"), inner, settings);
        }
        settings.push(name);
    }
}

/// A YAML text as a layer. Errors show its name.
struct Yaml {
    name: String,
    values: Dict,
}

impl Yaml {
    fn parse(name: String, text: &str) -> Result<Self, ConfigError> {
        // An empty file, or one with comments only, changes nothing.
        let values: Option<Dict> = serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax {
            name: name.clone(),
            // The lines around the place, which the parser would show, may hold a password.
            reason: error.without_snippet().to_string(),
        })?;
        Ok(Self {
            name,
            values: values.unwrap_or_default(),
        })
    }
}

impl Provider for Yaml {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use figment::util::nest;

    use super::*;
    use crate::dense::{Refinement, Window};
    use crate::engine::{Protocol, ProtocolData};
    use crate::labeller::Precision;
    use crate::models::{DeviceChoice, ModelEntry, PrecisionChoice};
    use crate::vocabulary::VocabularyRegistry;

    fn load_text(text: &str) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("writable");
        Config::load(Some(file.path()), Dict::new())
    }

    #[test]
    fn the_defaults_are_valid_and_serve_the_embedded_model() {
        let config = Config::load(None, Dict::new()).expect("valid");
        assert_eq!(config.models, [ModelEntry::named("demo")]);
        assert_eq!(config.server.listen.port(), 8080);
        assert_eq!(config.vocabulary.background.len(), 26);
    }

    #[test]
    fn a_file_overrides_defaults_and_flags_override_the_file() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        write!(file, "models: [/weights.safetensors]\nmodel:\n  device: cpu\n").expect("writable");
        let flags = nest("models", vec!["demo"].into()).into_dict().expect("a dictionary");
        let config = Config::load(Some(file.path()), flags).expect("valid");
        assert_eq!(config.models, [ModelEntry::named("demo")]);
        assert_eq!(config.model.device, DeviceChoice::Cpu);
    }

    #[test]
    fn models_are_names_paths_or_objects_in_a_list_or_one_alone() {
        let text = "models:\n  - demo\n  - {name: students/fruit, device: cpu, precision: bfloat16, threads: 1, teacher: demo, alias: fruit}\n";
        let student = ModelEntry {
            name: "students/fruit".to_owned(),
            alias: Some("fruit".to_owned()),
            device: Some(DeviceChoice::Cpu),
            precision: Some(PrecisionChoice::Fixed(Precision::Bfloat16)),
            threads: Some(1),
            teacher: Some("demo".to_owned()),
        };
        assert_eq!(
            load_text(text).expect("valid").models,
            [ModelEntry::named("demo"), student]
        );
        let alone = load_text("models: /weights.safetensors\n").expect("valid").models;
        assert_eq!(alone, [ModelEntry::named("/weights.safetensors")]);
    }

    #[test]
    fn a_wrong_entry_of_the_models_is_refused_with_its_place() {
        for (text, place) in [
            ("models: [demo, {name: demo, device: gpu}]\n", "models.1.device"),
            ("models: [{nme: demo}]\n", "models.0"),
            ("models: [{name: demo, teecher: x}]\n", "teecher"),
            ("models: 3\n", "models"),
        ] {
            let error = load_text(text).expect_err("wrong").to_string();
            assert!(error.contains(place), "{error}");
        }
        let none = load_text("models: []\n").expect_err("none").to_string();
        assert_eq!(none, "models must be at least one model, is an empty list");
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        let config = load_text("# nothing yet\n").expect("valid");
        assert_eq!(config, Config::load(None, Dict::new()).expect("valid"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_path_and_its_file() {
        let error = load_text("limits:\n  max_clases: 3\n")
            .expect_err("unknown")
            .to_string();
        assert!(error.contains("max_clases") && error.contains("limits"), "{error}");
    }

    #[test]
    fn a_value_of_another_type_is_refused_with_its_path() {
        let error = load_text("engine:\n  workers: many\n")
            .expect_err("not a number")
            .to_string();
        assert!(error.contains("engine.workers"), "{error}");
    }

    /// Settings out of their range, with the errors.
    const OUT_OF_RANGE: &[(&str, &str)] = &[
        (
            "limits:\n  max_classes: 0\n",
            "limits.max_classes must be 1 to 65535, is 0",
        ),
        ("engine:\n  workers: 0\n", "engine.workers must be at least 1, is 0"),
        (
            "engine:\n  queue_capacity: 0\n",
            "engine.queue_capacity must be at least 1, is 0",
        ),
        (
            "engine:\n  default_deadline_seconds: 900\n",
            "engine.default_deadline_seconds must be above 0 and at most engine.max_deadline_seconds = 300, is 900",
        ),
        (
            "defaults:\n  temperature: -1\n",
            "defaults.temperature must be 0 to 1000, is -1",
        ),
        (
            "defaults:\n  prompt_denoising: 2\n",
            "defaults.prompt_denoising must be 0 to 1, is 2",
        ),
        (
            "defaults:\n  background_area: 1.5\n",
            "defaults.background_area must be 0 to 1, is 1.5",
        ),
        (
            "defaults:\n  window: {side: 224, stride: 225}\n",
            "defaults.window.stride must be 1 to defaults.window.side = 224, is 225",
        ),
        (
            "limits:\n  max_windows: 0\n",
            "limits.max_windows must be at least 1, is 0",
        ),
        (
            "model:\n  kept_primitives: 65537\n",
            "model.kept_primitives must be 1 to 65536, is 65537",
        ),
        (
            "fetch:\n  hub: ftp://hub.example\n",
            "fetch.hub must be an http or https address, is ftp://hub.example/",
        ),
        (
            "images:\n  keep_seconds: 0\n",
            "images.keep_seconds must be above 0 and at most 86400, is 0",
        ),
        (
            "vocabulary:\n  store_wait_seconds: 61\n",
            "vocabulary.store_wait_seconds must be 0 to 60, is 61",
        ),
        (
            "limits:\n  max_vocabulary_bytes: 0\n",
            "limits.max_vocabulary_bytes must be at least 1, is 0",
        ),
        (
            "server:\n  drain_seconds: -3\n",
            "server.drain_seconds must be 0 to 86400, is -3",
        ),
    ];

    #[test]
    fn a_value_outside_its_range_is_refused_with_its_path() {
        for (text, expected) in OUT_OF_RANGE {
            assert_eq!(&load_text(text).expect_err("out of range").to_string(), expected);
        }
    }

    #[test]
    fn no_error_repeats_a_password() {
        for text in [
            "shared:\n  url: redis://:secret@host\n  prefix: [\n",
            "shared:\n  url: redis://:secret@ho st\n",
            "shared:\n  url: redis://:secret@host/name\n",
            "telemetry:\n  otlp:\n    headers: {x-api-key: secret}\n    headers: {x-api-key: secret}\n",
            "telemetry:\n  otlp:\n    endpoint: ftp://user:secret@host\n",
            "fetch:\n  hub: https://user:secret@host:port\n",
        ] {
            let error = load_text(text).expect_err("a mistake").to_string();
            assert!(!error.contains("secret"), "{text}{error}");
        }
    }

    #[test]
    fn a_variable_with_one_underscore_for_two_is_refused_by_name() {
        let defaults = Yaml::parse(DEFAULTS.to_owned(), DEFAULT_YAML).expect("valid").values;
        let check = |name: &str| check_variables([OsString::from(name)].into_iter(), &defaults);
        for (variable, setting) in [
            ("MASKCLIP_ACCESS_KEYS_FILE", "MASKCLIP_ACCESS__KEYS_FILE"),
            ("maskclip_server_listen", "MASKCLIP_SERVER__LISTEN"),
            (
                "MASKCLIP_TELEMETRY_OTLP__ENDPOINT",
                "MASKCLIP_TELEMETRY__OTLP__ENDPOINT",
            ),
        ] {
            let error = check(variable).expect_err("one underscore").to_string();
            let said = "is not read as a setting: two underscores separate section and key, as in";
            assert_eq!(error, format!("{variable} {said} {setting}"));
        }
        let others = [
            "MASKCLIP_CONFIG",
            "MASKCLIP_MODELS",
            "MASKCLIP_ACCESS__KEYS_FILE",
            "MASKCLIP_BUILD_COMMIT",
            "MASKCLIP_PORT_8080_TCP",
            "MASKCLIP_SERVER_SERVICE_HOST",
        ];
        for other in others {
            check(other).expect("it is none of ours, or right");
        }
    }

    #[test]
    fn windows_are_off_until_a_layer_gives_both_lengths() {
        assert_eq!(load_text("").expect("valid").defaults.window, None);
        let flags = nest("defaults.window.side", 224.into())
            .into_dict()
            .expect("a dictionary");
        let error = Config::load(None, flags).expect_err("no stride").to_string();
        assert!(error.contains("stride"), "{error}");
        let config = load_text("defaults:\n  window: {side: 224, stride: 112}\n  refinement: pamr\n").expect("valid");
        assert_eq!(config.defaults.window, Some(Window { side: 224, stride: 112 }));
        assert_eq!(config.defaults.refinement, Some(Refinement::Pamr));
    }

    #[test]
    fn the_store_on_disk_is_where_the_setting_says_or_nowhere() {
        for (value, expected) in [
            ("auto", StorePath::Auto),
            ("none", StorePath::None),
            ("null", StorePath::None),
            (
                "/var/lib/maskclip/store.sqlite3",
                StorePath::File("/var/lib/maskclip/store.sqlite3".into()),
            ),
        ] {
            let config = load_text(&format!("vocabulary:\n  store_path: {value}\n")).expect("valid");
            assert_eq!(config.vocabulary.store_path, expected);
        }
        let error = load_text("vocabulary:\n  store_path: \"\"\n")
            .expect_err("empty")
            .to_string();
        assert!(error.contains("vocabulary.store_path"), "{error}");
    }

    #[test]
    fn shipped_background_names_are_embedded_ahead_unless_set_otherwise() {
        let ahead = |text: &str| load_text(text).map(|config| config.vocabulary.embed_ahead);
        let unset = ahead("vocabulary:\n  recent_lists: 5\n").expect("valid");
        assert_eq!(unset, EmbedAhead::Background);
        let vocabularies = ahead("vocabulary:\n  embed_ahead: vocabularies\n").expect("valid");
        assert_eq!(vocabularies, EmbedAhead::Vocabularies);
        let error = ahead("vocabulary:\n  embed_ahead: all\n")
            .expect_err("unknown")
            .to_string();
        assert!(error.contains("vocabulary.embed_ahead"), "{error}");
    }

    #[test]
    fn a_device_or_precision_that_does_not_exist_is_refused() {
        for text in [
            "model:\n  device: gpu\n",
            "model:\n  device: cuda:x\n",
            "model:\n  precision: int8\n",
        ] {
            assert!(
                load_text(text).expect_err("unknown").to_string().contains("model."),
                "{text}"
            );
        }
    }

    #[test]
    fn every_protocol_is_within_the_default_limits_and_has_its_vocabulary() {
        let config = Config::for_testing();
        let limits = &config.limits.input;
        let registry_limits = config.vocabulary.registry_limits(&config.limits.vocabulary);
        let registry = VocabularyRegistry::new(registry_limits, None, std::time::SystemTime::UNIX_EPOCH);
        for protocol in Protocol::all() {
            protocol.settings().check(limits).expect("valid");
            let vocabulary = registry.get(protocol.vocabulary()).expect("valid");
            let data_set = protocol.data_set.to_string();
            let classes = data_set.trim_start_matches(|letter: char| !letter.is_ascii_digit());
            if let Ok(classes) = classes.parse::<usize>()
                && protocol.data_set != ProtocolData::Ade20k
            {
                assert_eq!(vocabulary.list.classes().len(), classes, "{protocol}");
            }
        }
    }
}
