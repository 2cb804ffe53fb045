//! Where the image of a Label Studio task is: inside of the task, or among the files that were uploaded to Label
//! Studio. Addresses are never fetched.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use url::Url;

use crate::api::AppState;
use crate::api::error::ApiError;
use crate::api::upload::decode_base64;
use crate::engine::HeldBytes;
use crate::support::{excerpt, open_regular_file, read_regular_file, run_blocking};

/// What paths of uploaded files begin with.
const UPLOADS: &str = "/data/upload/";

/// Returns the image that a task's data names. Its bytes are added to `held`.
///
/// # Errors
/// When the image is an address, or is not among the uploads, or there is no room for it.
pub(super) async fn image(state: &AppState, value: String, held: &HeldBytes) -> Result<Bytes, ApiError> {
    if value.starts_with("data:") {
        return run_blocking(move || decode_base64(value)).await;
    }
    let Some(relative) = upload_path(&value) else {
        return Err(ApiError::Malformed(format!(
            "{:?} is an address, and addresses are not fetched: a task has its image as a data URI, or as a path of an uploaded \
             file ({UPLOADS}...)",
            excerpt(&value)
        )));
    };
    let Some(folder) = state.server.label_studio_uploads.clone() else {
        return Err(ApiError::Malformed(format!(
            "{:?} is an uploaded file of Label Studio, and server.label_studio_uploads does not say where these are",
            excerpt(&value)
        )));
    };
    let (limit, held) = (state.max_request_bytes, held.clone());
    let refused = state.engine.settings().queue.body_bytes;
    let read = run_blocking(move || read_upload(&folder, &relative, limit, &held, refused)).await;
    read.map_err(|error| error.of(&value))
}

/// The path of an uploaded file in the folder of uploads: its project and its name.
fn upload_path(value: &str) -> Option<PathBuf> {
    if !value.starts_with(UPLOADS) {
        return None;
    }
    // As a browser reads the path: without query, percent-encoding and steps upwards.
    let path = Url::parse(&format!("file://{value}")).ok()?.to_file_path().ok()?;
    let relative = path.strip_prefix(UPLOADS).ok()?;
    let is_plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    (is_plain && relative.components().next().is_some()).then(|| relative.to_owned())
}

/// Why a file cannot be used.
enum ReadError {
    /// It is not there, or not a regular file within the folder.
    Missing(String),
    /// It has too many bytes.
    TooLarge { limit: usize },
    /// There is no room for its bytes.
    NoRoom { limit: u64 },
}

impl ReadError {
    fn of(self, value: &str) -> ApiError {
        match self {
            Self::Missing(reason) => ApiError::Malformed(format!(
                "the uploaded file {:?} cannot be read: {reason}",
                excerpt(value)
            )),
            Self::TooLarge { limit } => ApiError::RequestTooLarge { limit },
            Self::NoRoom { limit } => crate::engine::EngineError::BodyBytes { limit }.into(),
        }
    }
}

/// Reads a file below a folder. Links that lead out of the folder are not followed.
fn read_upload(
    folder: &Path,
    relative: &Path,
    limit: usize,
    held: &HeldBytes,
    body_bytes: u64,
) -> Result<Bytes, ReadError> {
    let missing = |error: std::io::Error| ReadError::Missing(error.kind().to_string());
    let folder = folder.canonicalize().map_err(missing)?;
    let path = folder.join(relative).canonicalize().map_err(missing)?;
    if !path.starts_with(&folder) {
        return Err(ReadError::Missing("it is not in the folder of uploads".to_owned()));
    }
    let file = open_regular_file(&path).map_err(missing)?;
    let bytes = file.metadata().map_err(missing)?.len();
    if bytes > limit as u64 {
        return Err(ReadError::TooLarge { limit });
    }
    if !held.try_grow(bytes) {
        return Err(ReadError::NoRoom { limit: body_bytes });
    }
    Ok(read_regular_file(&path).map_err(missing)?.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_an_upload_is_its_project_and_its_name() {
        for (value, expected) in [
            ("/data/upload/1/cat.png", Some("1/cat.png")),
            ("/data/upload/1/a%20cat.png?x=1", Some("1/a cat.png")),
            ("/data/upload/../../etc/passwd", None),
            ("/data/upload/1/../../../etc/passwd", None),
            ("/data/upload/1/%2e%2e/2/cat.png", Some("2/cat.png")),
            ("/data/upload/..%2F..%2Fetc/passwd", None),
            ("/data/upload/", None),
            ("/data/local-files/?d=cat.png", None),
            ("http://host/data/upload/1/cat.png", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(upload_path(value).as_deref(), expected.map(Path::new), "{value}");
        }
    }
}
