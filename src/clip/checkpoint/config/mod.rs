//! The facts about a model that its tensors do not tell, and where each form of checkpoint states them.

mod family;
mod hugging_face;

use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{CheckpointError, CheckpointFormat};
use crate::clip::Activation;
use crate::support::read_regular_text;

/// Channels per head in every model of OpenAI and most models of open_clip.
const HEAD_WIDTH: NonZeroU32 = NonZeroU32::new(64).expect("64 is not 0");

/// The stride of the last stage in every published ResNet.
pub(super) const PUBLISHED_STRIDE: i64 = 2;

/// The interpolation that resizes images, and open_clip's name for it.
const BICUBIC: &str = "bicubic";

/// The facts about a model that its tensors do not tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelConfig {
    /// The non-linearity of the MLPs.
    pub activation: Activation,
    /// Channels per attention head of the visual tower.
    pub visual_head_width: i64,
    /// Channels per attention head of the text tower.
    pub text_head_width: i64,
    /// The stride of a ResNet's last stage, 2 as published. With 1, which only the configuration of a model trained so
    /// says, a cell of the map is 16 pixels wide instead of 32. A ViT has no such stage.
    pub last_stride: i64,
    /// Mean of each channel, in RGB order, that normalises pixels in 0 to 1; `None` where the files do not say it.
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel, in RGB order, that normalises pixels; `None` where the files do not say it.
    pub std: Option<[f32; 3]>,
}

impl ModelConfig {
    /// The configuration of OpenAI's nine models, which need no file for it.
    pub const OPENAI: Self = Self {
        activation: Activation::QuickGelu,
        visual_head_width: HEAD_WIDTH.get() as i64,
        text_head_width: HEAD_WIDTH.get() as i64,
        last_stride: PUBLISHED_STRIDE,
        mean: None,
        std: None,
    };

    /// Says what the text tower computes otherwise than that of OpenAI's models, as in "gelu, heads of 32"; empty where
    /// nothing. With the weights, this determines the embeddings of texts.
    pub fn text_variant(&self) -> String {
        let activation = match self.activation {
            Activation::QuickGelu => None,
            Activation::Gelu => Some("gelu".to_owned()),
        };
        let width = self.text_head_width;
        let heads = (width != Self::OPENAI.text_head_width).then(|| format!("heads of {width}"));
        activation.into_iter().chain(heads).collect::<Vec<_>>().join(", ")
    }

    /// Finds the configuration of the weights in a file or folder. The format of the weights determines it, or it is
    /// read from the files beside the weights.
    ///
    /// # Errors
    /// Fails when the format needs a configuration and there is none, when the configuration cannot be read, or when it
    /// asks for something that is not implemented here.
    pub fn find(format: CheckpointFormat, weights: &Path) -> Result<Self, CheckpointError> {
        let weights = super::weights_file(weights)?;
        match format {
            CheckpointFormat::OpenAi => Ok(Self::OPENAI),
            CheckpointFormat::OpenClip => Self::of_open_clip(&weights),
            CheckpointFormat::HuggingFace => Self::of_hugging_face(&weights),
        }
    }

    /// Reads the first that exists of `<stem>.json`, `open_clip_config.json` (the name in model hubs) and
    /// `config.json`.
    fn of_open_clip(weights: &Path) -> Result<Self, CheckpointError> {
        let own = weights.with_extension("json");
        let candidates = [
            own.clone(),
            weights.with_file_name("open_clip_config.json"),
            weights.with_file_name("config.json"),
        ];
        for path in candidates {
            if let Some(text) = read_if_there(&path)? {
                // Model hubs have weights under open_clip's names beside Hugging Face's configuration, too.
                return match hugging_face::is_form_of(&text) {
                    true => Self::parse_hugging_face(path, &text),
                    false => Self::parse(&text).map_err(|error| refused(path, &error)),
                };
            }
        }
        Err(CheckpointError::UnknownActivation {
            weights: weights.to_owned(),
            configuration: format!(
                "open_clip's configuration, as {} or open_clip_config.json,",
                own.display()
            ),
        })
    }

    fn of_hugging_face(weights: &Path) -> Result<Self, CheckpointError> {
        let path = weights.with_file_name("config.json");
        let Some(config) = read_if_there(&path)? else {
            return Err(CheckpointError::UnknownActivation {
                weights: weights.to_owned(),
                configuration: "Hugging Face's config.json".to_owned(),
            });
        };
        Self::parse_hugging_face(path, &config)
    }

    /// Reads Hugging Face's configuration, the text of the file at `path`, and that of the preprocessor beside it.
    fn parse_hugging_face(path: PathBuf, config: &str) -> Result<Self, CheckpointError> {
        let preprocessor = read_if_there(&path.with_file_name("preprocessor_config.json"))?;
        hugging_face::parse(config, preprocessor.as_deref()).map_err(|error| refused(path, &error))
    }

