//! The form of maps of numbers.

use serde::Serialize;
use utoipa::ToSchema;

/// The form of a map of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MapFormat {
    /// An 8-bit grey PNG.
    Png,
}
