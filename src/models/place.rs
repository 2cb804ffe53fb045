//! The place where a model computes: device, element type, threads.

use std::sync::{Arc, OnceLock};

use tch::{Cuda, Device, Kind};

use super::settings::{DeviceChoice, ModelEntry, ModelSettings, PrecisionChoice};
use super::source::ModelError;
use crate::clip::{self, CheckpointError, Weights};
use crate::labeller::Precision;

/// How many times faster than float32 bfloat16 must be before it is chosen. On CPUs that multiply bfloat16 natively,
/// models run at least 1.5 times as fast; on others they run slower. With a factor in between, two starts on one
/// machine could choose differently, and every text would be embedded again.
const CLEARLY_FASTER: f64 = 1.25;

/// The device, element type and threads of a model.
#[derive(Debug, Clone)]
pub struct Place {
    /// The device, which is known to exist.
    pub device: Device,
    /// The rule for the element type. The device supports every type that it can choose.
    pub precision: PrecisionRule,
    /// libtorch threads of one worker.
    pub threads: usize,
}

/// The rule that decides the element type.
#[derive(Debug, Clone)]
pub enum PrecisionRule {
    /// The settings or the device have decided it.
    Fixed(Precision),
    /// The first worker that loads the model measures it, and all workers use the result: they share one store of text
    /// embeddings.
    Measured(Arc<OnceLock<Precision>>),
}

impl Place {
    /// Returns the place for an entry of `models`. The entry's own settings come first, then those of all models. If no
    /// threads are set, the model's `workers` share the processors.
    ///
    /// # Errors
    /// [`ModelError::NoCuda`] when the device does not exist, [`ModelError::Float16OnCpu`] when it does not support the
    /// precision.
    pub fn find(entry: &ModelEntry, common: &ModelSettings, workers: usize) -> Result<Self, ModelError> {
        let cuda_devices = usize::try_from(Cuda::device_count()).unwrap_or(0);
        let device = find_device(entry.device.unwrap_or(common.device), cuda_devices)?;
        Ok(Self {
            device,
            precision: find_precision(entry.precision.unwrap_or(common.precision), device)?,
            threads: match entry.threads.unwrap_or(common.threads) {
                // `available_parallelism` respects the quota of the cgroup.
                0 => std::thread::available_parallelism()
                    .map_or(1, usize::from)
                    .div_ceil(workers),
                threads => threads,
            },
        })
    }

    /// Sets the number of libtorch threads for the current thread. Call it on the thread that loads the model.
    pub fn prepare(&self) {
        tch::set_num_threads(i32::try_from(self.threads).unwrap_or(i32::MAX));
    }

    /// Returns the device's name: "cpu" or "cuda:0".
    pub fn device_name(&self) -> String {
        match self.device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".to_owned(),
        }
    }
}

impl PrecisionRule {
    /// Returns the element type for a CLIP's weights. Measures it if the rule says so.
    ///
    /// # Errors
    /// [`CheckpointError`] when a tensor is missing or does not fit the others.
    pub fn of(&self, weights: &Weights, config: &clip::ModelConfig) -> Result<Precision, CheckpointError> {
        let measured = match self {
            Self::Fixed(precision) => return Ok(*precision),
            Self::Measured(measured) => measured,
        };
        if let Some(precision) = measured.get() {
            return Ok(*precision);
        }
        let seconds = clip::sample_seconds(weights, config, [Kind::Float, Kind::BFloat16])?;
        let precision = faster(seconds);
        let [float32_seconds, bfloat16_seconds] = seconds;
        tracing::info!(
            precision = precision.name(),
            float32_seconds,
            bfloat16_seconds,
            "chose the precision by timing a part of the model (model.precision: auto)"
        );
        // Another worker may have measured at the same time. Then its result holds for both.
        Ok(*measured.get_or_init(|| precision))
    }

    /// Returns the element type without measuring: float32 where the rule would measure.
    pub fn unmeasured(&self) -> Precision {
        match self {
            Self::Fixed(precision) => *precision,
            Self::Measured(_) => Precision::Float32,
        }
    }
}

/// Returns the faster element type, given the seconds in float32 and in bfloat16.
fn faster([float32, bfloat16]: [f64; 2]) -> Precision {
    if float32 > CLEARLY_FASTER * bfloat16 {
        Precision::Bfloat16
    } else {
        Precision::Float32
    }
}

impl Precision {
    /// Returns libtorch's name for the element type.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::Bfloat16 => Kind::BFloat16,
            Self::Float16 => Kind::Half,
        }
    }
}

