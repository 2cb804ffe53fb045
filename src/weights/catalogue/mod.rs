//! Facts about published models beside their tensors: address, digest, licence, activation and normalisation.

mod published;

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::clip::Activation;

pub use published::PUBLISHED;

/// A model whose weights somebody else publishes.
#[derive(Debug, PartialEq)]
pub struct PublishedModel {
    /// The name of the model in settings and requests, and of its file.
    pub name: &'static str,
    /// The sizes of the model.
    pub architecture: &'static Architecture,
    /// open_clip's name for these weights of the architecture.
    pub tag: &'static str,
    /// The place from which the weights are downloaded.
    pub source: DownloadSource,
    /// The licence of the publisher.
    pub licence: &'static str,
    /// The non-linearity that the model was trained with.
    pub activation: Activation,
    /// The normalisation of images that the model was trained with.
    pub normalisation: TrainingNormalisation,
}

/// The place from which the weights of a published model are downloaded.
#[derive(Debug, PartialEq)]
pub enum DownloadSource {
    /// A file whose digest and size are known beforehand.
    Address {
        /// The URL of the file.
        url: &'static str,
        /// The SHA-256 of the file, in hexadecimal.
        sha256: &'static str,
        /// The length of the file in bytes.
        bytes: u64,
    },
    /// A repository of the Hugging Face hub. Its files may be replaced, and safer forms may be added. The hub states
    /// the digest of the present file in a header that names the large file's object.
    Hub {
        /// The owner and name of the repository.
        repository: &'static str,
    },
}

/// open_clip's names of the weights in a hub's repository, in the order in which they are looked for. Each has the
/// extension that the file gets in the folder of models.
pub const HUB_FILES: [(&str, &str); 2] = [
    ("open_clip_model.safetensors", "safetensors"),
    ("open_clip_pytorch_model.bin", "bin"),
];

/// The normalisation of images in a model's training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingNormalisation {
    /// OpenAI's normalisation by the statistics of its data, which most other models use, too.
    OpenAi,
    /// Pixels scaled to -1 to 1.
    Inception,
}

/// The sizes of a model, as open_clip's configuration states them.
#[derive(Debug, PartialEq)]
pub struct Architecture {
    /// open_clip's name of the architecture.
    pub name: &'static str,
    /// The width of the embedding that images and texts share.
    pub embedding: u32,
    /// The side in pixels of the square images that the model was trained on.
    pub image_pixels: u32,
    /// The sizes of the visual tower.
    pub visual: VisualSizes,
    /// The width of the text tower, which has 12 layers and heads of 64 channels.
    pub text_width: u32,
}

/// The sizes of a visual tower.
#[derive(Debug, PartialEq)]
pub enum VisualSizes {
    /// A ResNet: the number of blocks of each stage, and the width of the stem.
    ResNet([u32; 4], u32),
    /// A ViT: the number of layers, the width, and the side of a patch in pixels.
    Vit(u32, u32, u32),
}

impl PublishedModel {
    /// Returns the model with this name. Case does not matter. OpenAI's spelling (`ViT-L/14@336px`) and open_clip's
    /// (`ViT-B-16:laion2b_s34b_b88k`, `ViT-B-16-quickgelu`) are accepted beside the table's own names.
    pub fn named(name: &str) -> Option<&'static Self> {
        let wanted = simplify(name);
        PUBLISHED.iter().find(|model| model.spellings().contains(&wanted))
    }

    /// Returns every spelling of the name, simplified.
    fn spellings(&self) -> Vec<String> {
        let architecture = self.architecture.name;
        let mut spellings = vec![self.name.to_owned(), format!("{architecture}:{}", self.tag)];
        if self.activation == Activation::QuickGelu {
            spellings.push(format!("{architecture}-quickgelu:{}", self.tag));
        }
        if self.tag == "openai" {
            spellings.push(format!("{architecture}-quickgelu"));
            spellings.push(format!("{architecture}px"));
        }
        spellings.iter().map(|spelling| simplify(spelling)).collect()
    }

    /// Returns the path of the model's weights in a folder of fetched models, or `None` when they are not there.
    pub fn find_in(&self, folder: &Path) -> Option<PathBuf> {
        self.endings()
            .iter()
            .map(|ending| self.path_in(folder, ending))
            .find(|path| path.is_file())
    }

    /// Returns the path for the model's weights in a folder of fetched models, with this file extension.
    pub fn path_in(&self, folder: &Path, ending: &str) -> PathBuf {
        folder.join(format!("{}.{ending}", self.name))
    }

    /// Returns the file extensions that the weights may have.
    pub fn endings(&self) -> &'static [&'static str] {
        match self.source {
            DownloadSource::Address { .. } => &["pt"],
            DownloadSource::Hub { .. } => &[HUB_FILES[0].1, HUB_FILES[1].1],
        }
    }

    /// Returns open_clip's configuration of the model, which goes beside its weights. It holds what the weights do not
    /// tell.
    pub fn config(&self) -> String {
        let Architecture {
            embedding,
            image_pixels,
            ref visual,
            text_width,
            ..
        } = *self.architecture;
        let visual = match *visual {
            VisualSizes::ResNet(layers, width) => {
                json!({"image_size": image_pixels, "layers": layers, "width": width, "patch_size": null})
            }
            VisualSizes::Vit(layers, width, patch) => {
                json!({"image_size": image_pixels, "layers": layers, "width": width, "patch_size": patch})
            }
        };
        let mut config = json!({
            "model_cfg": {
                "embed_dim": embedding,
                "quick_gelu": self.activation == Activation::QuickGelu,
                "vision_cfg": visual,
                "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": text_width, "heads": text_width / 64, "layers": 12},
            },
        });
        if self.normalisation == TrainingNormalisation::Inception {
            config["preprocess_cfg"] = json!({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]});
        }
        format!("{config:#}\n")
    }
}

