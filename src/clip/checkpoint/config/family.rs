//! The families of models that look like CLIP and are not read here. Each is refused by its name, so that nobody looks
//! for a fault in a sound file.

use serde_json::Value;

/// What open_clip's configurations of other families have: the part, the key, and the words for the family. Where the
/// key's value is a text, it follows these words.
const FAMILIES: [(&str, &str, &str); 6] = [
    (
        "vision_cfg",
        "timm_model_name",
        "of a model with an image tower of timm's",
    ),
    (
        "vision_cfg",
        "eva_model_name",
        "of a model with an image tower of EVA's",
    ),
    (
        "text_cfg",
        "hf_model_name",
        "of a model with a text tower of Hugging Face's",
    ),
    (
        "text_cfg",
        "hf_tokenizer_name",
        "of a model with a tokenizer of Hugging Face's",
    ),
    ("", "multimodal_cfg", "a CoCa's"),
    ("", "init_logit_bias", "a SigLIP's"),
];

/// Refuses open_clip's configuration of a model of another family.
///
/// # Errors
/// Fails when the configuration has a key that only other families have.
pub(super) fn check(model: &Value) -> Result<(), serde_json::Error> {
    let found = FAMILIES.iter().find_map(|(part, key, words)| {
        let part = if part.is_empty() { Some(model) } else { model.get(part) };
        let value = part?.get(key).filter(|value| !value.is_null())?;
        Some(match value.as_str() {
            Some(name) => format!("{words}, {name}"),
            None => (*words).to_owned(),
        })
    });
    found.map_or(Ok(()), |family| Err(not_read(&family)))
}

/// Returns the error for a model of a family, and what is read instead.
pub(super) fn not_read(family: &str) -> serde_json::Error {
    serde::de::Error::custom(format!(
        "it is {family}; read here are the CLIPs of OpenAI's architectures: OpenAI's own, open_clip's with the same \
         towers, and Hugging Face's of the type \"clip\""
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_clip_s_other_families_are_refused_by_their_names() {
        for (model, expected) in [
            (
                serde_json::json!({
                    "embed_dim": 768, "init_logit_bias": -10, "custom_text": true,
                    "vision_cfg": {"image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224"},
                    "text_cfg": {"context_length": 64, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP"},
                }),
                "it is of a model with an image tower of timm's, vit_base_patch16_siglip_224; read here are",
            ),
            (
                serde_json::json!({
                    "embed_dim": 512, "quick_gelu": true, "vision_cfg": {"image_size": 224, "layers": 12},
                    "text_cfg": {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"},
                }),
                "it is of a model with a text tower of Hugging Face's, roberta-base; read here are",
            ),
            (
                serde_json::json!({
                    "embed_dim": 512, "vision_cfg": {"layers": 12}, "text_cfg": {"embed_cls": true}, "multimodal_cfg": {"width": 512},
                }),
                "it is a CoCa's; read here are",
            ),
        ] {
            let refused = check(&model).expect_err("it is of another family").to_string();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }

    #[test]
    fn what_only_repeats_a_default_is_no_family() {
        let model = serde_json::json!({"vision_cfg": {"timm_model_name": null}, "init_logit_bias": null});
        check(&model).expect("nothing in it is of another family");
        check(&serde_json::json!([])).expect("what it is instead is for the reader to say");
    }
}
