//! The settings of fetching weights.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::support::{OutOfRange, PrivateUrl, at_least_one, in_range};

/// The settings of fetching weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchSettings {
    /// Whether the network must not be used.
    pub offline: bool,
    /// The address of the Hugging Face hub or of a mirror of it.
    pub hub: PrivateUrl,
    /// A PEM file of certificate authorities to trust instead of the compiled-in ones.
    pub certificates: Option<PathBuf>,
    /// Most bytes of a file whose length is not known beforehand.
    pub max_bytes: u64,
}

impl FetchSettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        at_least_one("fetch.max_bytes", self.max_bytes)?;
        in_range(
            "fetch.hub",
            matches!(self.hub.whole().scheme(), "http" | "https"),
            &self.hub,
            "an http or https address",
        )
    }
}
