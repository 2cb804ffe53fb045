//! The ResNet of a student (He et al., CVPR 2016) in DeepLab's form. The last two stages keep the size of the second
//! and dilate their convolutions instead, so the result has an eighth of the image's size.
//!
//! Tensors have the names of torchvision (plain stem) and of timm (v1c stem). A bottleneck has its stride in the 3x3
//! convolution.

use tch::Tensor;

use super::layers::{NormalisedConvolution, Shape};
use super::parameters::{ParameterError, Parameters};
use super::{Mode, NetworkConfig, Stem};

/// Output channels of a bottleneck per inner channel.
const EXPANSION: i64 = 4;

/// Stride and dilation of each stage. The first block of a stage still has the dilation of the stage before.
const STAGES: [(i64, i64); 4] = [(1, 1), (2, 1), (1, 2), (1, 4)];

/// The maps that a head uses.
#[derive(Debug)]
pub(super) struct Stages {
    /// The map after the first stage, `[batch, channels, height / 4, width / 4]`.
    pub(super) first: Tensor,
    /// The map after the last stage, `[batch, channels, height / 8, width / 8]`.
    pub(super) last: Tensor,
}

#[derive(Debug)]
pub(super) struct ResNet {
    /// The convolutions of the stem: one for the plain stem, three for the v1c stem.
    stem: Vec<NormalisedConvolution>,
    /// The stages `layer1` to `layer4`.
    layers: [Vec<Block>; 4],
    first_channels: i64,
    channels: i64,
}

