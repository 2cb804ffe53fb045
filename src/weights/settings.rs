//! The settings for getting weights.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::support::{OutOfRange, in_range};

/// Getting weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchSettings {
    /// Never use the network.
    pub offline: bool,
    /// The Hugging Face hub, or a mirror of it.
    pub hub: Url,
    /// A PEM file of certificate authorities to trust instead of the compiled-in ones.
    pub certificates: Option<PathBuf>,
}

impl FetchSettings {
    /// Checks the address of the hub.
    ///
    /// # Errors
    /// When it is no HTTP address.
    pub fn check(&self) -> Result<(), OutOfRange> {
        in_range(
            "fetch.hub",
            matches!(self.hub.scheme(), "http" | "https"),
            &self.hub,
            "an http or https address",
        )
    }
}
