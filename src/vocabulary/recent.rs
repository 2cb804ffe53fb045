//! The class lists that requests sent along, most recent first.
//!
//! This file owns what is remembered of the lists and for how long. Lists have owners, which are numbers here: who they
//! are is for others to say. The caller provides the time.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use super::{ClassList, TemplateSet};
use crate::support::{ByteLru, SharedLru, lock};

/// A class list that a request sent along recently.
#[derive(Debug, Clone, PartialEq)]
pub struct RecentList {
    /// The list's [`ClassList::id`] with its templates.
    pub id: String,
    /// The classes with their background.
    pub list: Arc<ClassList>,
    /// The templates that the list was used with.
    pub templates: TemplateSet,
    /// Number of requests that used the list.
    pub hits: u64,
    /// When the list was first used.
    pub first_seen: SystemTime,
    /// When the list was last used.
    pub last_seen: SystemTime,
}

/// Recent class lists, bounded in number and in bytes. The least recently used of the owner that has most bytes are
/// dropped first.
#[derive(Debug)]
pub struct RecentLists {
    /// Largest number of lists.
    capacity: usize,
    /// The lists by owner and id.
    lists: Mutex<SharedLru<u64, String, RecentList>>,
}

impl RecentLists {
    /// Remembers at most `capacity` lists of at most `capacity_bytes` in sum; 0 turns this off.
    pub fn new(capacity: usize, capacity_bytes: u64) -> Self {
        Self {
            capacity,
            lists: Mutex::new(SharedLru::new(capacity_bytes)),
        }
    }

    /// Records a request of an owner with a list.
    pub fn record(&self, owner: u64, list: &Arc<ClassList>, templates: TemplateSet, now: SystemTime) {
        let id = list.id(templates);
        let mut lists = self.lists();
        let mut entry = lists.remove(&owner, &id).unwrap_or_else(|| RecentList {
            id: id.clone(),
            list: list.clone(),
            templates,
            hits: 0,
            first_seen: now,
            last_seen: now,
        });
        entry.hits += 1;
        entry.last_seen = now;
        let bytes = ByteLru::<String, RecentList>::entry_bytes(2 * id.len() + entry.list.bytes());
        lists.insert(owner, id, entry, bytes);
        while lists.len() > self.capacity {
            lists.pop_lru();
        }
    }

    /// Returns the remembered lists of an owner, most recent first.
    pub fn list(&self, owner: u64) -> Vec<RecentList> {
        self.lists().values(&owner).cloned().collect()
    }

    /// Returns the estimated bytes of the remembered lists.
    pub fn bytes(&self) -> u64 {
        self.lists().bytes()
    }

    fn lists(&self) -> MutexGuard<'_, SharedLru<u64, String, RecentList>> {
        lock(&self.lists)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Class;
    use super::super::classes::tests::list;
    use super::*;

    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn equal_lists_are_one_entry_with_its_hits_and_times() {
        let recent = RecentLists::new(5, 1 << 20);
        recent.record(1, &Arc::new(list(&["cat"], &["sky"])), TemplateSet::Simple, at(1));
        recent.record(1, &Arc::new(list(&["cat"], &["sky"])), TemplateSet::Imagenet80, at(2));
        recent.record(1, &Arc::new(list(&[" cat "], &["sky"])), TemplateSet::Simple, at(3));
        let entries = recent.list(1);
        let facts = |entry: &RecentList| (entry.templates, entry.hits, entry.first_seen, entry.last_seen);
        assert_eq!(
            entries.iter().map(facts).collect::<Vec<_>>(),
            [
                (TemplateSet::Simple, 2, at(1), at(3)),
                (TemplateSet::Imagenet80, 1, at(2), at(2))
            ]
        );
        assert_eq!(entries[0].id, entries[0].list.id(TemplateSet::Simple));
    }

    #[test]
    fn the_least_recently_used_list_goes_first() {
        let recent = RecentLists::new(2, 1 << 20);
        for (name, second) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            recent.record(1, &Arc::new(list(&[name], &[])), TemplateSet::Simple, at(second));
        }
        let names: Vec<String> = recent
            .list(1)
            .iter()
            .map(|entry| entry.list.classes()[0].name.clone())
            .collect();
        assert_eq!(names, ["c", "a"]);
    }

    #[test]
    fn lists_are_their_owners_alone_and_one_owner_does_not_drive_out_anothers() {
        let recent = RecentLists::new(3, 1 << 20);
        recent.record(2, &Arc::new(list(&["mine"], &[])), TemplateSet::Simple, at(0));
        for (second, name) in (1..).zip(["a", "b", "c", "d", "e"]) {
            recent.record(1, &Arc::new(list(&[name], &[])), TemplateSet::Simple, at(second));
        }
        assert_eq!(
            (recent.list(1).len(), recent.list(2).len(), recent.list(3).len()),
            (2, 1, 0)
        );
    }

    #[test]
    fn none_are_remembered_when_there_is_no_room() {
        for (capacity, capacity_bytes) in [(0, 1 << 20), (5, 0)] {
            let recent = RecentLists::new(capacity, capacity_bytes);
            recent.record(1, &Arc::new(list(&["a"], &[])), TemplateSet::Simple, at(1));
            assert_eq!((recent.list(1), recent.bytes()), (vec![], 0));
        }
    }

    #[test]
    fn the_bytes_of_all_lists_are_bounded() {
        let recent = RecentLists::new(100, 50_000);
        for number in 0..100 {
            let class = |class| Class::from(format!("class {class} of {number}"));
            let list = ClassList::trusted((0..100).map(class).collect(), Vec::new());
            recent.record(1, &Arc::new(list), TemplateSet::Simple, at(number));
            assert!(recent.bytes() <= 50_000, "{} bytes", recent.bytes());
        }
        let held = recent.list(1);
        assert!((2..20).contains(&held.len()), "{} lists", held.len());
        assert_eq!(held[0].last_seen, at(99));
    }
}
