//! Prompt denoising (MaskCLIP, section 3.3): drops classes that occur nowhere in the image.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::Comparison;
use super::tensors::{floats, probabilities};
use crate::scores::QueryOwner;

/// The cosine that a dropped class gets, as in the reference implementation. Its probability is then zero at any usual
/// temperature.
const DROPPED_COSINE: f64 = -100.0;

/// Distance of a dropped class's logit below all others where logits have no bound.
const DROPPED_BELOW: f64 = 100.0;

/// Returns the logit that replaces the `logits` of a dropped class.
pub(super) fn dropped_logit(comparison: Comparison, logits: &Tensor, temperature: f64) -> f64 {
    match comparison {
        Comparison::Cosine => temperature * DROPPED_COSINE,
        Comparison::Product => logits.min().double_value(&[]) - DROPPED_BELOW,
    }
}

/// The logits after denoising.
pub(super) struct Denoised {
    /// The logits, `[queries, cells]`.
    pub(super) logits: Tensor,
    /// Whether every class was below the threshold. None is dropped then; the paper does not say what to do.
    pub(super) dropped_all: bool,
}

/// Drops every class whose probability is below `threshold` in every cell. The probability of a class is that of its
/// best query in a softmax over all queries. Background queries take part in the softmax and are never dropped.
/// `logits` are `[queries, cells]`; the logits of dropped classes become `dropped`.
pub(super) fn drop_absent_classes(logits: &Tensor, owners: &[QueryOwner], threshold: f32, dropped: f64) -> Denoised {
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
    let is_dropped: Vec<bool> = owners
        .iter()
        .map(|owner| match owner {
            QueryOwner::Class(class) => best_of_class.get(class).is_some_and(is_absent),
            QueryOwner::Background => false,
        })
        .collect();
    let is_dropped = Tensor::from_slice(&is_dropped)
        .to_kind(Kind::Bool)
        .to_device(logits.device())
        .unsqueeze(1); // [queries] -> [queries, 1]
    Denoised {
        logits: logits.masked_fill(&is_dropped, dropped),
        dropped_all: false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use QueryOwner::{Background, Class};

    const DROPPED: f64 = -10_000.0;

    /// Returns logits whose softmax over the first dimension equals the given rows, `[queries][cells]`.
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
        let denoised = drop_absent_classes(&logits, &[Class(0), Class(1), Class(2)], 0.5, DROPPED);
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
        let denoised = drop_absent_classes(&logits, &[Class(0), Class(0), Class(1)], 0.5, DROPPED);
        assert_eq!(kept(&denoised), [true, true, false]);
    }

    #[test]
    fn background_competes_and_is_never_dropped() {
        let logits = logits(&[[0.6, 0.2], [0.2, 0.4], [0.2, 0.4]]);
        let denoised = drop_absent_classes(&logits, &[Class(0), Class(1), Background], 0.5, DROPPED);
        assert_eq!(kept(&denoised), [true, false, true]);
    }

    #[test]
    fn when_every_class_would_go_all_stay_and_it_is_said() {
        let logits = logits(&[[0.2, 0.3], [0.3, 0.2], [0.5, 0.5]]);
        let denoised = drop_absent_classes(&logits, &[Class(0), Class(1), Background], 0.5, DROPPED);
        assert!(denoised.dropped_all);
        assert_eq!(floats(&denoised.logits), floats(&logits));
    }

    #[test]
    fn what_is_dropped_is_below_all_others_at_any_length_of_the_features() {
        let logits = logits(&[[0.8, 0.3], [0.2, 0.7]]) * 5000.0;
        assert_eq!(dropped_logit(Comparison::Cosine, &logits, 40.0), -4000.0);
        let dropped = dropped_logit(Comparison::Product, &logits, 1.0);
        assert!((dropped - (5000.0 * 0.2_f64.ln() - 100.0)).abs() < 1e-2, "{dropped}");
    }

    #[test]
    fn a_class_exactly_at_the_threshold_stays() {
        let logits = Tensor::from_slice2(&[[0f32, 0.], [0., 0.]]); // Both probabilities are exactly one half.
        let denoised = drop_absent_classes(&logits, &[Class(0), Class(1)], 0.5, DROPPED);
        assert!(!denoised.dropped_all);
        assert_eq!(kept(&denoised), [true, true]);
    }
}
