//! Compares MaskCLIP+'s students with plain PyTorch. tools/golden/student.py wrote the arrays.

use maskclip::models::student::{Backbone, Head, Mode, Network, NetworkConfig, OptimiserSettings, Parameters, Stem};
use maskclip::training::{Sgd, cross_entropy, feature_distance};
use tch::{Device, Tensor};

use crate::arrays::{Arrays, Comparison, golden};

const LEARNING_RATE: f64 = 0.01;

/// Number of steps whose losses are compared.
const STEPS: usize = 3;

#[test]
fn resnet18_plain_deeplab_v2() {
    agrees("resnet18_plain_v2", Backbone::Resnet18, Stem::Plain, Head::DeeplabV2);
}

#[test]
fn resnet50_v1c_deeplab_v2() {
    agrees("resnet50_v1c_v2", Backbone::Resnet50, Stem::V1c, Head::DeeplabV2);
}

#[test]
fn resnet18_v1c_deeplab_v3_plus() {
    agrees(
        "resnet18_v1c_v3_plus",
        Backbone::Resnet18,
        Stem::V1c,
        Head::DeeplabV3Plus,
    );
}

/// Asserts that logits in both modes, the running statistics after them, and steps of training equal PyTorch's.
fn agrees(name: &str, backbone: Backbone, stem: Stem, head: Head) {
    let config = NetworkConfig {
        backbone,
        stem,
        width: 4,
        head,
        head_channels: 16,
        embedding: 6,
    };
    let tensors = Tensor::read_safetensors(golden(&format!("student_{name}.safetensors")));
    let tensors = tensors.expect("the golden tensors are committed").into_iter().collect();
    let mut parameters = Parameters::stored(tensors, Device::Cpu);
    let network = Network::new(&mut parameters, &config).expect("the golden tensors are a whole student");
    parameters.finish().expect("the student uses every tensor");
    let tensor = |name: &str| {
        let (_, tensor) = parameters
            .all()
            .find(|(key, _)| *key == name)
            .expect("the student has the tensor");
        tensor.detach()
    };
    let arrays = Arrays::read(name, &format!("student_{name}_arrays.safetensors"));
    let [images, texts, labels] = ["images", "texts", "labels"].map(|name| arrays.get(name));
    let mut comparison = Comparison::default();

    comparison.add(&arrays, "evaluate", &network.logits(images, texts, Mode::Evaluate));
    let [teacher, counted] = ["teacher", "counted"].map(|name| arrays.get(name));
    let distance = feature_distance(&network.features(images, Mode::Evaluate), teacher, counted);
    comparison.add(&arrays, "distance", &distance);
    comparison.add(&arrays, "train", &network.logits(images, texts, Mode::Train));
    let last = if backbone == Backbone::Resnet18 { 1 } else { 2 };
    let statistics = [
        tensor("backbone.bn1.running_mean"),
        tensor(&format!("backbone.layer4.{last}.bn2.running_var")),
    ];
    comparison.add(&arrays, "after_one", &Tensor::cat(&statistics, 0));

    let mut optimiser = Sgd::new(&OptimiserSettings::default(), &parameters);
    let losses = [(); STEPS].map(|()| {
        let loss = cross_entropy(&network.logits(images, texts, Mode::Train), labels);
        loss.backward();
        optimiser.step(&parameters, LEARNING_RATE);
        loss.detach()
    });
    comparison.add(&arrays, "losses", &Tensor::stack(&losses, 0));
    for key in [
        "backbone.bn1.weight",
        "backbone.layer2.0.conv1.weight",
        "backbone.layer4.1.bn2.bias",
    ] {
        comparison.add(&arrays, &format!("after_steps.{key}"), &tensor(key));
    }
    comparison.conclude();
}
