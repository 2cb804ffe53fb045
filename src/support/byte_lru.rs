//! A map bounded by bytes, from which the least recently used entries go first.
//!
//! Owns the order of use and the sum. What an entry weighs is the caller's to say, and so is the lock around it.

use std::hash::Hash;

use lru::LruCache;

/// The map. It never holds more bytes than its capacity.
#[derive(Debug)]
pub(crate) struct ByteLru<K: Hash + Eq, V> {
    capacity_bytes: u64,
    /// Bounded by `bytes`, not by count; each value with its entry's bytes.
    held: LruCache<K, (V, u64)>,
    bytes: u64,
}

impl<K: Hash + Eq, V> ByteLru<K, V> {
    /// An empty map that holds at most this many bytes.
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        Self {
            capacity_bytes,
            held: LruCache::unbounded(),
            bytes: 0,
        }
    }

    /// Bytes of an entry whose key and value hold this many on the heap: with the entry itself, two links and a hash table's
    /// slot.
    pub(crate) fn entry_bytes(heap_bytes: usize) -> u64 {
        (size_of::<(K, V)>() + 4 * size_of::<usize>() + heap_bytes) as u64
    }

    /// Holds an entry in place of the one before, if it is not larger than the map; gives back those that had to go for it.
    pub(crate) fn insert(&mut self, key: K, value: V, bytes: u64) -> Vec<(K, V)> {
        self.remove(&key);
        if bytes > self.capacity_bytes {
            return Vec::new();
        }
        self.bytes += bytes;
        self.held.put(key, (value, bytes));
        let mut gone = Vec::new();
        while self.bytes > self.capacity_bytes
            && let Some((key, (value, bytes))) = self.held.pop_lru()
        {
            self.bytes -= bytes;
            gone.push((key, value));
        }
        gone
    }

    /// The value of a key, which counts as use.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        self.held.get(key).map(|(value, _)| value)
    }

    /// Whether there is such a key, which does not.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.held.contains(key)
    }

    /// Lets go of an entry.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (value, bytes) = self.held.pop(key)?;
        self.bytes -= bytes;
        Some(value)
    }

    /// The keys, in no order that matters.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.held.iter().map(|(key, _)| key)
    }

    /// Entries held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that may be held.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(capacity_bytes: u64, entries: &[(&'static str, u64)]) -> ByteLru<&'static str, u64> {
        let mut map = ByteLru::new(capacity_bytes);
        for &(key, bytes) in entries {
            map.insert(key, bytes, bytes);
        }
        map
    }

    #[test]
    fn the_least_recently_used_entries_go_first_and_are_given_back() {
        let mut map = map(10, &[("a", 4), ("b", 3), ("c", 3)]);
        assert_eq!(map.get(&"a"), Some(&4));
        assert_eq!(map.insert("d", 5, 5), [("b", 3), ("c", 3)]);
        assert_eq!((map.len(), map.bytes()), (2, 9));
        assert!(map.contains(&"a") && map.contains(&"d"));
    }

    #[test]
    fn an_entry_larger_than_the_map_is_not_held_and_drives_none_out_but_its_elder() {
        let mut map = map(10, &[("a", 4), ("b", 3)]);
        assert_eq!(map.insert("a", 11, 11), []);
        assert_eq!((map.len(), map.bytes()), (1, 3));
        assert_eq!(map.insert("c", 10, 10), [("b", 3)]);
    }

    #[test]
    fn an_entry_takes_the_place_of_its_elder() {
        let mut map = map(10, &[("a", 4), ("a", 6)]);
        assert_eq!((map.len(), map.bytes(), map.remove(&"a")), (1, 6, Some(6)));
        assert_eq!((map.len(), map.bytes(), map.remove(&"a")), (0, 0, None));
    }
}
