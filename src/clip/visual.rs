//! Either of CLIP's visual towers.

use tch::{Device, Kind, Tensor};

use super::checkpoint::{CheckpointError, ModelConfig, Weights};
use super::{ModifiedResNet, VisionTransformer};

/// The image half of a CLIP model.
#[derive(Debug)]
pub enum VisualTower {
    /// ViT-B/16 and its like.
    VisionTransformer(VisionTransformer),
    /// RN50 and its like.
    ModifiedResNet(ModifiedResNet),
}

impl VisualTower {
    /// Takes the tower that the checkpoint holds.
    ///
    /// # Errors
    /// When a tensor is missing or does not fit the others.
    pub fn load(weights: &mut Weights, config: &ModelConfig) -> Result<Self, CheckpointError> {
        if weights.shape("visual.layer1.0.conv1.weight").is_some() {
            ModifiedResNet::load(weights, config.visual_head_width).map(Self::ModifiedResNet)
        } else if weights.shape("visual.class_embedding").is_some() {
            VisionTransformer::load(weights, config.activation, config.visual_head_width).map(Self::VisionTransformer)
        } else {
            Err(CheckpointError::OtherArchitecture {
                tensors: weights.left(),
            })
        }
    }

    /// CLIP's image feature, `[batch, 3, height, width]` to `[batch, embedding]`, not of unit length. Sides are whole
    /// multiples of [`VisualTower::patch_pixels`]; positions are interpolated to the grid.
    pub fn encode_image(&self, image: &Tensor) -> Tensor {
        tch::no_grad(|| match self {
            Self::VisionTransformer(tower) => tower.encode_image(image),
            Self::ModifiedResNet(tower) => tower.encode_image(image),
        })
    }

    /// Pixels along each side of one grid cell.
    pub fn patch_pixels(&self) -> i64 {
        match self {
            Self::VisionTransformer(tower) => tower.patch_pixels(),
            Self::ModifiedResNet(tower) => tower.patch_pixels(),
        }
    }

    /// Side in pixels of the square images the model was trained on.
    pub fn training_pixels(&self) -> i64 {
        match self {
            Self::VisionTransformer(tower) => tower.training_pixels(),
            Self::ModifiedResNet(tower) => tower.training_pixels(),
        }
    }

    /// Length of image and text features.
    pub fn embedding_dimension(&self) -> i64 {
        match self {
            Self::VisionTransformer(tower) => tower.embedding_dimension(),
            Self::ModifiedResNet(tower) => tower.embedding_dimension(),
        }
    }

    /// For people: "ViT-B/16", "RN50", or the sizes where they have no name.
    pub fn architecture(&self) -> String {
        match self {
            Self::VisionTransformer(tower) => tower.architecture(),
            Self::ModifiedResNet(tower) => tower.architecture(),
        }
    }

    /// Element type images are given in.
    pub fn kind(&self) -> Kind {
        match self {
            Self::VisionTransformer(tower) => tower.kind(),
            Self::ModifiedResNet(tower) => tower.kind(),
        }
    }

    /// Device images are given on.
    pub fn device(&self) -> Device {
        match self {
            Self::VisionTransformer(tower) => tower.device(),
            Self::ModifiedResNet(tower) => tower.device(),
        }
    }
}
