//! The memory that a configuration can take at most, as a sum over its keys, and the comparison with what there is.
//! `docs/memory.md` shows the sum and how its constants were measured.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Config;
use super::available_memory::available_memory;
use crate::models::ModelBytes;
use crate::telemetry::MetricsRegistry;

/// Bytes of the program and of libtorch before any model is loaded, both code and data.
const PROGRAM_BYTES: u64 = 200_000_000;

/// Most bytes of weights in memory for each byte of their file: files of 16 bits are computed in 32.
const WEIGHT_GROWTH: u64 = 2;

/// Most bytes that a pass through a model takes for each pixel of its input, beside the input itself.
const PASS_BYTES_PER_PIXEL: u64 = 200;

/// Most bytes of a connection's requests: what is buffered of them, and 100 heads of 4 KiB by HTTP/2. Larger heads count
/// against `engine.body_bytes`.
pub(super) const CONNECTION_BYTES: u64 = 8192 + 100 * 4096;

/// Bytes of a primitive that oneDNN keeps.
pub(super) const PRIMITIVE_BYTES: u64 = 650_000;

/// The memory that the process may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemorySettings {
    /// Most bytes that the settings may add up to; 0 takes the container's limit, or else the machine's RAM.
    pub limit_bytes: u64,
    /// The keys with a default that may be lowered, because nobody has set them.
    #[serde(skip)]
    pub(super) unset_budgets: BTreeSet<&'static str>,
}

/// A part of the sum: the keys that decide about it, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MemoryPart {
    keys: String,
    bytes: u64,
}

/// The memory that a configuration can take at most, in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemorySum {
    parts: Vec<MemoryPart>,
    /// The memory that the process may take; `None` if nobody tells.
    limit: Option<u64>,
}

/// The settings add up to more memory than there is. The text lists the parts, the largest first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the settings can take {} MB of memory, and there are {}: lower the largest of these keys, or set memory.limit_bytes to what the \
     server may take\n{sum}", megabytes(sum.bytes()), megabytes(*limit)
)]
pub struct TooMuchMemory {
    sum: MemorySum,
    limit: u64,
}

impl Config {
    /// Returns the memory that the settings can take at most, with models of these sizes.
    pub fn memory(&self, models: &[ModelBytes]) -> MemorySum {
        let workers = self.engine.workers as u64;
        let pixels = self.limits.input.max_input_pixels;
        let mut parts = vec![MemoryPart::new("the program and libtorch", PROGRAM_BYTES)];
        parts.extend(models.iter().filter(|model| model.is_on_cpu).map(|model| {
            let weights = model.file_bytes.saturating_mul(WEIGHT_GROWTH);
            let keys = format!("engine.workers x the weights of {}", model.name);
            MemoryPart::new(keys, weights.saturating_mul(workers))
        }));
        parts.extend([
            MemoryPart::new(
                "engine.workers x models x limits.max_input_pixels",
                pixels.saturating_mul(self.pass_bytes_per_pixel(models)),
            ),
            MemoryPart::new(
                "model.kept_primitives",
                PRIMITIVE_BYTES * u64::from(self.model.kept_primitives),
            ),
            MemoryPart::new(
                "server.max_connections",
                CONNECTION_BYTES * u64::from(self.server.max_connections),
            ),
            MemoryPart::new("engine.body_bytes", self.engine.body_bytes),
            MemoryPart::new("engine.work_bytes", self.engine.work_bytes),
            MemoryPart::new("images.cache_bytes", self.images.cache_bytes),
            MemoryPart::new("images.held_bytes", self.images.held_bytes),
            MemoryPart::new("vocabulary.cache_bytes", self.vocabulary.cache_bytes),
            MemoryPart::new("vocabulary.definitions_bytes", self.vocabulary.definitions_bytes),
            MemoryPart::new("vocabulary.recent_bytes", self.vocabulary.recent_bytes),
        ]);
        let shared = self.shared.image_bytes();
        parts.extend((shared > 0).then(|| MemoryPart::new("shared.max_image_bytes", shared)));
        let limit = match self.memory.limit_bytes {
            0 => available_memory(),
            bytes => Some(bytes),
        };
        MemorySum { parts, limit }
    }

    /// Returns the bytes that each pixel of the largest input takes, in all workers on a CPU together.
    pub(super) fn pass_bytes_per_pixel(&self, models: &[ModelBytes]) -> u64 {
        let on_cpu = models.iter().filter(|model| model.is_on_cpu).count() as u64;
        PASS_BYTES_PER_PIXEL.saturating_mul((self.engine.workers as u64).saturating_mul(on_cpu))
    }
}

impl MemoryPart {
    fn new(keys: impl Into<String>, bytes: u64) -> Self {
        Self {
            keys: keys.into(),
            bytes,
        }
    }
}

