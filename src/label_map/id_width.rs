//! The number of bits in which the ids of a label map are written.

/// The unlabelled value of maps with at most 255 classes.
pub(super) const UNLABELLED_8_BIT: u8 = u8::MAX;

/// Returns whether the ids of so many classes, and the unlabelled value, are written in 8 bits.
pub(super) fn is_8_bit(classes: usize) -> bool {
    classes <= usize::from(UNLABELLED_8_BIT)
}

/// Returns a label of a map with at most 255 classes in 8 bits. Ids go up to 254, and the low byte of 65535,
/// unlabelled, is 255.
pub(super) fn label_8_bit(label: u16) -> u8 {
    label.to_le_bytes()[0]
}
