//! The connections to Redis: how they are made, how their loss is noticed, and how they come back.
//!
//! All operations share one connection, but for those that move images. These have one of their own, so that nothing
//! waits behind an image, and its loss costs images alone. It is made when it is needed and Redis can be reached.
//!
//! An operation that finds its connection cut makes a new one, and is sent once more within its time. The first that
//! fails otherwise or takes too long closes the connection for all, so that nobody else waits. From then on operations
//! fail at once, until a task in the background has a connection on which Redis also takes a write.

use std::sync::atomic::{AtomicU64, Ordering};
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
use super::settings::{IMAGES_AT_ONCE, MAX_VALUE_BYTES, SharedSettings, is_encrypted};
use crate::support::{lock, read_regular_file, read_regular_text, run_blocking};
use crate::telemetry::MetricsRegistry;

/// The format of keys and values, which is part of every key: programs of another format find nothing of this one's.
const FORMAT: u32 = 1;

/// The shortest pause between two attempts to reach Redis. The longest is three times as long: so that the replicas do
/// not all come at once, each pause is drawn by chance.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);

/// The slowest connection that carries large values in time, in bytes a second.
const BYTES_PER_SECOND: f64 = (2 << 20) as f64;

/// The state that replicas share.
#[derive(Debug)]
pub struct SharedState {
    client: Client,
    pub(super) settings: SharedSettings,
    common: Lane,
    images: Lane,
    /// Wakes the task that makes connections.
    is_lost: Arc<Notify>,
    metrics: SharedMetrics,
    /// The connection on which a value of another type was found and told.
    told_damage: AtomicU64,
    pub(super) images_at_once: Semaphore,
}

/// A way to Redis.
#[derive(Debug, Default)]
struct Lane {
    link: Mutex<Link>,
    /// Held by whoever makes a new connection in place of one that was cut.
    mending: tokio::sync::Mutex<()>,
}

