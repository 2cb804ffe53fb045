//! Text embeddings in Redis, and who computes those that are missing.
//!
//! An embedding's key is a digest of all that it depends on: the model's weights, their precision, the templates and the
//! text. So it never changes, and it only has an end. Who is to compute a text first takes the duty to: a key of its own
//! with a short life. Others wait until the embedding is there, or the duty has ended or run out.

use std::future::Future;
use std::pin::Pin;

use redis::Script;
use uuid::Uuid;

use super::error::SharedError;
use super::link::SharedState;
use super::metrics::Operation;

/// Texts that are asked about at once, so that a long list takes no connection for long.
const TEXTS_AT_ONCE: usize = 500;

/// The digest of all that an embedding depends on.
pub type TextKey = [u8; 32];

/// Says of a duty whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(Uuid);

impl Token {
    /// Returns a token that nobody else has.
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }
}

impl Default for Token {
    fn default() -> Self {
        Self::new()
    }
}

/// What became of the wish to compute a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It is there already.
    Found(Vec<u8>),
    /// The caller has the duty to compute it.
    Ours,
    /// Somebody else has.
    Others,
}

/// The result of an operation on shared texts.
pub type SharedFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, SharedError>> + Send + 'a>>;

/// Text embeddings that replicas share, as bytes.
pub trait SharedTexts: std::fmt::Debug + Send + Sync {
    /// Reads the embeddings of some texts in their order; `None` for each that is not there.
    fn read<'a>(&'a self, keys: &'a [TextKey]) -> SharedFuture<'a, Vec<Option<Vec<u8>>>>;

    /// Reads the embeddings of some texts, and takes the duty to compute those that nobody computes yet. The duty ends
    /// by itself after `shared.lock_seconds`.
    fn claim<'a>(&'a self, keys: &'a [TextKey], token: Token) -> SharedFuture<'a, Vec<Claimed>>;

    /// Writes embeddings, then gives the duty for them back.
    fn write<'a>(&'a self, entries: &'a [(TextKey, Vec<u8>)], token: Token) -> SharedFuture<'a, ()>;

    /// Gives the duty for some texts back without an embedding.
    fn release<'a>(&'a self, keys: &'a [TextKey], token: Token) -> SharedFuture<'a, ()>;
}

/// For each text: its embedding, or 1 if the duty for it is the caller's, or else 0.
/// Keys: for each text that of its embedding, then for each that of its duty.
const CLAIM: &str = "
local texts = #KEYS / 2
local answers = {}
for i = 1, texts do
    local held = redis.call('GET', KEYS[i])
    if held then
        answers[i] = held
    elseif redis.call('SET', KEYS[texts + i], ARGV[1], 'NX', 'PX', ARGV[2])
        or redis.call('GET', KEYS[texts + i]) == ARGV[1] then
        answers[i] = 1
    else
        answers[i] = 0
    end
end
return answers";

/// Ends the duties that are still the caller's.
const RELEASE: &str = "
for i = 1, #KEYS do
    if redis.call('GET', KEYS[i]) == ARGV[1] then redis.call('DEL', KEYS[i]) end
end";

impl SharedTexts for SharedState {
    fn read<'a>(&'a self, keys: &'a [TextKey]) -> SharedFuture<'a, Vec<Option<Vec<u8>>>> {
        Box::pin(async move {
            let mut found = Vec::with_capacity(keys.len());
            for keys in keys.chunks(TEXTS_AT_ONCE) {
                let mut read = redis::cmd("MGET");
                read.arg(self.text_keys("text", keys));
                let work = async |mut connection| read.query_async::<Vec<Option<Vec<u8>>>>(&mut connection).await;
                found.extend(self.run(Operation::ReadTexts, work).await?);
            }
            Ok(found)
        })
    }

    fn claim<'a>(&'a self, keys: &'a [TextKey], token: Token) -> SharedFuture<'a, Vec<Claimed>> {
        Box::pin(async move {
            let script = Script::new(CLAIM);
            let mut claim = script.prepare_invoke();
            claim
                .key(self.text_keys("text", keys))
                .key(self.text_keys("duty", keys));
            claim.arg(token.0.as_bytes()).arg(self.lock_milliseconds());
            let work = async |mut connection| claim.invoke_async::<Vec<redis::Value>>(&mut connection).await;
            let answers = self.run(Operation::ClaimTexts, work).await?;
            let claimed = answers.into_iter().map(|answer| match answer {
                redis::Value::BulkString(bytes) => Claimed::Found(bytes),
                redis::Value::Int(1) => Claimed::Ours,
                _ => Claimed::Others,
            });
            Ok(claimed.collect())
        })
    }

