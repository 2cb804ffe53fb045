//! open_clip's model configuration beside the weights: what cannot be read off tensor shapes.

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::Path;

use serde::Deserialize;

use super::CheckpointError;
use crate::clip::Activation;

/// Channels per head in every model of CLIP's and most of open_clip's.
const HEAD_WIDTH: NonZeroU32 = NonZeroU32::new(64).expect("64 is not 0");

/// What a model needs to be told beside its tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelConfig {
    /// The non-linearity of the MLPs.
    pub activation: Activation,
    /// Channels per attention head of the visual tower.
    pub visual_head_width: i64,
    /// Channels per attention head of the text tower.
    pub text_head_width: i64,
    /// Mean per channel that pixels in 0 to 1 are normalised with, RGB, where the file says it.
    pub mean: Option<[f32; 3]>,
    /// Standard deviation per channel that pixels are normalised with, RGB, where the file says it.
    pub std: Option<[f32; 3]>,
}

impl ModelConfig {
    /// Looks beside the weights for `<stem>.json`, `open_clip_config.json` (its name in model hubs) and `config.json`, and
    /// reads the first one there is.
    ///
    /// # Errors
    /// When there is none, when it cannot be read, or when it asks for something that is not computed here.
    pub fn beside(weights: &Path) -> Result<Self, CheckpointError> {
        let candidates = [
            weights.with_extension("json"),
            weights.with_file_name("open_clip_config.json"),
            weights.with_file_name("config.json"),
        ];
        for path in candidates {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(CheckpointError::Unreadable { path, source }),
            };
            return Self::parse(&text).map_err(|reason| CheckpointError::Configuration {
                path,
                reason: reason.to_string(),
            });
        }
        Err(CheckpointError::UnknownActivation {
            weights: weights.to_owned(),
        })
    }

    /// Reads open_clip's configuration, with or without the `model_cfg` around it that model hubs put there.
    ///
    /// # Errors
    /// When it is no such configuration, or names an option that would change the computation and is not known here.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        let (model, preprocess) = if value.get("model_cfg").is_some() {
            let file: HubFile = serde_json::from_value(value)?;
            (file.model_cfg, file.preprocess_cfg)
        } else {
            (serde_json::from_value(value)?, Preprocess::default())
        };
        Ok(Self {
            activation: if model.quick_gelu {
                Activation::QuickGelu
            } else {
                Activation::Gelu
            },
            visual_head_width: model.vision_cfg.head_width.get().into(),
            text_head_width: model.text_cfg.head_width()?,
            mean: preprocess.mean,
            std: preprocess.std,
        })
    }
}

#[derive(Deserialize)]
struct HubFile {
    model_cfg: Model,
    #[serde(default)]
    preprocess_cfg: Preprocess,
}

#[derive(Default, Deserialize)]
struct Preprocess {
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

// Unknown fields are refused: each is a variation of the architecture (another pool, another normalisation), and a model
// computed without it would load and be wrong. Fields that tensor shapes repeat are named here and not kept.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    /// open_clip's own default is the exact GELU.
    #[serde(default)]
    quick_gelu: bool,
    vision_cfg: Vision,
    text_cfg: Text,
    #[serde(rename = "embed_dim")]
    _embed_dim: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vision {
    #[serde(default = "usual_head_width")]
    head_width: NonZeroU32,
    #[serde(rename = "image_size")]
    _image_size: i64,
    /// A number for a ViT, four for a ResNet.
    #[serde(rename = "layers")]
    _layers: serde_json::Value,
    #[serde(rename = "width")]
    _width: i64,
    #[serde(default, rename = "patch_size")]
    _patch_size: Option<i64>,
    #[serde(default, rename = "mlp_ratio")]
    _mlp_ratio: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(rename = "context_length")]
    _context_length: i64,
    #[serde(rename = "vocab_size")]
    _vocab_size: i64,
    width: NonZeroU32,
    heads: NonZeroU32,
    #[serde(rename = "layers")]
    _layers: i64,
}

impl Text {
    fn head_width(&self) -> Result<i64, serde_json::Error> {
        let (width, heads) = (self.width.get(), self.heads.get());
        if width % heads == 0 {
            Ok((width / heads).into())
        } else {
            Err(serde::de::Error::custom(format!(
                "text_cfg.width {width} cannot be divided into {heads} heads"
            )))
        }
    }
}

fn usual_head_width() -> NonZeroU32 {
    HEAD_WIDTH
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const VIT_B_16_QUICKGELU: &str = r#"{
        "embed_dim": 512, "quick_gelu": true,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
    }"#;

    const HUB_VIT_H_14: &str = r#"{
        "model_cfg": {
            "embed_dim": 1024,
            "vision_cfg": {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24}
        },
        "preprocess_cfg": {"mean": [0.5, 0.25, 0.125], "std": [0.25, 0.5, 1.0], "interpolation": "bicubic"}
    }"#;

    #[test]
    fn a_configuration_of_the_package_is_read() {
        let expected = ModelConfig {
            activation: Activation::QuickGelu,
            visual_head_width: 64,
            text_head_width: 64,
            mean: None,
            std: None,
        };
        assert_eq!(ModelConfig::parse(VIT_B_16_QUICKGELU).unwrap(), expected);
    }

    #[test]
    fn a_configuration_of_a_hub_is_read_and_the_exact_gelu_is_the_default() {
        let expected = ModelConfig {
            activation: Activation::Gelu,
            visual_head_width: 80,
            text_head_width: 64,
            mean: Some([0.5, 0.25, 0.125]),
            std: Some([0.25, 0.5, 1.0]),
        };
        assert_eq!(ModelConfig::parse(HUB_VIT_H_14).unwrap(), expected);
    }

    #[test]
    fn an_option_that_would_change_the_computation_is_refused_by_name() {
        let other_pool = VIT_B_16_QUICKGELU.replace("\"patch_size\"", "\"pool_type\": \"avg\", \"patch_size\"");
        let error = ModelConfig::parse(&other_pool).unwrap_err().to_string();
        assert!(error.contains("unknown field `pool_type`"), "{error}");
    }

    #[test]
    fn heads_that_do_not_divide_the_width_are_refused() {
        let error = ModelConfig::parse(&VIT_B_16_QUICKGELU.replace("\"heads\": 8", "\"heads\": 7")).unwrap_err();
        assert_eq!(error.to_string(), "text_cfg.width 512 cannot be divided into 7 heads");
        ModelConfig::parse(&VIT_B_16_QUICKGELU.replace("\"heads\": 8", "\"heads\": 0")).unwrap_err();
    }

    #[test]
    fn the_nearest_name_beside_the_weights_wins_and_none_is_said() {
        let folder = std::env::temp_dir().join(format!("maskclip-config-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let weights = folder.join("model.safetensors");

        let error = ModelConfig::beside(&weights).unwrap_err().to_string();
        assert!(
            error.contains("model.safetensors uses QuickGELU or the exact GELU cannot be read"),
            "{error}"
        );
        assert!(error.contains("model.json or open_clip_config.json"), "{error}");

        fs::write(folder.join("config.json"), "{}").unwrap();
        let error = ModelConfig::beside(&weights).unwrap_err().to_string();
        assert!(error.contains("config.json: missing field"), "{error}");

        fs::write(folder.join("model.json"), VIT_B_16_QUICKGELU).unwrap();
        let found = ModelConfig::beside(&weights).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found.activation, Activation::QuickGelu);
    }
}
