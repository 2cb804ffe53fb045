//! MaskCLIP+'s students against plain PyTorch: see tools/golden/student.py, which wrote the arrays.

use std::collections::HashMap;
use std::path::Path;

use maskclip::student::{
    Backbone, Head, Mode, Network, NetworkConfig, OptimiserSettings, Parameters, Sgd, Stem, cross_entropy,
};
use tch::{Device, Tensor};

/// Largest absolute difference allowed, in 32 bits.
const TOLERANCE: f64 = 1e-4;

const LEARNING_RATE: f64 = 0.01;

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

/// Logits in both modes, the running statistics that follow, and steps of training are PyTorch's.
fn agrees(name: &str, backbone: Backbone, stem: Stem, head: Head) {
    let config = NetworkConfig {
        backbone,
        stem,
        width: 4,
        head,
        head_channels: 16,
        embedding: 6,
    };
    let mut parameters = Parameters::stored(read(&format!("student_{name}")), Device::Cpu);
    let network = Network::new(&mut parameters, &config).expect("the golden tensors are a whole student");
    parameters.finish().expect("and nothing else");
    let arrays = read(&format!("student_{name}_arrays"));
    let [images, texts, labels] = ["images", "texts", "labels"].map(|name| &arrays[name]);
    let compare = |expected: &str, found: &Tensor| {
        let expected_values = &arrays[expected];
        assert_eq!(found.size(), expected_values.size(), "{name} {expected}");
        let difference = (found - expected_values).abs().max().double_value(&[]);
        println!("{difference:9.2e}  {name} {expected}");
        assert!(difference <= TOLERANCE, "{name} {expected} is {difference} off");
    };
    let tensor = |name: &str| {
        let (_, tensor) = parameters
            .all()
            .find(|(key, _)| *key == name)
            .expect("it has the tensor");
        tensor.detach()
    };

    compare("evaluate", &network.logits(images, texts, Mode::Evaluate));
    compare("train", &network.logits(images, texts, Mode::Train));
    let last = if backbone == Backbone::Resnet18 { 1 } else { 2 };
    let statistics = [
        tensor("backbone.bn1.running_mean"),
        tensor(&format!("backbone.layer4.{last}.bn2.running_var")),
    ];
    compare("after_one", &Tensor::cat(&statistics, 0));

    let mut optimiser = Sgd::new(&OptimiserSettings::default(), &parameters);
    let losses: Vec<_> = (0..arrays["losses"].size()[0])
        .map(|_| {
            let loss = cross_entropy(&network.logits(images, texts, Mode::Train), labels);
            loss.backward();
            optimiser.step(&parameters, LEARNING_RATE);
            loss.detach()
        })
        .collect();
    compare("losses", &Tensor::stack(&losses, 0));
    let after: Vec<_> = arrays
        .keys()
        .filter_map(|key| key.strip_prefix("after_steps."))
        .collect();
    assert_eq!(after.len(), 3);
    for key in after {
        compare(&format!("after_steps.{key}"), &tensor(key));
    }
}

fn read(name: &str) -> HashMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.safetensors"));
    let arrays = Tensor::read_safetensors(path).expect("the golden arrays are committed");
    arrays.into_iter().collect()
}
