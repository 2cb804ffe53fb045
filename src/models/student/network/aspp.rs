//! DeepLab's heads. Atrous spatial pyramid pooling looks at a feature map at several dilation rates side by side.

use tch::Tensor;

use super::layers::{Convolution, NormalisedConvolution, Shape};
use super::parameters::{ParameterError, Parameters};
use super::resnet::{ResNet, Stages};
use super::{Mode, NetworkConfig};
use crate::support::to_i64;

/// Dilation rates of DeepLabv2's four convolutions in cells ("ASPP-L", section 3.2).
const V2_RATES: [i64; 4] = [6, 12, 18, 24];

/// Dilation rates of DeepLabv3+'s three dilated convolutions in cells, at an eighth of the image's size.
const V3_RATES: [i64; 3] = [12, 24, 36];

/// Numerator and denominator of the share of the decoder's channels that the first stage's map is reduced to: 48 of 256
/// as published.
const LOW_LEVEL_SHARE: (i64, i64) = (3, 16);

/// DeepLabv2's head: four dilated convolutions into the space of the text embeddings, added up.
#[derive(Debug)]
pub(super) struct DeeplabV2 {
    convs: Vec<Convolution>,
}

impl DeeplabV2 {
    pub(super) fn new(
        parameters: &mut Parameters,
        name: &str,
        channels: i64,
        embedding: i64,
    ) -> Result<Self, ParameterError> {
        let convs = V2_RATES.into_iter().enumerate().map(|(index, rate)| {
            let shape = Shape::dilated(channels, embedding, rate);
            Convolution::new(parameters, &format!("{name}.convs.{index}"), shape)
        });
        Ok(Self {
            convs: convs.collect::<Result<_, _>>()?,
        })
    }

    /// Maps `[batch, channels, height, width]` to `[batch, embedding, height, width]`.
    pub(super) fn forward(&self, map: &Tensor) -> Tensor {
        let maps = self.convs.iter().map(|convolution| convolution.forward(map));
        maps.reduce(|sum, map| sum + map).expect("there are four convolutions")
    }
}

/// DeepLabv3+'s head: pooling at several rates, then a decoder that joins the result with the first stage's finer map.
#[derive(Debug)]
pub(super) struct DeeplabV3Plus {
    /// The 1x1 convolution, then the dilated ones.
    branches: Vec<NormalisedConvolution>,
    /// The convolution of the mean over the whole map.
    pool: NormalisedConvolution,
    project: NormalisedConvolution,
    low_level: NormalisedConvolution,
    decoder: [NormalisedConvolution; 2],
    output: Convolution,
}

impl DeeplabV3Plus {
    pub(super) fn new(
        parameters: &mut Parameters,
        name: &str,
        backbone: &ResNet,
        config: &NetworkConfig,
    ) -> Result<Self, ParameterError> {
        let mut layer = |part: &str, shape| {
            let (convolution, normalisation) = (format!("{name}.{part}.conv"), format!("{name}.{part}.bn"));
            NormalisedConvolution::new(parameters, &convolution, &normalisation, shape)
        };
        let (inputs, inner) = (backbone.channels(), config.head_channels);
        let mut branches = vec![layer("branches.0", Shape::pointwise(inputs, inner))?];
        for (index, rate) in (1..).zip(V3_RATES) {
            branches.push(layer(
                &format!("branches.{index}"),
                Shape::dilated(inputs, inner, rate),
            )?);
        }
        let joined = inner * (1 + to_i64(branches.len()));
        let low_level = inner * LOW_LEVEL_SHARE.0 / LOW_LEVEL_SHARE.1;
        Ok(Self {
            branches,
            pool: layer("pool", Shape::pointwise(inputs, inner))?,
            project: layer("project", Shape::pointwise(joined, inner))?,
            low_level: layer("low_level", Shape::pointwise(backbone.first_channels(), low_level))?,
            decoder: [
                layer("decoder.0", Shape::dilated(inner + low_level, inner, 1))?,
                layer("decoder.1", Shape::dilated(inner, inner, 1))?,
            ],
            output: Convolution::new(
                parameters,
                &format!("{name}.output"),
                Shape::pointwise(inner, config.embedding),
            )?,
        })
    }

    /// Maps the stages to features `[batch, embedding, height / 4, width / 4]`.
    pub(super) fn forward(&self, stages: &Stages, mode: Mode) -> Tensor {
        let map = &stages.last;
        let mean = map.mean_dim([2, 3].as_slice(), true, map.kind()); // [batch, channels, 1, 1]
        let pooled = self.pool.forward_relu(&mean, mode);
        let mut maps: Vec<_> = self
            .branches
            .iter()
            .map(|branch| branch.forward_relu(map, mode))
            .collect();
        let (batch, channels, height, width) = maps[0].size4().expect("a map is [batch, channels, height, width]");
        maps.push(pooled.expand([batch, channels, height, width], false));
        let pyramid = self.project.forward_relu(&Tensor::cat(&maps, 1), mode);

        let fine = self.low_level.forward_relu(&stages.first, mode);
        let (_, _, height, width) = fine.size4().expect("a map is [batch, channels, height, width]");
        let pyramid = pyramid.upsample_bilinear2d([height, width], false, None, None);
        let joined = Tensor::cat(&[pyramid, fine], 1);
        let decoded = self
            .decoder
            .iter()
            .fold(joined, |x, layer| layer.forward_relu(&x, mode));
        self.output.forward(&decoded)
    }
}
