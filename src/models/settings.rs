//! The settings of models: which are served, where each runs, and in which element type.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::labeller::Precision;

/// What all models have in common unless an entry of `models` says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Where fetched models are; [`ModelSettings::folder`] says where that is when unset.
    pub folder: Option<PathBuf>,
    /// Where they run.
    pub device: DeviceChoice,
    /// Element type of their arithmetic.
    pub precision: PrecisionChoice,
    /// libtorch's threads per worker; 0 takes the cgroup's quota.
    pub threads: usize,
}

impl ModelSettings {
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

// By hand, since serde's untagged enums and the crate serde_untagged lose the path of what is wrong.
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
pub fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ModelEntry>, D::Error> {
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

/// `auto`, `cpu` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// CUDA device 0 where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by its index; the start fails where there is none.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("{text:?} is not a device: auto, cpu or cuda:N")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(index) => write!(formatter, "cuda:{index}"),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(device: DeviceChoice) -> Self {
        device.to_string()
    }
}

/// `auto`, `float32`, `bfloat16` or `float16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PrecisionChoice {
    /// What suits the device: float32 on a CPU, float16 on CUDA.
    #[default]
    Auto,
    /// This one.
    Fixed(Precision),
}

impl FromStr for PrecisionChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse()
            .map(Self::Fixed)
            .map_err(|_| format!("{text:?} is not a precision: auto, float32, bfloat16 or float16"))
    }
}

impl TryFrom<String> for PrecisionChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PrecisionChoice> for String {
    fn from(choice: PrecisionChoice) -> Self {
        match choice {
            PrecisionChoice::Auto => "auto".to_owned(),
            PrecisionChoice::Fixed(precision) => precision.name().to_owned(),
        }
    }
}