fn find_device(choice: DeviceChoice, cuda_devices: usize) -> Result<Device, ModelError> {
    match choice {
        DeviceChoice::Auto if cuda_devices > 0 => Ok(Device::Cuda(0)),
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(index) if index < cuda_devices => Ok(Device::Cuda(index)),
        DeviceChoice::Cuda(index) => Err(ModelError::NoCuda {
            index,
            count: cuda_devices,
        }),
    }
}

fn find_precision(choice: PrecisionChoice, device: Device) -> Result<PrecisionRule, ModelError> {
    match (choice, device) {
        (PrecisionChoice::Auto, Device::Cuda(_)) => Ok(PrecisionRule::Fixed(Precision::Float16)),
        (PrecisionChoice::Auto, _) => Ok(PrecisionRule::Measured(Arc::default())),
        (PrecisionChoice::Fixed(Precision::Float16), Device::Cpu) => Err(ModelError::Float16OnCpu),
        (PrecisionChoice::Fixed(precision), _) => Ok(PrecisionRule::Fixed(precision)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::weights::EmbeddedModel;

    #[test]
    fn auto_takes_cuda_where_there_is_one() {
        assert_eq!(find_device(DeviceChoice::Auto, 0).unwrap(), Device::Cpu);
        assert_eq!(find_device(DeviceChoice::Auto, 2).unwrap(), Device::Cuda(0));
        assert_eq!(find_device(DeviceChoice::Cpu, 2).unwrap(), Device::Cpu);
        assert_eq!(find_device(DeviceChoice::Cuda(1), 2).unwrap(), Device::Cuda(1));
    }

    #[test]
    fn a_cuda_device_that_is_not_there_is_refused_with_what_is() {
        let error = find_device(DeviceChoice::Cuda(2), 2).unwrap_err().to_string();
        assert!(
            error.contains("cuda:2") && error.contains("sees 2 CUDA devices"),
            "{error}"
        );
    }

    #[test]
    fn float16_is_for_cuda() {
        let float16 = PrecisionChoice::Fixed(Precision::Float16);
        assert!(matches!(
            find_precision(float16, Device::Cpu),
            Err(ModelError::Float16OnCpu)
        ));
        for choice in [float16, PrecisionChoice::Auto] {
            assert!(matches!(
                find_precision(choice, Device::Cuda(0)),
                Ok(PrecisionRule::Fixed(Precision::Float16))
            ));
        }
    }

    #[test]
    fn bfloat16_is_chosen_where_it_is_clearly_faster() {
        assert_eq!(faster([2.0, 1.0]), Precision::Bfloat16);
        assert_eq!(faster([1.2, 1.0]), Precision::Float32);
        assert_eq!(faster([1.0, 5.0]), Precision::Float32);
    }

    #[test]
    fn workers_measure_once_and_agree() {
        let model = EmbeddedModel::named("demo").unwrap();
        let weights = Weights::from_bytes(model.weights, Device::Cpu, Kind::Float).unwrap();
        let config = clip::ModelConfig::parse(model.config).unwrap();
        let rule = find_precision(PrecisionChoice::Auto, Device::Cpu).unwrap();
        let of_another_worker = rule.clone();
        let chosen = rule.of(&weights, &config).unwrap();
        let PrecisionRule::Measured(measured) = &of_another_worker else {
            panic!("auto on a CPU is measured");
        };
        assert_eq!(measured.get(), Some(&chosen));
        assert_eq!(of_another_worker.of(&weights, &config).unwrap(), chosen);
        // Measuring leaves the weights intact for the load that follows.
        clip::Clip::load(weights.in_kind(chosen.kind()), &config).unwrap();
    }

    #[test]
    fn an_entry_says_in_its_own_words_where_it_computes_or_is_as_all_are() {
        let common = ModelSettings {
            folder: None,
            device: DeviceChoice::Cpu,
            precision: PrecisionChoice::Fixed(Precision::Bfloat16),
            threads: 3,
        };
        let entry = ModelEntry::named("demo");
        let place = Place::find(&entry, &common, 1).unwrap();
        assert_eq!((place.precision.unmeasured(), place.threads), (Precision::Bfloat16, 3));
        let own = ModelEntry {
            precision: Some(PrecisionChoice::Auto),
            threads: Some(1),
            ..entry
        };
        let place = Place::find(&own, &common, 1).unwrap();
        assert!(matches!(place.precision, PrecisionRule::Measured(_)));
        assert_eq!(place.threads, 1);
    }
}
