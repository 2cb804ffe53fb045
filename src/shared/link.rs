//! The connection to Redis: how it is made, how its loss is noticed, and how it comes back.
//!
//! All operations share one connection. The first that fails or takes too long closes it for all, so that nobody else
//! waits; from then on operations fail at once, until a task in the background has a connection on which Redis also
//! takes a write.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, RedisError, RedisResult, ServerErrorKind,
    TlsCertificates,
};
use tokio::sync::{Notify, Semaphore};

use super::error::{SharedError, StartError};
use super::metrics::{Operation, SharedMetrics};
use super::settings::{IMAGES_AT_ONCE, SharedSettings, is_encrypted};
use crate::support::{read_regular_file, read_regular_text};
use crate::telemetry::MetricsRegistry;

/// The format of keys and values, which is part of every key: programs of another format find nothing of this one's.
const FORMAT: u32 = 1;

/// The shortest pause between two attempts to reach Redis. The longest is three times as long: so that the replicas do
/// not all come at once, each pause is drawn by chance.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);

/// The state that replicas share.
#[derive(Debug)]
pub struct SharedState {
    client: Client,
    pub(super) settings: SharedSettings,
    link: Mutex<Link>,
    /// Wakes the task that makes connections.
    is_lost: Arc<Notify>,
    metrics: SharedMetrics,
    pub(super) images_at_once: Semaphore,
}

/// The connection, if there is one.
#[derive(Debug, Default)]
struct Link {
    connection: Option<MultiplexedConnection>,
    /// Number of connections so far, so that an operation on an old one does not close a new one.
    number: u64,
}

impl SharedState {
    /// Connects to Redis if the settings name one. Goes on without a connection if it cannot be reached; a task makes
    /// one then. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`] when a file cannot be read, or Redis refuses the password.
    pub async fn start(settings: &SharedSettings, registry: &MetricsRegistry) -> Result<Option<Arc<Self>>, StartError> {
        let Some(client) = client(settings)? else {
            return Ok(None);
        };
        let state = Arc::new(Self {
            client,
            settings: settings.clone(),
            link: Mutex::default(),
            is_lost: Arc::default(),
            metrics: SharedMetrics::new(registry),
            images_at_once: Semaphore::new(IMAGES_AT_ONCE),
        });
        match state.connect().await {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => return Err(StartError::Refused(error.to_string())),
            Err(error) => warn_lost(&error),
        }
        tokio::spawn(keep_connected(Arc::downgrade(&state), Arc::clone(&state.is_lost)));
        Ok(Some(state))
    }

    /// Returns whether the last operation reached Redis.
    pub fn is_reachable(&self) -> bool {
        self.link().connection.is_some()
    }

    /// Returns a key: the prefix, the format and the parts, with colons between them.
    pub(super) fn key(&self, kind: &str, name: &str) -> String {
        format!("{}:{FORMAT}:{kind}:{name}", self.settings.prefix)
    }

