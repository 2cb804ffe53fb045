//! The download of weights from their publishers into the folder of models.
//!
//! Owns the resuming, checking and naming of files. A file gets its name only when its digest is right, so every file
//! with a name is whole. Leaves the list of models to [`crate::weights`], and the meaning of a checkpoint to its
//! loader.

mod error;
mod http;
mod partial;

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

pub use error::FetchError;
use http::Client;
pub use http::HttpError;
use partial::Partial;

use crate::support::{create_shared_folders, open_regular_file, remove_remainders, without_secrets, write_whole_file};
use crate::weights::{DownloadSource, FetchSettings, HUB_FILES, PublishedModel};

/// Number of requests in a row without new bytes after which a download is given up.
const FRUITLESS_REQUESTS: u32 = 3;

/// Pause before the first repetition. Each further fruitless request doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Number of bytes that are read at once.
const CHUNK: usize = 1 << 18;

/// A source of a model's weights other than its publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supply {
    /// A file on this machine.
    File(PathBuf),
    /// The address of a mirror.
    Url(Url),
}

impl Supply {
    /// Parses an address if the text starts like one, otherwise a path.
    ///
    /// # Errors
    /// Fails when the text starts like an address but is not a valid one.
    pub fn parse(text: &str) -> Result<Self, url::ParseError> {
        if text.starts_with("http://") || text.starts_with("https://") {
            Ok(Self::Url(Url::parse(text)?))
        } else {
            Ok(Self::File(text.into()))
        }
    }
}

/// The authority for the digest of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vouched {
    /// The table of published models.
    Publisher,
    /// The server that sent the file.
    Server,
    /// Nobody: the file or mirror is the user's own choice, and the digest of the model is not known beforehand.
    Nobody,
}

/// A model that is in the folder now.
#[derive(Debug)]
pub struct Fetched {
    /// The path of the weights.
    pub path: PathBuf,
    /// The SHA-256 of the weights, in lower-case hexadecimal.
    pub sha256: String,
    /// The authority for this digest.
    pub vouched: Vouched,
    /// Whether the weights were there already, so that nothing was transferred.
    pub was_there: bool,
}

/// Receives reports on the progress of a transfer.
pub trait DownloadProgress {
    /// Reports that a transfer starts with `held` bytes received before, of `total` if that is known.
    fn begin(&mut self, held: u64, total: Option<u64>);
    /// Reports that `bytes` more bytes were received.
    fn advance(&mut self, bytes: u64);
    /// Passes on a message for the person who waits.
    fn say(&mut self, message: &str);
}

/// The requirements on the file of a transfer.
struct Expected {
    bytes: Option<u64>,
    sha256: Option<String>,
    /// Whether the file is refused if nobody states its digest.
    digest_needed: bool,
}

/// The task of fetching one model into a folder.
#[derive(Debug)]
pub struct Fetch<'a> {
    /// The model to fetch.
    pub model: &'static PublishedModel,
    /// The folder of models.
    pub folder: &'a Path,
    /// The settings: the hub's address, certificates, and whether the network may be used.
    pub settings: &'a FetchSettings,
}

