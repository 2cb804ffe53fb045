//! Prompt denoising (MaskCLIP, section 3.3): classes that are nowhere in the image are taken out of the running.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::scores::{floats, probabilities};
use crate::label_map::QueryOwner;

/// What a dropped class scores in place of its cosine, as in the reference implementation: no probability is left of it
/// at any temperature in use.
const DROPPED_COSINE: f64 = -100.0;

/// Logits of the classes that stayed.
pub(super) struct Denoised {
    /// `[queries, cells]`
    pub(super) logits: Tensor,
    /// Every class was below the threshold, so none was dropped: the paper leaves open what then.
    pub(super) dropped_all: bool,
}

/// Drops every class whose probability, the best of its queries' in a softmax over all queries, is below `threshold` in
/// every cell. Background queries take part in the softmax and are never dropped. `logits` are `[queries, cells]`.
pub(super) fn drop_absent_classes(
    logits: &Tensor,
    owners: &[QueryOwner],
    threshold: f32,
    temperature: f64,
) -> Denoised {
    let best_of_query = floats(&probabilities(logits).amax([1], false)); // [queries, cells] -> [queries]
    let mut best_of_class = BTreeMap::<u16, f32>::new();
    for (owner, &best) in owners.iter().zip(&best_of_query) {
        if let QueryOwner::Class(class) = owner {
            let best_so_far = best_of_class.entry(*class).or_insert(best);
            *best_so_far = best_so_far.max(best);
        }
    }
    let is_absent = |best: &f32| *best < threshold;
    if best_of_class.values().all(is_absent) {
        return Denoised {
            logits: logits.shallow_clone(),
            dropped_all: true,
        };
    }
    let dropped: Vec<bool> = owners
        .iter()
        .map(|owner| match owner {
            QueryOwner::Class(class) => best_of_class.get(class).is_some_and(is_absent),
            QueryOwner::Background => false,
        })
        .collect();
    let dropped = Tensor::from_slice(&dropped)
        .to_kind(Kind::Bool)
        .to_device(logits.device())
        .unsqueeze(1); // [queries] -> [queries, 1]
    Denoised {
        logits: logits.masked_fill(&dropped, temperature * DROPPED_COSINE),
        dropped_all: false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use QueryOwner::{Background, Class};

    const TEMPERATURE: f64 = 100.0;

    /// Logits whose softmax over the first dimension is the rows given: `[queries][cells]`.
    fn logits(probabilities: &[[f32; 2]]) -> Tensor {
        Tensor::from_slice2(probabilities).log()
    }

    fn kept(denoised: &Denoised) -> Vec<bool> {
        floats(&denoised.logits.amax([1], false))
            .iter()
            .map(|&best| best > -10_000.0)
            .collect()
    }

    #[test]
    fn a_class_below_the_threshold_everywhere_is_dropped_everywhere() {
        let logits = logits(&[[0.8, 0.3], [0.1, 0.6], [0.1, 0.1]]);
        let denoised = drop_absent_classes(&logits, &[Class(0), Class(1), Class(2)], 0.5, TEMPERATURE);
        assert!(!denoised.dropped_all);
        assert_eq!(floats(&denoised.logits.get(2)), [-10_000.0, -10_000.0]);
        assert_eq!(
            floats(&denoised.logits.narrow(0, 0, 2)),
            floats(&logits.narrow(0, 0, 2))
        );
    }

    #[test]
    fn a_class_is_as_present_as_its_best_query() {
        let logits = logits(&[[0.1, 0.2], [0.7, 0.6], [0.2, 0.2]]);
        let denoised = drop_absent_classes(&logits, &[Class(0), Class(0), Class(1)], 0.5, TEMPERATURE);
        assert_eq!(kept(&denoised), [true, true, false]);
    }

    #[test]
    fn background_competes_and_is_never_dropped() {
        let logits = logits(&[[0.6, 0.2], [0.2, 0.4], [0.2, 0.4]]);
        let denoised = drop_absent_classes(&logits, &[Class(0), Class(1), Background], 0.5, TEMPERATURE);
        assert_eq!(kept(&denoised), [true, false, true]);
    }

    #[test]
    fn when_every_class_would_go_all_stay_and_it_is_said() {
        let logits = logits(&[[0.2, 0.3], [0.3, 0.2], [0.5, 0.5]]);
        let denoised = drop_absent_classes(&logits, &[Class(0), Class(1), Background], 0.5, TEMPERATURE);
        assert!(denoised.dropped_all);
        assert_eq!(floats(&denoised.logits), floats(&logits));
    }

    #[test]
    fn a_class_exactly_at_the_threshold_stays() {
        let logits = Tensor::from_slice2(&[[0f32, 0.], [0., 0.]]); // Both probabilities are exactly one half.
        let denoised = drop_absent_classes(&logits, &[Class(0), Class(1)], 0.5, TEMPERATURE);
        assert!(!denoised.dropped_all);
        assert_eq!(kept(&denoised), [true, true]);
    }
}
