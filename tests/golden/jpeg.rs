//! Compares the decoder with libjpeg-turbo, with which CLIP's training images were read. tools/golden/jpeg.py wrote the
//! files, and docs/images.md reports the figures. `cargo test --test golden jpeg -- --nocapture` prints them.

use maskclip::image::{Orientation, RgbImage, decode};

use crate::arrays::golden;

/// Each kind of JPEG with the largest and the mean difference allowed, of 255, over all samples.
///
/// The decoders round the inverse transform and the conversion of colours in different ways. Where colours have fewer
/// samples than pixels (4:2:2, 4:2:0), they also round the interpolation in different ways.
const KINDS: [(&str, u8, f64); 7] = [
    ("4-4-4", 3, 0.05),
    ("4-2-2", 3, 0.5),
    ("4-2-0", 3, 0.5),
    ("4-2-0-coarse", 3, 0.5),
    ("4-2-0-progressive", 3, 0.5),
    ("grey", 1, 0.05),
    ("cmyk", 1, 0.05),
];

#[test]
fn jpegs_are_decoded_nearly_as_by_libjpeg_turbo() {
    println!("| JPEG | largest difference | mean difference | pixels that differ |");
    println!("|---|---:|---:|---:|");
    let mut beyond = Vec::new();
    for (kind, largest_allowed, mean_allowed) in KINDS {
        let (ours, theirs) = (read(&format!("{kind}.jpg")), read(&format!("{kind}.png")));
        assert_eq!(ours.dimensions(), theirs.dimensions(), "{kind}");
        let differences: Vec<u8> = ours.iter().zip(theirs.iter()).map(|(a, b)| a.abs_diff(*b)).collect();
        let largest = differences.iter().copied().max().unwrap_or_default();
        let mean = differences.iter().map(|&difference| f64::from(difference)).sum::<f64>() / differences.len() as f64;
        let differing = differences
            .chunks(3)
            .filter(|pixel| pixel.iter().any(|&sample| sample > 0));
        let share = differing.count() as f64 / (differences.len() / 3) as f64;
        println!("| {kind} | {largest} | {mean:.3} | {:.1}% |", 100.0 * share);
        if largest > largest_allowed || mean > mean_allowed {
            beyond.push(kind);
        }
    }
    assert!(beyond.is_empty(), "further from libjpeg-turbo than allowed: {beyond:?}");
}

/// Without enlarged colours there is no bias. With them, docs/images.md says how large it was seen: up to 0.4 of 255,
/// red and blue brighter.
#[test]
fn a_bias_of_colour_is_no_larger_than_documented() {
    for (kind, ..) in KINDS {
        let (ours, theirs) = (read(&format!("{kind}.jpg")), read(&format!("{kind}.png")));
        let bias = [0, 1, 2].map(|channel| {
            let pairs = ours.pixels().zip(theirs.pixels());
            let sum: f64 = pairs.map(|(a, b)| f64::from(a[channel]) - f64::from(b[channel])).sum();
            sum / f64::from(ours.width() * ours.height())
        });
        println!("{kind}: {bias:.3?}");
        let allowed = if kind.starts_with("4-2") { 0.4 } else { 0.05 };
        assert!(bias.iter().all(|bias| bias.abs() <= allowed), "{kind}: {bias:.3?}");
    }
}

fn read(name: &str) -> RgbImage {
    let bytes = std::fs::read(golden(&format!("jpeg/{name}"))).expect("the golden is committed");
    decode(&bytes, Orientation::Exif, 1 << 20).expect("the golden is an image")
}
