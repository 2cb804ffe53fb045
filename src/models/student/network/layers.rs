//! Convolutions and batch normalisation whose tensors can be trained.

use tch::Tensor;

use super::Mode;
use super::parameters::{Initial, ParameterError, Parameters};

/// Added to the variance in every batch normalisation.
const EPSILON: f64 = 1e-5;

/// How far the running statistics move towards a batch's.
const MOMENTUM: f64 = 0.1;

/// A convolution's shape. The size of the map is kept at stride 1 and halved, rounded up, at stride 2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) inputs: i64,
    pub(super) outputs: i64,
    /// Side of the kernel, odd.
    pub(super) kernel: i64,
    pub(super) stride: i64,
    pub(super) dilation: i64,
}

impl Shape {
    /// A 1x1 convolution.
    pub(super) fn pointwise(inputs: i64, outputs: i64) -> Self {
        Self {
            inputs,
            outputs,
            kernel: 1,
            stride: 1,
            dilation: 1,
        }
    }

    /// A 3x3 convolution whose taps are `dilation` cells apart.
    pub(super) fn dilated(inputs: i64, outputs: i64, dilation: i64) -> Self {
        Self {
            kernel: 3,
            dilation,
            ..Self::pointwise(inputs, outputs)
        }
    }

    /// The same with a stride.
    pub(super) fn with_stride(self, stride: i64) -> Self {
        Self { stride, ..self }
    }

    fn weight(self) -> [i64; 4] {
        [self.outputs, self.inputs, self.kernel, self.kernel]
    }

    /// Convolves in `x`'s kind; gradients reach the weights in their own.
    fn apply(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let weight = weight.to_kind(x.kind());
        let bias = bias.map(|bias| bias.to_kind(x.kind()));
        if self.has_no_safe_gradient() {
            // A 1x1 kernel sees the cells that the stride lands on, and no others.
            // [batch, inputs, height, width] -> [batch, inputs, height / stride, width / stride], rounded up
            let seen = x.slice(2, None, None, self.stride).slice(3, None, None, self.stride);
            return seen.conv2d(&weight, bias, 1, 0, 1, 1);
        }
        let padding = self.dilation * (self.kernel / 2);
        x.conv2d(&weight, bias, self.stride, padding, self.dilation, 1)
    }

    /// Whether oneDNN's convolution of this shape must not be trained. Its AVX2 kernel for the gradient of a 1x1 weight, which
    /// processors without AVX-512 get, moves the inputs of a strided convolution together in blocks of 8 channels. With fewer
    /// channels than a block, the kernel writes beyond its memory: the gradient is wrong, or the process crashes or never ends
    /// (oneDNN 3.12.0).
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
    /// Begins near 0, as DeepLab's last layers do: normal with deviation 0.01.
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

/// A convolution without bias and the batch normalisation after it.
#[derive(Debug)]
pub(super) struct NormalisedConvolution {
    shape: Shape,
    /// `[outputs, inputs, kernel, kernel]`
    convolution: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl NormalisedConvolution {
    /// `{convolution}.weight` and the four vectors of `{normalisation}`. Begins as He et al. (2015) have it, by the number of
    /// outputs, and without scale or shift.
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

    /// Convolved and normalised, statistics in 32 bits whatever `x` is. In [`Mode::Train`] the running ones move.
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

    /// As above, then what is negative becomes 0.
    pub(super) fn forward_relu(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.forward(x, mode).relu()
    }
}
