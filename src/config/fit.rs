//! Budgets that nobody has set, lowered to the memory that there is.
//!
//! The defaults are for a machine. In a small container they would not fit, and whoever starts one there has said nothing
//! about budgets. What the file, the environment or a flag sets stays as it is.

use std::collections::BTreeSet;
use std::fmt;

use figment::Figment;

use super::Config;
use super::memory::{CONNECTION_BYTES, PRIMITIVE_BYTES};
use crate::models::ModelBytes;

/// A key whose default may be lowered.
struct Budget {
    key: &'static str,
    /// The least value that it is lowered to. With it the server still answers ordinary requests.
    floor: u64,
    /// The bytes of memory that one unit of the value stands for.
    unit: fn(&Config, &[ModelBytes]) -> u64,
    value: fn(&Config) -> u64,
    set: fn(&mut Config, u64),
}

/// A unit of a budget that counts bytes.
const BYTE: fn(&Config, &[ModelBytes]) -> u64 = |_, _| 1;

static BUDGETS: [Budget; 8] = [
    Budget {
        key: "engine.work_bytes",
        floor: 192 << 20,
        unit: BYTE,
        value: |config| config.engine.work_bytes,
        set: |config, value| config.engine.work_bytes = value,
    },
    // Twice the default of `limits.max_request_bytes`, because JSON counts twice.
    Budget {
        key: "engine.body_bytes",
        floor: 64 << 20,
        unit: BYTE,
        value: |config| config.engine.body_bytes,
        set: |config, value| config.engine.body_bytes = value,
    },
    Budget {
        key: "images.cache_bytes",
        floor: 16 << 20,
        unit: BYTE,
        value: |config| config.images.cache_bytes,
        set: |config, value| config.images.cache_bytes = value,
    },
    Budget {
        key: "images.held_bytes",
        floor: 16 << 20,
        unit: BYTE,
        value: |config| config.images.held_bytes,
        set: |config, value| config.images.held_bytes = value,
    },
    Budget {
        key: "vocabulary.cache_bytes",
        floor: 16 << 20,
        unit: BYTE,
        value: |config| config.vocabulary.cache_bytes,
        set: |config, value| config.vocabulary.cache_bytes = value,
    },
    Budget {
        key: "limits.max_input_pixels",
        floor: 1 << 20,
        unit: Config::pass_bytes_per_pixel,
        value: |config| config.limits.input.max_input_pixels,
        set: |config, value| config.limits.input.max_input_pixels = value,
    },
    Budget {
        key: "server.max_connections",
        floor: 128,
        unit: |_, _| CONNECTION_BYTES,
        value: |config| config.server.max_connections.into(),
        set: |config, value| config.server.max_connections = u32::try_from(value).unwrap_or(u32::MAX),
    },
    Budget {
        key: "model.kept_primitives",
        floor: 64,
        unit: |_, _| PRIMITIVE_BYTES,
        value: |config| config.model.kept_primitives.into(),
        set: |config, value| config.model.kept_primitives = u32::try_from(value).unwrap_or(u32::MAX),
    },
];

/// A default that was lowered.
#[derive(Clone, PartialEq, Eq)]
pub struct Lowered {
    key: &'static str,
    from: u64,
    to: u64,
}

/// As the log shows it.
impl fmt::Debug for Lowered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {} to {}", self.key, self.from, self.to)
    }
}

/// Returns the keys that may be lowered: those with a value from the layer of this name.
pub(super) fn unset_budgets(layers: &Figment, defaults: &str) -> BTreeSet<&'static str> {
    let keys = BUDGETS.iter().map(|budget| budget.key);
    let is_default = |key: &&str| layers.find_metadata(key).is_some_and(|layer| layer.name == defaults);
    keys.filter(is_default).collect()
}