impl Fetch<'_> {
    /// Brings the model and its configuration into the folder, unless the model is there already.
    ///
    /// # Errors
    /// Fails when the weights cannot be obtained, or when they are not the expected ones.
    pub fn run(&self, from: Option<&Supply>, progress: &mut dyn DownloadProgress) -> Result<Fetched, FetchError> {
        if let Some(fetched) = self.held()? {
            return Ok(fetched);
        }
        if let Some(path) = self.model.find_in(self.folder) {
            progress.say(&format!(
                "{} is damaged: its digest is not the published one",
                path.display()
            ));
        }
        create_shared_folders(self.folder).map_err(|source| self.unwritable(source))?;
        match from {
            Some(Supply::File(path)) => self.import(path, progress),
            _ if self.settings.offline => Err(self.offline()),
            Some(Supply::Url(url)) => {
                let ending = self.ending_of(Path::new(url.path()));
                self.download(url, ending, &self.expected(false), progress)
            }
            None => self.download_published(progress),
        }
    }

    /// Returns the model if it is in the folder. A file with a known digest is checked, and a damaged one does not
    /// count.
    fn held(&self) -> Result<Option<Fetched>, FetchError> {
        let Some(path) = self.model.find_in(self.folder) else {
            return Ok(None);
        };
        let sha256 = open_regular_file(&path)
            .and_then(partial::sha256_of)
            .map_err(FetchError::at(&path))?;
        let vouched = match self.expected(false).sha256 {
            Some(expected) if expected == sha256 => Vouched::Publisher,
            Some(_) => return Ok(None),
            None => Vouched::Nobody,
        };
        Ok(Some(Fetched {
            path,
            sha256,
            vouched,
            was_there: true,
        }))
    }

    /// Downloads the model from its publisher.
    fn download_published(&self, progress: &mut dyn DownloadProgress) -> Result<Fetched, FetchError> {
        match self.model.source {
            DownloadSource::Address { url, .. } => {
                let url = Url::parse(url).expect("a test checks that the table's addresses are valid");
                self.download(&url, "pt", &self.expected(false), progress)
            }
            DownloadSource::Hub { repository } => {
                let mut missing = None;
                for (file, ending) in HUB_FILES {
                    let url = hub_address(self.settings.hub.whole(), repository, file);
                    match self.download(&url, ending, &self.expected(true), progress) {
                        Err(FetchError::Http(error)) if error.is_not_found() => missing = Some(error),
                        outcome => return outcome,
                    }
                }
                Err(missing.expect("there is at least one name for a hub's file").into())
            }
        }
    }

    /// Downloads the model from an address. The download resumes where an earlier attempt stopped.
    fn download(
        &self,
        url: &Url,
        ending: &str,
        expected: &Expected,
        progress: &mut dyn DownloadProgress,
    ) -> Result<Fetched, FetchError> {
        let client = Client::new(self.settings.certificates.as_deref())?;
        let path = self.model.path_in(self.folder, ending);
        let mut partial = self.open_partial(&path, progress)?;
        // Another process that held the lock may have finished in the meantime.
        if let Some(fetched) = self.held()? {
            partial.discard().map_err(FetchError::at(&path))?;
            return Ok(fetched);
        }
        let mut resumed = partial.length() > 0;
        loop {
            let transferred = self.transfer_patiently(&client, url, expected, &mut partial, progress);
            let stated = match transferred {
                Ok(stated) => stated,
                Err(error) => {
                    let is_another = matches!(error, FetchError::WrongSize { .. } | FetchError::TooLarge { .. });
                    if partial.length() == 0 || is_another {
                        partial.discard().map_err(FetchError::at(&path))?;
                    }
                    return Err(error);
                }
            };
            let (vouched, sha256) = match (&expected.sha256, &stated) {
                (Some(sha256), _) => (Vouched::Publisher, Some(sha256)),
                (None, Some(sha256)) => (Vouched::Server, Some(sha256)),
                (None, None) => (Vouched::Nobody, None),
            };
            if resumed && sha256.is_some_and(|sha256| *sha256 != partial.sha256()) {
                // The earlier part may have been the beginning of another version of the file.
                progress.say("the digest is wrong after resuming; starting from the beginning");
                partial.restart().map_err(FetchError::at(&path))?;
                resumed = false;
                continue;
            }
            return self.finish(
                partial,
                path,
                &without_secrets(url),
                sha256.map(String::as_str),
                vouched,
            );
        }
    }

    /// Transfers until the file is whole. After a temporary failure it tries again, as long as requests bring new
    /// bytes. Returns the digest that the server states.
    fn transfer_patiently(
        &self,
        client: &Client,
        url: &Url,
        expected: &Expected,
        partial: &mut Partial,
        progress: &mut dyn DownloadProgress,
    ) -> Result<Option<String>, FetchError> {
        let mut fruitless = 0;
        loop {
            let held = partial.length();
            let error = match self.transfer(client, url, expected, partial, progress) {
                Err(FetchError::Http(error)) if error.may_pass() => error,
                outcome => return outcome,
            };
            fruitless = if partial.length() > held { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS_REQUESTS {
                return Err(FetchError::GaveUp {
                    source: error,
                    kept: partial.length(),
                    path: partial.path().to_owned(),
                });
            }
            progress.say(&format!("{error}; trying again"));
            std::thread::sleep(FIRST_PAUSE * 2_u32.pow(fruitless));
        }
    }

    /// Sends one request and receives its bytes. Returns the digest that the server states.
    fn transfer(
        &self,
        client: &Client,
        url: &Url,
        expected: &Expected,
        partial: &mut Partial,
        progress: &mut dyn DownloadProgress,
    ) -> Result<Option<String>, FetchError> {
        let mut reply = client.get(url, partial.length())?;
        let digest_known = expected.sha256.is_some() || reply.sha256.is_some();
        if expected.digest_needed && !digest_known {
            return Err(FetchError::NoDigest(without_secrets(url)));
        }
        if reply.start > 0 && !digest_known {
            // Without a digest, nothing could tell whether the bytes received before belong to this file.
            reply = client.get(url, 0)?;
        }
        let total = reply.total.or(expected.bytes);
        if let (Some(offered), Some(expected)) = (reply.total, expected.bytes)
            && offered != expected
        {
            return Err(self.wrong_size(&without_secrets(url), offered, expected));
        }
        if reply.start == 0 {
            partial.restart().map_err(FetchError::at(partial.path()))?;
        }
        let limit = expected.bytes.unwrap_or(self.settings.max_bytes);
        self.receive(
            &mut reply.body,
            &without_secrets(url),
            (total, limit),
            partial,
            progress,
        )?;
        Ok(reply.sha256)
    }

    /// Receives the bytes of a body behind those that are there: `total` of them if that is known, never more than
    /// `limit`.
    fn receive(
        &self,
        body: &mut impl Read,
        address: &str,
        (total, limit): (Option<u64>, u64),
        partial: &mut Partial,
        progress: &mut dyn DownloadProgress,
    ) -> Result<(), FetchError> {
        if total.is_some_and(|total| total > limit) {
            return Err(self.too_large(address, total));
        }
        let interrupted = |received, reason| HttpError::Interrupted {
            address: address.to_owned(),
            received,
            total,
            reason,
        };
        progress.begin(partial.length(), total);
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = body.read(&mut chunk);
            let count = count.map_err(|source| interrupted(partial.length(), source.to_string()))?;
            if count == 0 {
                break;
            }
            partial
                .append(&chunk[..count])
                .map_err(FetchError::at(partial.path()))?;
            progress.advance(count as u64);
            if let Some(total) = total.filter(|&total| partial.length() > total) {
                return Err(self.wrong_size(address, partial.length(), total));
            }
            if partial.length() > limit {
                return Err(self.too_large(address, total));
            }
        }
        match total.is_some_and(|total| partial.length() < total) {
            true => Err(interrupted(partial.length(), "the server closed the connection".to_owned()).into()),
            false => Ok(()),
        }
    }

    /// Copies the model from a file on this machine.
    fn import(&self, source: &Path, progress: &mut dyn DownloadProgress) -> Result<Fetched, FetchError> {
        let mut file = open_regular_file(source).map_err(FetchError::at(source))?;
        let length = file.metadata().map_err(FetchError::at(source))?.len();
        let expected = self.expected(false);
        let location = source.display().to_string();
        if let Some(expected) = expected.bytes.filter(|&expected| expected != length) {
            return Err(self.wrong_size(&location, length, expected));
        }
        let path = self.model.path_in(self.folder, self.ending_of(source));
        let mut partial = self.open_partial(&path, progress)?;
        partial.restart().map_err(FetchError::at(&path))?;
        progress.begin(0, Some(length));
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = file.read(&mut chunk).map_err(FetchError::at(source))?;
            if count == 0 {
                break;
            }
            partial.append(&chunk[..count]).map_err(FetchError::at(&path))?;
            progress.advance(count as u64);
        }
        let vouched = match expected.sha256 {
            Some(_) => Vouched::Publisher,
            None => Vouched::Nobody,
        };
        self.finish(partial, path, &location, expected.sha256.as_deref(), vouched)
    }

    /// Checks the digest, writes the configuration, and gives the file its name.
    fn finish(
        &self,
        partial: Partial,
        path: PathBuf,
        location: &str,
        expected: Option<&str>,
        vouched: Vouched,
    ) -> Result<Fetched, FetchError> {
        let sha256 = partial.sha256();
        if let Some(expected) = expected.filter(|expected| *expected != sha256) {
            partial.discard().map_err(FetchError::at(&path))?;
            return Err(FetchError::WrongDigest {
                name: self.model.name,
                location: location.to_owned(),
                found: sha256,
                expected: expected.to_owned(),
            });
        }
        // The configuration comes first, so that a loader that finds the weights finds the configuration, too.
        let config = path.with_extension("json");
        if let Some(folder) = path.parent() {
            remove_remainders(folder);
        }
        write_whole_file(&config, self.model.config().as_bytes()).map_err(FetchError::at(&config))?;
        partial.persist(&path).map_err(FetchError::at(&path))?;
        Ok(Fetched {
            path,
            sha256,
            vouched,
            was_there: false,
        })
    }

    fn open_partial(&self, path: &Path, progress: &mut dyn DownloadProgress) -> Result<Partial, FetchError> {
        let mut name = path.to_owned().into_os_string();
        name.push(".partial");
        let path = PathBuf::from(name);
        Partial::open(&path, || progress.say("waiting for another fetch of this model")).map_err(|source| match source
            .kind()
        {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => self.unwritable(source),
            _ => FetchError::at(&path)(source),
        })
    }

    /// The error of a folder of models that cannot be written.
    fn unwritable(&self, source: std::io::Error) -> FetchError {
        FetchError::Folder {
            folder: self.folder.to_owned(),
            source,
        }
    }

    fn expected(&self, digest_needed: bool) -> Expected {
        let (bytes, sha256) = match self.model.source {
            DownloadSource::Address { sha256, bytes, .. } => (Some(bytes), Some(sha256.to_owned())),
            DownloadSource::Hub { .. } => (None, None),
        };
        Expected {
            bytes,
            sha256,
            digest_needed,
        }
    }

    /// Returns the extension of a supplied file if the model's weights may have it, otherwise the first that they may
    /// have.
    fn ending_of(&self, supplied: &Path) -> &'static str {
        let endings = self.model.endings();
        let given = supplied.extension().unwrap_or_default();
        endings.iter().find(|ending| given == **ending).unwrap_or(&endings[0])
    }

    fn wrong_size(&self, location: &str, offered: u64, expected: u64) -> FetchError {
        FetchError::WrongSize {
            name: self.model.name,
            location: location.to_owned(),
            offered,
            expected,
        }
    }

    fn too_large(&self, location: &str, stated: Option<u64>) -> FetchError {
        FetchError::TooLarge {
            location: location.to_owned(),
            stated,
            limit: self.settings.max_bytes,
        }
    }

    fn offline(&self) -> FetchError {
        let file_names: Vec<_> = self
            .model
            .endings()
            .iter()
            .map(|ending| format!("{}.{ending}", self.model.name))
            .collect();
        FetchError::Offline {
            name: self.model.name,
            folder: self.folder.to_owned(),
            looked_for: file_names.join(" and "),
            address: match self.model.source {
                DownloadSource::Address { url, .. } => url.to_owned(),
                DownloadSource::Hub { repository } => {
                    without_secrets(&hub_address(self.settings.hub.whole(), repository, HUB_FILES[0].0))
                }
            },
        }
    }
}

/// Returns the address of a file on a hub.
fn hub_address(hub: &Url, repository: &str, file: &str) -> Url {
    let mut address = hub.clone();
    address.set_path(&format!(
        "{}/{repository}/resolve/main/{file}",
        hub.path().trim_end_matches('/')
    ));
    address
}
