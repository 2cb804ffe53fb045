//! Measures the steps from an upload to the model's input and from a label map to a PNG file, and a whole request
//! without the model.
//!
//! Run it with `cargo bench --bench pixels`. The upload is a JPEG of 1152 x 864 pixels, quality 90, 4:2:2, tiled from
//! one photograph. The label map has 20 classes. docs/experiments.md has the figures.

#![allow(missing_docs)]

mod support;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use image::codecs::jpeg::JpegEncoder;
use maskclip::image::{Normalisation, NormalisedImage, Orientation, Resize, RgbImage, decode, preprocess};
use maskclip::label_map::{LabelStyle, encode_confidence, label_map, label_png};

const SIZE: (u32, u32) = (1152, 864);
const CLASSES: usize = 20;
const PATCH_PIXELS: u32 = 16;
const NO_LIMIT: u64 = u64::MAX;

/// Returns the upload: the photograph of the golden files, mirrored from tile to tile so that there are no seams.
fn jpeg() -> Vec<u8> {
    let photograph = include_bytes!("../tests/golden/jpeg/4-4-4.png");
    let photograph = decode(photograph, Orientation::Exif, NO_LIMIT).expect("a golden image is read");
    let (width, height) = photograph.dimensions();
    let image = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| {
        let mirrored = |at: u32, side: u32| {
            if (at / side).is_multiple_of(2) {
                at % side
            } else {
                side - 1 - at % side
            }
        };
        *photograph.get_pixel(mirrored(x, width), mirrored(y, height))
    });
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, 90)
        .encode_image(&image)
        .expect("writing to memory cannot fail");
    file
}

fn model_input(image: &RgbImage, short_side: u32) -> NormalisedImage {
    let (width, height) = Resize::Bicubic
        .working_size(SIZE.0, SIZE.1, short_side, PATCH_PIXELS, NO_LIMIT)
        .expect("there is no limit");
    preprocess(image, width, height, Resize::Bicubic, &Normalisation::CLIP)
}

fn pixels(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pixels");
    group.sample_size(20);
    let file = jpeg();
    println!("the upload has {} bytes", file.len());
    let image = decode(&file, Orientation::Exif, NO_LIMIT).expect("a JPEG is read");
    group.bench_function("decode", |bencher| {
        bencher.iter(|| decode(black_box(&file), Orientation::Exif, NO_LIMIT))
    });
    for short_side in [256, 448] {
        group.bench_function(format!("preprocess to short side {short_side}"), |bencher| {
            bencher.iter(|| model_input(black_box(&image), short_side));
        });
    }

    let (scores, owners) = (support::scores(CLASSES, 28, 37), support::owners(CLASSES));
    let options = support::options(CLASSES, SIZE.0, SIZE.1);
    let map = label_map(&scores, &owners, &options);
    let png_bytes = label_png(&map, &LabelStyle::default()).len();
    println!("the label map's PNG has {png_bytes} bytes");
    group.bench_function("encode the label map", |bencher| {
        bencher.iter(|| label_png(black_box(&map), &LabelStyle::default()));
    });
    println!(
        "the confidence's PNG has {:?} bytes",
        encode_confidence(&map).map(|file| file.len())
    );
    group.bench_function("encode the confidence", |bencher| {
        bencher.iter(|| encode_confidence(black_box(&map)))
    });

    group.bench_function("a request but for the model, short side 448", |bencher| {
        bencher.iter(|| {
            let image = decode(black_box(&file), Orientation::Exif, NO_LIMIT).expect("a JPEG is read");
            let input = model_input(&image, 448);
            let map = label_map(black_box(&scores), &owners, &options);
            (input, label_png(&map, &LabelStyle::default()))
        });
    });
    group.finish();
}

criterion_group!(benches, pixels);
criterion_main!(benches);