    /// Reads open_clip's configuration, with or without the `model_cfg` that model hubs put around it.
    ///
    /// # Errors
    /// Fails when the text is not such a configuration, or when it has an option that is unknown here and would change
    /// the computation.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        family::check(value.get("model_cfg").unwrap_or(&value))?;
        let file: HubFile = match value.get("model_cfg") {
            Some(_) => serde_json::from_value(value)?,
            None => HubFile {
                model_cfg: serde_json::from_value(value)?,
                preprocess_cfg: Preprocess::default(),
                last_stride: PUBLISHED_STRIDE,
            },
        };
        let (model, preprocess) = (file.model_cfg, file.preprocess_cfg);
        if !(1..=PUBLISHED_STRIDE).contains(&file.last_stride) {
            return Err(serde::de::Error::custom(format!(
                "last_stride is {}: the last stage of a ResNet has the stride 1 or {PUBLISHED_STRIDE} here",
                file.last_stride
            )));
        }
        check_normalisation(
            ["mean", "std"].map(|name| format!("preprocess_cfg.{name}")),
            preprocess.mean,
            preprocess.std,
        )?;
        if let Some(interpolation) = preprocess.interpolation.filter(|name| name != BICUBIC) {
            return Err(serde::de::Error::custom(format!(
                "preprocess_cfg.interpolation is {interpolation:?}: images are resized by {BICUBIC} interpolation here"
            )));
        }
        Ok(Self {
            activation: if model.quick_gelu {
                Activation::QuickGelu
            } else {
                Activation::Gelu
            },
            visual_head_width: model.vision_cfg.head_width.get().into(),
            text_head_width: model.text_cfg.head_width()?,
            last_stride: file.last_stride,
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
    /// Not of open_clip's: what its classes cannot say.
    #[serde(default = "published_stride")]
    last_stride: i64,
}

#[derive(Default, Deserialize)]
struct Preprocess {
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    interpolation: Option<String>,
}

// Unknown fields are refused. Each is a variation of the architecture, such as another pool or another normalisation; a
// model without it would load and give wrong results. Fields that repeat the shapes of tensors are named and not kept.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    /// open_clip's default, `false`, means the exact GELU.
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
    /// One number for a ViT, four numbers for a ResNet.
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
        head_width("text_cfg.width", self.width.get(), self.heads.get())
    }
}

/// Returns the channels per head of a tower. `name` is the name of the width in the configuration, for the error
/// message.
fn head_width(name: &str, width: u32, heads: u32) -> Result<i64, serde_json::Error> {
    match width.checked_rem(heads) {
        Some(0) if width > 0 => Ok((width / heads).into()),
        _ => Err(serde::de::Error::custom(format!(
            "{name} {width} cannot be divided into {heads} heads"
        ))),
    }
}

/// Refuses a normalisation whose result is no number. `names` are the names of mean and deviation in the configuration,
/// for the error message.
fn check_normalisation(
    [mean_name, std_name]: [String; 2],
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
) -> Result<(), serde_json::Error> {
    if let Some(mean) = mean
        && !mean.iter().all(|value| value.is_finite())
    {
        return Err(serde::de::Error::custom(format!("{mean_name} {mean:?} is not finite")));
    }
    if let Some(std) = std
        && !std.iter().all(|value| value.is_finite() && *value > 0.0)
    {
        return Err(serde::de::Error::custom(format!("{std_name} {std:?} is not above 0")));
    }
    Ok(())
}

