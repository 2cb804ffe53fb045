//! The segmentation network that learns: a ResNet at an eighth of the image's size, a DeepLab head that ends in the space of
//! the texts, and the texts themselves as its last layer.
//!
//! Owns the architecture and its forward pass. The last layer is given, not learned: whatever texts it is given, trained on or
//! not, are what the network tells apart.

mod aspp;
mod layers;
mod parameters;
mod resnet;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantArray, VariantNames};
use tch::Tensor;

use aspp::{DeeplabV2, DeeplabV3Plus};
use resnet::ResNet;

pub(crate) use parameters::Initial;
pub use parameters::{ParameterError, Parameters};

/// What the names of the backbone's tensors begin with.
const BACKBONE: &str = "backbone";

/// Whether batch normalisation takes its statistics from the batch, and notes them, or from what it has noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Statistics of the batch; the running ones move towards them.
    Train,
    /// The running statistics, which stay as they are.
    Evaluate,
}

/// How deep the ResNet is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, EnumString, VariantArray, VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Backbone {
    /// Eight blocks of two 3x3 convolutions.
    Resnet18,
    /// Sixteen bottlenecks.
    Resnet50,
    /// Thirty-three bottlenecks.
    Resnet101,
}

impl Backbone {
    /// Blocks per stage.
    const fn blocks(self) -> [usize; 4] {
        match self {
            Self::Resnet18 => [2, 2, 2, 2],
            Self::Resnet50 => [3, 4, 6, 3],
            Self::Resnet101 => [3, 4, 23, 3],
        }
    }

    /// Whether blocks are 1x1, 3x3, 1x1 with four times the channels at their end.
    const fn has_bottlenecks(self) -> bool {
        !matches!(self, Self::Resnet18)
    }
}

/// What a ResNet begins with.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, EnumString, VariantArray, VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Stem {
    /// One 7x7 convolution, as published and in torchvision.
    Plain,
    /// Three 3x3 convolutions, "ResNet-C" (He et al. 2019, "Bag of Tricks", section 4), as timm's `resnet50c` names them.
    V1c,
}

/// What follows the ResNet.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, EnumString, VariantArray, VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Head {
    /// DeepLabv2 (Chen et al., TPAMI 2018): four dilated convolutions side by side, added up.
    DeeplabV2,
    /// DeepLabv3+ (Chen et al., ECCV 2018): pooling at many rates, then a decoder at a quarter of the image's size.
    DeeplabV3Plus,
}

/// Everything that decides a network's tensors and their shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// How deep the ResNet is.
    pub backbone: Backbone,
    /// What it begins with.
    pub stem: Stem,
    /// Channels of its first stage, 64 as published; each later stage doubles them. At least 2, even.
    pub width: i64,
    /// What follows it.
    pub head: Head,
    /// Channels inside DeepLabv3+'s head, 256 as published; at least 6. DeepLabv2's has none.
    pub head_channels: i64,
    /// Channels of the result: the length of a text embedding.
    pub embedding: i64,
}

/// A network and its tensors.
#[derive(Debug)]
pub struct Network {
    backbone: ResNet,
    head: HeadLayers,
}

#[derive(Debug)]
enum HeadLayers {
    DeeplabV2(DeeplabV2),
    DeeplabV3Plus(Box<DeeplabV3Plus>),
}

impl Network {
    /// Takes the network's tensors, or begins them.
    ///
    /// # Errors
    /// When a stored tensor is missing or has another shape.
    pub fn new(parameters: &mut Parameters, config: &NetworkConfig) -> Result<Self, ParameterError> {
        let backbone = ResNet::new(parameters, BACKBONE, config)?;
        let head = match config.head {
            Head::DeeplabV2 => {
                DeeplabV2::new(parameters, "head", backbone.channels(), config.embedding).map(HeadLayers::DeeplabV2)
            }
            Head::DeeplabV3Plus => DeeplabV3Plus::new(parameters, "head", &backbone, config)
                .map(Box::new)
                .map(HeadLayers::DeeplabV3Plus),
        };
        Ok(Self { backbone, head: head? })
    }

    /// Features in the space of the texts, not of unit length: `[batch, 3, height, width]` to
    /// `[batch, embedding, height / 8, width / 8]` for DeepLabv2, an eighth rounded up, and a quarter for DeepLabv3+.
    ///
    /// Computed in the images' kind: weights, their gradients and all statistics stay in 32 bits where images come in 16.
    ///
    /// # Panics
    /// When the shape is another one, or libtorch fails.
    pub fn features(&self, images: &Tensor, mode: Mode) -> Tensor {
        let stages = self.backbone.forward(&channels_last(images), mode);
        match &self.head {
            HeadLayers::DeeplabV2(head) => head.forward(&stages.last),
            HeadLayers::DeeplabV3Plus(head) => head.forward(&stages, mode),
        }
    }