impl MemorySum {
    /// Returns the whole sum in bytes.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
    }

    /// Returns the sum and the limit in words.
    pub fn summary(&self) -> String {
        let limit = self.limit.map_or("nobody tells how much there is".to_owned(), |limit| {
            format!("there are {} MB", megabytes(limit))
        });
        format!("the settings can take {} MB, {limit}", megabytes(self.bytes()))
    }

    /// Returns the bytes by which the sum exceeds the memory that there is.
    pub(super) fn excess(&self) -> u64 {
        self.limit.map_or(0, |limit| self.bytes().saturating_sub(limit))
    }

    /// Checks that the sum fits the memory that there is.
    ///
    /// # Errors
    /// [`TooMuchMemory`] when it does not.
    pub fn check(&self) -> Result<(), TooMuchMemory> {
        match self.limit {
            Some(limit) if self.bytes() > limit => Err(TooMuchMemory {
                sum: self.clone(),
                limit,
            }),
            _ => Ok(()),
        }
    }

    /// Registers the gauges of the sum and of the limit. A limit that nobody tells is 0.
    pub fn register(&self, metrics: &MetricsRegistry) {
        let value = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        metrics
            .gauge(
                "maskclip_memory_expected_bytes",
                "Most bytes of memory that the settings add up to.",
            )
            .set(value(self.bytes()));
        metrics
            .gauge(
                "maskclip_memory_limit_bytes",
                "Bytes of memory that the process may take: memory.limit_bytes, the container's limit, or the RAM.",
            )
            .set(value(self.limit.unwrap_or(0)));
    }
}

/// A line for each part, the largest first.
impl fmt::Display for MemorySum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<_> = self.parts.iter().collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
        let lines = parts
            .iter()
            .map(|part| format!("{:>9} MB  {}", megabytes(part.bytes), part.keys));
        formatter.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, file_bytes: u64) -> ModelBytes {
        ModelBytes {
            name: name.to_owned(),
            file_bytes,
            is_on_cpu: true,
        }
    }

    #[test]
    fn every_key_is_a_part_of_the_sum() {
        let mut config = Config::for_testing();
        config.engine.workers = 2;
        (config.engine.body_bytes, config.engine.work_bytes) = (60_000_000, 70_000_000);
        config.server.max_connections = 100;
        config.limits.input.max_input_pixels = 1_000_000;
        config.model.kept_primitives = 10;
        (config.images.cache_bytes, config.images.held_bytes) = (30_000_000, 40_000_000);
        config.vocabulary.cache_bytes = 50_000_000;
        (config.vocabulary.definitions_bytes, config.vocabulary.recent_bytes) = (20_000_000, 10_000_000);
        let on_gpu = ModelBytes {
            is_on_cpu: false,
            ..model("large", 5_000_000_000)
        };
        let sum = config.memory(&[model("a", 100_000_000), model("b", 7_000_000), on_gpu]);
        let expected = "      800 MB  engine.workers x models x limits.max_input_pixels
      400 MB  engine.workers x the weights of a
      200 MB  the program and libtorch
       70 MB  engine.work_bytes
       60 MB  engine.body_bytes
       50 MB  vocabulary.cache_bytes
       42 MB  server.max_connections
       40 MB  images.held_bytes
       30 MB  images.cache_bytes
       28 MB  engine.workers x the weights of b
       20 MB  vocabulary.definitions_bytes
       10 MB  vocabulary.recent_bytes
        7 MB  model.kept_primitives";
        assert_eq!(sum.to_string(), expected);
        assert_eq!(sum.bytes(), 1_756_279_200);
    }

    #[test]
    fn settings_that_cannot_fit_are_refused_with_their_largest_key() {
        let mut config = Config::for_testing();
        config.images.cache_bytes = u64::MAX;
        config.memory.limit_bytes = 2_000_000_000;
        let error = config.memory(&[model("a", 1)]).check();
        let message = error.map_err(|error| error.to_string()).expect_err("2^64 bytes");
        let mut lines = message.lines();
        let first = lines.next().expect("a first line");
        assert!(
            first.starts_with("the settings can take 18446744073710 MB of memory, and there are 2000: "),
            "{message}"
        );
        assert!(first.contains("memory.limit_bytes"), "{message}");
        assert!(
            lines.next().is_some_and(|line| line.ends_with("images.cache_bytes")),
            "{message}"
        );
        config.images.cache_bytes = 0;
        config.memory.limit_bytes = 1 << 40;
        assert_eq!(config.memory(&[model("a", 1)]).check(), Ok(()));
    }

    #[test]
    fn the_sum_and_the_limit_are_metrics() {
        let mut config = Config::for_testing();
        config.memory.limit_bytes = 123_456_789_000;
        let sum = config.memory(&[]);
        let metrics = MetricsRegistry::new();
        sum.register(&metrics);
        let text = metrics.render();
        assert!(text.contains("\nmaskclip_memory_limit_bytes 123456789000\n"), "{text}");
        assert!(
            text.contains(&format!("\nmaskclip_memory_expected_bytes {}\n", sum.bytes())),
            "{text}"
        );
    }

    /// A machine of 8 GB, half of which a container of the server may take, is not too small for the defaults.
    #[test]
    fn the_defaults_fit_four_gigabytes() {
        let mut config = Config::for_testing();
        config.memory.limit_bytes = 4_000_000_000;
        assert_eq!(config.memory(&[model("demo", 13_000_000)]).check(), Ok(()));
    }
}