    fn write<'a>(&'a self, entries: &'a [(TextKey, Vec<u8>)], token: Token) -> SharedFuture<'a, ()> {
        Box::pin(async move {
            let mut write = redis::pipe();
            for (key, value) in entries {
                write.cmd("SET").arg(self.text_key("text", key)).arg(value);
                write.arg("EX").arg(self.settings.text_seconds).ignore();
            }
            let work = async |mut connection| write.query_async::<()>(&mut connection).await;
            let written = self.run(Operation::WriteTexts, work).await;
            let keys: Vec<TextKey> = entries.iter().map(|(key, _)| *key).collect();
            let released = self.release(&keys, token).await;
            written.and(released)
        })
    }

    fn release<'a>(&'a self, keys: &'a [TextKey], token: Token) -> SharedFuture<'a, ()> {
        Box::pin(async move {
            let script = Script::new(RELEASE);
            let mut release = script.prepare_invoke();
            release.key(self.text_keys("duty", keys)).arg(token.0.as_bytes());
            let work = async |mut connection| release.invoke_async::<()>(&mut connection).await;
            self.run(Operation::WriteTexts, work).await
        })
    }
}

impl SharedState {
    fn text_key(&self, kind: &str, key: &TextKey) -> String {
        self.key(kind, &hex::encode(key))
    }

    fn text_keys(&self, kind: &str, keys: &[TextKey]) -> Vec<String> {
        keys.iter().map(|key| self.text_key(kind, key)).collect()
    }

    fn lock_milliseconds(&self) -> u64 {
        (self.settings.lock_seconds * 1000.0) as u64
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! Shared texts in the memory of a test.

    use std::collections::HashMap;
    use std::sync::{Mutex, MutexGuard};

    use super::*;

    /// Shared texts whose failures, and whose duties' ends, are the test's.
    #[derive(Debug, Default)]
    pub(crate) struct FakeTexts(Mutex<State>);

    #[derive(Debug, Default)]
    struct State {
        values: HashMap<TextKey, Vec<u8>>,
        duties: HashMap<TextKey, Token>,
        is_down: bool,
    }

    impl FakeTexts {
        fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().expect("no test panics while it has the lock")
        }

        /// Lets every operation fail from now on, or none.
        pub(crate) fn set_down(&self, is_down: bool) {
            self.state().is_down = is_down;
        }

        /// Ends all duties, as time does.
        pub(crate) fn end_duties(&self) {
            self.state().duties.clear();
        }

        /// Returns how many embeddings are there, and how many texts somebody has the duty for.
        pub(crate) fn counts(&self) -> (usize, usize) {
            let state = self.state();
            (state.values.len(), state.duties.len())
        }

        /// Damages all embeddings.
        pub(crate) fn damage(&self) {
            self.state().values.values_mut().for_each(|value| value[20] ^= 1);
        }

        fn run<'a, T: Send + 'a>(&self, work: impl FnOnce(&mut State) -> T) -> SharedFuture<'a, T> {
            let mut state = self.state();
            let done = match state.is_down {
                true => Err(SharedError::Unreachable),
                false => Ok(work(&mut state)),
            };
            Box::pin(std::future::ready(done))
        }
    }

    impl SharedTexts for FakeTexts {
        fn read<'a>(&'a self, keys: &'a [TextKey]) -> SharedFuture<'a, Vec<Option<Vec<u8>>>> {
            self.run(|state| keys.iter().map(|key| state.values.get(key).cloned()).collect())
        }

        fn claim<'a>(&'a self, keys: &'a [TextKey], token: Token) -> SharedFuture<'a, Vec<Claimed>> {
            self.run(|state| {
                let mut claim = |key: &TextKey| match (state.values.get(key), state.duties.contains_key(key)) {
                    (Some(value), _) => Claimed::Found(value.clone()),
                    (None, true) => Claimed::Others,
                    (None, false) => {
                        state.duties.insert(*key, token);
                        Claimed::Ours
                    }
                };
                keys.iter().map(&mut claim).collect()
            })
        }

        fn write<'a>(&'a self, entries: &'a [(TextKey, Vec<u8>)], token: Token) -> SharedFuture<'a, ()> {
            self.run(|state| {
                state.values.extend(entries.iter().cloned());
                state
                    .duties
                    .retain(|key, of| *of != token || !state.values.contains_key(key));
            })
        }

        fn release<'a>(&'a self, keys: &'a [TextKey], token: Token) -> SharedFuture<'a, ()> {
            self.run(|state| state.duties.retain(|key, of| *of != token || !keys.contains(key)))
        }
    }
}