    /// Features against texts, `[queries, embedding]`: logits `[batch, queries, ...]` on the features' grid. As MaskCLIP+ has
    /// it, features keep their length and there is no temperature.
    ///
    /// # Panics
    /// When a shape is another one, or libtorch fails.
    pub fn logits(&self, images: &Tensor, text: &Tensor, mode: Mode) -> Tensor {
        classify(&self.features(images, mode), text)
    }
}

/// Features, `[batch, embedding, ...]`, against texts: the last layer of [`Network::logits`] alone.
///
/// # Panics
/// When a shape is another one, or libtorch fails.
pub(crate) fn classify(features: &Tensor, text: &Tensor) -> Tensor {
    // [queries, embedding] -> [queries, embedding, 1, 1], the weight of a 1x1 convolution.
    let weight = text.to_kind(features.kind()).unsqueeze(-1).unsqueeze(-1);
    features.conv2d(&weight, None::<&Tensor>, 1, 0, 1, 1)
}

/// The same maps, `[batch, channels, height, width]`, with the channels of a pixel side by side in memory: dilated convolutions
/// of what lies otherwise are several times slower on a CPU. All layers hand the order on.
fn channels_last(maps: &Tensor) -> Tensor {
    maps.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn config(backbone: Backbone, stem: Stem, head: Head) -> NetworkConfig {
        NetworkConfig {
            backbone,
            stem,
            width: 2,
            head,
            head_channels: 6,
            embedding: 5,
        }
    }

    fn network(config: &NetworkConfig) -> (Network, Parameters) {
        let mut parameters = Parameters::from_scratch(0, Device::Cpu);
        let network = Network::new(&mut parameters, config).unwrap();
        (network, parameters)
    }

    #[test]
    fn backbones_have_the_tensors_of_torchvision_and_timm() {
        let names = |backbone, stem| {
            let (_, parameters) = network(&config(backbone, stem, Head::DeeplabV2));
            let names = parameters.trained().keys();
            names
                .filter_map(|name| Some(name.strip_prefix("backbone.")?.to_owned()))
                .collect::<Vec<_>>()
        };
        // A convolution, and the scale and shift after it: torchvision's models have 20, 53 and 104 of them.
        for (backbone, convolutions, last) in [
            (Backbone::Resnet18, 20, "layer4.1.bn2.weight"),
            (Backbone::Resnet50, 53, "layer4.2.bn3.weight"),
            (Backbone::Resnet101, 104, "layer3.22.conv3.weight"),
        ] {
            let names = names(backbone, Stem::Plain);
            assert_eq!(names.len(), 3 * convolutions, "{}", backbone);
            assert!(names.iter().any(|name| name == last), "{}", backbone);
        }
        let deep = names(Backbone::Resnet50, Stem::V1c);
        for name in [
            "conv1.0.weight",
            "conv1.4.bias",
            "conv1.6.weight",
            "bn1.weight",
            "layer1.0.downsample.1.bias",
        ] {
            assert!(deep.iter().any(|deep| deep == name), "{name}");
        }
    }

    #[test]
    fn images_in_16_bits_make_features_near_those_in_32_and_gradients_in_32() {
        for &head in <Head as VariantArray>::VARIANTS {
            let (network, parameters) = network(&config(Backbone::Resnet18, Stem::V1c, head));
            let pixels = Tensor::arange(2 * 3 * 64 * 64, (Kind::Float, Device::Cpu));
            let image = (pixels * 7.3).sin().view([2, 3, 64, 64]);
            let [exact, near] =
                [Kind::Float, Kind::BFloat16].map(|kind| network.features(&image.to_kind(kind), Mode::Evaluate));
            assert_eq!(near.kind(), Kind::BFloat16, "{head:?}");
            let near = near.to_kind(Kind::Float);
            let difference = ((&near - &exact).norm() / exact.norm()).double_value(&[]);
            assert!(difference > 0.0 && difference < 0.05, "{head:?}: {difference}");
            let features = network.features(&image.to_kind(Kind::BFloat16), Mode::Train);
            features.sum(Kind::Float).backward();
            for (name, parameter) in parameters.trained() {
                assert_eq!(parameter.grad().kind(), Kind::Float, "{name}");
            }
        }
    }

    #[test]
    fn any_texts_make_the_last_layer_on_any_size_of_image() {
        let text = |queries: i64| Tensor::ones([queries, 5], (Kind::Float, Device::Cpu));
        let image = Tensor::zeros([1, 3, 65, 47], (Kind::Float, Device::Cpu));
        for (head, height, width) in [(Head::DeeplabV2, 9, 6), (Head::DeeplabV3Plus, 17, 12)] {
            let (network, _) = network(&config(Backbone::Resnet18, Stem::V1c, head));
            for queries in [1, 7] {
                let logits = network.logits(&image, &text(queries), Mode::Evaluate);
                assert_eq!(logits.size(), [1, queries, height, width]);
            }
        }
    }
}
