//! The visual tower of a CLIP model, in either of CLIP's two architectures.

use tch::{Device, Kind, Tensor};

use super::checkpoint::{CheckpointError, ModelConfig, Weights};
use super::{ModifiedResNet, VisionTransformer};

/// The part of a CLIP model that encodes images.
#[derive(Debug)]
pub enum VisualTower {
    /// The architecture of ViT-B/16 and its relatives.
    VisionTransformer(VisionTransformer),
    /// The architecture of RN50 and its relatives.
    ModifiedResNet(ModifiedResNet),
}

impl VisualTower {
    /// Loads whichever of the two towers the checkpoint holds.
    ///
    /// # Errors
    /// Fails when the checkpoint holds neither tower, or when a tensor is missing or does not fit the others.
    pub fn load(weights: &mut Weights, config: &ModelConfig) -> Result<Self, CheckpointError> {
        if weights.shape("visual.layer1.0.conv1.weight").is_some() {
            ModifiedResNet::load(weights, config.visual_head_width, config.last_stride).map(Self::ModifiedResNet)
        } else if weights.shape("visual.class_embedding").is_some() {
            VisionTransformer::load(weights, config.activation, config.visual_head_width).map(Self::VisionTransformer)
        } else {
            Err(CheckpointError::OtherArchitecture {
                tensors: weights.left(),
            })
        }
    }

    /// Encodes images `[batch, 3, height, width]` as CLIP's image features `[batch, embedding]`, which are not of unit
    /// length. `height` and `width` must be whole multiples of [`VisualTower::patch_pixels`]. The positional embedding
    /// is interpolated to the grid of the image.
    pub fn encode_image(&self, image: &Tensor) -> Tensor {
        tch::no_grad(|| match self {
            Self::VisionTransformer(tower) => tower.encode_image(image),
            Self::ModifiedResNet(tower) => tower.encode_image(image),
        })
    }

    /// Returns the side of one grid cell in pixels.
    pub fn patch_pixels(&self) -> i64 {
        match self {
            Self::VisionTransformer(tower) => tower.patch_pixels(),
            Self::ModifiedResNet(tower) => tower.patch_pixels(),
        }
    }

    /// Returns the side in pixels of the square images that the model was trained on.
    pub fn training_pixels(&self) -> i64 {
        match self {
            Self::VisionTransformer(tower) => tower.training_pixels(),
            Self::ModifiedResNet(tower) => tower.training_pixels(),
        }
    }

    /// Returns the length of an image feature, which is also the length of a text feature.
    pub fn embedding_dimension(&self) -> i64 {
        match self {
            Self::VisionTransformer(tower) => tower.embedding_dimension(),
            Self::ModifiedResNet(tower) => tower.embedding_dimension(),
        }
    }

    /// Returns the architecture's name for people to read: "ViT-B/16" or "RN50" for published sizes, otherwise the
    /// sizes.
    pub fn architecture(&self) -> String {
        match self {
            Self::VisionTransformer(tower) => tower.architecture(),
            Self::ModifiedResNet(tower) => tower.architecture(),
        }
    }

    /// Returns the element type in which the tower expects its images.
    pub fn kind(&self) -> Kind {
        match self {
            Self::VisionTransformer(tower) => tower.kind(),
            Self::ModifiedResNet(tower) => tower.kind(),
        }
    }

    /// Returns the device on which the tower expects its images.
    pub fn device(&self) -> Device {
        match self {
            Self::VisionTransformer(tower) => tower.device(),
            Self::ModifiedResNet(tower) => tower.device(),
        }
    }
}
