//! The memory of the real binary, as the system counts it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use maskclip::dense::{PROPAGATION_CELLS, Refinement, RefinementOptions, refinement_bytes};
use serde_json::json;

use crate::segment::segment;
use crate::server::Server;

/// Shapes of input beyond those that the server has computed before memory is looked at.
const SHAPES: u32 = 36;

/// Growth that passes, in bytes. Without a limit on what oneDNN keeps, the shapes take 220 MB.
const ALLOWED: u64 = 60_000_000;

/// Labels an image that the model sees at its own size, in pixels.
fn label(server: &Server, width: u32, height: u32) {
    let mut png = Vec::new();
    let pixels = vec![127; (3 * width * height) as usize];
    PngEncoder::new(&mut png)
        .write_image(&pixels, width, height, ExtendedColorType::Rgb8)
        .unwrap();
    let request = json!({
        "image": BASE64_STANDARD.encode(png),
        "classes": ["tiger"],
        "short_side": width.min(height),
        "output": {"label_map": "none"},
    });
    segment(server, &request);
}

#[test]
fn memory_does_not_grow_with_the_shapes_of_images() {
    let server = Server::start_with(&[
        ("MASKCLIP_MODEL__KEPT_PRIMITIVES", "16"),
        ("MASKCLIP_IMAGES__CACHE_BYTES", "0"),
    ]);
    let sides = |index: u32| (64 + 32 * (index % 6), 64 + 32 * (index / 6));
    // The largest shapes first, whose pixels and activations the allocator keeps.
    for index in [SHAPES - 1, SHAPES - 2] {
        let (width, height) = sides(index);
        label(&server, width, height);
    }
    let before = server.resident_bytes();
    for index in 0..SHAPES {
        let (width, height) = sides(index);
        label(&server, width, height);
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < ALLOWED, "{SHAPES} shapes took {grown} bytes");
}

/// Side in pixels of the image that is refined.
const SIDE: u32 = 600;

/// Bytes beside those of the refinement that a request may take more than one before it without a refinement.
const OTHERS: u64 = 16_000_000;

#[test]
fn a_refinement_takes_no_more_than_it_is_weighed_with() {
    let classes: Vec<String> = (0..6).map(|number| format!("class {number}")).collect();
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(
            &vec![90; (3 * SIDE * SIDE) as usize],
            SIDE,
            SIDE,
            ExtendedColorType::Rgb8,
        )
        .unwrap();
    let image = BASE64_STANDARD.encode(png);
    let server = Server::start_with(&[
        ("MASKCLIP_IMAGES__CACHE_BYTES", "0"),
        // What is freed goes back to the system at once, so that what is counted is what is in use.
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ]);
    // The one that takes more comes last, since a peak stays.
    for (name, refinement) in [
        ("pearl-propagation", Refinement::PearlPropagation),
        ("pamr", Refinement::Pamr),
    ] {
        let label = |refinement: &str| {
            let request = json!({
                "image": image,
                "classes": classes,
                "background": false,
                "templates": "none",
                "refinement": refinement,
                "output": {"label_map": "none"},
            });
            segment(&server, &request);
        };
        label("none");
        let before = server.resident_bytes();
        label(name);
        let taken = server.peak_bytes().saturating_sub(before);
        let options = RefinementOptions::new(refinement, PROPAGATION_CELLS, 100.0);
        let weighed = refinement_bytes(&options, classes.len(), (SIDE, SIDE));
        assert!(
            taken < weighed + OTHERS,
            "{name} takes {taken} bytes, not the {weighed} that it is weighed with"
        );
    }
}
