//! Compares corruptions with ImageNet-C's, written in plain Python (tools/golden/corruption.py), and checks the
//! statistics of noise.

use std::path::Path;

use super::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/corruption");

fn golden(name: &str) -> RgbImage {
    let image = ::image::open(Path::new(FOLDER).join(format!("{name}.png")));
    image.expect("a golden image is there").into_rgb8()
}

/// Returns the share of values per difference: `[by 0, by 1, by 2, ...]`.
fn differences(image: &RgbImage, expected: &RgbImage) -> Vec<f64> {
    assert_eq!(image.dimensions(), expected.dimensions());
    let mut counts = vec![0.0; 256];
    let values = image.as_raw().len() as f64;
    for (value, expected) in image.as_raw().iter().zip(expected.as_raw()) {
        counts[usize::from(value.abs_diff(*expected))] += 1.0 / values;
    }
    counts
}

fn corruption(text: &str) -> Corruption {
    text.parse().expect("a corruption")
}

#[test]
fn blurs_are_the_references_to_the_last_bit_of_rounding() {
    let source = golden("source");
    for name in [
        "gaussian-blur:1",
        "gaussian-blur:5",
        "defocus-blur:1",
        "defocus-blur:3",
        "defocus-blur:5",
    ] {
        let counts = differences(&corruption(name).apply(&source, ""), &golden(&name.replace(':', "-")));
        // Values are truncated to 8 bits, so rounding errors decide where a value is whole.
        assert!(
            counts[0] > 0.99 && counts[2..].iter().all(|part| *part == 0.0),
            "{name}: {:?}",
            &counts[..4]
        );
    }
}

#[test]
fn jpeg_leaves_what_libjpeg_leaves() {
    let source = golden("source");
    for severity in 1..=5 {
        let name = format!("jpeg-{severity}");
        let corrupted = corruption(&name.replace('-', ":")).apply(&source, "");
        let mean = |image: &RgbImage, expected: &RgbImage| {
            let counts = differences(image, expected);
            (0..).zip(counts).map(|(by, part)| f64::from(by) * part).sum::<f64>()
        };
        // libjpeg transforms in integers, which decides ties of some coefficients differently.
        let (error, change) = (mean(&corrupted, &golden(&name)), mean(&source, &golden(&name)));
        assert!(error < 0.02 * change, "{name}: {error}, where JPEG changes {change}");
    }
}

#[test]
fn spatter_is_the_references_on_the_same_noise() {
    let source = golden("source");
    let pixels = Pixels::from(&source);
    // The same noise as in tools/golden/corruption.py: sums of twelve numbers from a linear congruential generator,
    // minus six.
    let mut state = 2022_u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state) / f64::from(u32::MAX)
    };
    let noise: Vec<f64> = (0..pixels.width * pixels.height)
        .map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0)
        .collect();
    for (severity, constants) in (1..).zip(spatter::CONSTANTS) {
        let spattered = spatter::spatter(&pixels, &constants, &noise).into_image();
        assert_ne!(spattered, source, "severity {severity} spatters");
        let counts = differences(&spattered, &golden(&format!("spatter-{severity}")));
        assert!(
            counts[0] > 0.99 && counts[2..].iter().all(|part| *part == 0.0),
            "severity {severity}: {:?}",
            &counts[..4]
        );
    }
}

/// Returns a grey image that is large enough for statistics.
fn grey(value: u8) -> RgbImage {
    RgbImage::from_pixel(300, 200, ::image::Rgb([value; 3]))
}

/// Returns mean and standard deviation of an image's values, 0 to 1.
fn moments(image: &RgbImage) -> (f64, f64) {
    // Truncation to 8 bits loses half a step on average, which is added back.
    let values: Vec<f64> = image
        .as_raw()
        .iter()
        .map(|&value| (f64::from(value) + 0.5) / 255.0)
        .collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    (mean, variance.sqrt())
}

#[test]
fn noise_has_its_mean_and_deviation() {
    let value = 102.0 / 255.0; // 0.4: far from both ends at the severities below.
    for (name, deviation) in [
        ("gaussian-noise:1", 0.08),
        ("gaussian-noise:2", 0.12),
        ("shot-noise:1", (value / 60.0_f64).sqrt()),
        ("shot-noise:2", (value / 25.0_f64).sqrt()),
        ("speckle-noise:1", 0.15 * value),
        ("speckle-noise:3", 0.35 * value),
    ] {
        let (mean, spread) = moments(&corruption(name).apply(&grey(102), "image"));
        assert!((mean - value).abs() < 0.003, "{name}: mean {mean}");
        assert!(
            (spread / deviation - 1.0).abs() < 0.02,
            "{name}: deviation {spread}, expected {deviation}"
        );
    }
}

#[test]
fn impulse_noise_is_black_and_white_in_equal_parts() {
    for (severity, part) in (1..).zip([0.03, 0.06, 0.09, 0.17, 0.27]) {
        let image = corruption(&format!("impulse-noise:{severity}")).apply(&grey(102), "image");
        let count = |value| image.as_raw().iter().filter(|found| **found == value).count() as f64;
        let values = image.as_raw().len() as f64;
        assert!((count(0) / values - part / 2.0).abs() < 0.003, "severity {severity}");
        assert!((count(255) / values - part / 2.0).abs() < 0.003, "severity {severity}");
        assert_eq!(count(0) + count(255) + count(102), values);
    }
}

#[test]
fn a_higher_severity_changes_more() {
    let source = golden("source");
    for &kind in <CorruptionKind as VariantArray>::VARIANTS {
        let change = |severity| {
            let corrupted = Corruption { kind, severity }.apply(&source, "image");
            let differences = corrupted.as_raw().iter().zip(source.as_raw());
            differences
                .map(|(one, other)| u64::from(one.abs_diff(*other)))
                .sum::<u64>()
        };
        assert!(0 < change(1) && change(1) < change(5), "{}", kind);
    }
}

#[test]
fn the_same_image_is_corrupted_alike_and_another_one_otherwise() {
    for &kind in <CorruptionKind as VariantArray>::VARIANTS {
        let corruption = Corruption { kind, severity: 3 };
        let apply = |name| corruption.apply(&golden("source"), name);
        assert_eq!(apply("a"), apply("a"));
        let is_random = !matches!(
            kind,
            CorruptionKind::GaussianBlur | CorruptionKind::DefocusBlur | CorruptionKind::Jpeg
        );
        assert_eq!(apply("a") != apply("b"), is_random, "{}", kind);
    }
}

#[test]
fn images_of_any_size_are_corrupted() {
    for (width, height) in [(1, 1), (1, 9), (17, 2)] {
        let image = RgbImage::from_pixel(width, height, ::image::Rgb([10, 200, 90]));
        for &kind in <CorruptionKind as VariantArray>::VARIANTS {
            for severity in [1, 5] {
                let corrupted = Corruption { kind, severity }.apply(&image, "");
                assert_eq!(corrupted.dimensions(), (width, height), "{}", kind);
            }
        }
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for &kind in <CorruptionKind as VariantArray>::VARIANTS {
        let corruption = Corruption { kind, severity: 4 };
        assert_eq!(corruption.to_string().parse(), Ok(corruption));
    }
    for wrong in ["jpeg", "jpeg:0", "jpeg:6", "snow:1", "jpeg:x"] {
        let error = wrong.parse::<Corruption>().expect_err("no corruption");
        assert!(
            error.contains("NAME:SEVERITY") && error.contains("defocus-blur"),
            "{error}"
        );
    }
}
