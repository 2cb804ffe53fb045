//! Loads whole tiny models in every form and tests what is refused. `tools/golden/forms.py` makes the files.

use std::collections::HashMap;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::PathBuf;

use flate2::read::GzDecoder;
use maskclip::clip::{CheckpointError, CheckpointFormat, Clip, ModelConfig, Weights};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::arrays::golden;

/// Largest difference from references that run in 32 bits.
const TOLERANCE: f64 = 1e-4;

/// Largest difference from a reference that runs in 16 bits.
const HALF_TOLERANCE: f64 = 2e-3;

/// The prompts of tools/golden/forms.py.
const PROMPTS: [&str; 2] = ["a photo of a tiger.", "a bad photo of the sky in the scene."];

/// The references whose arrays a model's features are compared with, and the largest difference from each.
pub type References = &'static [(&'static str, f64)];

/// Each entry has a model, a file, the format of the file, and references.
pub const FORMS: [(&str, &str, CheckpointFormat, References); 7] = [
    (
        "vit",
        "openai.pt",
        CheckpointFormat::OpenAi,
        &[OPEN_CLIP, ("openai", HALF_TOLERANCE)],
    ),
    ("vit", "open_clip.pt", CheckpointFormat::OpenClip, &[OPEN_CLIP]),
    ("vit", "open_clip.safetensors", CheckpointFormat::OpenClip, &[OPEN_CLIP]),
    (
        "vit",
        "hugging_face.safetensors",
        CheckpointFormat::HuggingFace,
        &[OPEN_CLIP, ("hugging_face", TOLERANCE)],
    ),
    (
        "resnet",
        "openai.pt",
        CheckpointFormat::OpenAi,
        &[OPEN_CLIP, ("openai", HALF_TOLERANCE)],
    ),
    ("resnet", "open_clip.pt", CheckpointFormat::OpenClip, &[OPEN_CLIP]),
    (
        "resnet",
        "open_clip.safetensors",
        CheckpointFormat::OpenClip,
        &[OPEN_CLIP],
    ),
];

const OPEN_CLIP: (&str, f64) = ("open_clip", TOLERANCE);

#[test]
fn every_form_computes_what_its_authors_code_does() {
    for (model, file, origin, references) in FORMS {
        let arrays = arrays(model);
        let checkpoint = Checkpoint::unpack(model, file);
        let weights = checkpoint
            .weights()
            .unwrap_or_else(|error| panic!("{model}/{file}: {error}"));
        assert_eq!(weights.format(), origin, "{model}/{file}");
        let clip = checkpoint
            .load()
            .unwrap_or_else(|error| panic!("{model}/{file}: {error}"));

        let image = clip.visual.encode_image(&arrays["image"].unsqueeze(0)).squeeze_dim(0);
        let text = clip.text.encode(&PROMPTS.map(|prompt| clip.tokenizer.encode(prompt)));
        for (reference, tolerance) in references {
            for (array, found) in [("image_features", &image), ("text_features", &text)] {
                let expected = &arrays[&format!("{reference}.{array}")];
                assert_eq!(found.size(), expected.size(), "{model}/{file} {reference}.{array}");
                let difference = (found - expected).abs().max().double_value(&[]);
                println!("{difference:9.2e}  {model}/{file}, {reference}.{array}");
                assert!(
                    difference <= *tolerance,
                    "{model}/{file}, {reference}.{array}: {difference:e}"
                );
            }
        }
    }
}

#[test]
fn the_activation_shows() {
    let checkpoint = Checkpoint::unpack("vit", "open_clip.safetensors");
    let other = fs::read_to_string(checkpoint.beside("open_clip.json"))
        .expect("the configuration was unpacked")
        .replace("\"quick_gelu\": true", "\"quick_gelu\": false");
    fs::write(checkpoint.beside("open_clip.json"), other).expect("the folder is writable");
    let clip = checkpoint.load().expect("the exact GELU is known, too");
    let arrays = arrays("vit");
    let image = clip.visual.encode_image(&arrays["image"].unsqueeze(0)).squeeze_dim(0);
    let difference = (image - &arrays["open_clip.image_features"])
        .abs()
        .max()
        .double_value(&[]);
    assert!(difference > 10.0 * TOLERANCE, "{difference:e}");
}

