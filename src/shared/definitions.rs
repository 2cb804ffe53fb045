//! Definitions in Redis: one map of names for all replicas, of which nothing is dropped but by a change.
//!
//! Each name has a version, by which replicas agree which of two definitions is the later one: the second in which Redis
//! took it, or one more than that of the former definition if that is greater. A deletion has a version, too, and is
//! remembered for a month, so that a replica that was away does not bring back what others have deleted. A random mark
//! changes with every change; who has seen it knows all. A state that nobody here has written counts as none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use redis::Script;
use uuid::Uuid;

use super::error::SharedError;
use super::link::SharedState;
use super::metrics::Operation;

/// For how long a deletion is remembered.
const DELETIONS_SECONDS: u64 = 30 * 24 * 3600;

/// How many deletions are remembered. The oldest go first.
const MAX_DELETIONS: usize = 10_000;

/// Bytes of the definitions that are read at once, unless one alone has more.
const BYTES_AT_ONCE: u64 = 256 << 10;

/// Names that are asked about at once.
const NAMES_AT_ONCE: usize = 1000;

/// The field of the mark among the versions. No name is empty.
const MARK: &str = "";

/// The greatest version: no clock reaches it before 2106, and one that is greater is nobody's.
const MAX_VERSION: u64 = u32::MAX as u64;

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

    /// Reads what [`Entry::write`] wrote, as the scripts do. Returns `None` for anything else.
    fn read(text: &[u8]) -> Option<Self> {
        let (version, digest) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let entry = Self {
            version: version.parse::<u64>().ok().filter(|version| *version <= MAX_VERSION)?,
            digest: (digest != DELETED).then(|| digest.to_owned()),
        };
        let is_canonical = !digest.is_empty() && digest.bytes().all(is_plain) && entry.write().as_bytes() == text;
        is_canonical.then_some(entry)
    }
}

/// Returns the names whose deletions are remembered, of some with their versions: those of the last month before `now`, in
/// seconds since 1970, and the latest if there are too many. Redis goes by the same rule.
pub fn remembered<'a>(deletions: impl Iterator<Item = (&'a str, u64)>, now: u64) -> BTreeSet<&'a str> {
    let oldest = now.saturating_sub(DELETIONS_SECONDS);
    let recent = deletions.filter(|(_, version)| *version > oldest);
    let mut recent: Vec<_> = recent.map(|(name, version)| (version, name)).collect();
    recent.sort_unstable();
    let latest = recent.into_iter().rev().take(MAX_DELETIONS);
    latest.map(|(_, name)| name).collect()
}

/// What tells one state of all names from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// The mark of the last change; `None` if nothing was ever written.
    change: Option<Vec<u8>>,
    /// The number of definitions: Redis may drop all of them without a change.
    values: usize,
}

/// All names with their states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// The mark of this state.
    pub mark: Mark,
    /// The states of all names.
    pub entries: BTreeMap<String, Entry>,
}

impl Catalogue {
    /// Returns whether there are as many definitions as the states of the names say.
    pub fn is_whole(&self) -> bool {
        let defined = self.entries.values().filter(|entry| entry.digest.is_some());
        defined.count() == self.mark.values
    }
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

/// Returns the version of a state, or nil for what [`Entry::read`] does not read.
const VERSION_OF: &str = "
local function version_of(state)
    local digits = string.match(state or '', '^(%d+) [0-9a-zA-Z-]+$')
    local version = digits and tonumber(digits)
    if version and version <= 4294967295 and string.format('%.0f', version) == digits then return version end
end";

/// Keys: versions, values, deletions. Arguments: name, expected state (empty for none), digest, text, mark, most names.
/// Where the mark is there already, the change was made, and the answer was lost.
const PUT: &str = "
local current = redis.call('HGET', KEYS[1], ARGV[1])
local former = version_of(current)
if redis.call('HGET', KEYS[1], '') == ARGV[5] then return {1, former} end
local seen = former and current or ''
if string.sub(seen, -2) == ' -' then seen = '' end
if seen ~= ARGV[2] then return {0, 0} end
local is_new = redis.call('HSTRLEN', KEYS[2], ARGV[1]) == 0
if seen == '' and is_new and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[6]) then return {2, 0} end
local version = tonumber(redis.call('TIME')[1])
if former then version = math.min(math.max(version, former + 1), 4294967295) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s', version, ARGV[3]), '', ARGV[5])
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
if redis.call('HGET', KEYS[1], '') == ARGV[3] then return {1, version_of(current)} end
if current ~= ARGV[2] then return {0, 0} end
local now = tonumber(redis.call('TIME')[1])
local version = math.min(math.max(now, version_of(current) + 1), 4294967295)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f -', version), '', ARGV[3])
redis.call('HDEL', KEYS[2], ARGV[1])";

