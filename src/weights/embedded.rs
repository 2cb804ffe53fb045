//! The models that are compiled into the program.

/// A model that is compiled into the program.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddedModel {
    /// The name in settings and requests.
    pub name: &'static str,
    /// open_clip's safetensors file.
    pub weights: &'static [u8],
    /// open_clip's configuration.
    pub config: &'static str,
    /// The words of its training captions, one a line, lower case.
    pub training_words: &'static str,
    /// Short side of the input it does best with, in pixels.
    pub short_side: u32,
}

/// The small CLIP trained on scenes of drawings (docs/embedded-model.md), a ResNet: the default model.
pub const DEMO: EmbeddedModel = EmbeddedModel {
    name: "demo",
    weights: include_bytes!("../../models/demo/model.safetensors"),
    config: include_str!("../../models/demo/config.json"),
    training_words: include_str!("../../models/demo/training_words.txt"),
    short_side: 256,
};

/// Its sibling of the other architecture by the same recipe: weaker, and there for the attentions that are a ViT's alone.
const DEMO_VIT: EmbeddedModel = EmbeddedModel {
    name: "demo-vit",
    weights: include_bytes!("../../models/demo-vit/model.safetensors"),
    config: include_str!("../../models/demo-vit/config.json"),
    training_words: include_str!("../../models/demo-vit/training_words.txt"),
    short_side: 160,
};

impl EmbeddedModel {
    /// The embedded model of that name.
    pub fn named(name: &str) -> Option<Self> {
        [DEMO, DEMO_VIT].into_iter().find(|model| model.name == name)
    }
}
