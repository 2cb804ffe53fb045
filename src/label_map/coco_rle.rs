//! Masks in COCO's compressed run-length encoding, as pycocotools reads and writes it.
//!
//! A mask is a list of the lengths of its runs of 0 and 1 in turn, starting with 0. The runs go down the columns from
//! the left. From the fourth length on, each is written as its difference from the length two places before it. Each
//! number becomes characters of 5 bits, lowest first. A character is 48 plus the bits, plus 32 if more characters
//! follow. The highest bit of the last character is the sign of the number.

use super::LabelMap;
use crate::scores::UNLABELLED;

/// The mask of one class in COCO's compressed run-length encoding. Its runs go down the columns and start with 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CocoMask {
    /// The id of the class.
    pub class_id: u16,
    /// The size of the mask in pixels, in COCO's order: `[height, width]`.
    pub size: [u32; 2],
    /// The lengths of the runs, as COCO's printable string.
    pub counts: String,
}

impl CocoMask {
    /// Returns the positions of the mask's pixels, each counted row by row.
    ///
    /// # Panics
    /// Panics when the counts are no runs, or leave the mask.
    pub fn pixels(&self) -> impl Iterator<Item = usize> {
        coco_pixels(&self.counts, self.size).expect("a mask has run lengths that add up to its size")
    }
}

/// Returns one mask for each class that has pixels, lowest id first. The function walks over the map once.
pub fn coco_masks(map: &LabelMap) -> Vec<CocoMask> {
    let width = map.width as usize;
    let total = map.labels.len();
    let mut classes = vec![Runs::default(); map.classes.len()];
    let mut end_run = |label: u16, start, end| {
        // Unlabelled pixels belong to no mask.
        if let Some(runs) = classes.get_mut(usize::from(label)).filter(|_| start < end) {
            runs.push_ones(start, end);
        }
    };
    let (mut label, mut start, mut position) = (UNLABELLED, 0, 0);
    for column in 0..width {
        for &next in map.labels[column..].iter().step_by(width) {
            if next != label {
                end_run(label, start, position);
                (label, start) = (next, position);
            }
            position += 1;
        }
    }
    end_run(label, start, total);
    // The classes come first: after the last of 65535, no further id is asked for.
    classes
        .into_iter()
        .zip(0..)
        .filter(|(runs, _)| runs.end > 0)
        .map(|(runs, class_id)| CocoMask {
            class_id,
            size: [map.height, map.width],
            counts: to_string(&runs.finish(total)),
        })
        .collect()
}

/// The runs of one mask found so far.
#[derive(Clone, Default)]
struct Runs {
    /// The lengths of the runs of 0 and 1 in turn.
    lengths: Vec<usize>,
    /// The position at which the last run of 1s ends.
    end: usize,
}

impl Runs {
    /// Adds the run of 1s from `start` up to, but not including, `end`, and the 0s before it.
    fn push_ones(&mut self, start: usize, end: usize) {
        self.lengths.extend([start - self.end, end - start]);
        self.end = end;
    }

    /// Returns all lengths of a mask of `total` pixels.
    fn finish(mut self, total: usize) -> Vec<usize> {
        if self.end < total {
            self.lengths.push(total - self.end);
        }
        self.lengths
    }
}

/// Writes lengths of runs as COCO's printable string.
fn to_string(lengths: &[usize]) -> String {
    let mut text = String::new();
    for (index, &length) in lengths.iter().enumerate() {
        let before = if index > 2 { lengths[index - 2] } else { 0 };
        let mut rest = length as i64 - before as i64;
        loop {
            let bits = (rest & 0x1f) as u8;
            rest >>= 5;
            let is_negative = bits & 0x10 != 0;
            let more = rest != if is_negative { -1 } else { 0 };
            text.push(char::from(48 + bits + if more { 32 } else { 0 }));
            if !more {
                break;
            }
        }
    }
    text
}

/// Reads COCO's printable string as lengths of runs of 0 and 1 in turn, starting with 0. Returns `None` for a text that
/// is none, or with a length below 0 or above `u32::MAX`.
pub fn coco_runs(text: &str) -> Option<Vec<u32>> {
    let mut lengths: Vec<u32> = Vec::new();
    let mut characters = text.bytes().peekable();
    while characters.peek().is_some() {
        let (mut value, mut shift) = (0_i64, 0);
        loop {
            let bits = i64::from(characters.next()?.checked_sub(48)?);
            // Seven characters hold every difference of two lengths.
            if bits > 0x3f || shift > 30 {
                return None;
            }
            value |= (bits & 0x1f) << shift;
            shift += 5;
            if bits & 0x20 == 0 {
                value -= if bits & 0x10 != 0 { 1 << shift } else { 0 };
                break;
            }
        }
        let before = if lengths.len() > 2 {
            lengths[lengths.len() - 2]
        } else {
            0
        };
        lengths.push(u32::try_from(value + i64::from(before)).ok()?);
    }
    Some(lengths)
}

