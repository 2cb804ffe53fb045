//! The table of published models.
//!
//! Addresses, repositories, activations and normalisations are those of the package open_clip_torch 3.3
//! (`open_clip/pretrained.py`). OpenAI's digests are components of its addresses. OpenAI's file sizes are those that
//! other projects pinned together with these digests: nothing was downloaded to make this table. Licences are as the
//! repositories and model cards state them.

use super::{Architecture, DownloadSource, PublishedModel, TrainingNormalisation, VisualSizes};
use crate::clip::Activation;

const RN50: Architecture = resnet("RN50", 1024, 224, [3, 4, 6, 3], 64, 512);
const RN101: Architecture = resnet("RN101", 512, 224, [3, 4, 23, 3], 64, 512);
const RN50X4: Architecture = resnet("RN50x4", 640, 288, [4, 6, 10, 6], 80, 640);
const RN50X16: Architecture = resnet("RN50x16", 768, 384, [6, 8, 18, 8], 96, 768);
const RN50X64: Architecture = resnet("RN50x64", 1024, 448, [3, 15, 36, 10], 128, 1024);
const VIT_B_32: Architecture = vit("ViT-B-32", 512, 224, [12, 768, 32]);
const VIT_B_16: Architecture = vit("ViT-B-16", 512, 224, [12, 768, 16]);
const VIT_L_14: Architecture = vit("ViT-L-14", 768, 224, [24, 1024, 14]);
const VIT_L_14_336: Architecture = vit("ViT-L-14-336", 768, 336, [24, 1024, 14]);

const MIT: &str = "MIT";
/// Apple has renamed its licence for research models and code. The LICENSE file of the repository says which terms
/// apply.
const APPLE: &str = "Apple's (the repository's LICENSE)";
const NON_COMMERCIAL: &str = "CC-BY-NC-4.0";

