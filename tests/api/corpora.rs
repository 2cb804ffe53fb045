//! Every fuzz target on every file of its corpus (`fuzz/corpus`): seeds, and what once was a finding.

mod checkpoint {
    include!("../../fuzz/targets/checkpoint.rs");
}

mod class_file {
    include!("../../fuzz/targets/class_file.rs");
}

mod image {
    include!("../../fuzz/targets/image.rs");
}

mod label_map {
    include!("../../fuzz/targets/label_map.rs");
}

mod pickle {
    include!("../../fuzz/targets/pickle.rs");
}

mod request {
    include!("../../fuzz/targets/request.rs");
}

/// Runs a target on the files of its corpus, in the order of their names, and names the file that it runs on.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.sort();
    for file in files {
        println!("{}", file.display());
        run(&std::fs::read(&file).unwrap());
    }
}

#[test]
fn images() {
    replay("image", image::run);
}

#[test]
fn requests() {
    replay("request", request::run);
}

#[test]
fn class_files() {
    replay("class_file", class_file::run);
}

#[test]
fn checkpoints() {
    replay("checkpoint", checkpoint::run);
}

#[test]
fn pickles() {
    replay("pickle", pickle::run);
}

#[test]
fn label_maps() {
    replay("label_map", label_map::run);
}
