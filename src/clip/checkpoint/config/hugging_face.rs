//! Hugging Face's `config.json`, and its `preprocessor_config.json` for the normalisation of pixels.

use serde::Deserialize;

use super::{ModelConfig, PUBLISHED_STRIDE, check_normalisation, family, head_width};
use crate::clip::Activation;

/// Every LayerNorm of this crate adds this to the variance.
const LAYER_NORM_EPSILON: f64 = 1e-5;

/// The largest value of a pixel's channel, which becomes 1.
const MAX_PIXEL: f64 = 255.0;

/// Files write 1/255 with more or fewer digits.
const RESCALE_TOLERANCE: f64 = 1e-3;

/// Pillow's number of the bicubic interpolation.
const PILLOW_BICUBIC: i64 = 3;

/// Returns whether a configuration is Hugging Face's: it names the type of its model, as no other does.
pub(super) fn is_form_of(config: &str) -> bool {
    serde_json::from_str::<Named>(config).is_ok()
}

/// Reads the configuration of a `CLIPModel` and, if there is one, that of its preprocessor.
///
/// # Errors
/// Fails when the configuration is that of another model or asks for something that is not implemented here.
pub(super) fn parse(config: &str, preprocessor: Option<&str>) -> Result<ModelConfig, serde_json::Error> {
    // The type comes first: the towers of another model need not look like these.
    let Named { model_type } = serde_json::from_str(config)?;
    if model_type != "clip" {
        return Err(family::not_read(&format!("a {model_type}'s")));
    }
    let config: Config = serde_json::from_str(config)?;
    let preprocessor: Preprocessor = preprocessor.map(serde_json::from_str).transpose()?.unwrap_or_default();
    let (text, vision) = (config.text_config, config.vision_config);
    if text.hidden_act != vision.hidden_act {
        return Err(refused(format!(
            "text_config.hidden_act is {:?}, but vision_config.hidden_act is {:?}",
            text.hidden_act, vision.hidden_act
        )));
    }
    for (name, tower) in [("text_config", &text), ("vision_config", &vision)] {
        if tower.layer_norm_eps != LAYER_NORM_EPSILON {
            return Err(refused(format!(
                "{name}.layer_norm_eps is {}, not {LAYER_NORM_EPSILON}",
                tower.layer_norm_eps
            )));
        }
    }
    preprocessor.check()?;
    let names = ["image_mean", "image_std"].map(|name| format!("preprocessor_config.json's {name}"));
    check_normalisation(names, preprocessor.image_mean, preprocessor.image_std)?;
    Ok(ModelConfig {
        activation: activation(&vision.hidden_act)?,
        visual_head_width: vision.head_width("vision_config", 768, 12)?,
        text_head_width: text.head_width("text_config", 512, 8)?,
        last_stride: PUBLISHED_STRIDE,
        mean: preprocessor.image_mean,
        std: preprocessor.image_std,
    })
}

fn activation(name: &str) -> Result<Activation, serde_json::Error> {
    match name {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" => Ok(Activation::Gelu),
        _ => Err(refused(format!(
            "hidden_act is {name:?}: the activations computed here are \"quick_gelu\" and \"gelu\""
        ))),
    }
}

fn refused(reason: String) -> serde_json::Error {
    serde::de::Error::custom(reason)
}

// transformers leaves values out that equal the defaults of its CLIPConfig, so each default here is that class's
// default. Fields that repeat the shapes of tensors, and fields for training, are not read.

#[derive(Deserialize)]
struct Named {
    model_type: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    text_config: Tower,
    vision_config: Tower,
}

#[derive(Deserialize)]
#[serde(default)]
struct Tower {
    hidden_act: String,
    /// Each tower has its own default.
    hidden_size: Option<u32>,
    /// Each tower has its own default.
    num_attention_heads: Option<u32>,
    layer_norm_eps: f64,
}

impl Default for Tower {
    fn default() -> Self {
        Self {
            hidden_act: "quick_gelu".to_owned(),
            hidden_size: None,
            num_attention_heads: None,
            layer_norm_eps: LAYER_NORM_EPSILON,
        }
    }
}

impl Tower {
    fn head_width(&self, name: &str, default_width: u32, default_heads: u32) -> Result<i64, serde_json::Error> {
        let width = self.hidden_size.unwrap_or(default_width);
        let heads = self.num_attention_heads.unwrap_or(default_heads);
        head_width(&format!("{name}.hidden_size"), width, heads)
    }
}

// Sides and crops are not read: a label map needs the whole image, and the request says how large the model sees it.

#[derive(Default, Deserialize)]
struct Preprocessor {
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    do_normalize: Option<bool>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    /// Pillow's number of the interpolation.
    resample: Option<i64>,
}

