//! Which axis of an image Pillow resizes first.

/// The axis that is resized first. Each pass rounds and clips to 8 bits, so the order matters: by tens of 255 where the
/// filter overshoots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PassOrder {
    /// First the width, then the height.
    ColumnsFirst,
    /// First the height, then the width.
    RowsFirst,
}

impl PassOrder {
    /// Pillow 13's order, by width and height before and after: rows first where more than twice as many rows as
    /// columns go. Earlier versions always began with the columns.
    pub(super) fn of((width, height): (u32, u32), (to_width, to_height): (u64, u64)) -> Self {
        let fewer_rows = u64::from(height).saturating_sub(to_height);
        let fewer_columns = u64::from(width).saturating_sub(to_width);
        match fewer_rows > 2 * fewer_columns {
            true => Self::RowsFirst,
            false => Self::ColumnsFirst,
        }
    }
}