/// MaskCLIP's release runs OpenAI's weights with the exact GELU and ImageNet's mean and deviation. docs/papers.md says
/// how to ask for that.
#[test]
fn the_constants_of_maskclips_release_are_obeyed_where_a_configuration_asks_for_them() {
    let checkpoint = Checkpoint::unpack("vit", "open_clip.safetensors");
    let own = checkpoint.load().expect("the golden is a whole model");
    let config = fs::read_to_string(checkpoint.beside("open_clip.json")).expect("the configuration was unpacked");
    let mut model: serde_json::Value = serde_json::from_str(&config).expect("the golden is JSON");
    model["quick_gelu"] = false.into();
    let imagenet = serde_json::json!({"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]});
    let released = serde_json::json!({"model_cfg": model, "preprocess_cfg": imagenet});
    fs::write(checkpoint.beside("open_clip.json"), released.to_string()).expect("the folder is writable");
    let weights = checkpoint.weights().expect("the golden is whole");
    let config = ModelConfig::find(weights.format(), &checkpoint.file).expect("both constants are known");
    assert_eq!(
        (config.mean, config.std),
        (Some([0.485, 0.456, 0.406]), Some([0.229, 0.224, 0.225]))
    );
    let clip = Clip::load(weights, &config).expect("the exact GELU is known");
    let image = arrays("vit")["image"].unsqueeze(0);
    let difference = clip.visual.encode_image(&image) - own.visual.encode_image(&image);
    assert!(difference.abs().max().double_value(&[]) > 10.0 * TOLERANCE);
}

#[test]
fn a_hub_s_folder_is_a_checkpoint() {
    let checkpoint = Checkpoint::unpack("vit", "hugging_face.safetensors");
    fs::rename(&checkpoint.file, checkpoint.beside("model.safetensors")).expect("the folder is writable");
    let folder = checkpoint.folder.path();
    let weights = Weights::load(folder, Device::Cpu, Kind::Float).expect("the folder has weights");
    assert_eq!(weights.format(), CheckpointFormat::HuggingFace);
    let config = ModelConfig::find(weights.format(), folder).expect("the folder has their configuration");
    Clip::load(weights, &config).expect("the weights are a whole model");
}

#[test]
fn a_checkpoint_in_several_files_is_the_same_model() {
    let checkpoint = Checkpoint::unpack("vit", "hugging_face.safetensors");
    let whole = checkpoint.load().expect("the golden is a whole model");
    let content = fs::read(&checkpoint.file).expect("the checkpoint was unpacked");
    let content = SafeTensors::deserialize(&content).expect("the checkpoint is sound");
    let mut names = content.names();
    names.sort_unstable();
    // The tensors alternate between the files, so that queries, keys and values of one block lie apart.
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let shard_of: HashMap<&str, &str> = names.into_iter().zip(shards.into_iter().cycle()).collect();
    for shard in shards {
        let tensors = content.iter().filter(|(name, _)| shard_of[name] == shard);
        let bytes = safetensors::serialize(tensors, None).expect("the views are valid");
        fs::write(checkpoint.beside(shard), bytes).expect("the folder is writable");
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": shard_of});
    fs::write(checkpoint.beside("model.safetensors.index.json"), index.to_string()).expect("the folder is writable");

    let folder = checkpoint.folder.path();
    let load = || Weights::load(folder, Device::Cpu, Kind::Float);
    let weights = load().expect("the index lists both files");
    let config = ModelConfig::find(weights.format(), folder).expect("the folder has their configuration");
    let joined = Clip::load(weights, &config).expect("the weights are a whole model");
    let image = arrays("vit")["image"].unsqueeze(0);
    assert_eq!(joined.visual.encode_image(&image), whole.visual.encode_image(&image));
    let prompts = PROMPTS.map(|prompt| whole.tokenizer.encode(prompt));
    assert_eq!(joined.text.encode(&prompts), whole.text.encode(&prompts));

    fs::copy(checkpoint.beside(shards[0]), checkpoint.beside(shards[1])).expect("the folder is writable");
    let refused = load().expect_err("a file is there twice").to_string();
    assert!(refused.ends_with(" is in several of its files"), "{refused}");
    fs::remove_file(checkpoint.beside(shards[1])).expect("the file was written");
    let refused = load().expect_err("a file is missing").to_string();
    assert!(
        refused.contains(shards[1]) && refused.contains("cannot be read"),
        "{refused}"
    );
}

/// The files that tools/golden/wrappers.py makes: some tensors of one model as training leaves them.
const WRAPPERS: [&str; 22] = [
    "data_parallel.pt",
    "compiled.pt",
    "compiled_data_parallel.pt",
    "averaged_model.pt",
    "half.pt",
    "bfloat16.pt",
    "double.pt",
    "model.pt",
    "model_state_dict.pt",
    "model_name_and_state_dict.pt",
    "module.pt",
    "lightning.ckpt",
    "averages_beside.pt",
    "training_protocol_2.pt",
    "training_protocol_3.pt",
    "training_protocol_4.pt",
    "training_protocol_5.pt",
    "data_parallel.safetensors",
    "compiled.safetensors",
    "model.safetensors",
    "bfloat16.safetensors",
    "averages_inside.safetensors",
];

#[test]
fn what_training_puts_around_the_weights_is_taken_off() {
    let expected = Tensor::read_safetensors(golden("wrappers/expected.safetensors")).expect("the golden is committed");
    for file in WRAPPERS {
        let path = golden(&format!("wrappers/{file}"));
        let mut weights =
            Weights::load(&path, Device::Cpu, Kind::Float).unwrap_or_else(|error| panic!("{file}: {error}"));
        for (name, expected) in &expected {
            let found = weights
                .take(name, &expected.size())
                .unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(found, *expected, "{name} of {file}");
        }
        weights.finish().unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// A damaged file: the original, the damage, and the message that must follow.
struct Defect {
    file: &'static str,
    defect: &'static str,
    spoil: fn(Vec<u8>) -> Vec<u8>,
    message: &'static str,
}

const DEFECTS: [Defect; 22] = [
    Defect {
        file: "openai.pt",
        defect: "truncated",
        spoil: |file| first_half(&file),
        message: "the weights file is damaged: ",
    },
    Defect {
        file: "open_clip.pt",
        defect: "truncated",
        spoil: |file| first_half(&file),
        message: "the weights file is damaged: ",
    },
    Defect {
        file: "open_clip.safetensors",
        defect: "truncated",
        spoil: |file| first_half(&file),
        message: "the weights file is damaged: incomplete metadata, file not fully covered",
    },
    Defect {
        file: "openai.pt",
        defect: "another type of zip file",
        spoil: |_| archive(&[("word/document.xml", b"<xml/>")]),
        message: "the weights file is damaged: it is a zip file without data.pkl, not one of PyTorch's",
    },
    Defect {
        file: "open_clip.pt",
        defect: "big-endian numbers",
        spoil: |_| archive(&[("model/data.pkl", b"\x80\x02}."), ("model/byteorder", b"big")]),
        message: "the weights file is damaged: its numbers are big-endian",
    },
    Defect {
        file: "open_clip.pt",
        defect: "a pickle that runs a command",
        spoil: |_| archive(&[("model/data.pkl", b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R.")]),
        message: "the weights file's pickle calls os.system: it is refused, only tensors are read from pickles",
    },
    Defect {
        file: "open_clip.pt",
        defect: "a whole pickled model",
        spoil: |_| archive(&[("model/data.pkl", b"\x80\x02copen_clip.model\nCLIP\n)\x81}b.")]),
        message: "the weights file's pickle calls open_clip.model.CLIP: it is refused, only tensors are read from pickles",
    },
    Defect {
        file: "open_clip.pt",
        defect: "no state dict",
        spoil: |_| archive(&[("model/data.pkl", b"\x80\x02}X\x05\0\0\0epochK\x07s.")]),
        message: "module, net; it has epoch",
    },
    Defect {
        file: "open_clip.pt",
        defect: "a tensor larger than its elements' file",
        spoil: |_| tensor_archive(&[("model/data/0", b"\0\0\0\0")]),
        message: "the weights file is damaged: a: [2] with strides [1] from element 0 on does not fit its 4 bytes",
    },
    Defect {
        file: "open_clip.pt",
        defect: "a tensor without its elements' file",
        spoil: |_| tensor_archive(&[]),
        message: "the weights file is damaged: a: the archive has no uncompressed data/0, where its elements should be",
    },
    Defect {
        file: "open_clip.pt",
        defect: "another architecture",
        spoil: |_| tensor_archive(&[("model/data/0", b"\0\0\0\0\0\0\0\0")]),
        message: "the checkpoint is of another architecture: it has none of the tensors CLIP's image towers begin with; \
                  it has 1 tensors, a [2]",
    },
    Defect {
        file: "openai.pt",
        defect: "a missing tensor",
        spoil: |file| replaced(file, b"ln_post", b"ln_Post"),
        message: "the checkpoint has no tensor visual.ln_post.weight (expected [64])",
    },
    Defect {
        file: "open_clip.pt",
        defect: "a missing tensor",
        spoil: |file| replaced(file, b"module.ln_final.bias", b"module.ln_final.bios"),
        message: "the checkpoint has no tensor module.ln_final.bias (expected [64])",
    },
    Defect {
        file: "open_clip.safetensors",
        defect: "a missing tensor",
        spoil: |file| without(&file, "visual.transformer.resblocks.1.mlp.c_fc.weight"),
        message: "the checkpoint has no tensor visual.transformer.resblocks.1.mlp.c_fc.weight (expected [256, 64])",
    },
    Defect {
        file: "open_clip.safetensors",
        defect: "no text tower",
        spoil: |file| without(&file, "token_embedding.weight"),
        message: "the checkpoint has no tensor token_embedding.weight",
    },
    Defect {
        file: "open_clip.safetensors",
        defect: "an extra tensor",
        spoil: |file| with(&file, "visual.ln_between.weight", &[2, 3]),
        message: "the checkpoint is of another architecture: nothing uses its 1 tensors visual.ln_between.weight [2, 3]",
    },
    Defect {
        file: "open_clip.safetensors",
        defect: "a misshapen tensor",
        spoil: |file| with(&file, "visual.proj", &[32, 32]),
        message: "the checkpoint's tensor visual.proj is [32, 32], expected [64, 32]",
    },
    Defect {
        file: "open_clip.safetensors",
        defect: "a tensor of whole numbers",
        spoil: |file| replaced(file, b"\"F16\",\"shape\":[64,32]", b"\"I32\",\"shape\":[32,32]"),
        message: " holds Int, which no CLIP does",
    },
    Defect {
        file: "hugging_face.safetensors",
        defect: "a missing tensor",
        spoil: |file| without(&file, "vision_model.encoder.layers.0.mlp.fc2.weight"),
        message: "the checkpoint has no tensor vision_model.encoder.layers.0.mlp.fc2.weight (expected [64, 256])",
    },
    Defect {
        file: "hugging_face.safetensors",
        defect: "a missing projection",
        spoil: |file| without(&file, "vision_model.encoder.layers.0.self_attn.k_proj.bias"),
        message: "the checkpoint has no tensor vision_model.encoder.layers.0.self_attn.k_proj.bias (expected [64])",
    },
    Defect {
        file: "hugging_face.safetensors",
        defect: "a misshapen tensor",
        spoil: |file| with(&file, "text_projection.weight", &[32, 63]),
        message: "the checkpoint's tensor text_projection.weight is [32, 63], expected [32, 64]",
    },
    Defect {
        file: "hugging_face.safetensors",
        defect: "projections that do not fit each other",
        spoil: |file| with(&file, "text_model.encoder.layers.0.self_attn.v_proj.weight", &[64, 63]),
        message: "the weights file is damaged: text_model.encoder.layers.0.self_attn: the weights of q_proj, k_proj and \
                  v_proj are [[64, 64], [64, 64], [64, 63]] and do not fit each other",
    },
];

#[test]
fn every_defect_is_refused_in_words_that_name_it() {
    for Defect {
        file,
        defect,
        spoil,
        message,
    } in DEFECTS
    {
        let checkpoint = Checkpoint::unpack("vit", file);
        let sound = fs::read(&checkpoint.file).expect("the checkpoint was unpacked");
        fs::write(&checkpoint.file, spoil(sound)).expect("the folder is writable");
        let refused = checkpoint.load().expect_err(defect).to_string();
        println!("{file} | {defect} | {refused}");
        assert!(refused.contains(message), "{file} with {defect}: {refused}");
    }
}

#[test]
fn an_activation_that_is_not_known_is_refused() {
    let unsaid = Checkpoint::unpack("vit", "open_clip.pt");
    fs::remove_file(unsaid.beside("open_clip.json")).expect("the configuration was unpacked");
    fs::remove_file(unsaid.beside("config.json")).expect("the configuration was unpacked");
    let refused = unsaid
        .load()
        .expect_err("a pickle does not tell the activation")
        .to_string();
    assert!(
        refused.contains("whether ") && refused.contains("open_clip.json"),
        "{refused}"
    );

    let unknown = Checkpoint::unpack("vit", "hugging_face.safetensors");
    let config = fs::read_to_string(unknown.beside("config.json")).expect("the configuration was unpacked");
    fs::write(unknown.beside("config.json"), config.replace("quick_gelu", "silu")).expect("the folder is writable");
    let refused = unknown.load().expect_err("silu is not computed").to_string();
    let said = "config.json: hidden_act is \"silu\": the activations computed here are \"quick_gelu\" and \"gelu\"";
    assert!(refused.ends_with(said), "{refused}");
}

/// The file of a checkpoint in a folder of its own, with its model's configurations beside it.
pub struct Checkpoint {
    folder: TempDir,
    file: PathBuf,
}

impl Checkpoint {
    pub fn unpack(model: &str, file: &str) -> Self {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        for config in ["open_clip.json", "config.json"] {
            if form(model, config).exists() {
                fs::copy(form(model, config), folder.path().join(config)).expect("the folder is writable");
            }
        }
        let compressed = fs::read(form(model, &format!("{file}.gz"))).expect("the golden is committed");
        let mut content = Vec::new();
        let mut decoder = GzDecoder::new(compressed.as_slice());
        decoder.read_to_end(&mut content).expect("the golden is whole");
        let file = folder.path().join(file);
        fs::write(&file, content).expect("the folder is writable");
        Self { folder, file }
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn weights(&self) -> Result<Weights, CheckpointError> {
        Weights::load(&self.file, Device::Cpu, Kind::Float)
    }

    pub fn load(&self) -> Result<Clip, CheckpointError> {
        let weights = self.weights()?;
        let config = ModelConfig::find(weights.format(), &self.file)?;
        Clip::load(weights, &config)
    }
}

fn form(model: &str, file: &str) -> PathBuf {
    golden(&format!("forms/{model}/{file}"))
}

fn arrays(model: &str) -> HashMap<String, Tensor> {
    let arrays = Tensor::read_safetensors(form(model, "arrays.safetensors")).expect("the arrays are committed");
    arrays.into_iter().collect()
}

fn first_half(file: &[u8]) -> Vec<u8> {
    file[..file.len() / 2].to_vec()
}

/// Replaces bytes wherever they occur by equally many others.
fn replaced(mut file: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let places: Vec<usize> = (0..=file.len() - from.len())
        .filter(|&place| file[place..].starts_with(from))
        .collect();
    assert!(!places.is_empty(), "the file has {}", String::from_utf8_lossy(from));
    for place in places {
        file[place..place + to.len()].copy_from_slice(to);
    }
    file
}

/// Returns the safetensors file without one tensor.
fn without(file: &[u8], name: &str) -> Vec<u8> {
    let file = SafeTensors::deserialize(file).expect("the file is sound");
    file.tensor(name).expect("the tensor to leave out is there");
    let others = file.iter().filter(|(other, _)| *other != name);
    safetensors::serialize(others, None).expect("the views are valid")
}

/// Returns the safetensors file with a tensor of zeros in place of the one with this name, if there is one.
fn with(file: &[u8], name: &str, shape: &[usize]) -> Vec<u8> {
    let file = SafeTensors::deserialize(file).expect("the file is sound");
    let zeros = vec![0; 2 * shape.iter().product::<usize>()];
    let tensor = TensorView::new(Dtype::F16, shape.to_vec(), &zeros).expect("the sizes agree");
    let others = file.iter().filter(|(other, _)| *other != name);
    safetensors::serialize(others.chain([(name, tensor)]), None).expect("the views are valid")
}

/// Makes an uncompressed zip file.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        writer.start_file(*name, stored).expect("writing to memory cannot fail");
        writer.write_all(content).expect("writing to memory cannot fail");
    }
    writer.finish().expect("writing to memory cannot fail").into_inner()
}

/// Makes an archive whose state dict has one tensor, `a` of shape [2], with these files beside it.
fn tensor_archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let pickle = b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n\
        ((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ\
        K\0K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs.";
    archive(&[&[("model/data.pkl", pickle.as_slice())], files].concat())
}
