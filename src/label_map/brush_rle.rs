//! Masks as Label Studio's brush strokes: run lengths in bits, as its converter packs them.
//!
//! A stroke is an RGBA image whose four channels are 255 inside of the mask and 0 outside. It is packed by
//! @thi.ng/rle-pack (<https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack>): the number of values, the
//! bits of a value, the bits of each of four lengths, then the runs. A run is a 1, the place of its length among the
//! four, its length less one, and its value.

/// The bits of a value, and the bits of each of the four lengths of a run.
const VALUE_BITS: u32 = 8;
const LENGTH_BITS: [u32; 4] = [3, 4, 8, 16];

/// The longest run.
const MAX_RUN: usize = 1 << 16;

/// Values of a pixel: red, green, blue and opacity.
const CHANNELS: usize = 4;

/// Packs a mask, whose pixels come row by row, as the `rle` of a brush stroke. The bytes are those of `mask2rle` in
/// label-studio-sdk.
///
/// # Panics
/// Panics when the mask has 2^30 pixels or more, which no image of this server has.
pub fn brush_rle(mask: impl ExactSizeIterator<Item = bool>) -> Vec<u8> {
    let values = u32::try_from(mask.len() * CHANNELS).expect("a mask has less than 2^30 pixels");
    let mut bits = BitWriter::default();
    bits.write(values, 32);
    bits.write(VALUE_BITS - 1, 5);
    for length in LENGTH_BITS {
        bits.write(length - 1, 4);
    }
    let mut run: Option<(bool, usize)> = None;
    for is_inside in mask {
        match &mut run {
            Some((value, pixels)) if *value == is_inside => *pixels += 1,
            _ => {
                if let Some((value, pixels)) = run {
                    write_run(&mut bits, value, pixels);
                }
                run = Some((is_inside, 1));
            }
        }
    }
    if let Some((value, pixels)) = run {
        write_run(&mut bits, value, pixels);
    }
    bits.finish()
}

/// Writes as many runs as the pixels take.
fn write_run(bits: &mut BitWriter, is_inside: bool, pixels: usize) {
    let mut left = pixels * CHANNELS;
    while left > 0 {
        let length = left.min(MAX_RUN);
        let fits = |bits: &u32| length <= 1 << bits;
        let place = LENGTH_BITS.iter().position(fits).expect("the longest run has 16 bits");
        bits.write(1, 1);
        bits.write(place as u32, 2);
        bits.write(length as u32 - 1, LENGTH_BITS[place]);
        bits.write(if is_inside { 255 } else { 0 }, VALUE_BITS);
        left -= length;
    }
}

/// Writes numbers of any bits, highest bit first.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    /// Bits that do not fill a byte yet, the last one lowest.
    pending: u64,
    pending_bits: u32,
}

impl BitWriter {
    fn write(&mut self, value: u32, bits: u32) {
        self.pending = (self.pending << bits) | u64::from(value);
        self.pending_bits += bits;
        while self.pending_bits >= 8 {
            self.pending_bits -= 8;
            self.bytes.push((self.pending >> self.pending_bits) as u8);
            self.pending &= (1 << self.pending_bits) - 1;
        }
    }

    /// Returns the bytes. Zeros fill the last one, or are one of their own, as the converter has it.
    fn finish(mut self) -> Vec<u8> {
        self.bytes.push((self.pending << (8 - self.pending_bits)) as u8);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// One entry of label_studio_brush.json, written by tools/golden/label_studio_brush.py.
    #[derive(Deserialize)]
    struct Golden {
        rle: Vec<u8>,
        rows: Vec<String>,
    }

    #[test]
    fn strokes_are_those_of_label_studios_converter() {
        let goldens: Vec<Golden> = serde_json::from_str(include_str!("../../tests/golden/label_studio_brush.json"))
            .expect("the goldens are JSON");
        assert!(goldens.len() >= 5);
        for golden in goldens {
            let mask: Vec<bool> = golden.rows.concat().bytes().map(|pixel| pixel == b'1').collect();
            assert_eq!(brush_rle(mask.iter().copied()), golden.rle, "{:?}", golden.rows);
        }
    }

    #[test]
    fn a_run_that_is_too_long_becomes_several() {
        let packed = brush_rle(std::iter::repeat_n(true, MAX_RUN / CHANNELS + 1));
        // 53 bits of head, a run of 27 bits and one of 14.
        assert_eq!(packed.len(), (53 + 27 + 14) / 8 + 1);
        assert_eq!(packed[..4], [0, 1, 0, 4]);
    }

    #[test]
    fn a_mask_without_pixels_is_a_head_alone() {
        assert_eq!(brush_rle(std::iter::empty::<bool>()), [0, 0, 0, 0, 57, 27, 248]);
    }
}
