//! A limit in the settings that a request exceeds.

/// A limit in the settings that a request exceeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExceededLimit {
    /// The limit's settings key.
    pub key: &'static str,
    /// The limit's value.
    pub value: LimitValue,
}

/// The value of a limit, in the unit that its key names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LimitValue {
    /// A whole number, such as a count or a number of pixels.
    Whole(u64),
    /// A fractional number, such as seconds.
    Fractional(f64),
}

impl ExceededLimit {
    /// A limit in whole units.
    pub fn whole(key: &'static str, value: u64) -> Self {
        let value = LimitValue::Whole(value);
        Self { key, value }
    }

    /// A limit in fractions of a unit.
    pub fn fractional(key: &'static str, value: f64) -> Self {
        let value = LimitValue::Fractional(value);
        Self { key, value }
    }
}
