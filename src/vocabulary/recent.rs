//! The class lists that requests sent along, most recent first.
//!
//! This file owns what is remembered of the lists and for how long. The caller provides the time.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use lru::LruCache;

use super::{ClassList, TemplateSet};

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

/// A bounded number of recent class lists. The least recently used are dropped first.
#[derive(Debug)]
pub struct RecentLists {
    /// The lists by id; `None` if nothing is remembered.
    lists: Option<Mutex<LruCache<String, RecentList>>>,
}

impl RecentLists {
    /// Remembers at most `capacity` lists; 0 turns this off.
    pub fn new(capacity: usize) -> Self {
        Self {
            lists: NonZeroUsize::new(capacity).map(|capacity| Mutex::new(LruCache::new(capacity))),
        }
    }

    /// Records a request with a list.
    pub fn record(&self, list: &Arc<ClassList>, templates: TemplateSet, now: SystemTime) {
        let Some(mut lists) = self.lists() else { return };
        let id = list.id(templates);
        let entry = lists.get_or_insert_mut(id.clone(), || RecentList {
            id,
            list: list.clone(),
            templates,
            hits: 0,
            first_seen: now,
            last_seen: now,
        });
        entry.hits += 1;
        entry.last_seen = now;
    }

    /// Returns the remembered lists, most recent first.
    pub fn list(&self) -> Vec<RecentList> {
        self.lists()
            .map_or_else(Vec::new, |lists| lists.iter().map(|(_, entry)| entry.clone()).collect())
    }

    fn lists(&self) -> Option<MutexGuard<'_, LruCache<String, RecentList>>> {
        self.lists
            .as_ref()
            .map(|lists| lists.lock().expect("nothing panics while it has the lists' lock"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::classes::tests::list;
    use super::*;

    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn equal_lists_are_one_entry_with_its_hits_and_times() {
        let recent = RecentLists::new(5);
        recent.record(&Arc::new(list(&["cat"], &["sky"])), TemplateSet::Simple, at(1));
        recent.record(&Arc::new(list(&["cat"], &["sky"])), TemplateSet::Imagenet80, at(2));
        recent.record(&Arc::new(list(&[" cat "], &["sky"])), TemplateSet::Simple, at(3));
        let entries = recent.list();
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
        let recent = RecentLists::new(2);
        for (name, second) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            recent.record(&Arc::new(list(&[name], &[])), TemplateSet::Simple, at(second));
        }
        let names: Vec<String> = recent
            .list()
            .iter()
            .map(|entry| entry.list.classes()[0].name.clone())
            .collect();
        assert_eq!(names, ["c", "a"]);
    }

    #[test]
    fn none_are_remembered_when_there_is_no_room() {
        let recent = RecentLists::new(0);
        recent.record(&Arc::new(list(&["a"], &[])), TemplateSet::Simple, at(1));
        assert_eq!(recent.list(), []);
    }
}
