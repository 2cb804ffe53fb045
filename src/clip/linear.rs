//! A linear layer with one interface over two forms: weights packed for oneDNN where the CPU supports that, plain
//! weights elsewhere.
//!
//! Owns the choice of the form, which is made when the layer is loaded. A packed layer keeps no plain copy of its
//! weight. Leaves the arithmetic of packed layers to [`native`](super::native).

use tch::{Device, Kind, Tensor};

use super::checkpoint::{CheckpointError, Weights};
use super::native::{PackedWeight, Pointwise};

/// The linear layer `x W^T + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Weight,
    /// The bias `[outputs]`, if the layer has one.
    bias: Option<Tensor>,
    outputs: i64,
}

#[derive(Debug)]
enum Weight {
    /// A weight `[outputs, inputs]` on any device.
    Plain(Tensor),
    /// A weight in oneDNN's layout on the CPU.
    Packed(PackedWeight),
}

impl Linear {
    /// Builds a layer from a weight `[outputs, inputs]` and, if there is one, a bias `[outputs]`.
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        let outputs = weight.size()[0];
        let weight = match PackedWeight::new(&weight) {
            Some(packed) => Weight::Packed(packed),
            None => Weight::Plain(weight),
        };
        Self { weight, bias, outputs }
    }

    /// Takes `{name}.weight`, `[outputs, inputs]`, and `{name}.bias`, `[outputs]`, from `weights`.
    pub(crate) fn load(weights: &mut Weights, name: &str, outputs: i64, inputs: i64) -> Result<Self, CheckpointError> {
        let weight = weights.take(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = weights.take(&format!("{name}.bias"), &[outputs])?;
        Ok(Self::new(weight, Some(bias)))
    }

    /// Does the same as [`Linear::load`] and multiplies weight and bias by one factor each. Only then are both rounded
    /// to the element type of `weights`.
    pub(crate) fn load_scaled(
        weights: &mut Weights,
        name: &str,
        outputs: i64,
        inputs: i64,
        [of_weight, of_bias]: [f64; 2],
    ) -> Result<Self, CheckpointError> {
        let kind = weights.kind();
        let mut scaled = |part: &str, shape: &[i64], factor: f64| {
            let tensor = weights.take_as(&format!("{name}.{part}"), shape, Kind::Float)?;
            Ok((tensor * factor).to_kind(kind))
        };
        let weight = scaled("weight", &[outputs, inputs], of_weight)?;
        let bias = scaled("bias", &[outputs], of_bias)?;
        Ok(Self::new(weight, Some(bias)))
    }

    /// Returns a second owner of the same weights; nothing is copied.
    pub(crate) fn share(&self) -> Self {
        let weight = match &self.weight {
            Weight::Plain(weight) => Weight::Plain(weight.shallow_clone()),
            Weight::Packed(weight) => Weight::Packed(weight.share()),
        };
        Self {
            weight,
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            outputs: self.outputs,
        }
    }

    /// Returns the length of an output vector.
    pub(crate) fn outputs(&self) -> i64 {
        self.outputs
    }

    /// Returns the element type in which the layer computes.
    pub(crate) fn kind(&self) -> Kind {
        match &self.weight {
            Weight::Plain(weight) => weight.kind(),
            Weight::Packed(weight) => weight.kind(),
        }
    }

    /// Returns the device that holds the weights.
    pub(crate) fn device(&self) -> Device {
        match &self.weight {
            Weight::Plain(weight) => weight.device(),
            Weight::Packed(_) => Device::Cpu,
        }
    }

    /// Maps `[..., inputs]` to `[..., outputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_then(x, Pointwise::Identity)
    }

    /// Does the same as [`Linear::forward`] and applies `then` to the result. A packed layer does both in one pass.
    pub(crate) fn forward_then(&self, x: &Tensor, then: Pointwise) -> Tensor {
        match &self.weight {
            Weight::Plain(weight) => then.forward(x.linear(weight, self.bias.as_ref())),
            Weight::Packed(weight) => weight.linear(x, self.bias.as_ref(), then),
        }
    }

    /// Computes `x W^T + b + other` from `x`, `[..., inputs]`, and `other`, `[..., outputs]`. The result has the shape
    /// of `other`.
    pub(crate) fn forward_added(&self, x: &Tensor, other: &Tensor) -> Tensor {
        match &self.weight {
            Weight::Plain(weight) => x.linear(weight, self.bias.as_ref()) + other,
            Weight::Packed(weight) => weight.linear_added(x, self.bias.as_ref(), other),
        }
    }
}
