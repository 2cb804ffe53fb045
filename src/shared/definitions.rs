//! Definitions in Redis: one map of names for all replicas, of which nothing is dropped but by a change.
//!
//! Each name has a version, by which replicas agree which of two definitions is the later one: the second in which Redis
//! took it, or one more than that of the former definition if that is greater. A deletion has a version, too, and is
//! remembered for a month, so that a replica that was away does not bring back what others have deleted. A random mark
//! changes with every change; who has seen it knows all.

use std::collections::BTreeMap;

use redis::Script;
use uuid::Uuid;

use super::error::SharedError;
use super::link::SharedState;
use super::metrics::Operation;

/// For how long a deletion is remembered.
const DELETIONS_SECONDS: u64 = 30 * 24 * 3600;

/// How many deletions are remembered. The oldest go first.
const MAX_DELETIONS: usize = 10_000;

/// Definitions that are read at once. Each may have `limits.max_vocabulary_bytes`.
const VALUES_AT_ONCE: usize = 10;

/// The field of the mark among the versions. No name is empty.
const MARK: &str = "";

/// What stands in place of a digest for a name whose definition was deleted.
const DELETED: &str = "-";

/// The state of a name: the version, and the digest of the definition, or `None` if it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The greater is the later one.
    pub version: u64,
    /// Digest of the definition; `None` for a deletion.
    pub digest: Option<String>,
}

impl Entry {
    fn write(&self) -> String {
        format!("{} {}", self.version, self.digest.as_deref().unwrap_or(DELETED))
    }

    fn read(text: &str) -> Option<Self> {
        let (version, digest) = text.split_once(' ')?;
        Some(Self {
            version: version.parse().ok()?,
            digest: (digest != DELETED).then(|| digest.to_owned()),
        })
    }
}

/// All names with their states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// The mark of this state; `None` if nothing was ever written.
    pub mark: Option<Vec<u8>>,
    /// The states of all names.
    pub entries: BTreeMap<String, Entry>,
}

/// A definition that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its version.
    pub version: u64,
    /// The digest with which it was written.
    pub digest: String,
    /// Its text.
    pub text: String,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is made, and this is the new version.
    Done(u64),
    /// The name is not in the state that was expected.
    Changed,
    /// There are as many definitions as there may be.
    TooMany,
}

/// Keys: versions, values, deletions. Arguments: name, expected state (empty for none), digest, text, mark, most names.
const PUT: &str = "
local current = redis.call('HGET', KEYS[1], ARGV[1])
local seen = current or ''
if string.sub(seen, -2) == ' -' then seen = '' end
if seen ~= ARGV[2] then return {0, 0} end
if seen == '' and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[6]) then return {2, 0} end
local version = tonumber(redis.call('TIME')[1])
if current then version = math.max(version, tonumber(string.match(current, '^%d+')) + 1) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %s', version, ARGV[3]), '', ARGV[5])
redis.call('ZREM', KEYS[3], ARGV[1])
return {1, version}";

/// Forgets deletions that are too old or too many. What comes before has `version` and the time `now`.
const FORGET: &str = "
redis.call('ZADD', KEYS[3], version, ARGV[1])
local old = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - tonumber(ARGV[4]), 'LIMIT', 0, 100)
local many = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[5])
if many > 0 then old = redis.call('ZRANGE', KEYS[3], 0, math.min(many, 100) - 1) end
for _, name in ipairs(old) do
    redis.call('ZREM', KEYS[3], name)
    redis.call('HDEL', KEYS[1], name)
end";

/// Keys as for a definition. Arguments: name, expected state, mark, seconds of deletions, most deletions.
/// What needs memory comes first, so that a full Redis changes nothing.
const DELETE: &str = "
local current = redis.call('HGET', KEYS[1], ARGV[1])
if current ~= ARGV[2] then return {0, 0} end
local now = tonumber(redis.call('TIME')[1])
local version = math.max(now, tonumber(string.match(current, '^%d+')) + 1)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d -', version), '', ARGV[3])
redis.call('HDEL', KEYS[2], ARGV[1])";

/// Keys as for a definition. Arguments: name, version, digest, text, mark. Brings back what Redis has lost.
const RESTORE: &str = "
local current = redis.call('HGET', KEYS[1], ARGV[1])
if current and tonumber(string.match(current, '^%d+')) >= tonumber(ARGV[2]) then return 0 end
if ARGV[3] == '-' then
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' -', '', ARGV[5])
    redis.call('HDEL', KEYS[2], ARGV[1])
    redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
else
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3], '', ARGV[5])
    redis.call('ZREM', KEYS[3], ARGV[1])
end
return 1";

/// Keys: versions, values. Arguments: names.
const READ: &str = "
return {redis.call('HMGET', KEYS[1], unpack(ARGV)), redis.call('HMGET', KEYS[2], unpack(ARGV))}";

