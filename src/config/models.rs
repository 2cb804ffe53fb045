//! Which models are served, and where each runs.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{DeviceChoice, PrecisionChoice};

/// What all models have in common unless an entry of `models` says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Where fetched models are; [`ModelConfig::folder`] says where that is when unset.
    pub folder: Option<PathBuf>,
    /// Where they run.
    pub device: DeviceChoice,
    /// Element type of their arithmetic.
    pub precision: PrecisionChoice,
    /// libtorch's threads per worker; 0 takes the cgroup's quota.
    pub threads: usize,
}

impl ModelConfig {
    /// Where fetched models are: as set, else `maskclip/models` in the user's cache folder.
    pub fn folder(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| {
            let cache = std::env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".cache"));
            cache.join("maskclip/models")
        })
    }
}

/// One model to be served. Written as a name or a path alone, or as all of this.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelEntry {
    /// `demo` for the embedded model, a name of the zoo, or the path of a checkpoint or a student, file or folder.
    pub name: String,
    /// What requests call it, in place of the name it has by itself.
    pub alias: Option<String>,
    /// Where it runs, in place of `model.device`.
    pub device: Option<DeviceChoice>,
    /// Element type of its arithmetic, in place of `model.precision`.
    pub precision: Option<PrecisionChoice>,
    /// libtorch's threads per worker, in place of `model.threads`.
    pub threads: Option<usize>,
    /// For a student: the name or the path of its teacher, in place of the name on its card.
    pub teacher: Option<String>,
}

impl ModelEntry {
    /// A model as all others are.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            alias: None,
            device: None,
            precision: None,
            threads: None,
            teacher: None,
        }
    }
}

// By hand, since untagged enums lose the path of what is wrong.
impl<'de> Deserialize<'de> for ModelEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The long form.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Detail {
            name: String,
            alias: Option<String>,
            device: Option<DeviceChoice>,
            precision: Option<PrecisionChoice>,
            threads: Option<usize>,
            teacher: Option<String>,
        }

        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = ModelEntry;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a model's name or path, or an object with name")
            }

            fn visit_str<E>(self, name: &str) -> Result<ModelEntry, E> {
                Ok(ModelEntry::named(name))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ModelEntry, A::Error> {
                let Detail {
                    name,
                    alias,
                    device,
                    precision,
                    threads,
                    teacher,
                } = Detail::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ModelEntry {
                    name,
                    alias,
                    device,
                    precision,
                    threads,
                    teacher,
                })
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

/// A list of models, or the name or path of the only one, as `MASKCLIP_MODELS=demo` gives it.
pub(super) fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ModelEntry>, D::Error> {
    struct Forms;

    impl<'de> Visitor<'de> for Forms {
        type Value = Vec<ModelEntry>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of models, or the name or path of one")
        }

        fn visit_str<E>(self, name: &str) -> Result<Vec<ModelEntry>, E> {
            Ok(vec![ModelEntry::named(name)])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, entries: A) -> Result<Vec<ModelEntry>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(entries))
        }
    }

    deserializer.deserialize_any(Forms)
}
