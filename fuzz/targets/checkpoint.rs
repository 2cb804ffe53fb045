// Any bytes are a model or an error, in all three forms of a checkpoint: safetensors, PyTorch's archives, and Hugging
// Face's names in either.

use maskclip::clip::{Clip, ModelConfig, Weights};
use tch::{Device, Kind};

pub fn run(bytes: &[u8]) {
    if let Ok(weights) = Weights::from_bytes(bytes.to_vec(), Device::Cpu, Kind::Float) {
        // An error is as good as a model: what matters is that neither end is a panic.
        drop(Clip::load(weights, &ModelConfig::OPENAI));
    }
}