impl SharedState {
    /// Returns the mark of the present state; `None` if nothing was ever written.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn mark(&self) -> Result<Option<Vec<u8>>, SharedError> {
        let mut look = redis::cmd("HGET");
        look.arg(&self.definition_keys()[0]).arg(MARK);
        let work = async |mut connection| look.query_async(&mut connection).await;
        self.run(Operation::Look, work).await
    }

    /// Returns the states of all names.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn catalogue(&self) -> Result<Catalogue, SharedError> {
        let mut read = redis::cmd("HGETALL");
        read.arg(&self.definition_keys()[0]);
        let work = async |mut connection| read.query_async::<BTreeMap<String, String>>(&mut connection).await;
        let mut states = self.run(Operation::ReadDefinitions, work).await?;
        let mark = states.remove(MARK).map(String::into_bytes);
        let entries = states.into_iter();
        let entries = entries.filter_map(|(name, state)| Some((name, Entry::read(&state)?)));
        Ok(Catalogue {
            mark,
            entries: entries.collect(),
        })
    }

    /// Returns the definitions of some names in their order; `None` for each that is deleted by now.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn values(&self, names: &[String]) -> Result<Vec<Option<Value>>, SharedError> {
        let [versions, texts, _] = self.definition_keys();
        let script = Script::new(READ);
        let mut values = Vec::with_capacity(names.len());
        for names in names.chunks(VALUES_AT_ONCE) {
            let mut read = script.prepare_invoke();
            read.key(&versions).key(&texts).arg(names);
            let work = async |mut connection| {
                read.invoke_async::<(Vec<Option<String>>, Vec<Option<String>>)>(&mut connection)
                    .await
            };
            let (states, texts) = self.run(Operation::ReadDefinitions, work).await?;
            values.extend(states.into_iter().zip(texts).map(|(state, text)| {
                let Entry { version, digest } = Entry::read(&state?)?;
                Some(Value {
                    version,
                    digest: digest?,
                    text: text?,
                })
            }));
        }
        Ok(values)
    }

    /// Defines a name whose present state is the expected one; `None` for a name without a definition. At most `most`
    /// names have one.
    ///
    /// # Errors
    /// [`SharedError`]. The definition may have been written all the same if Redis was lost in the middle.
    pub async fn put_definition(
        &self,
        name: &str,
        expected: Option<&Entry>,
        (digest, text): (&str, &str),
        most: usize,
    ) -> Result<PutOutcome, SharedError> {
        let script = Script::new(PUT);
        let mut put = script.prepare_invoke();
        put.key(&self.definition_keys()).arg(name);
        put.arg(expected.map_or_else(String::new, Entry::write));
        put.arg(digest).arg(text).arg(new_mark()).arg(most);
        let work = async |mut connection| put.invoke_async::<(u8, u64)>(&mut connection).await;
        Ok(match self.run(Operation::WriteDefinition, work).await? {
            (1, version) => PutOutcome::Done(version),
            (2, _) => PutOutcome::TooMany,
            _ => PutOutcome::Changed,
        })
    }

    /// Deletes a definition whose present state is the expected one. Returns the version of the deletion; `None` if the
    /// name is in another state.
    ///
    /// # Errors
    /// [`SharedError`]. The definition may have been deleted all the same if Redis was lost in the middle.
    pub async fn delete_definition(&self, name: &str, expected: &Entry) -> Result<Option<u64>, SharedError> {
        let script = Script::new(&format!("{DELETE}\n{FORGET}\nreturn {{1, version}}"));
        let mut delete = script.prepare_invoke();
        delete.key(&self.definition_keys()).arg(name).arg(expected.write());
        delete.arg(new_mark()).arg(DELETIONS_SECONDS).arg(MAX_DELETIONS);
        let work = async |mut connection| delete.invoke_async::<(u8, u64)>(&mut connection).await;
        let (is_done, version) = self.run(Operation::WriteDefinition, work).await?;
        Ok((is_done == 1).then_some(version))
    }

    /// Writes the state of a name that Redis has lost, unless it has a later one. `text` is empty for a deletion.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn restore_definition(&self, name: &str, entry: &Entry, text: &str) -> Result<bool, SharedError> {
        let script = Script::new(RESTORE);
        let mut restore = script.prepare_invoke();
        restore.key(&self.definition_keys()).arg(name).arg(entry.version);
        restore.arg(entry.digest.as_deref().unwrap_or(DELETED));
        restore.arg(text).arg(new_mark());
        let work = async |mut connection| restore.invoke_async::<bool>(&mut connection).await;
        self.run(Operation::WriteDefinition, work).await
    }

    /// Returns the keys of versions, values and deletions. Braces keep them together where Redis has several parts.
    fn definition_keys(&self) -> [String; 3] {
        ["versions", "values", "deletions"].map(|part| self.key("{vocabularies}", part))
    }
}

fn new_mark() -> String {
    Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_name_is_read_as_it_was_written() {
        for digest in [Some("0123abcd".to_owned()), None] {
            let entry = Entry {
                version: 1_764_471_234,
                digest,
            };
            assert_eq!(Entry::read(&entry.write()), Some(entry));
        }
        for text in ["", "1", "x y", "-1 a"] {
            assert_eq!(Entry::read(text), None, "{text:?}");
        }
    }
}
