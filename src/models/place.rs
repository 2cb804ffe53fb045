//! The place where a model computes: device, element type, threads.

use tch::{Cuda, Device, Kind};

use super::settings::{DeviceChoice, ModelEntry, ModelSettings, PrecisionChoice};
use super::source::ModelError;
use crate::labeller::Precision;

/// The variables that limit the instructions of oneDNN, the first that is set counts.
const MAX_CPU_ISA: [&str; 2] = ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"];

/// The values of these variables with which oneDNN does not multiply bfloat16 with AVX-512's own instructions, in lower
/// case. oneDNN ignores values that it does not know.
const WITHOUT_BFLOAT16: [&str; 7] = [
    "sse41",
    "avx",
    "avx2",
    "avx2_vnni",
    "avx2_vnni_2",
    "avx512_core",
    "avx512_core_vnni",
];

/// The device, element types and threads of a model.
#[derive(Debug, Clone)]
pub struct Place {
    /// The device, which is known to exist.
    pub device: Device,
    /// Element type of a CLIP, or of the text tower that a student has from its teacher. The device supports it.
    pub clip_precision: Precision,
    /// Element type of a student's own network. The device supports it.
    pub student_precision: Precision,
    /// libtorch threads of one worker.
    pub threads: usize,
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
        let choice = entry.precision.unwrap_or(common.precision);
        let [clip_precision, student_precision] = find_precisions(choice, device, multiplies_bfloat16())?;
        Ok(Self {
            device,
            clip_precision,
            student_precision,
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

/// Returns the element types of a CLIP and of a student. On a CPU `auto` depends on nothing but the processor and the
/// kind of the model, so it is the same at every start: stored text embeddings stay valid, and replicas on like
/// machines agree. Where the processor multiplies bfloat16, images take 1.5 to 2.2 times as long in float32; elsewhere
/// bfloat16 takes at least twice as long (docs/performance.md). A student's small network is left in float32.
fn find_precisions(
    choice: PrecisionChoice,
    device: Device,
    multiplies_bfloat16: bool,
) -> Result<[Precision; 2], ModelError> {
    match (choice, device) {
        (PrecisionChoice::Auto, Device::Cuda(_)) => Ok([Precision::Float16; 2]),
        (PrecisionChoice::Auto, _) if multiplies_bfloat16 => Ok([Precision::Bfloat16, Precision::Float32]),
        (PrecisionChoice::Auto, _) => Ok([Precision::Float32; 2]),
        (PrecisionChoice::Fixed(Precision::Float16), Device::Cpu) => Err(ModelError::Float16OnCpu),
        (PrecisionChoice::Fixed(precision), _) => Ok([precision; 2]),
    }
}

/// Returns whether the processor has instructions that multiply bfloat16, and oneDNN may use them. Every processor with
/// AMX for bfloat16 has AVX512_BF16, too.
fn multiplies_bfloat16() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has_instructions = std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let has_instructions = false;
    let limit = MAX_CPU_ISA.iter().find_map(|name| std::env::var(name).ok());
    has_instructions && limit.is_none_or(|limit| allows_bfloat16(&limit))
}

/// Returns whether oneDNN multiplies bfloat16 with a limit on its instructions.
fn allows_bfloat16(limit: &str) -> bool {
    !WITHOUT_BFLOAT16.contains(&limit.to_lowercase().as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
            find_precisions(float16, Device::Cpu, true),
            Err(ModelError::Float16OnCpu)
        ));
        for choice in [float16, PrecisionChoice::Auto] {
            let found = find_precisions(choice, Device::Cuda(0), false).unwrap();
            assert_eq!(found, [Precision::Float16; 2]);
        }
    }

    #[test]
    fn on_a_cpu_auto_follows_the_processor_and_the_kind_of_the_model() {
        let auto = |multiplies| find_precisions(PrecisionChoice::Auto, Device::Cpu, multiplies).unwrap();
        assert_eq!(auto(true), [Precision::Bfloat16, Precision::Float32]);
        assert_eq!(auto(false), [Precision::Float32; 2]);
        let fixed = PrecisionChoice::Fixed(Precision::Bfloat16);
        assert_eq!(
            find_precisions(fixed, Device::Cpu, false).unwrap(),
            [Precision::Bfloat16; 2]
        );
    }

    #[test]
    fn a_limit_on_onednn_takes_bfloat16_away() {
        for limit in ["AVX2", "avx512_core", "AVX512_CORE_VNNI"] {
            assert!(!allows_bfloat16(limit), "{limit}");
        }
        for limit in ["AVX512_CORE_BF16", "AVX10_1_512_AMX", "ALL", "DEFAULT", ""] {
            assert!(allows_bfloat16(limit), "{limit}");
        }
    }

    #[test]
    fn an_entry_says_in_its_own_words_where_it_computes_or_is_as_all_are() {
        let common = ModelSettings {
            folder: None,
            device: DeviceChoice::Cpu,
            precision: PrecisionChoice::Fixed(Precision::Bfloat16),
            threads: 3,
            kept_primitives: 256,
        };
        let entry = ModelEntry::named("demo");
        let place = Place::find(&entry, &common, 1).unwrap();
        assert_eq!((place.clip_precision, place.threads), (Precision::Bfloat16, 3));
        assert_eq!(place.student_precision, Precision::Bfloat16);
        let own = ModelEntry {
            precision: Some(PrecisionChoice::Fixed(Precision::Float32)),
            threads: Some(1),
            ..entry
        };
        let place = Place::find(&own, &common, 1).unwrap();
        assert_eq!((place.clip_precision, place.threads), (Precision::Float32, 1));
    }
}