fn read_if_there(path: &Path) -> Result<Option<String>, CheckpointError> {
    match read_regular_text(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CheckpointError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

fn refused(path: PathBuf, error: &serde_json::Error) -> CheckpointError {
    CheckpointError::Configuration {
        path,
        reason: error.to_string(),
    }
}

fn published_stride() -> i64 {
    PUBLISHED_STRIDE
}

fn usual_head_width() -> NonZeroU32 {
    HEAD_WIDTH
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

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
            last_stride: 2,
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
            last_stride: 2,
            mean: Some([0.5, 0.25, 0.125]),
            std: Some([0.25, 0.5, 1.0]),
        };
        assert_eq!(ModelConfig::parse(HUB_VIT_H_14).unwrap(), expected);
    }

    #[test]
    fn the_stride_of_the_last_stage_stands_beside_the_model() {
        let with = |stride: &str| ModelConfig::parse(&HUB_VIT_H_14.replacen('{', &format!("{{{stride}"), 1));
        assert_eq!(with(r#""last_stride": 1,"#).unwrap().last_stride, 1);
        assert_eq!(
            with(r#""last_stride": 4,"#).unwrap_err().to_string(),
            "last_stride is 4: the last stage of a ResNet has the stride 1 or 2 here"
        );
    }

    #[test]
    fn an_option_that_would_change_the_computation_is_refused_by_name() {
        let other_pool = VIT_B_16_QUICKGELU.replace("\"patch_size\"", "\"pool_type\": \"avg\", \"patch_size\"");
        let error = ModelConfig::parse(&other_pool).unwrap_err().to_string();
        assert!(error.contains("unknown field `pool_type`"), "{error}");
    }

    #[test]
    fn a_normalisation_without_numbers_is_refused_by_its_key() {
        let refused = |from: &str, to: &str| {
            let error = ModelConfig::parse(&HUB_VIT_H_14.replace(from, to));
            error.unwrap_err().to_string()
        };
        assert_eq!(
            refused("0.25, 0.5, 1.0", "0.25, 0, 1.0"),
            "preprocess_cfg.std [0.25, 0.0, 1.0] is not above 0"
        );
        assert_eq!(
            refused("0.5, 0.25, 0.125", "0.5, 1e300, 0.125"),
            "preprocess_cfg.mean [0.5, inf, 0.125] is not finite"
        );
    }

    #[test]
    fn another_interpolation_is_refused() {
        let error = ModelConfig::parse(&HUB_VIT_H_14.replace("bicubic", "bilinear")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "preprocess_cfg.interpolation is \"bilinear\": images are resized by bicubic interpolation here"
        );
    }

    #[test]
    fn heads_that_do_not_divide_the_width_are_refused() {
        let error = ModelConfig::parse(&VIT_B_16_QUICKGELU.replace("\"heads\": 8", "\"heads\": 7")).unwrap_err();
        assert_eq!(error.to_string(), "text_cfg.width 512 cannot be divided into 7 heads");
        ModelConfig::parse(&VIT_B_16_QUICKGELU.replace("\"heads\": 8", "\"heads\": 0")).unwrap_err();
    }

    #[test]
    fn what_a_text_tower_computes_otherwise_than_openai_s_is_said() {
        let variant = |heads: &str, activation: &str| {
            let text = VIT_B_16_QUICKGELU
                .replace("\"heads\": 8", heads)
                .replace("\"quick_gelu\": true", activation);
            ModelConfig::parse(&text).unwrap().text_variant()
        };
        let [usual, gelu] = ["true", "false"].map(|quick| format!("\"quick_gelu\": {quick}"));
        assert_eq!(ModelConfig::OPENAI.text_variant(), "");
        assert_eq!(variant("\"heads\": 8", &usual), "");
        assert_eq!(variant("\"heads\": 8", &gelu), "gelu");
        assert_eq!(variant("\"heads\": 16", &gelu), "gelu, heads of 32");
        assert_eq!(variant("\"heads\": 4", &usual), "heads of 128");
    }

    #[test]
    fn the_nearest_name_beside_the_weights_wins_and_none_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        fs::write(&weights, "").unwrap();
        let find = || ModelConfig::find(CheckpointFormat::OpenClip, &weights);

        let error = find().unwrap_err().to_string();
        assert!(
            error.contains("model.safetensors uses QuickGELU or the exact GELU cannot be read"),
            "{error}"
        );
        assert!(error.contains("model.json or open_clip_config.json"), "{error}");

        fs::write(folder.path().join("config.json"), "{}").unwrap();
        let error = find().unwrap_err().to_string();
        assert!(error.contains("config.json: missing field"), "{error}");

        fs::write(folder.path().join("model.json"), VIT_B_16_QUICKGELU).unwrap();
        assert_eq!(find().unwrap().activation, Activation::QuickGelu);
    }

    #[test]
    fn hugging_face_s_configuration_is_known_whatever_the_tensors_are_called() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        fs::write(&weights, "").unwrap();
        let find = |config: &str| {
            fs::write(folder.path().join("config.json"), config).unwrap();
            ModelConfig::find(CheckpointFormat::OpenClip, &weights)
        };
        for family in ["siglip", "clipseg"] {
            let config = format!(r#"{{"architectures": ["A"], "model_type": "{family}", "text_config": {{}}}}"#);
            let error = find(&config).unwrap_err().to_string();
            let expected = format!("config.json: it is a {family}'s; read here are");
            assert!(error.contains(&expected), "{error}");
        }
        let config = find(r#"{"architectures": ["CLIPModel"], "model_type": "clip"}"#).unwrap();
        assert_eq!(config.activation, Activation::QuickGelu);
    }

    #[test]
    fn openai_s_archives_need_no_configuration_and_hugging_face_s_folders_need_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        fs::write(&weights, "").unwrap();
        assert_eq!(
            ModelConfig::find(CheckpointFormat::OpenAi, &weights).unwrap(),
            ModelConfig::OPENAI
        );

        let error = ModelConfig::find(CheckpointFormat::HuggingFace, folder.path())
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("put Hugging Face's config.json beside it"), "{error}");
        fs::write(folder.path().join("config.json"), r#"{"model_type": "clip"}"#).unwrap();
        assert_eq!(
            ModelConfig::find(CheckpointFormat::HuggingFace, folder.path())
                .unwrap()
                .activation,
            Activation::QuickGelu
        );
    }
}
