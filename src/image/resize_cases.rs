//! The golden images of tests/golden/resize, for the tests of both resizers.

use std::path::Path;

use serde::Deserialize;

use super::RgbImage;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/resize");

/// One entry of cases.json, written by tools/golden/resize.py.
#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) source: String,
    pub(super) width: u32,
    pub(super) height: u32,
    /// The file of Pillow's bicubic result.
    pub(super) expected: String,
    /// The file of the bilinear result without antialiasing.
    pub(super) bilinear: String,
}

/// Returns the image in a file.
pub(super) fn load(name: &str) -> RgbImage {
    ::image::open(Path::new(FOLDER).join(name))
        .expect("a golden image is there")
        .into_rgb8()
}

/// Returns all entries.
pub(super) fn cases() -> Vec<Case> {
    let cases = std::fs::read(Path::new(FOLDER).join("cases.json")).expect("the golden cases are there");
    let cases: Vec<Case> = serde_json::from_slice(&cases).expect("the golden cases are JSON");
    assert!(cases.len() > 10);
    cases
}
