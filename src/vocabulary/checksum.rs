//! The checksum of whatever is kept outside of the process: rows on disk, values that replicas share.

use sha2::{Digest, Sha256};

/// Returns the first half of SHA-256 over the parts with their lengths.
pub(super) fn checksum(parts: &[&[u8]]) -> [u8; 16] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    *digest.first_chunk().expect("32 bytes begin with 16 bytes")
}
