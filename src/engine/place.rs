//! Where a model computes, and in what: the device, the element type, the threads.

use tch::{Cuda, Device, Kind};

use super::Precision;
use super::clip_labeller::ModelError;
use crate::config::{DeviceChoice, ModelConfig, ModelEntry, PrecisionChoice};

/// Where a model computes, and in what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// The device, which is there.
    pub device: Device,
    /// Element type of its arithmetic, which the device has.
    pub precision: Precision,
    /// libtorch's threads.
    pub threads: usize,
}

impl Place {
    /// What the settings ask for: the entry's own words, else those for all models.
    ///
    /// # Errors
    /// When the device is not there, or cannot compute in the precision.
    pub fn find(entry: &ModelEntry, common: &ModelConfig) -> Result<Self, ModelError> {
        let cuda_devices = usize::try_from(Cuda::device_count()).unwrap_or(0);
        let device = find_device(entry.device.unwrap_or(common.device), cuda_devices)?;
        Ok(Self {
            device,
            precision: find_precision(entry.precision.unwrap_or(common.precision), device)?,
            threads: match entry.threads.unwrap_or(common.threads) {
                // Knows of the cgroup's quota.
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => threads,
            },
        })
    }

    /// Gives this thread, on which a model is about to be loaded, its share of libtorch's threads.
    pub fn prepare(&self) {
        tch::set_num_threads(i32::try_from(self.threads).unwrap_or(i32::MAX));
    }

    /// The element type, as libtorch names it.
    pub fn kind(&self) -> Kind {
        match self.precision {
            Precision::Float32 => Kind::Float,
            Precision::Bfloat16 => Kind::BFloat16,
            Precision::Float16 => Kind::Half,
        }
    }

    /// The device's name: "cpu" or "cuda:0".
    pub fn device_name(&self) -> String {
        match self.device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".to_owned(),
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

fn find_precision(choice: PrecisionChoice, device: Device) -> Result<Precision, ModelError> {
    match (choice, device) {
        (PrecisionChoice::Auto, Device::Cuda(_)) => Ok(Precision::Float16),
        (PrecisionChoice::Auto, _) => Ok(Precision::Float32),
        (PrecisionChoice::Fixed(Precision::Float16), Device::Cpu) => Err(ModelError::Float16OnCpu),
        (PrecisionChoice::Fixed(precision), _) => Ok(precision),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Config;

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
        assert_eq!(find_precision(float16, Device::Cuda(0)).unwrap(), Precision::Float16);
        assert_eq!(
            find_precision(PrecisionChoice::Auto, Device::Cuda(0)).unwrap(),
            Precision::Float16
        );
        assert_eq!(
            find_precision(PrecisionChoice::Auto, Device::Cpu).unwrap(),
            Precision::Float32
        );
    }

    #[test]
    fn an_entry_says_in_its_own_words_where_it_computes_or_is_as_all_are() {
        let common = ModelConfig {
            device: DeviceChoice::Cpu,
            precision: PrecisionChoice::Fixed(Precision::Bfloat16),
            threads: 3,
            ..Config::for_testing().model
        };
        let entry = ModelEntry::named("demo");
        let place = Place::find(&entry, &common).unwrap();
        assert_eq!((place.precision, place.threads), (Precision::Bfloat16, 3));
        let own = ModelEntry {
            precision: Some(PrecisionChoice::Auto),
            threads: Some(1),
            ..entry
        };
        let place = Place::find(&own, &common).unwrap();
        assert_eq!((place.precision, place.threads), (Precision::Float32, 1));
    }
}
