//! The width of the processor's vectors, found at run time, and work that is compiled for each width.
//!
//! One program runs on every processor of its architecture and uses the instructions of the processor at hand. The same
//! loops are therefore compiled several times. Results may differ between widths in the last bits of a float, because
//! fused multiplication rounds once.

/// A set of instructions that the processor is known to support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instructions(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// The instructions that every processor of the architecture has.
    Common,
    /// Vectors of 8 floats.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Vectors of 16 floats.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Work that is compiled for every set of instructions.
pub(super) trait VectorWork {
    /// The result of the work.
    type Output;

    /// Does the work, with fused multiplication if `FUSED`. The function and all loops that matter must be inlined:
    /// code that stays a function of its own uses the common instructions alone.
    fn run<const FUSED: bool>(self) -> Self::Output;
}

impl Instructions {
    /// All sets, narrowest vectors first.
    const SETS: &[Set] = &[
        Set::Common,
        #[cfg(target_arch = "x86_64")]
        Set::Avx2,
        #[cfg(target_arch = "x86_64")]
        Set::Avx512,
    ];

    /// Returns all sets that the processor supports, narrowest vectors first.
    pub fn supported() -> impl Iterator<Item = Self> {
        Self::SETS.iter().copied().filter(|set| set.is_supported()).map(Self)
    }

    /// Returns the supported set with the widest vectors.
    pub fn widest() -> Self {
        Self::supported()
            .last()
            .expect("every processor has the common instructions")
    }

    /// Does the work with these instructions.
    pub fn run<W: VectorWork>(self, work: W) -> W::Output {
        match self.0 {
            Set::Common => work.run::<{ cfg!(target_arch = "aarch64") }>(),
            // SAFETY: an `Instructions` is made only of a set that the processor was found to support.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Set::Avx2 => unsafe { run_with_avx2(work) },
            // SAFETY: an `Instructions` is made only of a set that the processor was found to support.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Set::Avx512 => unsafe { run_with_avx512(work) },
        }
    }
}

impl Set {
    fn is_supported(self) -> bool {
        match self {
            Self::Common => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_with_avx2<W: VectorWork>(work: W) -> W::Output {
    work.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn run_with_avx512<W: VectorWork>(work: W) -> W::Output {
    work.run::<true>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_with_whatever_there_is() {
        struct Sum(Vec<f32>);
        impl VectorWork for Sum {
            type Output = f32;

            #[inline(always)]
            fn run<const FUSED: bool>(self) -> f32 {
                self.0.iter().sum()
            }
        }
        assert_eq!(Instructions::supported().next(), Some(Instructions(Set::Common)));
        for instructions in Instructions::supported() {
            assert_eq!(instructions.run(Sum(vec![1.0, 2.0, 4.0])), 7.0, "{instructions:?}");
        }
    }
}
