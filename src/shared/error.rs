//! Why the shared state does not do what is asked of it.

/// Why an operation on the shared state failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SharedError {
    /// Redis cannot be reached, did not answer in time, or refuses its work.
    #[error("the shared state (shared.url) cannot be reached")]
    Unreachable,
    /// Redis has no memory left (`maxmemory`).
    #[error("the shared state (shared.url) is full")]
    Full,
    /// What Redis has under a key is of another type than what replicas write.
    #[error("a value in the shared state (shared.url) is none that a server has written; the log names it")]
    Damaged,
}

impl SharedError {
    /// Returns the error's name in metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Full => "full",
            Self::Damaged => "damaged",
        }
    }
}

/// Why the shared state cannot be used at all, so that a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file of the settings cannot be read.
    #[error("{key}: {file}: {error}")]
    File {
        /// The key of the setting.
        key: &'static str,
        /// The file.
        file: String,
        /// What is wrong with it.
        error: std::io::Error,
    },
    /// The settings do not fit together.
    #[error("shared.url: {0}")]
    Settings(String),
    /// Redis does not know the user or the password, or the user may not do what is needed.
    #[error("shared.url: Redis refuses this server: {0}")]
    Refused(String),
}