    /// Runs an operation within the time that it may take.
    ///
    /// # Errors
    /// [`SharedError`]. After [`SharedError::Unreachable`] there is no connection.
    pub(super) async fn run<T, F: Future<Output = RedisResult<T>>>(
        &self,
        operation: Operation,
        work: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, SharedError> {
        let Some((connection, number)) = self.connection() else {
            let done = Err(SharedError::Unreachable);
            self.metrics.count(operation, None, &done);
            return done;
        };
        let start = Instant::now();
        let answered = tokio::time::timeout(self.settings.timeout(), work(connection)).await;
        let done = match answered {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if is_full(&error) => Err(SharedError::Full),
            Ok(Err(error)) => Err(self.lose(number, &error)),
            Err(_) => Err(self.lose(number, &"no answer within shared.timeout_seconds")),
        };
        self.metrics.count(operation, Some(start.elapsed()), &done);
        done
    }

    fn connection(&self) -> Option<(MultiplexedConnection, u64)> {
        let link = self.link();
        Some((link.connection.clone()?, link.number))
    }

    /// Closes the connection of that number for everybody.
    fn lose(&self, number: u64, why: &dyn std::fmt::Display) -> SharedError {
        let mut link = self.link();
        if link.number == number && link.connection.take().is_some() {
            self.metrics.reachable.set(0);
            self.is_lost.notify_one();
            drop(link);
            warn_lost(why);
        }
        SharedError::Unreachable
    }

    /// Makes a connection on which Redis takes a write.
    async fn connect(&self) -> RedisResult<()> {
        let timeout = self.settings.timeout();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        // A replica of Redis, or one whose own disk is full, answers a PING and takes no write.
        let mut probe = redis::cmd("SET");
        probe.arg(self.key("probe", "")).arg(1).arg("PX").arg(60_000);
        match probe.query_async::<()>(&mut connection).await {
            Err(error) if !is_full(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        warn_about_eviction(&mut connection).await;
        // Each operation has its own limit from here on.
        connection.set_response_timeout(2 * timeout);
        let mut link = self.link();
        link.number += 1;
        link.connection = Some(connection);
        self.metrics.reachable.set(1);
        Ok(())
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().expect("nothing panics while it has the link's lock")
    }
}

/// Makes a new connection whenever there is none, until the state is dropped.
async fn keep_connected(state: Weak<SharedState>, is_lost: Arc<Notify>) {
    loop {
        let Some(state) = state.upgrade() else { return };
        if state.is_reachable() {
            drop(state);
            // Nobody wakes this task when the state is dropped, so it looks now and then.
            let _ = tokio::time::timeout(10 * SHORTEST_PAUSE, is_lost.notified()).await;
            continue;
        }
        match state.connect().await {
            Ok(()) => tracing::info!("the shared state can be reached again"),
            Err(error) => tracing::debug!(%error, "the shared state still cannot be reached"),
        }
        let is_reachable = state.is_reachable();
        drop(state);
        if !is_reachable {
            tokio::time::sleep(pause()).await;
        }
    }
}

/// Draws a pause between two attempts.
fn pause() -> Duration {
    let drawn = getrandom::u32().unwrap_or(u32::MAX / 2);
    SHORTEST_PAUSE.mul_f64(1.0 + 2.0 * f64::from(drawn) / f64::from(u32::MAX))
}

fn warn_lost(why: &dyn std::fmt::Display) {
    tracing::warn!(%why, "the shared state (shared.url) cannot be reached; going on without it");
}

/// Warns where Redis may drop definitions, which have no end, to make room for caches.
async fn warn_about_eviction(connection: &mut MultiplexedConnection) {
    let mut ask = redis::cmd("INFO");
    ask.arg("memory");
    // Who may not ask goes without the warning.
    let Ok(info) = ask.query_async::<String>(connection).await else {
        return;
    };
    let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
    if let Some(policy) = policy.filter(|policy| policy.starts_with("allkeys")) {
        tracing::warn!(
            policy,
            "Redis may drop named vocabularies when it is full: set maxmemory-policy to volatile-lru or noeviction"
        );
    }
}

/// Returns whether Redis has no memory for a write. Before version 7, a script's error says so in its text alone.
fn is_full(error: &RedisError) -> bool {
    error.code() == Some("OOM") || error.to_string().contains("OOM command not allowed")
}

/// Returns whether Redis answered, and refuses the user, the password, or what the user does.
fn is_refusal(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm)
    ) || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
}

/// Returns what makes connections; `None` if the settings name no Redis.
fn client(settings: &SharedSettings) -> Result<Option<Client>, StartError> {
    let Some(url) = &settings.url else { return Ok(None) };
    let unusable = |error: RedisError| StartError::Settings(error.to_string());
    let mut info = url.whole().as_str().into_connection_info().map_err(unusable)?;
    if let Some(file) = &settings.password_file {
        let password = read_regular_text(file).map_err(|error| unreadable("shared.password_file", file, error))?;
        let redis = info.redis_settings().clone().set_password(password.trim_end());
        info = info.set_redis_settings(redis);
    }
    let authorities = settings
        .ca_file
        .as_ref()
        .map(|file| read_regular_file(file).map_err(|error| unreadable("shared.ca_file", file, error)));
    let client = match authorities.transpose()? {
        Some(_) if !is_encrypted(url) => {
            return Err(StartError::Settings(
                "shared.ca_file is of use with rediss:// alone".to_owned(),
            ));
        }
        Some(authorities) => Client::build_with_tls(
            info,
            TlsCertificates {
                client_tls: None,
                root_cert: Some(authorities),
            },
        ),
        None => Client::open(info),
    };
    client.map(Some).map_err(unusable)
}

fn unreadable(key: &'static str, file: &std::path::Path, error: std::io::Error) -> StartError {
    StartError::File {
        key,
        file: file.display().to_string(),
        error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Starts on a port at which somebody listens who never says anything.
    async fn start_on_silence(file: Option<&str>) -> Result<Option<Arc<SharedState>>, StartError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let settings = SharedSettings {
            url: Some(url.parse().unwrap()),
            password_file: file.map(Into::into),
            timeout_seconds: 0.05,
            ..SharedSettings::for_testing()
        };
        SharedState::start(&settings, &MetricsRegistry::new()).await
    }

    #[tokio::test]
    async fn nobody_waits_for_a_redis_that_does_not_answer() {
        let state = start_on_silence(None).await.unwrap().unwrap();
        assert!(!state.is_reachable());
        // Longer than the test may take, if anybody waited.
        let marks = (0..10_000).map(async |_| state.mark().await);
        for mark in marks {
            assert_eq!(mark.await, Err(SharedError::Unreachable));
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_named_by_its_key() {
        let error = start_on_silence(Some("/no/such/file")).await.unwrap_err();
        assert!(
            error.to_string().starts_with("shared.password_file: /no/such/file: "),
            "{error}"
        );
    }

    #[tokio::test]
    async fn nothing_is_shared_without_an_address() {
        let started = SharedState::start(&SharedSettings::for_testing(), &MetricsRegistry::new()).await;
        assert!(started.unwrap().is_none());
    }

    #[test]
    fn pauses_are_drawn_between_half_a_second_and_three_times_as_long() {
        let pauses: Vec<_> = (0..100).map(|_| pause()).collect();
        assert!(
            pauses
                .iter()
                .all(|pause| (SHORTEST_PAUSE..=3 * SHORTEST_PAUSE).contains(pause))
        );
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
