//! What a run came to.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// An image that could not be labelled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skipped {
    /// The path of the image within its folder.
    pub file_name: String,
    /// The cause.
    pub reason: String,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndOfRun {
    /// The number of images labelled now.
    pub labelled: usize,
    /// The number of images that were done before.
    pub known: usize,
    /// The images that could not be labelled, in the order in which they were tried.
    pub skipped: Vec<Skipped>,
    /// What was odd about the classes, each text once.
    pub warnings: BTreeSet<String>,
}

impl EndOfRun {
    /// Adds what another run came to.
    pub fn add(&mut self, other: Self) {
        self.labelled += other.labelled;
        self.known += other.known;
        self.skipped.extend(other.skipped);
        self.warnings.extend(other.warnings);
    }
}
