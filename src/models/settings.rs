//! The settings of models: which are served, where each runs, and in which element type.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::clip;
use crate::labeller::Precision;
use crate::support::{OutOfRange, in_range};

/// Settings of all models. An entry of `models` may replace each of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// The folder of fetched models. [`ModelSettings::folder`] gives the default.
    pub folder: Option<PathBuf>,
    /// The device that models run on.
    pub device: DeviceChoice,
    /// Element type of the models' arithmetic.
    pub precision: PrecisionChoice,
    /// libtorch threads per worker; 0 divides the processors of the cgroup's quota among the workers.
    pub threads: usize,
    /// oneDNN's compiled layers that stay in memory, for all models together. The least recently used go first.
    pub kept_primitives: u32,
}

/// Most primitives that may be kept: 40 GB of them.
const MOST_PRIMITIVES: u32 = 65536;

impl ModelSettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        in_range(
            "model.kept_primitives",
            (1..=MOST_PRIMITIVES).contains(&self.kept_primitives),
            self.kept_primitives,
            &format!("1 to {MOST_PRIMITIVES}"),
        )
    }

    /// Limits the memory that stays after passes, in the whole process: what layers keep for every shape of input, and
    /// what the allocator keeps for every thread.
    ///
    /// # Panics
    /// Panics when the process has other threads already.
    pub fn limit_kept_memory(&self) {
        clip::limit_primitives(self.kept_primitives);
        clip::limit_arenas();
    }

    /// Returns to the system the memory that is free in this process. It takes a few milliseconds.
    pub fn return_free_memory() {
        clip::return_free_memory();
    }

    /// Returns the folder of fetched models: the setting, or `maskclip/models` in the user's cache folder.
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

/// One model to serve. In the settings it is a name or a path, or an object with these fields.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelEntry {
    /// `demo` or `demo-vit` for an embedded model, a published model's name, or the path of a checkpoint or a student
    /// (file or folder).
    pub name: String,
    /// The model's name in requests, in place of its own name.
    pub alias: Option<String>,
    /// The device that the model runs on, in place of `model.device`.
    pub device: Option<DeviceChoice>,
    /// Element type of the model's arithmetic, in place of `model.precision`.
    pub precision: Option<PrecisionChoice>,
    /// libtorch threads per worker, in place of `model.threads`.
    pub threads: Option<usize>,
    /// Only for a student: the name or path of its teacher, in place of the name on the student's card.
    pub teacher: Option<String>,
}

impl ModelEntry {
    /// Returns an entry that sets nothing but the name.
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

// Written by hand, because serde's untagged enums and the crate serde_untagged lose the path of an error.
impl<'de> Deserialize<'de> for ModelEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// An entry in its long form.
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

/// Reads a list of models, or the name or path of a single model, as in `MASKCLIP_MODELS=demo`.
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

/// The device setting: `auto`, `cpu` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// CUDA device 0 if there is one, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index. The start fails if it does not exist.
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

/// The precision setting: `auto`, `float32`, `bfloat16` or `float16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PrecisionChoice {
    /// The type that suits the device: float16 on CUDA; on a CPU bfloat16 or float32, whichever a measurement finds
    /// faster.
    #[default]
    Auto,
    /// This element type.
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
