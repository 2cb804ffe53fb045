//! TLS: the certificate from its files, read again when they change, and the handshake of a connection.
//!
//! rustls decides on versions (1.2 and 1.3) and ciphers (ephemeral keys and authenticated encryption only); the client
//! picks HTTP/2 or HTTP/1.1 (ALPN).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::settings::TlsSettings;
use crate::support::{lock, read_regular_file, run_blocking};

/// The versions of HTTP that are offered, the preferred one first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The shortest time between two looks at the files.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The longest time that a handshake waits for a look at the files, which takes microseconds unless their file system
/// does not answer.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of its kind.
    #[error("{}: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("{} with {}: {source}", .certificate.display(), .key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
}

/// The server's side of TLS. Clones share the certificate.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
}

impl Tls {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    /// [`TlsError`] when they cannot be used.
    pub fn start(settings: &TlsSettings) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let certificate = Arc::new(Certificate::read(settings, Arc::clone(&provider))?);
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Certificate>::clone(&certificate);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has ciphers for all versions")
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate,
        })
    }

    /// Reads the files again, changed or not, for connections to come. Blocks.
    pub fn reload(&self) {
        self.certificate.reload(&mut self.certificate.files());
    }

    /// Shakes hands with a client, with the certificate that is in the files now.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        if self.certificate.is_look_due() {
            let certificate = Arc::clone(&self.certificate);
            let look = run_blocking(move || certificate.look());
            // Without an answer in time, the certificate that is in use is good enough.
            let _ = tokio::time::timeout(LOOK_LIMIT, look).await;
        }
        self.acceptor.accept(stream).await
    }
}

/// The certificate in use, and where it comes from.
#[derive(Debug)]
struct Certificate {
    settings: TlsSettings,
    provider: Arc<CryptoProvider>,
    in_use: RwLock<Arc<CertifiedKey>>,
    /// Held by whoever looks at the files, for as long as that takes. Handshakes do not wait for it.
    files: Mutex<Files>,
}

/// What is known of the files.
#[derive(Debug)]
struct Files {
    /// What they were when they were read last, though reading may have failed.
    versions: Versions,
    /// When they were looked at.
    looked: Instant,
}

/// What tells one version of both files from another: when they were changed, and their bytes.
type Versions = [Option<(SystemTime, u64)>; 2];

impl Certificate {
    fn read(settings: &TlsSettings, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let versions = versions(settings);
        let key = read(settings, &provider)?;
        let looked = Instant::now();
        Ok(Self {
            settings: settings.clone(),
            provider,
            in_use: RwLock::new(Arc::new(key)),
            files: Mutex::new(Files { versions, looked }),
        })
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        lock(&self.files)
    }

    /// Returns what is known of the files, unless somebody is looking at them.
    fn try_files(&self) -> Option<MutexGuard<'_, Files>> {
        match self.files.try_lock() {
            Ok(files) => Some(files),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Returns whether nobody has looked at the files for a while, or is looking at them.
    fn is_look_due(&self) -> bool {
        self.try_files()
            .is_some_and(|files| files.looked.elapsed() >= LOOK_AGAIN)
    }

    /// Looks at the files, and reads them if they have changed. Blocks for as long as the file system does. Does
    /// nothing while somebody else looks.
    fn look(&self) {
        let Some(mut files) = self.try_files() else { return };
        files.looked = Instant::now();
        if versions(&self.settings) != files.versions {
            self.reload(&mut files);
        }
    }

    /// Reads the files. What cannot be used changes nothing: the files may be half written, or one of them not yet.
    fn reload(&self, files: &mut Files) {
        // Before reading: a change meanwhile is seen at the next look.
        files.versions = versions(&self.settings);
        files.looked = Instant::now();
        match read(&self.settings, &self.provider) {
            Ok(key) => {
                *self.in_use.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                tracing::info!(certificate = %self.settings.certificate.display(), "the certificate was read again");
            }
            Err(error) => tracing::error!(%error, "the certificate cannot be read; the one before stays in use"),
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let in_use = self.in_use.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&in_use))
    }
}

fn versions(settings: &TlsSettings) -> Versions {
    [&settings.certificate, &settings.key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read(settings: &TlsSettings, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let TlsSettings { certificate, key } = settings;
    let unreadable = |path: &Path, reason: String| TlsError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let bytes = |path: &Path| read_regular_file(path).map_err(|error| unreadable(path, error.to_string()));
    let pem = bytes(certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| unreadable(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable(
            certificate,
            "no certificate in PEM form is in it".to_owned(),
        ));
    }
    let private = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|error| unreadable(key, error.to_string()))?;
    CertifiedKey::from_der(chain, private, provider).map_err(|source| TlsError::Unusable {
        certificate: certificate.clone(),
        key: key.clone(),
        source,
    })
}
