// A label map is the same after it was written and read again: as PNG, as run lengths, as polygons and as rows.

use maskclip::label_map::{
    ClassPolygons, ClassStatistics, CocoMask, EncodedLabelMap, LabelMap, LabelMapFormat, LabelStyle, coco_category,
    encode_confidence,
};
use maskclip::scores::UNLABELLED;

/// Widest map in pixels.
const MOST_COLUMNS: usize = 64;

pub fn run(bytes: &[u8]) {
    let Some(map) = map(bytes) else {
        return;
    };
    let narrow = map.classes.len() <= 255;
    let unlabelled = if narrow { 255 } else { UNLABELLED };
    let expected: Vec<u16> = map
        .labels
        .iter()
        .map(|&label| if label == UNLABELLED { unlabelled } else { label })
        .collect();
    let as_samples: Vec<u32> = expected.iter().map(|&value| value.into()).collect();

    let EncodedLabelMap::Png(file) = encode(&map, LabelMapFormat::Png) else {
        panic!("a PNG was asked for");
    };
    assert_eq!(samples(&file, &map, if narrow { 1 } else { 2 }), as_samples);
    let EncodedLabelMap::Raw(rows) = encode(&map, LabelMapFormat::Raw) else {
        panic!("rows were asked for");
    };
    assert_eq!(rows.concat(), expected);
    let EncodedLabelMap::CocoRle(masks) = encode(&map, LabelMapFormat::CocoRle) else {
        panic!("masks were asked for");
    };
    let mut labels = vec![UNLABELLED; map.labels.len()];
    for mask in &masks {
        draw(mask, &map, &mut labels);
    }
    assert_eq!(labels, map.labels);
    let EncodedLabelMap::Polygons(polygons) = encode(&map, LabelMapFormat::Polygons) else {
        panic!("polygons were asked for");
    };
    let mut labels = vec![UNLABELLED; map.labels.len()];
    for class in &polygons {
        fill(class, &map, &mut labels);
    }
    assert_eq!(labels, map.labels);
    let EncodedLabelMap::Panoptic(file) = encode(&map, LabelMapFormat::Panoptic) else {
        panic!("segments were asked for");
    };
    let ids = samples(&file, &map, 3).into_iter();
    let expected = map.labels.iter().map(|&label| if label == UNLABELLED { 0 } else { coco_category(label) });
    // Big-endian, and the file has red first.
    assert!(ids.eq(expected.map(|id| (id << 16 | id & 0xff00 | id >> 16) & 0xff_ffff)));
    let confidence = encode_confidence(&map).expect("the map has one");
    let confidence = samples(&confidence, &map, 1);
    assert!(
        confidence
            .iter()
            .zip(map.confidence.iter().flatten())
            .all(|(read, &kept)| *read == u32::from(kept))
    );
}

fn encode(map: &LabelMap, format: LabelMapFormat) -> EncodedLabelMap {
    maskclip::label_map::encode(map, format, &LabelStyle::default(), u64::MAX).expect("corners have no limit")
}

/// A map from bytes: its width, its number of classes in two bytes, and its labels in two bytes each.
fn map(bytes: &[u8]) -> Option<LabelMap> {
    let (&[width, low, high], rest) = bytes.split_first_chunk()?;
    let width = usize::from(width) % MOST_COLUMNS + 1;
    let classes = usize::from(u16::from_le_bytes([low, high])).clamp(1, 65535);
    let labels: Vec<u16> = rest
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .map(|label| {
            if usize::from(label) < classes {
                label
            } else {
                UNLABELLED
            }
        })
        .collect();
    let height = labels.len() / width;
    if height == 0 {
        return None;
    }
    let labels = labels[..width * height].to_vec();
    let absent = ClassStatistics {
        pixels: 0,
        bounding_box: None,
        mean_confidence: None,
        max_confidence: None,
        presence: 0.0,
    };
    Some(LabelMap {
        width: width as u32,
        height: height as u32,
        confidence: Some(labels.iter().map(|&label| label as u8).collect()),
        labels,
        classes: vec![absent; classes],
    })
}

/// The samples of a PNG of the map's size, of so many bytes each.
fn samples(file: &[u8], map: &LabelMap, bytes: usize) -> Vec<u32> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file))
        .read_info()
        .expect("it is a PNG");
    let mut samples = vec![0; reader.output_buffer_size().expect("it is small")];
    let frame = reader.next_frame(&mut samples).expect("it is whole");
    assert_eq!((frame.width, frame.height), (map.width, map.height));
    assert_eq!(samples.len(), map.labels.len() * bytes);
    samples
        .chunks_exact(bytes)
        .map(|sample| sample.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)))
        .collect()
}

/// Writes a class into the pixels whose centres are inside of its lines, by the rule of odd crossings.
fn fill(class: &ClassPolygons, map: &LabelMap, labels: &mut [u16]) {
    let width = map.width as usize;
    for line in &class.lines {
        let mut is_crossed = vec![false; labels.len()];
        for (from, to) in line.iter().zip(line.iter().cycle().skip(1)) {
            assert!(from[0] == to[0] || from[1] == to[1]);
            if from[0] < map.width {
                for y in from[1].min(to[1])..from[1].max(to[1]) {
                    is_crossed[y as usize * width + from[0] as usize] ^= true;
                }
            }
        }
        for (labels, is_crossed) in labels.chunks_mut(width).zip(is_crossed.chunks(width)) {
            let mut is_inside = false;
            for (label, is_crossed) in labels.iter_mut().zip(is_crossed) {
                is_inside ^= is_crossed;
                if is_inside {
                    assert_eq!(*label, UNLABELLED, "regions do not overlap");
                    *label = class.class_id;
                }
            }
        }
    }
}

/// Writes a mask's class where the mask is, as pycocotools reads the string of its runs.
fn draw(mask: &CocoMask, map: &LabelMap, labels: &mut [u16]) {
    assert_eq!(mask.size, [map.height, map.width]);
    let mut runs: Vec<i64> = Vec::new();
    let mut characters = mask.counts.bytes().map(|character| i64::from(character) - 48);
    while let Some(mut character) = characters.next() {
        let (mut value, mut shift) = (0, 0);
        loop {
            value |= (character & 0x1f) << shift;
            shift += 5;
            if character & 0x20 == 0 {
                break;
            }
            character = characters.next().expect("a number has an end");
        }
        if character & 0x10 != 0 {
            value |= -1 << shift;
        }
        let before = if runs.len() > 2 { runs[runs.len() - 2] } else { 0 };
        runs.push(value + before);
    }
    let (width, height) = (map.width as usize, map.height as usize);
    let mut position = 0;
    for (run, &length) in runs.iter().enumerate() {
        let length = usize::try_from(length).expect("no run is negative");
        if run % 2 == 1 {
            for place in position..position + length {
                let pixel = &mut labels[place % height * width + place / height];
                assert_eq!(*pixel, UNLABELLED, "masks do not overlap");
                *pixel = mask.class_id;
            }
        }
        position += length;
    }
    assert_eq!(position, width * height);
}