impl Config {
    /// Lowers the budgets that nobody has set until the sum of [`Config::memory`] fits the memory that there is, each by
    /// the same part of what lies above its floor. A sum that does not fit at the floors is left there. Returns what was
    /// lowered.
    pub fn fit_memory(&mut self, models: &[ModelBytes]) -> Vec<Lowered> {
        let excess = self.memory(models).excess();
        let units = BUDGETS.each_ref().map(|budget| (budget, (budget.unit)(self, models)));
        let spare = |config: &Self, budget: &Budget| (budget.value)(config).saturating_sub(budget.floor);
        let budgets = units.into_iter().filter(|(budget, unit)| {
            *unit > 0 && spare(self, budget) > 0 && self.memory.unset_budgets.contains(budget.key)
        });
        let budgets: Vec<_> = budgets.collect();
        let room = budgets
            .iter()
            .map(|(budget, unit)| u128::from(spare(self, budget)) * u128::from(*unit))
            .sum::<u128>();
        if excess == 0 || room == 0 {
            return Vec::new();
        }
        let part = u128::from(excess).min(room);
        let lower = |(budget, _): (&Budget, u64)| {
            let from = (budget.value)(self);
            let less = (u128::from(spare(self, budget)) * part).div_ceil(room);
            let to = from - u64::try_from(less).expect("less than the value");
            (budget.set)(self, to);
            Lowered {
                key: budget.key,
                from,
                to,
            }
        };
        budgets.into_iter().map(lower).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use figment::util::nest;
    use figment::value::Dict;

    use super::*;

    fn demo() -> [ModelBytes; 1] {
        [ModelBytes {
            name: "demo".to_owned(),
            file_bytes: 13_000_000,
            is_on_cpu: true,
        }]
    }

    /// The settings of a server that may take so many bytes, and what was lowered.
    fn fitted(mut config: Config, limit: u64) -> (Config, Vec<Lowered>) {
        config.memory.limit_bytes = limit;
        let lowered = config.fit_memory(&demo());
        (config, lowered)
    }

    #[test]
    fn defaults_that_fit_stay_as_they_are() {
        let (config, lowered) = fitted(Config::for_testing(), 4_000_000_000);
        assert_eq!(lowered, []);
        assert_eq!(config.engine.work_bytes, Config::for_testing().engine.work_bytes);
    }

    #[test]
    fn in_a_container_of_a_gibibyte_the_defaults_are_lowered_until_they_fit() {
        for limit in [1 << 30, 1 << 31, 3_700_000_000] {
            let (config, lowered) = fitted(Config::for_testing(), limit);
            assert_eq!(lowered.len(), BUDGETS.len());
            let sum = config.memory(&demo());
            assert_eq!(sum.check(), Ok(()));
            let slack = limit - sum.bytes();
            assert!(slack < 2_000_000, "{slack} bytes are left of {limit}");
            assert_eq!(config.check(), Ok(()));
        }
        let (_, lowered) = fitted(Config::for_testing(), 1 << 30);
        let text = format!("{lowered:?}");
        assert!(text.contains("engine.work_bytes: 1073741824 to "), "{text}");
    }

    #[test]
    fn what_does_not_fit_at_the_floors_is_refused() {
        let (config, _) = fitted(Config::for_testing(), 500_000_000);
        assert_eq!(config.engine.body_bytes, 64 << 20);
        let error = config.memory(&demo()).check().unwrap_err().to_string();
        assert!(error.starts_with("the settings can take 9"), "{error}");
    }

    #[test]
    fn what_somebody_has_set_is_never_lowered() {
        let flags = nest("engine.work_bytes", 1_000_000_000_u64.into());
        let mut config = Config::load(None, flags.into_dict().unwrap()).unwrap();
        config.memory.limit_bytes = 2_000_000_000;
        config.fit_memory(&demo());
        assert_eq!(config.engine.work_bytes, 1_000_000_000);
        assert!(config.images.cache_bytes < 268_435_456);
        assert!(config.memory(&demo()).check().is_ok());
    }

    #[test]
    fn a_model_on_a_gpu_leaves_the_inputs_as_large_as_they_are() {
        let mut config = Config::load(None, Dict::new()).unwrap();
        config.memory.limit_bytes = 2_000_000_000;
        let on_gpu = demo().map(|model| ModelBytes {
            is_on_cpu: false,
            ..model
        });
        config.fit_memory(&on_gpu);
        assert_eq!(config.limits.input.max_input_pixels, 4_194_304);
        assert!(config.memory(&on_gpu).check().is_ok());
    }
}
