//! In how many bits the ids of a label map are written.

/// The unlabelled value of maps with up to 255 classes.
pub(super) const UNLABELLED_8_BIT: u8 = u8::MAX;

/// Whether ids of this many classes, and the unlabelled value, are written in 8 bits.
pub(super) fn is_8_bit(classes: usize) -> bool {
    classes <= usize::from(UNLABELLED_8_BIT)
}

/// A label of a map with up to 255 classes in 8 bits: ids end at 254, and unlabelled, 65535, ends in the byte 255.
pub(super) fn label_8_bit(label: u16) -> u8 {
    label.to_le_bytes()[0]
}
