//! A map with a limit in bytes that several owners share, each with entries of its own.
//!
//! Owns whose entries go when there is no room: the least recently used of whoever holds most. So an owner that fills
//! the map makes room for the others, and one that holds little keeps it. Nobody finds the entries of another.

use std::collections::HashMap;
use std::hash::Hash;

use super::ByteLru;

/// A map from owners and their keys to values. It never holds more bytes than its capacity.
#[derive(Debug)]
pub(crate) struct SharedLru<O, K: Hash + Eq, V> {
    capacity_bytes: u64,
    /// The entries of each owner that has any.
    owners: HashMap<O, ByteLru<K, V>>,
    bytes: u64,
}

impl<O: Hash + Ord + Copy, K: Hash + Eq, V> SharedLru<O, K, V> {
    /// Creates an empty map that holds at most `capacity_bytes`.
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        Self {
            capacity_bytes,
            owners: HashMap::new(),
            bytes: 0,
        }
    }

    /// Inserts an entry and replaces the owner's older one with the same key. Returns the entries that were dropped to
    /// make room. An entry larger than the whole map is not inserted.
    pub(crate) fn insert(&mut self, owner: O, key: K, value: V, bytes: u64) -> Vec<(O, K, V)> {
        self.remove(&owner, &key);
        if bytes > self.capacity_bytes {
            return Vec::new();
        }
        let mut gone = Vec::new();
        // Room is made before, so that the new entry is never what goes.
        while self.bytes + bytes > self.capacity_bytes {
            let coming = |of: &O| if *of == owner { bytes } else { 0 };
            let most = self
                .owners
                .iter()
                .max_by_key(|(of, held)| (held.bytes() + coming(of), **of));
            let of = *most.expect("bytes belong to an owner").0;
            gone.extend(self.pop_lru_of(of));
        }
        let held = self
            .owners
            .entry(owner)
            .or_insert_with(|| ByteLru::new(self.capacity_bytes));
        held.insert(key, value, bytes);
        self.bytes += bytes;
        gone
    }

    /// Removes the least recently used entry of the owner that holds most bytes and returns it.
    pub(crate) fn pop_lru(&mut self) -> Option<(O, K, V)> {
        let most = self.owners.iter().max_by_key(|(owner, held)| (held.bytes(), **owner));
        let owner = *most?.0;
        self.pop_lru_of(owner)
    }

    fn pop_lru_of(&mut self, owner: O) -> Option<(O, K, V)> {
        let (key, value) = self.change(&owner, ByteLru::pop_lru)??;
        Some((owner, key, value))
    }

    /// Returns the value of an owner's key and counts this as use.
    pub(crate) fn get(&mut self, owner: &O, key: &K) -> Option<&V> {
        self.owners.get_mut(owner)?.get(key)
    }

    /// Returns the value of an owner's key. Does not count as use.
    pub(crate) fn peek(&self, owner: &O, key: &K) -> Option<&V> {
        self.owners.get(owner)?.peek(key)
    }

    /// Removes an owner's entry and returns its value.
    pub(crate) fn remove(&mut self, owner: &O, key: &K) -> Option<V> {
        self.change(owner, |held| held.remove(key))?
    }

    /// Returns an owner's keys in no particular order.
    pub(crate) fn keys(&self, owner: &O) -> impl Iterator<Item = &K> {
        self.owners.get(owner).into_iter().flat_map(ByteLru::keys)
    }

    /// Returns an owner's values, most recently used first.
    pub(crate) fn values(&self, owner: &O) -> impl Iterator<Item = &V> {
        self.owners.get(owner).into_iter().flat_map(ByteLru::values)
    }

    /// Returns the number of entries of all owners.
    pub(crate) fn len(&self) -> usize {
        self.owners.values().map(ByteLru::len).sum()
    }

    /// Returns the sum of the bytes of all entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the largest sum of bytes that the map may hold.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Changes the entries of an owner, keeps the sum of bytes, and forgets an owner without entries.
    fn change<T>(&mut self, owner: &O, change: impl FnOnce(&mut ByteLru<K, V>) -> T) -> Option<T> {
        let held = self.owners.get_mut(owner)?;
        let before = held.bytes();
        let result = change(held);
        self.bytes = self.bytes - before + held.bytes();
        if held.len() == 0 {
            self.owners.remove(owner);
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of owners 1, 2, … in which each entry has its number as its bytes.
    fn map(capacity_bytes: u64, entries: &[(u8, &'static str, u64)]) -> SharedLru<u8, &'static str, u64> {
        let mut map = SharedLru::new(capacity_bytes);
        for &(owner, key, bytes) in entries {
            map.insert(owner, key, bytes, bytes);
        }
        map
    }

    #[test]
    fn nobody_finds_or_removes_what_another_holds() {
        let mut map = map(10, &[(1, "a", 2), (2, "a", 3), (2, "b", 1)]);
        assert_eq!(map.get(&1, &"a"), Some(&2));
        assert_eq!(map.get(&2, &"a"), Some(&3));
        for owner in [1, 3] {
            assert_eq!(map.get(&owner, &"b"), None);
            assert_eq!(map.remove(&owner, &"b"), None);
        }
        assert_eq!(map.remove(&1, &"a"), Some(2));
        assert_eq!((map.len(), map.bytes()), (2, 4));
        assert_eq!((map.keys(&1).count(), map.keys(&2).count()), (0, 2));
        assert_eq!(map.values(&2).collect::<Vec<_>>(), [&3, &1]);
    }

    #[test]
    fn one_owner_alone_loses_its_least_recently_used_entries() {
        let mut map = map(10, &[(1, "a", 4), (1, "b", 3), (1, "c", 3)]);
        assert_eq!(map.get(&1, &"a"), Some(&4));
        assert_eq!(map.insert(1, "d", 5, 5), [(1, "b", 3), (1, "c", 3)]);
        assert_eq!((map.len(), map.bytes()), (2, 9));
    }

    #[test]
    fn who_holds_most_makes_room_and_who_holds_little_keeps_it() {
        let mut map = map(10, &[(2, "small", 2), (1, "a", 3), (1, "b", 3)]);
        // However much owner 1 brings, it goes round in its own part.
        for key in ["c", "d", "e", "f"] {
            map.insert(1, key, 3, 3);
            assert_eq!(map.get(&2, &"small"), Some(&2), "{key}");
        }
        assert_eq!(map.insert(2, "more", 3, 3), [(1, "e", 3)]);
        // Owner 2 would hold 9, and owner 1 holds 3.
        assert_eq!(map.insert(2, "most", 4, 4), [(2, "small", 2)]);
        assert_eq!((map.len(), map.bytes()), (3, 10));
    }

    #[test]
    fn a_new_entry_stays_though_its_owner_holds_most_and_what_is_larger_than_the_map_does_not() {
        let mut map = map(10, &[(2, "small", 4)]);
        assert_eq!(map.insert(1, "large", 8, 8), [(2, "small", 4)]);
        assert_eq!(map.insert(1, "larger", 11, 11), []);
        assert_eq!(map.get(&1, &"large"), Some(&8));
        assert_eq!(map.bytes(), 8);
        assert_eq!(map.insert(1, "large", 2, 2), []);
        assert_eq!((map.len(), map.bytes()), (1, 2));
    }

    #[test]
    fn entries_that_are_popped_are_those_of_who_holds_most() {
        let mut map = map(10, &[(1, "a", 2), (2, "b", 2), (2, "c", 2)]);
        let popped: Vec<_> = std::iter::from_fn(|| map.pop_lru()).collect();
        assert_eq!(popped, [(2, "b", 2), (2, "c", 2), (1, "a", 2)]);
        assert_eq!((map.len(), map.bytes()), (0, 0));
    }
}
