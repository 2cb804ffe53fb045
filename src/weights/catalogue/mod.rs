//! What has to be known of a published model beside its tensors: where it is, what it must hash to, its licence, its activation and
//! its normalisation.

mod published;

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::clip::Activation;

pub use published::PUBLISHED;

/// A model whose weights somebody else publishes.
#[derive(Debug, PartialEq)]
pub struct PublishedModel {
    /// The name in settings and requests, and of its file.
    pub name: &'static str,
    /// Its sizes.
    pub architecture: &'static Architecture,
    /// open_clip's name for these weights of the architecture.
    pub tag: &'static str,
    /// Where its weights are downloaded from.
    pub source: DownloadSource,
    /// What its publisher allows.
    pub licence: &'static str,
    /// The non-linearity it was trained with.
    pub activation: Activation,
    /// How its images were normalised.
    pub normalisation: TrainingNormalisation,
}

/// Where a published model's weights are downloaded from.
#[derive(Debug, PartialEq)]
pub enum DownloadSource {
    /// A file whose digest and size are known beforehand.
    Address {
        /// Its address.
        url: &'static str,
        /// SHA-256, in hexadecimal.
        sha256: &'static str,
        /// Its length.
        bytes: u64,
    },
    /// A repository of the Hugging Face hub. Its files are replaced now and then, safer forms are added: the hub states the
    /// digest of what it holds today, in the header that names the large file's object.
    Hub {
        /// Owner and name.
        repository: &'static str,
    },
}

/// open_clip's names of the weights in a hub's repository, in the order in which they are looked for, each with the ending
/// it gets here.
pub const HUB_FILES: [(&str, &str); 2] = [
    ("open_clip_model.safetensors", "safetensors"),
    ("open_clip_pytorch_model.bin", "bin"),
];

/// The normalisation of images in a model's training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingNormalisation {
    /// OpenAI's, by its data's statistics; most others took it over.
    OpenAi,
    /// Pixels to -1 to 1.
    Inception,
}

/// A model's sizes, as open_clip's configuration states them.
#[derive(Debug, PartialEq)]
pub struct Architecture {
    /// open_clip's name.
    pub name: &'static str,
    /// Width of the joint embedding.
    pub embedding: u32,
    /// Sides of the images it was trained on, in pixels.
    pub image_pixels: u32,
    /// The visual tower.
    pub visual: VisualSizes,
    /// Width of the text tower, whose heads are 64 wide and whose layers are 12.
    pub text_width: u32,
}

/// Sizes of a visual tower.
#[derive(Debug, PartialEq)]
pub enum VisualSizes {
    /// Blocks per stage, and the stem's width.
    ResNet([u32; 4], u32),
    /// Layers, width, sides of a patch in pixels.
    Vit(u32, u32, u32),
}

impl PublishedModel {
    /// The model of that name. Case does not matter; OpenAI's spelling (`ViT-L/14@336px`) and open_clip's
    /// (`ViT-B-16:laion2b_s34b_b88k`, `ViT-B-16-quickgelu`) are as good as the zoo's own.
    pub fn named(name: &str) -> Option<&'static Self> {
        let wanted = simplify(name);
        PUBLISHED.iter().find(|model| model.spellings().contains(&wanted))
    }

    /// Every spelling of the name, simplified.
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

    /// Its weights in a folder of fetched models, when they are there.
    pub fn find_in(&self, folder: &Path) -> Option<PathBuf> {
        self.endings()
            .iter()
            .map(|ending| self.path_in(folder, ending))
            .find(|path| path.is_file())
    }

    /// Where its weights go in a folder of fetched models.
    pub fn path_in(&self, folder: &Path, ending: &str) -> PathBuf {
        folder.join(format!("{}.{ending}", self.name))
    }

    /// The endings its file may have.
    pub fn endings(&self) -> &'static [&'static str] {
        match self.source {
            DownloadSource::Address { .. } => &["pt"],
            DownloadSource::Hub { .. } => &[HUB_FILES[0].1, HUB_FILES[1].1],
        }
    }

    /// open_clip's configuration of the model: what its weights do not say. It goes beside them.
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

/// One form for spellings that differ in case and separators alone.
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
        // Trained with the exact GELU: there is no such model.
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