/// The connection, if there is one.
#[derive(Debug, Default)]
struct Link {
    connection: Option<MultiplexedConnection>,
    /// Number of attempts at a connection that came to an end so far, so that an operation on an old one does not close
    /// a new one.
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
            common: Lane::default(),
            images: Lane::default(),
            is_lost: Arc::default(),
            metrics: SharedMetrics::new(registry),
            told_damage: AtomicU64::default(),
            images_at_once: Semaphore::new(IMAGES_AT_ONCE),
        });
        match state.connect(&state.common).await {
            Ok(()) => state.warn_about_memory().await,
            Err(error) if is_refusal(&error) => return Err(StartError::Refused(error.to_string())),
            Err(error) => warn_lost(&error),
        }
        tokio::spawn(keep_connected(Arc::downgrade(&state), Arc::clone(&state.is_lost)));
        Ok(Some(state))
    }

    /// Returns whether the last operation reached Redis.
    pub fn is_reachable(&self) -> bool {
        self.common.connection().is_some()
    }

    /// Returns a number that another connection changes. After a new one, Redis may be in another state than before.
    pub fn connections(&self) -> u64 {
        self.common.link().number
    }

    /// Returns a key: the prefix, the format and the parts, with colons between them.
    pub(super) fn key(&self, kind: &str, name: &str) -> String {
        format!("{}:{FORMAT}:{kind}:{name}", self.settings.prefix)
    }

    /// Runs an operation within the time that it may take: `work`, and where the connection is cut, `work` once more on a
    /// new one.
    ///
    /// # Errors
    /// [`SharedError`]. After [`SharedError::Unreachable`] there is no connection.
    pub(super) async fn run<T, F: Future<Output = RedisResult<T>>>(
        &self,
        operation: Operation,
        work: impl Fn(MultiplexedConnection) -> F,
    ) -> Result<T, SharedError> {
        self.run_with(operation, 0, work).await
    }

    /// Runs an operation like [`SharedState::run`] that moves so many bytes at most, and may take longer for them.
    ///
    /// # Errors
    /// [`SharedError`].
    pub(super) async fn run_with<T, F: Future<Output = RedisResult<T>>>(
        &self,
        operation: Operation,
        bytes: u64,
        work: impl Fn(MultiplexedConnection) -> F,
    ) -> Result<T, SharedError> {
        if !self.is_reachable() {
            let done = Err(SharedError::Unreachable);
            self.metrics.count(operation, None, &done);
            return done;
        }
        let lane = match operation.moves_images() {
            true => &self.images,
            false => &self.common,
        };
        let start = Instant::now();
        let mut number = lane.link().number;
        let tried = async {
            let (mut connection, mut is_new) = (lane.connection(), false);
            loop {
                let Some((present, of)) = connection else {
                    if is_new {
                        return Err(RedisError::from((ErrorKind::Io, "there is no connection")));
                    }
                    (connection, is_new) = (self.mended(lane, number).await, true);
                    continue;
                };
                number = of;
                match work(present).await {
                    Err(error) if error.is_connection_dropped() && operation.is_repeatable() && !is_new => {
                        (connection, is_new) = (self.mended(lane, number).await, true);
                    }
                    done => return done,
                }
            }
        };
        let answered = tokio::time::timeout(self.limit(bytes), tried).await;
        let done = match answered {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if is_full(&error) => Err(SharedError::Full),
            Ok(Err(error)) if is_damage(&error) => Err(self.tell_damage(number, operation, &error)),
            Ok(Err(error)) => Err(self.lose(lane, number, &error)),
            Err(_) => Err(self.lose(lane, number, &"no answer within shared.timeout_seconds")),
        };
        self.metrics.count(operation, Some(start.elapsed()), &done);
        done
    }

    fn is_common(&self, lane: &Lane) -> bool {
        std::ptr::eq(lane, &raw const self.common)
    }

    /// Returns how long an operation that moves so many bytes may take.
    fn limit(&self, bytes: u64) -> Duration {
        self.settings.timeout() + Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND)
    }

    /// Makes a new connection in place of the one of that number, which was cut. Of those who ask at once, one makes it
    /// for all. Returns `None` where Redis cannot be reached.
    async fn mended(&self, lane: &Lane, number: u64) -> Option<(MultiplexedConnection, u64)> {
        let _turn = lane.mending.lock().await;
        if lane.link().number != number || !self.is_reachable() {
            return lane.connection();
        }
        if let Err(error) = self.connect(lane).await {
            self.lose(lane, number, &error);
            // Those who wait for this attempt make none of their own.
            lane.link().number += 1;
        }
        lane.connection()
    }

    /// Closes the connection of that number for everybody.
    fn lose(&self, lane: &Lane, number: u64, why: &dyn std::fmt::Display) -> SharedError {
        let is_closed = {
            let mut link = lane.link();
            link.number == number && link.connection.take().is_some()
        };
        match is_closed {
            true if self.is_common(lane) => {
                self.metrics.reachable.set(0);
                self.is_lost.notify_one();
                warn_lost(why);
            }
            true => tracing::warn!(%why, "the connection to the shared state (shared.url) for images was lost"),
            false => {}
        }
        SharedError::Unreachable
    }

    /// Logs a value of another type, once for each connection.
    fn tell_damage(&self, number: u64, operation: Operation, error: &RedisError) -> SharedError {
        if self.told_damage.swap(number, Ordering::Relaxed) != number {
            let (operation, prefix): (&str, _) = (operation.into(), &self.settings.prefix);
            tracing::warn!(
                operation,
                prefix,
                %error,
                "a value in the shared state is of another type; delete its key in Redis"
            );
        }
        SharedError::Damaged
    }

    /// Makes a connection; the one of all but images if Redis takes a write on it.
    async fn connect(&self, lane: &Lane) -> RedisResult<()> {
        let timeout = self.settings.timeout();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let client = self.client().await;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        if self.is_common(lane) {
            // A replica of Redis, or one whose own disk is full, answers a PING and takes no write.
            let mut probe = redis::cmd("SET");
            probe.arg(self.key("probe", "")).arg(1).arg("PX").arg(60_000);
            match probe.query_async::<()>(&mut connection).await {
                Err(error) if !is_full(&error) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        // Each operation has its own limit from here on.
        connection.set_response_timeout(2 * self.limit(MAX_VALUE_BYTES));
        let mut link = lane.link();
        link.number += 1;
        link.connection = Some(connection);
        if self.is_common(lane) {
            self.metrics.reachable.set(1);
        }
        Ok(())
    }

    /// Returns what makes connections, with the password that the file has now.
    async fn client(&self) -> Client {
        if self.settings.password_file.is_none() {
            return self.client.clone();
        }
        let settings = self.settings.clone();
        match run_blocking(move || client(&settings)).await {
            Ok(Some(client)) => client,
            Ok(None) => self.client.clone(),
            Err(error) => {
                tracing::warn!(%error, "going on with the password that was read before");
                self.client.clone()
            }
        }
    }

    /// Warns where Redis has no limit of memory, or may drop definitions, which have no end, to make room for caches.
    async fn warn_about_memory(&self) {
        let Some((mut connection, _)) = self.common.connection() else {
            return;
        };
        let mut ask = redis::cmd("INFO");
        ask.arg("memory");
        // Who may not ask goes without the warning.
        let asked = tokio::time::timeout(self.settings.timeout(), ask.query_async::<String>(&mut connection)).await;
        let Ok(Ok(info)) = asked else { return };
        for warning in memory_warnings(&info) {
            tracing::warn!("{warning}");
        }
    }
}

impl Lane {
    fn link(&self) -> MutexGuard<'_, Link> {
        lock(&self.link)
    }

    fn connection(&self) -> Option<(MultiplexedConnection, u64)> {
        let link = self.link();
        Some((link.connection.clone()?, link.number))
    }
}