impl Preprocessor {
    /// Refuses what would give the model other pixels than it gets here.
    fn check(&self) -> Result<(), serde_json::Error> {
        let Self {
            do_normalize,
            do_rescale,
            rescale_factor,
            resample,
            ..
        } = self;
        for (name, value) in [("do_normalize", do_normalize), ("do_rescale", do_rescale)] {
            if *value == Some(false) {
                return Err(refused(format!(
                    "preprocessor_config.json's {name} is false: pixels are always scaled to 0 to 1 and normalised here"
                )));
            }
        }
        if let Some(factor) = rescale_factor
            && (factor * MAX_PIXEL - 1.0).abs() > RESCALE_TOLERANCE
        {
            return Err(refused(format!(
                "preprocessor_config.json's rescale_factor is {factor}: pixels are always divided by {MAX_PIXEL} here"
            )));
        }
        match resample {
            Some(number) if *number != PILLOW_BICUBIC => Err(refused(format!(
                "preprocessor_config.json's resample is {number}: images are resized by bicubic interpolation \
                 here, Pillow's {PILLOW_BICUBIC}"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const VIT_L_14: &str = r#"{
        "model_type": "clip", "projection_dim": 768,
        "text_config": {"hidden_act": "gelu", "hidden_size": 768, "num_attention_heads": 12, "eos_token_id": 2},
        "vision_config": {"hidden_act": "gelu", "hidden_size": 1024, "num_attention_heads": 16, "patch_size": 14}
    }"#;

    #[test]
    fn a_configuration_is_read_with_its_preprocessors() {
        let preprocessor = r#"{"image_mean": [0.5, 0.25, 0.125], "image_std": [0.25, 0.5, 1.0], "do_resize": true}"#;
        let expected = ModelConfig {
            activation: Activation::Gelu,
            visual_head_width: 64,
            text_head_width: 64,
            last_stride: 2,
            mean: Some([0.5, 0.25, 0.125]),
            std: Some([0.25, 0.5, 1.0]),
        };
        assert_eq!(parse(VIT_L_14, Some(preprocessor)).unwrap(), expected);
    }

    #[test]
    fn a_deviation_of_zero_is_refused_by_its_key() {
        let error = parse(VIT_L_14, Some(r#"{"image_std": [0, 0.5, 1]}"#)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "preprocessor_config.json's image_std [0.0, 0.5, 1.0] is not above 0"
        );
    }

    #[test]
    fn what_preprocessors_of_clip_say_is_what_is_done_here() {
        let usual = r#"{"do_normalize": true, "do_rescale": true, "rescale_factor": 0.00392156862745098, "resample": 3,
            "do_center_crop": true, "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 224}}"#;
        parse(VIT_L_14, Some(usual)).unwrap();
        for (preprocessor, message) in [
            (r#"{"do_normalize": false}"#, "do_normalize is false: pixels are always"),
            (r#"{"do_rescale": false}"#, "do_rescale is false: pixels are always"),
            (
                r#"{"rescale_factor": 0.0078}"#,
                "rescale_factor is 0.0078: pixels are always divided by 255 here",
            ),
            (
                r#"{"resample": 2}"#,
                "resample is 2: images are resized by bicubic interpolation here, Pillow's 3",
            ),
        ] {
            let error = parse(VIT_L_14, Some(preprocessor)).unwrap_err().to_string();
            let expected = format!("preprocessor_config.json's {message}");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn what_is_left_out_is_as_in_transformers() {
        let expected = ModelConfig {
            activation: Activation::QuickGelu,
            visual_head_width: 64,
            text_head_width: 64,
            last_stride: 2,
            mean: None,
            std: None,
        };
        assert_eq!(parse(r#"{"model_type": "clip"}"#, None).unwrap(), expected);
    }

    #[test]
    fn what_is_not_computed_here_is_refused_by_name() {
        let refused = |from: &str, to: &str| parse(&VIT_L_14.replace(from, to), None).unwrap_err().to_string();
        assert_eq!(
            refused("\"clip\"", "\"siglip\""),
            "it is a siglip's; read here are the CLIPs of OpenAI's architectures: OpenAI's own, open_clip's with the same towers, \
             and Hugging Face's of the type \"clip\""
        );
        assert_eq!(
            refused("\"gelu\"", "\"relu\""),
            "hidden_act is \"relu\": the activations computed here are \"quick_gelu\" and \"gelu\""
        );
        assert_eq!(
            refused("\"hidden_act\": \"gelu\", \"hidden_size\": 768", "\"hidden_size\": 768"),
            "text_config.hidden_act is \"quick_gelu\", but vision_config.hidden_act is \"gelu\""
        );
        assert_eq!(
            refused("\"patch_size\": 14", "\"layer_norm_eps\": 1e-6"),
            "vision_config.layer_norm_eps is 0.000001, not 0.00001"
        );
        assert_eq!(
            refused("\"num_attention_heads\": 16", "\"num_attention_heads\": 0"),
            "vision_config.hidden_size 1024 cannot be divided into 0 heads"
        );
    }
}
