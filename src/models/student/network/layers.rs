//! Convolutions and batch normalisation whose tensors can be trained.

use tch::Tensor;

use super::Mode;
use super::parameters::{Initial, ParameterError, Parameters};

/// Added to the variance in every batch normalisation.
const EPSILON: f64 = 1e-5;

/// Share of a batch's statistics in each update of the running statistics.
const MOMENTUM: f64 = 0.1;

/// The shape of a convolution. Stride 1 keeps the size of the map; stride 2 halves it, rounded up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) inputs: i64,
    pub(super) outputs: i64,
    /// Side of the kernel in cells, odd.
    pub(super) kernel: i64,
    pub(super) stride: i64,
    pub(super) dilation: i64,
}

impl Shape {
    /// Returns the shape of a 1x1 convolution.
    pub(super) fn pointwise(inputs: i64, outputs: i64) -> Self {
        Self {
            inputs,
            outputs,
            kernel: 1,
            stride: 1,
            dilation: 1,
        }
    }

    /// Returns the shape of a 3x3 convolution whose taps are `dilation` cells apart.
    pub(super) fn dilated(inputs: i64, outputs: i64, dilation: i64) -> Self {
        Self {
            kernel: 3,
            dilation,
            ..Self::pointwise(inputs, outputs)
        }
    }

    /// Returns the same shape with another stride.
    pub(super) fn with_stride(self, stride: i64) -> Self {
        Self { stride, ..self }
    }

    fn weight(self) -> [i64; 4] {
        [self.outputs, self.inputs, self.kernel, self.kernel]
    }

    /// Convolves in the element type of `x`. Gradients reach the weights in the weights' own type.
    fn apply(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let weight = weight.to_kind(x.kind());
        let bias = bias.map(|bias| bias.to_kind(x.kind()));
        if self.has_no_safe_gradient() {
            // A 1x1 kernel uses only the cells that the stride lands on.
            // [batch, inputs, height, width] -> [batch, inputs, height / stride, width / stride], rounded up
            let seen = x.slice(2, None, None, self.stride).slice(3, None, None, self.stride);
            return seen.conv2d(&weight, bias, 1, 0, 1, 1);
        }
        let padding = self.dilation * (self.kernel / 2);
        x.conv2d(&weight, bias, self.stride, padding, self.dilation, 1)
    }

    /// Returns whether oneDNN's convolution of this shape must not be trained. On processors without AVX-512, an AVX2
    /// kernel computes the gradient of a 1x1 weight. For a strided convolution it packs the inputs in blocks of 8
    /// channels. With fewer channels than a block, the kernel writes beyond its memory: the gradient is wrong, or the
    /// process crashes or never ends (oneDNN 3.12.0).
    fn has_no_safe_gradient(self) -> bool {
        self.kernel == 1 && self.stride > 1 && self.inputs < 8
    }
}

/// A convolution with a bias: the last layer of a head.
#[derive(Debug)]
pub(super) struct Convolution {
    shape: Shape,
    weight: Tensor,
    bias: Tensor,
}

impl Convolution {
    /// Creates the layer. Its weights start near 0, as in DeepLab's last layers: normal with standard deviation 0.01.
    pub(super) fn new(parameters: &mut Parameters, name: &str, shape: Shape) -> Result<Self, ParameterError> {
        let initial = Initial::Normal { deviation: 0.01 };
        Ok(Self {
            shape,
            weight: parameters.trainable(format!("{name}.weight"), &shape.weight(), initial)?,
            bias: parameters.trainable(format!("{name}.bias"), &[shape.outputs], Initial::Constant(0.0))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        self.shape.apply(x, &self.weight, Some(&self.bias))
    }
}

/// A convolution without bias, followed by batch normalisation.
#[derive(Debug)]
pub(super) struct NormalisedConvolution {
    shape: Shape,
    /// Weights of the convolution, `[outputs, inputs, kernel, kernel]`.
    convolution: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl NormalisedConvolution {
    /// Creates the layer from the tensors `{convolution}.weight` and the four vectors of `{normalisation}`. Weights
    /// start as in He et al. (2015), by the number of outputs; scale starts at 1 and shift at 0.
    pub(super) fn new(
        parameters: &mut Parameters,
        convolution: &str,
        normalisation: &str,
        shape: Shape,
    ) -> Result<Self, ParameterError> {
        let fan_out = shape.outputs * shape.kernel * shape.kernel;
        let initial = Initial::Normal {
            deviation: (2.0 / fan_out as f64).sqrt(),
        };
        let [zero, one] = [0.0, 1.0].map(Initial::Constant);
        let vector = |name: &str| format!("{normalisation}.{name}");
        let outputs = [shape.outputs];
        Ok(Self {
            shape,
            convolution: parameters.trainable(format!("{convolution}.weight"), &shape.weight(), initial)?,
            weight: parameters.trainable(vector("weight"), &outputs, one)?,
            bias: parameters.trainable(vector("bias"), &outputs, zero)?,
            running_mean: parameters.statistic(vector("running_mean"), &outputs, zero)?,
            running_var: parameters.statistic(vector("running_var"), &outputs, one)?,
        })
    }

    /// Convolves and normalises, with 32-bit statistics for any type of `x`. [`Mode::Train`] updates the running
    /// statistics.
    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.shape.apply(x, &self.convolution, None).batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            mode == Mode::Train,
            MOMENTUM,
            EPSILON,
            true,
        )
    }

    /// Does the same as [`Self::forward`], then a ReLU.
    pub(super) fn forward_relu(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.forward(x, mode).relu()
    }
}