/// All published models that `maskclip fetch` knows, OpenAI's first.
pub const PUBLISHED: &[PublishedModel] = &[
    openai(
        "RN50",
        &RN50,
        "https://openaipublic.azureedge.net/clip/models/afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
        255_827_503,
    ),
    openai(
        "RN101",
        &RN101,
        "https://openaipublic.azureedge.net/clip/models/8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599/RN101.pt",
        "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
        291_791_292,
    ),
    openai(
        "RN50x4",
        &RN50X4,
        "https://openaipublic.azureedge.net/clip/models/7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd/RN50x4.pt",
        "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
        421_854_225,
    ),
    openai(
        "RN50x16",
        &RN50X16,
        "https://openaipublic.azureedge.net/clip/models/52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa/RN50x16.pt",
        "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
        661_125_706,
    ),
    openai(
        "RN50x64",
        &RN50X64,
        "https://openaipublic.azureedge.net/clip/models/be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c/RN50x64.pt",
        "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
        1_353_500_174,
    ),
    openai(
        "ViT-B-32",
        &VIT_B_32,
        "https://openaipublic.azureedge.net/clip/models/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        353_976_522,
    ),
    openai(
        "ViT-B-16",
        &VIT_B_16,
        "https://openaipublic.azureedge.net/clip/models/5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
        350_837_078,
    ),
    openai(
        "ViT-L-14",
        &VIT_L_14,
        "https://openaipublic.azureedge.net/clip/models/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        932_768_134,
    ),
    openai(
        "ViT-L-14-336",
        &VIT_L_14_336,
        "https://openaipublic.azureedge.net/clip/models/3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
        934_088_680,
    ),
    PublishedModel {
        name: "ViT-B-32-laion2b",
        architecture: &VIT_B_32,
        tag: "laion2b_s34b_b79k",
        source: DownloadSource::Hub {
            repository: "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        },
        licence: MIT,
        activation: Activation::Gelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-B-16-laion2b",
        architecture: &VIT_B_16,
        tag: "laion2b_s34b_b88k",
        source: DownloadSource::Hub {
            repository: "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        },
        licence: MIT,
        activation: Activation::Gelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-L-14-laion2b",
        architecture: &VIT_L_14,
        tag: "laion2b_s32b_b82k",
        source: DownloadSource::Hub {
            repository: "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
        },
        licence: MIT,
        activation: Activation::Gelu,
        normalisation: TrainingNormalisation::Inception,
    },
    PublishedModel {
        name: "ViT-B-32-datacomp",
        architecture: &VIT_B_32,
        tag: "datacomp_xl_s13b_b90k",
        source: DownloadSource::Hub {
            repository: "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
        },
        licence: MIT,
        activation: Activation::Gelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-B-16-datacomp",
        architecture: &VIT_B_16,
        tag: "datacomp_xl_s13b_b90k",
        source: DownloadSource::Hub {
            repository: "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
        },
        licence: MIT,
        activation: Activation::Gelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-L-14-datacomp",
        architecture: &VIT_L_14,
        tag: "datacomp_xl_s13b_b90k",
        source: DownloadSource::Hub {
            repository: "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
        },
        licence: MIT,
        activation: Activation::Gelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-B-16-dfn2b",
        architecture: &VIT_B_16,
        tag: "dfn2b",
        source: DownloadSource::Hub {
            repository: "apple/DFN2B-CLIP-ViT-B-16",
        },
        licence: APPLE,
        activation: Activation::QuickGelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-L-14-dfn2b",
        architecture: &VIT_L_14,
        tag: "dfn2b",
        source: DownloadSource::Hub {
            repository: "apple/DFN2B-CLIP-ViT-L-14",
        },
        licence: APPLE,
        activation: Activation::QuickGelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-L-14-dfn2b-39b",
        architecture: &VIT_L_14,
        tag: "dfn2b_s39b",
        source: DownloadSource::Hub {
            repository: "apple/DFN2B-CLIP-ViT-L-14-39B",
        },
        licence: APPLE,
        activation: Activation::Gelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-B-32-metaclip-400m",
        architecture: &VIT_B_32,
        tag: "metaclip_400m",
        source: DownloadSource::Hub {
            repository: "timm/vit_base_patch32_clip_224.metaclip_400m",
        },
        licence: NON_COMMERCIAL,
        activation: Activation::QuickGelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-B-16-metaclip-400m",
        architecture: &VIT_B_16,
        tag: "metaclip_400m",
        source: DownloadSource::Hub {
            repository: "timm/vit_base_patch16_clip_224.metaclip_400m",
        },
        licence: NON_COMMERCIAL,
        activation: Activation::QuickGelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-L-14-metaclip-400m",
        architecture: &VIT_L_14,
        tag: "metaclip_400m",
        source: DownloadSource::Hub {
            repository: "timm/vit_large_patch14_clip_224.metaclip_400m",
        },
        licence: NON_COMMERCIAL,
        activation: Activation::QuickGelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-B-32-metaclip-fullcc",
        architecture: &VIT_B_32,
        tag: "metaclip_fullcc",
        source: DownloadSource::Hub {
            repository: "timm/vit_base_patch32_clip_224.metaclip_2pt5b",
        },
        licence: NON_COMMERCIAL,
        activation: Activation::QuickGelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-B-16-metaclip-fullcc",
        architecture: &VIT_B_16,
        tag: "metaclip_fullcc",
        source: DownloadSource::Hub {
            repository: "timm/vit_base_patch16_clip_224.metaclip_2pt5b",
        },
        licence: NON_COMMERCIAL,
        activation: Activation::QuickGelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
    PublishedModel {
        name: "ViT-L-14-metaclip-fullcc",
        architecture: &VIT_L_14,
        tag: "metaclip_fullcc",
        source: DownloadSource::Hub {
            repository: "timm/vit_large_patch14_clip_224.metaclip_2pt5b",
        },
        licence: NON_COMMERCIAL,
        activation: Activation::QuickGelu,
        normalisation: TrainingNormalisation::OpenAi,
    },
];

const fn openai(
    name: &'static str,
    architecture: &'static Architecture,
    url: &'static str,
    sha256: &'static str,
    bytes: u64,
) -> PublishedModel {
    PublishedModel {
        name,
        architecture,
        tag: "openai",
        source: DownloadSource::Address { url, sha256, bytes },
        licence: MIT,
        activation: Activation::QuickGelu,
        normalisation: TrainingNormalisation::OpenAi,
    }
}

const fn resnet(
    name: &'static str,
    embedding: u32,
    image_pixels: u32,
    layers: [u32; 4],
    width: u32,
    text_width: u32,
) -> Architecture {
    Architecture {
        name,
        embedding,
        image_pixels,
        visual: VisualSizes::ResNet(layers, width),
        text_width,
    }
}

/// Describes a ViT, whose text tower is as wide as the embedding.
const fn vit(name: &'static str, embedding: u32, image_pixels: u32, [layers, width, patch]: [u32; 3]) -> Architecture {
    Architecture {
        name,
        embedding,
        image_pixels,
        visual: VisualSizes::Vit(layers, width, patch),
        text_width: embedding,
    }
}