/// Returns the positions of the pixels of a mask of `[height, width]`, each counted row by row. Returns `None` for a
/// text that is no runs, and for runs that leave the mask.
pub fn coco_pixels(counts: &str, size: [u32; 2]) -> Option<impl Iterator<Item = usize> + use<>> {
    let [height, width] = size.map(|side| side as usize);
    let lengths = coco_runs(counts)?;
    let total: usize = lengths.iter().map(|&length| length as usize).sum();
    if total > height * width {
        return None;
    }
    let runs = lengths.into_iter().scan(0, |end, length| {
        let start = *end;
        *end += length as usize;
        Some(start..*end)
    });
    let inside = runs.skip(1).step_by(2).filter(|run| !run.is_empty());
    Some(inside.flat_map(move |run| {
        // A division for each pixel would take most of the time.
        let (mut column, mut row) = (run.start / height, run.start % height);
        run.map(move |_| {
            let pixel = row * width + column;
            row += 1;
            if row == height {
                (column, row) = (column + 1, 0);
            }
            pixel
        })
    }))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::ClassStatistics;
    use super::*;

    /// One entry of coco_rle.json, written by tools/golden/coco_rle.py.
    #[derive(Deserialize)]
    struct Golden {
        name: String,
        height: u32,
        width: u32,
        /// The runs as `[value, length]`, row by row.
        runs: Vec<[usize; 2]>,
        masks: Vec<Mask>,
    }

    #[derive(Deserialize)]
    struct Mask {
        class_id: u16,
        size: [u32; 2],
        counts: String,
    }

    fn goldens() -> Vec<Golden> {
        serde_json::from_str(include_str!("../../tests/golden/coco_rle.json")).expect("the goldens are JSON")
    }

    fn label_map(golden: &Golden) -> LabelMap {
        let absent = ClassStatistics {
            pixels: 0,
            bounding_box: None,
            mean_confidence: None,
            max_confidence: None,
            presence: 0.0,
        };
        let labels = golden
            .runs
            .iter()
            .flat_map(|&[label, length]| std::iter::repeat_n(label as u16, length));
        LabelMap {
            width: golden.width,
            height: golden.height,
            labels: labels.collect(),
            confidence: None,
            classes: vec![absent; 5],
        }
    }

    /// Returns the positions of a mask's pixels, numbered row by row, by the description of the format.
    fn decode(mask: &CocoMask) -> Vec<usize> {
        let lengths = coco_runs(&mask.counts).expect("this program wrote the text");
        let [height, width] = mask.size.map(|side| side as usize);
        let bits = lengths
            .iter()
            .enumerate()
            .flat_map(|(run, &length)| std::iter::repeat_n(run % 2 == 1, length as usize));
        let mut pixels: Vec<usize> = bits
            .enumerate()
            .filter(|&(_, inside)| inside)
            .map(|(position, _)| position % height * width + position / height)
            .collect();
        pixels.sort_unstable();
        pixels
    }

    #[test]
    fn writes_what_pycocotools_writes() {
        let goldens = goldens();
        assert_eq!(goldens.len(), 9);
        for golden in goldens {
            let expected: Vec<_> = golden
                .masks
                .iter()
                .map(|mask| CocoMask {
                    class_id: mask.class_id,
                    size: mask.size,
                    counts: mask.counts.clone(),
                })
                .collect();
            assert_eq!(coco_masks(&label_map(&golden)), expected, "{}", golden.name);
        }
    }

    #[test]
    fn reads_back_as_the_class_s_pixels() {
        for golden in goldens() {
            let map = label_map(&golden);
            for mask in coco_masks(&map) {
                let mut pixels: Vec<usize> = mask.pixels().collect();
                pixels.sort_unstable();
                assert_eq!(pixels, decode(&mask), "{}, class {}", golden.name, mask.class_id);
                let own: Vec<usize> = (0..map.labels.len())
                    .filter(|&pixel| map.labels[pixel] == mask.class_id)
                    .collect();
                assert_eq!(decode(&mask), own, "{}, class {}", golden.name, mask.class_id);
            }
        }
    }

    #[test]
    fn texts_that_are_no_runs_are_refused() {
        assert_eq!(coco_runs(""), Some(vec![]));
        assert_eq!(coco_runs("51"), Some(vec![5, 1]));
        for text in ["P", "\u{e9}", "!", "N", "ooooooooo0"] {
            assert_eq!(coco_runs(text), None, "{text}");
        }
    }

    #[test]
    fn pixels_are_counted_row_by_row_and_none_leaves_the_mask() {
        // A zero, three ones down the columns, two zeros.
        let mask = CocoMask {
            class_id: 0,
            size: [2, 3],
            counts: "132".to_owned(),
        };
        assert_eq!(mask.pixels().collect::<Vec<_>>(), [3, 1, 4]);
        assert!(coco_pixels("132", [2, 2]).is_none());
        assert!(coco_pixels("!", [2, 3]).is_none());
        assert_eq!(coco_pixels("", [0, 0]).map(Iterator::count), Some(0));
    }

    #[test]
    fn the_last_of_the_most_classes_has_its_mask() {
        let mut map = label_map(&Golden {
            name: String::new(),
            height: 1,
            width: 2,
            runs: vec![[65534, 1], [usize::from(UNLABELLED), 1]],
            masks: vec![],
        });
        map.classes = vec![map.classes[0].clone(); 65535];
        let masks = coco_masks(&map);
        assert_eq!((masks.len(), masks[0].class_id), (1, 65534));
    }

    #[test]
    fn a_map_without_labels_has_no_masks() {
        let golden = Golden {
            name: String::new(),
            height: 2,
            width: 2,
            runs: vec![[usize::from(UNLABELLED), 4]],
            masks: vec![],
        };
        assert_eq!(coco_masks(&label_map(&golden)), []);
    }
}
