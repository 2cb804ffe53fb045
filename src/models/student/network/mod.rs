//! The student's segmentation network: a ResNet at an eighth of the image's size, and a DeepLab head that ends in the
//! space of the text embeddings. The text embeddings are the last layer.
//!
//! This room owns the architecture and the forward pass. The last layer is given, not learned: the network tells apart
//! whatever texts it is given, whether it was trained on them or not.

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

/// Prefix of the names of the backbone's tensors.
const BACKBONE: &str = "backbone";

/// The source of the statistics for batch normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The batch's own statistics. They also update the running statistics.
    Train,
    /// The running statistics, which do not change.
    Evaluate,
}

/// The depth of the ResNet.
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
    /// Returns the number of blocks in each stage.
    const fn blocks(self) -> [usize; 4] {
        match self {
            Self::Resnet18 => [2, 2, 2, 2],
            Self::Resnet50 => [3, 4, 6, 3],
            Self::Resnet101 => [3, 4, 23, 3],
        }
    }

    /// Returns whether blocks are bottlenecks: 1x1, 3x3 and 1x1 convolutions, the last with four times the channels.
    const fn has_bottlenecks(self) -> bool {
        !matches!(self, Self::Resnet18)
    }
}

/// The first layers of the ResNet.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, EnumString, VariantArray, VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Stem {
    /// One 7x7 convolution, as published and in torchvision.
    Plain,
    /// Three 3x3 convolutions: "ResNet-C" (He et al. 2019, "Bag of Tricks", section 4), with the tensor names of timm's
    /// `resnet50c`.
    V1c,
}

/// The layers after the ResNet.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, EnumString, VariantArray, VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Head {
    /// DeepLabv2 (Chen et al., TPAMI 2018): four dilated convolutions side by side, added up.
    DeeplabV2,
    /// DeepLabv3+ (Chen et al., ECCV 2018): pooling at several rates, then a decoder at a quarter of the image's size.
    DeeplabV3Plus,
}

/// Everything that decides a network's tensors and their shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// The depth of the ResNet.
    pub backbone: Backbone,
    /// The first layers of the ResNet.
    pub stem: Stem,
    /// Channels of the ResNet's first stage, 64 as published; each later stage doubles them. At least 2 and even.
    pub width: i64,
    /// The layers after the ResNet.
    pub head: Head,
    /// Channels inside DeepLabv3+'s head, 256 as published; at least 6. DeepLabv2's head ignores it.
    pub head_channels: i64,
    /// Channels of the features, equal to the length of a text embedding.
    pub embedding: i64,
}

/// A network with its tensors.
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
    /// Creates the network from the tensors of `parameters`.
    ///
    /// # Errors
    /// [`ParameterError`] when a stored tensor is missing or has another shape.
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

    /// Returns features in the space of the text embeddings, not scaled to unit length. Maps `[batch, 3, height,
    /// width]` to `[batch, embedding, height / 8, width / 8]` for DeepLabv2 and to `[batch, embedding, height / 4,
    /// width / 4]` for DeepLabv3+, rounded up.
    ///
    /// The images' element type is the type of the arithmetic. Weights, their gradients and all statistics stay 32-bit
    /// even for 16-bit images.
    ///
    /// # Panics
    /// When `images` has another shape, or libtorch fails.
    pub fn features(&self, images: &Tensor, mode: Mode) -> Tensor {
        let stages = self.backbone.forward(&channels_last(images), mode);
        match &self.head {
            HeadLayers::DeeplabV2(head) => head.forward(&stages.last),
            HeadLayers::DeeplabV3Plus(head) => head.forward(&stages, mode),
        }
    }

    /// Returns logits `[batch, queries, ...]` on the features' grid for texts `[queries, embedding]`. As in MaskCLIP+,
    /// features keep their length and there is no temperature.
    ///
    /// # Panics
    /// When a tensor has another shape, or libtorch fails.
    pub fn logits(&self, images: &Tensor, text: &Tensor, mode: Mode) -> Tensor {
        classify(&self.features(images, mode), text)
    }
}

/// Compares features `[batch, embedding, ...]` with texts `[queries, embedding]`: the last layer of
/// [`Network::logits`].
///
/// # Panics
/// When a tensor has another shape, or libtorch fails.
pub(crate) fn classify(features: &Tensor, text: &Tensor) -> Tensor {
    // [queries, embedding] -> [queries, embedding, 1, 1], the weight of a 1x1 convolution.
    let weight = text.to_kind(features.kind()).unsqueeze(-1).unsqueeze(-1);
    features.conv2d(&weight, None::<&Tensor>, 1, 0, 1, 1)
}

/// Returns the same maps, `[batch, channels, height, width]`, with the channels of a pixel side by side in memory.
/// Dilated convolutions on a CPU are several times faster on this layout. All layers keep it.
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
        // A convolution has a weight, and the normalisation after it a scale and a shift. torchvision's models have 20,
        // 53 and 104 convolutions.
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