/// Makes a new connection whenever there is none, until the state is dropped.
async fn keep_connected(state: Weak<SharedState>, is_lost: Arc<Notify>) {
    // Why the last attempt failed, which is said once.
    let mut told = String::new();
    loop {
        let Some(state) = state.upgrade() else { return };
        if state.is_reachable() {
            drop(state);
            // Nobody wakes this task when the state is dropped, so it looks now and then.
            let _ = tokio::time::timeout(10 * SHORTEST_PAUSE, is_lost.notified()).await;
            continue;
        }
        match state.connect(&state.common).await {
            Ok(()) => {
                told.clear();
                tracing::info!("the shared state can be reached again");
                state.warn_about_memory().await;
            }
            Err(error) => {
                let why = error.to_string();
                if why != told {
                    tracing::warn!(why, "the shared state (shared.url) still cannot be reached");
                    told = why;
                }
            }
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

/// Returns what is to be said of Redis's memory, by its own account of it.
fn memory_warnings(info: &str) -> Vec<String> {
    let value = |key: &str| info.lines().find_map(|line| line.strip_prefix(key));
    let mut warnings = Vec::new();
    if let Some(policy) = value("maxmemory_policy:").filter(|policy| policy.starts_with("allkeys")) {
        warnings.push(format!(
            "Redis may drop named vocabularies when it is full, by its maxmemory-policy {policy}: set it to volatile-lru or \
             noeviction"
        ));
    }
    if value("maxmemory:") == Some("0") {
        warnings.push(
            "Redis has no limit of memory (maxmemory 0), and shared images and texts may take all that its machine has: \
             set maxmemory"
                .to_owned(),
        );
    }
    warnings
}

/// Returns whether Redis has no memory for a write. Before version 7, a script's error says so in its text alone.
fn is_full(error: &RedisError) -> bool {
    error.code() == Some("OOM") || error.to_string().contains("OOM command not allowed")
}

/// Returns whether Redis answered with something else than what is there otherwise. Before version 7, a script's error
/// says so in its text alone.
fn is_damage(error: &RedisError) -> bool {
    error.kind() == ErrorKind::UnexpectedReturnType
        || error.code() == Some("WRONGTYPE")
        || error.to_string().contains("WRONGTYPE")
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
    // Redis before 7.2 knows no CLIENT SETINFO, and an account need not be allowed it.
    let mut redis = info.redis_settings().clone().set_skip_set_lib_name();
    if let Some(file) = &settings.password_file {
        let password = read_regular_text(file).map_err(|error| unreadable("shared.password_file", file, error))?;
        redis = redis.set_password(password.trim_end());
    }
    info = info.set_redis_settings(redis);
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
    fn a_redis_that_may_drop_definitions_or_take_all_memory_is_warned_about() {
        let warnings = |maxmemory: &str, policy: &str| {
            let info = format!("used_memory:1\r\nmaxmemory:{maxmemory}\r\nmaxmemory_policy:{policy}\r\n");
            memory_warnings(&info).len()
        };
        assert_eq!(warnings("1000", "volatile-lru"), 0);
        assert_eq!(warnings("1000", "allkeys-lru"), 1);
        assert_eq!(warnings("0", "noeviction"), 1);
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
