//! A map with a limit in bytes, which drops the least recently used entries first.
//!
//! Owns the order of use and the sum of bytes. The caller says how many bytes an entry has, and the caller owns the
//! lock.

use std::hash::Hash;

use lru::LruCache;

/// A map that never holds more bytes than its capacity.
#[derive(Debug)]
pub(crate) struct ByteLru<K: Hash + Eq, V> {
    capacity_bytes: u64,
    /// The entries, each with its bytes. The bytes limit them, not their number.
    held: LruCache<K, (V, u64)>,
    bytes: u64,
}

impl<K: Hash + Eq, V> ByteLru<K, V> {
    /// Creates an empty map that holds at most `capacity_bytes`.
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        Self {
            capacity_bytes,
            held: LruCache::unbounded(),
            bytes: 0,
        }
    }

    /// Returns the bytes of an entry whose key and value have `heap_bytes` on the heap: these, the entry itself, two
    /// links and a slot of the hash table.
    pub(crate) fn entry_bytes(heap_bytes: usize) -> u64 {
        (size_of::<(K, V)>() + 4 * size_of::<usize>() + heap_bytes) as u64
    }

    /// Inserts an entry and replaces an older one with the same key. Returns the entries that were dropped to make
    /// room. An entry larger than the whole map is not inserted.
    pub(crate) fn insert(&mut self, key: K, value: V, bytes: u64) -> Vec<(K, V)> {
        self.remove(&key);
        if bytes > self.capacity_bytes {
            return Vec::new();
        }
        self.bytes += bytes;
        self.held.put(key, (value, bytes));
        let mut gone = Vec::new();
        while self.bytes > self.capacity_bytes
            && let Some(dropped) = self.pop_lru()
        {
            gone.push(dropped);
        }
        gone
    }

    /// Removes the least recently used entry and returns it.
    pub(crate) fn pop_lru(&mut self) -> Option<(K, V)> {
        let (key, (value, bytes)) = self.held.pop_lru()?;
        self.bytes -= bytes;
        Some((key, value))
    }

    /// Returns the value of a key and counts this as use.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        self.held.get(key).map(|(value, _)| value)
    }

    /// Returns the value of a key, without counting this as use.
    pub(crate) fn peek(&self, key: &K) -> Option<&V> {
        self.held.peek(key).map(|(value, _)| value)
    }

    /// Returns whether the map has a key, without counting this as use.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.held.contains(key)
    }

    /// Removes an entry and returns its value.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (value, bytes) = self.held.pop(key)?;
        self.bytes -= bytes;
        Some(value)
    }

    /// Returns the keys in no particular order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.held.iter().map(|(key, _)| key)
    }

    /// Returns the values, most recently used first.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.held.iter().map(|(_, (value, _))| value)
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Returns the sum of the bytes of all entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
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
