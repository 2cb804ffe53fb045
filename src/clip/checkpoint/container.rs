//! The containers that weights come in, whatever the names of their files.

use std::collections::HashMap;

use super::stored::Stored;
use super::{CheckpointError, CheckpointFormat, archive, safetensors};

/// The containers that weights come in, recognised by their first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    /// A safetensors file: eight bytes of header length, a JSON header, then the tensors' bytes.
    SafeTensors,
    /// An archive that `torch.save` or `torch.jit.save` wrote.
    ZipArchive,
    /// The JSON index of a checkpoint in several files.
    Index,
    /// A file that `torch.save` wrote before version 1.6.
    Pickle,
    Unknown,
}

impl Container {
    /// Returns the container of a file with these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        match bytes {
            [b'P', b'K', 3, 4, ..] => Self::ZipArchive,
            // The eighth byte tells them apart: no safetensors header is 2^56 bytes long, and JSON has no zero bytes.
            [b'{', _, _, _, _, _, _, 1..=255, ..] => Self::Index,
            [0x80, 2..=5, ..] if bytes.get(8) != Some(&b'{') => Self::Pickle,
            [_, _, _, _, _, _, _, _, b'{', ..] => Self::SafeTensors,
            _ => Self::Unknown,
        }
    }
}

/// Returns the place of every tensor in one file, with the format of the file.
pub(super) fn read(file: &[u8]) -> Result<(HashMap<String, Stored>, CheckpointFormat), CheckpointError> {
    match Container::of(file) {
        Container::SafeTensors => Ok((safetensors::read(file)?, CheckpointFormat::OpenClip)),
        Container::ZipArchive => archive::read(file),
        Container::Index => Err(CheckpointError::UnsupportedForm("JSON where tensors should be")),
        Container::Pickle => Err(CheckpointError::UnsupportedForm("a bare Python pickle")),
        Container::Unknown => Err(CheckpointError::UnsupportedForm("of no known form")),
    }
}
