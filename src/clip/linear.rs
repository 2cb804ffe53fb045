//! A linear layer: packed for oneDNN where the CPU has such layers in its type, plain elsewhere, with one interface.
//!
//! Owns that choice, which is made when the layer is loaded; a packed layer keeps no plain weight beside the packed one.
//! Leaves the packed layers' arithmetic to [`native`](super::native).

use tch::{Device, Kind, Tensor};

use super::checkpoint::{CheckpointError, Weights};
use super::native::{PackedWeight, Pointwise};

/// `x W^T + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Weight,
    /// `[outputs]`
    bias: Option<Tensor>,
    outputs: i64,
}

#[derive(Debug)]
enum Weight {
    /// `[outputs, inputs]`, on any device.
    Plain(Tensor),
    /// On the CPU.
    Packed(PackedWeight),
}

impl Linear {
    /// Of a weight `[outputs, inputs]` and perhaps a bias `[outputs]`.
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        let outputs = weight.size()[0];
        let weight = match PackedWeight::new(&weight) {
            Some(packed) => Weight::Packed(packed),
            None => Weight::Plain(weight),
        };
        Self { weight, bias, outputs }
    }

    /// Takes `{name}.weight`, `[outputs, inputs]`, and `{name}.bias`, `[outputs]`.
    pub(crate) fn load(weights: &mut Weights, name: &str, outputs: i64, inputs: i64) -> Result<Self, CheckpointError> {
        let weight = weights.take(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = weights.take(&format!("{name}.bias"), &[outputs])?;
        Ok(Self::new(weight, Some(bias)))
    }

    /// As [`Linear::load`], weight and bias multiplied by a factor each before they are rounded to the weights' kind.
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

    /// The same weights under another owner; nothing is copied.
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

    /// Length of what it gives.
    pub(crate) fn outputs(&self) -> i64 {
        self.outputs
    }

    /// Element type it computes in.
    pub(crate) fn kind(&self) -> Kind {
        match &self.weight {
            Weight::Plain(weight) => weight.kind(),
            Weight::Packed(weight) => weight.kind(),
        }
    }

    /// Device its weights are on.
    pub(crate) fn device(&self) -> Device {
        match &self.weight {
            Weight::Plain(weight) => weight.device(),
            Weight::Packed(_) => Device::Cpu,
        }
    }

    /// `[..., inputs]` to `[..., outputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_then(x, Pointwise::Identity)
    }

    /// The same with something after it, done while the values are at hand.
    pub(crate) fn forward_then(&self, x: &Tensor, then: Pointwise) -> Tensor {
        match &self.weight {
            Weight::Plain(weight) => then.forward(x.linear(weight, self.bias.as_ref())),
            Weight::Packed(weight) => weight.linear(x, self.bias.as_ref(), then),
        }
    }

    /// `x W^T + b + other`: `[..., inputs]` and `[..., outputs]` to the latter.
    pub(crate) fn forward_added(&self, x: &Tensor, other: &Tensor) -> Tensor {
        match &self.weight {
            Weight::Plain(weight) => x.linear(weight, self.bias.as_ref()) + other,
            Weight::Packed(weight) => weight.linear_added(x, self.bias.as_ref(), other),
        }
    }
}