impl ResNet {
    pub(super) fn new(parameters: &mut Parameters, name: &str, config: &NetworkConfig) -> Result<Self, ParameterError> {
        let width = config.width;
        let stem = stem(parameters, name, config.stem, width)?;
        let expansion = if config.backbone.has_bottlenecks() {
            EXPANSION
        } else {
            1
        };
        let mut channels = width;
        let mut taps = 1;
        let mut layer = |stage: usize| {
            let (stride, dilation) = STAGES[stage];
            let inner = width << stage;
            (0..config.backbone.blocks()[stage])
                .map(|block| {
                    let place = Place {
                        channels,
                        inner,
                        outer: inner * expansion,
                        stride: if block == 0 { stride } else { 1 },
                        first_dilation: taps,
                        dilation,
                    };
                    channels = place.outer;
                    taps = dilation;
                    let name = format!("{name}.layer{}.{block}", stage + 1);
                    if config.backbone.has_bottlenecks() {
                        Block::bottleneck(parameters, &name, place)
                    } else {
                        Block::basic(parameters, &name, place)
                    }
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let layers = [layer(0)?, layer(1)?, layer(2)?, layer(3)?];
        Ok(Self {
            stem,
            layers,
            first_channels: width * expansion,
            channels,
        })
    }

    /// Returns the number of channels after the first stage.
    pub(super) fn first_channels(&self) -> i64 {
        self.first_channels
    }

    /// Returns the number of channels after the last stage.
    pub(super) fn channels(&self) -> i64 {
        self.channels
    }

    /// Maps images `[batch, 3, height, width]` to the maps that heads use.
    pub(super) fn forward(&self, images: &Tensor, mode: Mode) -> Stages {
        let x = self.stem.iter().fold(images.shallow_clone(), |x, convolution| {
            convolution.forward_relu(&x, mode)
        });
        let x = x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false);
        let through = |x: Tensor, layer: &[Block]| layer.iter().fold(x, |x, block| block.forward(&x, mode));
        let [layer1, layer2, layer3, layer4] = &self.layers;
        let first = through(x, layer1);
        let last = [layer2, layer3, layer4]
            .into_iter()
            .fold(first.shallow_clone(), |x, layer| through(x, layer));
        Stages { first, last }
    }
}

/// Creates the stem's convolutions. The first one halves the image's size.
fn stem(
    parameters: &mut Parameters,
    name: &str,
    stem: Stem,
    width: i64,
) -> Result<Vec<NormalisedConvolution>, ParameterError> {
    let mut convolution = |convolution: &str, normalisation: &str, shape| {
        let (convolution, normalisation) = (format!("{name}.{convolution}"), format!("{name}.{normalisation}"));
        NormalisedConvolution::new(parameters, &convolution, &normalisation, shape)
    };
    let half = width / 2;
    match stem {
        Stem::Plain => {
            let shape = Shape {
                kernel: 7,
                ..Shape::pointwise(3, width).with_stride(2)
            };
            Ok(vec![convolution("conv1", "bn1", shape)?])
        }
        // timm's `conv1` is a sequence of convolution, normalisation and activation.
        Stem::V1c => Ok(vec![
            convolution("conv1.0", "conv1.1", Shape::dilated(3, half, 1).with_stride(2))?,
            convolution("conv1.3", "conv1.4", Shape::dilated(half, half, 1))?,
            convolution("conv1.6", "bn1", Shape::dilated(half, width, 1))?,
        ]),
    }
}

/// The shape of a block at its place in the network.
#[derive(Debug, Clone, Copy)]
struct Place {
    channels: i64,
    inner: i64,
    outer: i64,
    stride: i64,
    /// Dilation of the first 3x3 convolution, or of a bottleneck's only one.
    first_dilation: i64,
    /// Dilation of a second 3x3 convolution.
    dilation: i64,
}

/// A residual block: convolutions with a shortcut around them.
#[derive(Debug)]
struct Block {
    /// `conv1` with `bn1`, `conv2` with `bn2`, and a bottleneck's `conv3` with `bn3`.
    convolutions: Vec<NormalisedConvolution>,
    /// The shortcut's own convolution, if the block changes the shape.
    downsample: Option<NormalisedConvolution>,
}

impl Block {
    fn basic(parameters: &mut Parameters, name: &str, place: Place) -> Result<Self, ParameterError> {
        let shapes = [
            Shape::dilated(place.channels, place.inner, place.first_dilation).with_stride(place.stride),
            Shape::dilated(place.inner, place.outer, place.dilation),
        ];
        Self::new(parameters, name, place, &shapes)
    }

    fn bottleneck(parameters: &mut Parameters, name: &str, place: Place) -> Result<Self, ParameterError> {
        let shapes = [
            Shape::pointwise(place.channels, place.inner),
            Shape::dilated(place.inner, place.inner, place.first_dilation).with_stride(place.stride),
            Shape::pointwise(place.inner, place.outer),
        ];
        Self::new(parameters, name, place, &shapes)
    }

    fn new(parameters: &mut Parameters, name: &str, place: Place, shapes: &[Shape]) -> Result<Self, ParameterError> {
        let mut convolution = |convolution: &str, normalisation: &str, shape| {
            let (convolution, normalisation) = (format!("{name}.{convolution}"), format!("{name}.{normalisation}"));
            NormalisedConvolution::new(parameters, &convolution, &normalisation, shape)
        };
        let convolutions = (1..).zip(shapes);
        let convolutions =
            convolutions.map(|(number, &shape)| convolution(&format!("conv{number}"), &format!("bn{number}"), shape));
        let convolutions = convolutions.collect::<Result<Vec<_>, _>>()?;
        let shortcut = Shape::pointwise(place.channels, place.outer).with_stride(place.stride);
        Ok(Self {
            convolutions,
            downsample: (place.stride > 1 || place.channels != place.outer)
                .then(|| convolution("downsample.0", "downsample.1", shortcut))
                .transpose()?,
        })
    }

    /// Maps `[batch, channels, height, width]` to `[batch, outer, height / stride, width / stride]`.
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let (last, others) = self.convolutions.split_last().expect("a block has convolutions");
        let y = others
            .iter()
            .fold(x.shallow_clone(), |y, convolution| convolution.forward_relu(&y, mode));
        let y = last.forward(&y, mode);
        match &self.downsample {
            Some(downsample) => (y + downsample.forward(x, mode)).relu(),
            None => (y + x).relu(),
        }
    }
}