/// Maps spellings that differ only in case and separators to one form.
fn simplify(name: &str) -> String {
    name.to_lowercase().replace(['/', '@', '_'], "-")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::clip::ModelConfig;
    use crate::weights::DEMO;

    #[test]
    fn every_spelling_means_one_model() {
        let spellings: Vec<_> = PUBLISHED
            .iter()
            .flat_map(|model| model.spellings().into_iter().collect::<HashSet<_>>())
            .collect();
        assert_eq!(
            spellings.iter().collect::<HashSet<_>>().len(),
            spellings.len(),
            "{spellings:?}"
        );
        assert!(!spellings.contains(&DEMO.name.to_owned()));
    }

    #[test]
    fn names_are_found_as_openai_and_open_clip_spell_them() {
        for (spelling, name) in [
            ("ViT-B/16", "ViT-B-16"),
            ("vit-b-16", "ViT-B-16"),
            ("ViT-B-16-quickgelu", "ViT-B-16"),
            ("ViT-B-16:openai", "ViT-B-16"),
            ("ViT-L/14@336px", "ViT-L-14-336"),
            ("RN50x16", "RN50x16"),
            ("ViT-B-16:laion2b_s34b_b88k", "ViT-B-16-laion2b"),
            ("ViT-L-14-quickgelu:dfn2b", "ViT-L-14-dfn2b"),
            ("ViT-B-32-metaclip-400m", "ViT-B-32-metaclip-400m"),
        ] {
            assert_eq!(
                PublishedModel::named(spelling).map(|model| model.name),
                Some(name),
                "{spelling}"
            );
        }
        // This model was trained with the exact GELU, so no such model exists.
        assert_eq!(PublishedModel::named("ViT-B-16-quickgelu:laion2b_s34b_b88k"), None);
        assert_eq!(PublishedModel::named("ViT-B-17"), None);
    }

    #[test]
    fn the_configuration_is_what_the_loader_needs_to_be_told() {
        for model in PUBLISHED {
            let config = ModelConfig::parse(&model.config()).unwrap();
            assert_eq!(config.activation, model.activation, "{}", model.name);
            assert_eq!(
                (config.visual_head_width, config.text_head_width),
                (64, 64),
                "{}",
                model.name
            );
        }
        let laion = PublishedModel::named("ViT-L-14-laion2b").unwrap();
        let config = ModelConfig::parse(&laion.config()).unwrap();
        assert_eq!((config.mean, config.std), (Some([0.5; 3]), Some([0.5; 3])));
    }

    #[test]
    fn digests_are_whole_and_openais_are_in_their_addresses() {
        for model in PUBLISHED {
            if let DownloadSource::Address { url, sha256, .. } = model.source {
                assert_eq!(sha256.len(), 64, "{}", model.name);
                assert_eq!(url::Url::parse(url).unwrap().as_str(), url);
                assert_eq!(url.split('/').rev().nth(1), Some(sha256), "{}", model.name);
            }
        }
    }

    #[test]
    fn weights_are_found_under_either_ending_of_the_hub() {
        let folder = tempfile::tempdir().unwrap();
        let model = PublishedModel::named("ViT-B-16-datacomp").unwrap();
        assert_eq!(model.find_in(folder.path()), None);
        let path = folder.path().join("ViT-B-16-datacomp.bin");
        std::fs::write(&path, "weights").unwrap();
        assert_eq!(model.find_in(folder.path()), Some(path));
    }
}
