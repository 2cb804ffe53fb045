//! The models that are compiled into the program.

/// A model that is compiled into the program.
#[derive(Debug)]
pub struct EmbeddedModel {
    /// The name of the model in settings and requests.
    pub name: &'static str,
    /// The weights in open_clip's safetensors form.
    pub weights: &'static [u8],
    /// The configuration in open_clip's form.
    pub config: &'static str,
    /// The words of the captions in the model's training, one per line, in lower case.
    pub training_words: &'static str,
    /// What the model is best asked with, in the form of the file `maskclip.json`.
    pub options: &'static str,
}

/// The default model: a small CLIP with a ResNet, trained on scenes of drawings (docs/embedded-model.md).
///
/// A static and not a constant: a constant's bytes stand in the program once for each part of the compilation that uses it.
pub static DEMO: EmbeddedModel = EmbeddedModel {
    name: "demo",
    weights: include_bytes!("../../models/demo/model.safetensors"),
    config: include_str!("../../models/demo/config.json"),
    training_words: include_str!("../../models/demo/training_words.txt"),
    options: include_str!("../../models/demo/maskclip.json"),
};

/// A small CLIP with a ViT, trained by the same recipe. It is weaker and serves the attentions that only a ViT has.
static DEMO_VIT: EmbeddedModel = EmbeddedModel {
    name: "demo-vit",
    weights: include_bytes!("../../models/demo-vit/model.safetensors"),
    config: include_str!("../../models/demo-vit/config.json"),
    training_words: include_str!("../../models/demo-vit/training_words.txt"),
    options: include_str!("../../models/demo-vit/maskclip.json"),
};

impl EmbeddedModel {
    /// All embedded models, the default first.
    pub const ALL: [&'static Self; 2] = [&DEMO, &DEMO_VIT];

    /// Returns the embedded model with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.into_iter().find(|model| model.name == name)
    }
}