/// Keys as for a definition. Arguments: name, version, digest, text, mark. Brings back what Redis has lost: a state that
/// is later than its own, or the definition of the one that it has.
const RESTORE: &str = "
local current = redis.call('HGET', KEYS[1], ARGV[1])
local version = version_of(current)
if version and version > tonumber(ARGV[2]) then return 0 end
if version == tonumber(ARGV[2]) then
    if ARGV[3] == '-' or current ~= ARGV[2] .. ' ' .. ARGV[3] then return 0 end
    if redis.call('HSTRLEN', KEYS[2], ARGV[1]) > 0 then return 0 end
end
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

/// Keys: values. Arguments: names. Returns the bytes of each definition, 0 for one that is not there.
const SIZES: &str = "
local sizes = {}
for i = 1, #ARGV do sizes[i] = redis.call('HSTRLEN', KEYS[1], ARGV[i]) end
return sizes";

/// Keys: versions, values. Arguments: names.
const READ: &str = "
return {redis.call('HMGET', KEYS[1], unpack(ARGV)), redis.call('HMGET', KEYS[2], unpack(ARGV))}";

impl SharedState {
    /// Returns the mark of the present state.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn mark(&self) -> Result<Mark, SharedError> {
        let [versions, values, _] = self.definition_keys();
        let mut look = redis::pipe();
        look.cmd("HGET").arg(versions).arg(MARK);
        look.cmd("HLEN").arg(values);
        let work = async |mut connection| look.query_async::<(Option<Vec<u8>>, usize)>(&mut connection).await;
        let (change, values) = self.run(Operation::Look, work).await?;
        Ok(Mark { change, values })
    }

    /// Returns the states of all names.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn catalogue(&self) -> Result<Catalogue, SharedError> {
        let [versions, values, _] = self.definition_keys();
        // No script, in which reading so much takes Redis four times as long. Between the two, a change may come: then
        // the mark is none that anybody sees, and all is read once more.
        let mut read = redis::pipe();
        read.cmd("HGETALL").arg(versions);
        read.cmd("HLEN").arg(values);
        let work = async |mut connection| {
            read.query_async::<(BTreeMap<Vec<u8>, Vec<u8>>, usize)>(&mut connection)
                .await
        };
        let (mut states, values) = self.run(Operation::ReadDefinitions, work).await?;
        let change = states.remove(MARK.as_bytes());
        let entries = states.into_iter();
        let entries = entries.filter_map(|(name, state)| Some((String::from_utf8(name).ok()?, Entry::read(&state)?)));
        Ok(Catalogue {
            mark: Mark { change, values },
            entries: entries.collect(),
        })
    }

    /// Returns the bytes of the definitions of some names in their order, 0 for one that is not there.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn definition_bytes(&self, names: &[String]) -> Result<Vec<u64>, SharedError> {
        let [_, values, _] = self.definition_keys();
        let script = Script::new(SIZES);
        let mut bytes = Vec::with_capacity(names.len());
        for names in names.chunks(NAMES_AT_ONCE) {
            let mut ask = script.prepare_invoke();
            ask.key(&values).arg(names);
            let work = async |mut connection| ask.invoke_async::<Vec<u64>>(&mut connection).await;
            bytes.extend(self.run(Operation::ReadDefinitions, work).await?);
        }
        Ok(bytes)
    }

    /// Returns the definitions of some names in their order; `None` for each that is not there, or is no text.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn values(&self, names: &[String]) -> Result<Vec<Option<Value>>, SharedError> {
        let [versions, texts, _] = self.definition_keys();
        let script = Script::new(READ);
        let mut values = Vec::with_capacity(names.len());
        let bytes = self.definition_bytes(names).await?;
        for batch in batches(&bytes) {
            let (names, bytes) = (&names[batch.clone()], bytes[batch].iter().sum::<u64>());
            let mut read = script.prepare_invoke();
            read.key(&versions).key(&texts).arg(names);
            let work = async |mut connection| {
                read.invoke_async::<(Vec<Option<Vec<u8>>>, Vec<Option<Vec<u8>>>)>(&mut connection)
                    .await
            };
            let (states, texts) = self.run_with(Operation::ReadDefinitions, bytes, work).await?;
            values.extend(states.into_iter().zip(texts).map(|(state, text)| {
                let Entry { version, digest } = Entry::read(&state?)?;
                Some(Value {
                    version,
                    digest: digest?,
                    text: String::from_utf8(text?).ok()?,
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
        let script = Script::new(&format!("{VERSION_OF}{PUT}"));
        let mut put = script.prepare_invoke();
        put.key(&self.definition_keys()).arg(name);
        put.arg(expected.map_or_else(String::new, Entry::write));
        put.arg(digest).arg(text).arg(new_mark()).arg(most);
        let work = async |mut connection| put.invoke_async::<(u8, u64)>(&mut connection).await;
        Ok(
            match self
                .run_with(Operation::WriteDefinition, text.len() as u64, work)
                .await?
            {
                (1, version) => PutOutcome::Done(version),
                (2, _) => PutOutcome::TooMany,
                _ => PutOutcome::Changed,
            },
        )
    }

    /// Deletes a definition whose present state is the expected one. Returns the version of the deletion; `None` if the
    /// name is in another state.
    ///
    /// # Errors
    /// [`SharedError`]. The definition may have been deleted all the same if Redis was lost in the middle.
    pub async fn delete_definition(&self, name: &str, expected: &Entry) -> Result<Option<u64>, SharedError> {
        let script = Script::new(&format!("{VERSION_OF}{DELETE}{FORGET}\nreturn {{1, version}}"));
        let mut delete = script.prepare_invoke();
        delete.key(&self.definition_keys()).arg(name).arg(expected.write());
        delete.arg(new_mark()).arg(DELETIONS_SECONDS).arg(MAX_DELETIONS);
        let work = async |mut connection| delete.invoke_async::<(u8, u64)>(&mut connection).await;
        let (is_done, version) = self.run(Operation::WriteDefinition, work).await?;
        Ok((is_done == 1).then_some(version))
    }

    /// Writes the state of a name that Redis has lost, unless it has a later one, or the definition alone where that is
    /// all it lacks. `text` is empty for a deletion.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn restore_definition(&self, name: &str, entry: &Entry, text: &str) -> Result<bool, SharedError> {
        let script = Script::new(&format!("{VERSION_OF}{RESTORE}"));
        let mut restore = script.prepare_invoke();
        restore.key(&self.definition_keys()).arg(name).arg(entry.version);
        restore.arg(entry.digest.as_deref().unwrap_or(DELETED));
        restore.arg(text).arg(new_mark());
        let work = async |mut connection| restore.invoke_async::<bool>(&mut connection).await;
        self.run_with(Operation::WriteDefinition, text.len() as u64, work).await
    }

    /// Returns the keys of versions, values and deletions. Braces keep them together where Redis has several parts.
    fn definition_keys(&self) -> [String; 3] {
        ["versions", "values", "deletions"].map(|part| self.key("{vocabularies}", part))
    }
}

/// Returns which definitions of these bytes are read together.
fn batches(bytes: &[u64]) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut total = 0;
    for (place, bytes) in bytes.iter().enumerate() {
        total += bytes;
        match batches.last_mut() {
            Some(last) if total <= BYTES_AT_ONCE && last.len() < NAMES_AT_ONCE => last.end = place + 1,
            _ => {
                batches.push(place..place + 1);
                total = *bytes;
            }
        }
    }
    batches
}

fn new_mark() -> String {
    Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_read_together_up_to_a_number_of_bytes() {
        let half = BYTES_AT_ONCE / 2;
        assert_eq!(
            batches(&[half, half, 1, 0, 3 * half, 3 * half, 1]),
            [0..2, 2..4, 4..5, 5..6, 6..7]
        );
        assert_eq!(
            batches(&vec![0; NAMES_AT_ONCE + 1]),
            [0..NAMES_AT_ONCE, NAMES_AT_ONCE..NAMES_AT_ONCE + 1]
        );
        assert!(batches(&[]).is_empty());
    }

    #[test]
    fn the_latest_deletions_of_the_last_month_are_remembered() {
        let now = 1_764_471_234;
        let oldest = now - DELETIONS_SECONDS;
        let deletions = [
            ("now", now),
            ("just", oldest + 1),
            ("no longer", oldest),
            ("ahead", now + 9),
        ];
        let kept = remembered(deletions.into_iter(), now);
        assert_eq!(kept, ["now", "just", "ahead"].into());

        let names: Vec<String> = (0..MAX_DELETIONS).map(|number| format!("{number}")).collect();
        let many = names.iter().map(|name| (&**name, now));
        let kept = remembered(many.chain([("older", now - 1), ("newer", now + 1)]), now);
        assert_eq!(kept.len(), MAX_DELETIONS);
        // Of one second, Redis forgets the name first that comes first.
        assert!(kept.contains("newer") && !kept.contains("older") && !kept.contains("0"));
    }

    #[test]
    fn the_state_of_a_name_is_read_as_it_was_written() {
        for digest in [Some("0123abcd".to_owned()), None] {
            let entry = Entry {
                version: 1_764_471_234,
                digest,
            };
            assert_eq!(Entry::read(entry.write().as_bytes()), Some(entry));
        }
        let strange = [
            "",
            "1",
            "x y",
            "-1 a",
            "+1 a",
            "01 a",
            "1 a b",
            "1 ",
            "1 \u{e9}",
            "4294967296 a",
        ];
        for text in strange {
            assert_eq!(Entry::read(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Entry::read(b"1 \xff"), None);
    }
}
