//! How wide the processor's vectors are, found at run time, and work that is compiled for each width.
//!
//! One program runs on every processor of its architecture and uses what the one at hand has: the same loops are compiled
//! several times. Results of different widths may differ in a float's last bits, since fused multiplication rounds once.

/// A set of instructions that the processor is known to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instructions(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// What every processor of the architecture has.
    Common,
    /// 8 floats at a time.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 16 floats at a time.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// What is compiled for every set of instructions.
pub(super) trait VectorWork {
    /// What comes of it.
    type Output;

    /// Does the work, with fused multiplication if `FUSED`. Has to be inlined together with all loops that matter: code that
    /// stays a function of its own has the common instructions alone.
    fn run<const FUSED: bool>(self) -> Self::Output;
}

impl Instructions {
    /// Narrowest vectors first.
    const SETS: &[Set] = &[
        Set::Common,
        #[cfg(target_arch = "x86_64")]
        Set::Avx2,
        #[cfg(target_arch = "x86_64")]
        Set::Avx512,
    ];

    /// All the processor has, narrowest vectors first.
    pub fn supported() -> impl Iterator<Item = Self> {
        Self::SETS.iter().copied().filter(|set| set.is_supported()).map(Self)
    }

    /// Those with the widest vectors.
    pub fn widest() -> Self {
        Self::supported().last().expect("the common instructions are there")
    }

    /// Does the work with these instructions.
    pub fn run<W: VectorWork>(self, work: W) -> W::Output {
        match self.0 {
            Set::Common => work.run::<{ cfg!(target_arch = "aarch64") }>(),
            // SAFETY: an `Instructions` is made of sets that were found to be supported.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Set::Avx2 => unsafe { run_with_avx2(work) },
            // SAFETY: as above.
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
