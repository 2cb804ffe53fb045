//! Stochastic gradient descent with momentum and weight decay.
//!
//! Written here, because the buffers of libtorch's optimiser cannot be read, and a resumed run needs them.

use std::collections::{BTreeMap, HashMap};

use tch::Tensor;

use crate::models::student::{OptimiserSettings, Parameters};

/// The optimiser with its momentum buffers.
#[derive(Debug)]
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    /// One buffer per parameter, by the parameter's name, with its shape.
    buffers: BTreeMap<String, Tensor>,
}

impl Sgd {
    /// Creates an optimiser that has made no step.
    pub fn new(settings: &OptimiserSettings, parameters: &Parameters) -> Self {
        let zeros = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.detach().zeros_like());
        Self {
            momentum: settings.momentum,
            weight_decay: settings.weight_decay,
            buffers: parameters.trained().iter().map(zeros).collect(),
        }
    }

    /// Returns the momentum buffers by the parameters' names.
    pub fn buffers(&self) -> &BTreeMap<String, Tensor> {
        &self.buffers
    }

    /// Takes the momentum buffers out of `stored`.
    ///
    /// # Errors
    /// The name of a buffer that is missing or has another shape.
    pub(super) fn restore(&mut self, stored: &mut HashMap<String, Tensor>) -> Result<(), String> {
        for (name, buffer) in &mut self.buffers {
            match stored.remove(name) {
                Some(tensor) if tensor.size() == buffer.size() => buffer.copy_(&tensor),
                _ => return Err(name.clone()),
            }
        }
        Ok(())
    }

    /// Changes the parameters by their gradients and clears the gradients: `buffer = momentum * buffer + gradient +
    /// weight_decay * weight`, `weight -= learning_rate * buffer`.
    pub fn step(&mut self, parameters: &Parameters, learning_rate: f64) {
        tch::no_grad(|| {
            for (name, parameter) in parameters.trained() {
                let mut weight = parameter.shallow_clone();
                let gradient = weight.grad();
                if !gradient.defined() {
                    continue;
                }
                let buffer = self.buffers.get_mut(name).expect("every parameter has a buffer");
                let change = gradient + &weight * self.weight_decay;
                *buffer = &*buffer * self.momentum + change;
                let _ = weight.g_sub_(&(&*buffer * learning_rate));
                weight.zero_grad();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_goes_down_to_its_last_value() {
        let settings = OptimiserSettings::default();
        let at = |step| settings.learning_rate_at(step, 100);
        assert_eq!(at(0), 0.01);
        assert!((at(50) - (1e-4 + 0.0099 * 0.5_f64.powf(0.9))).abs() < 1e-12);
        assert!(at(99) > 1e-4 && at(99) < 3e-4, "{}", at(99));
        assert_eq!(at(100), 1e-4);
    }
}
