//! Tests of a name's life, in one process and among several.
#![allow(clippy::unwrap_used)]

use super::super::classes::tests::list;
use std::time::Duration;

use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn limits(max_vocabularies: usize) -> RegistryLimits {
    RegistryLimits {
        max_vocabularies,
        ..RegistryLimits::for_testing()
    }
}

fn registry() -> VocabularyRegistry {
    VocabularyRegistry::new(limits(2), None, NOW)
}

fn put(
    registry: &VocabularyRegistry,
    name: &str,
    class: &str,
    condition: impl Fn(Option<&str>) -> bool,
) -> Result<Stored, VocabularyError> {
    registry
        .put_blocking(name, list(&[class], &[]), condition, NOW)
        .map(|(_, stored)| stored)
}

impl VocabularyRegistry {
    /// Defines a vocabulary as [`VocabularyRegistry::put`] does, on the thread of the caller.
    fn put_blocking(
        &self,
        name: &str,
        definition: impl Into<VocabularyDefinition>,
        condition: impl Fn(Option<&str>) -> bool,
        now: SystemTime,
    ) -> Result<(Arc<NamedVocabulary>, Stored), VocabularyError> {
        let deadline = self.deadline();
        let _turn = self.turn.blocking_lock();
        self.put_now(name, &definition.into(), condition, now, deadline)
    }

    /// Deletes a vocabulary as [`VocabularyRegistry::delete`] does, on the thread of the caller.
    fn delete_blocking(&self, name: &str, condition: impl Fn(Option<&str>) -> bool) -> Result<(), VocabularyError> {
        let deadline = self.deadline();
        let _turn = self.turn.blocking_lock();
        self.delete_now(name, condition, deadline)
    }
}

/// The condition of a caller who accepts any state.
fn always(_: Option<&str>) -> bool {
    true
}

/// The condition of a caller who wants to create a new vocabulary.
fn absent(current: Option<&str>) -> bool {
    current.is_none()
}

#[test]
fn a_vocabulary_is_created_replaced_and_dropped() {
    let registry = registry();
    assert_eq!(put(&registry, "pets", "cat", always), Ok(Stored::Created));
    assert_eq!(put(&registry, "pets", "dog", always), Ok(Stored::Replaced));
    assert_eq!(registry.get("pets").unwrap().list.classes()[0].name, "dog");
    registry.delete_blocking("pets", always).unwrap();
    let missing = VocabularyError::NotFound { name: "pets".into() };
    assert_eq!(registry.get("pets").unwrap_err(), missing);
    assert_eq!(registry.delete_blocking("pets", always), Err(missing));
}

#[test]
fn shipped_ones_come_first_and_cannot_be_changed() {
    let registry = registry();
    put(&registry, "a", "cat", always).unwrap();
    let names: Vec<_> = registry
        .list()
        .iter()
        .map(|vocabulary| vocabulary.name.clone())
        .collect();
    assert_eq!(
        names,
        [
            "ade20k-150",
            "cityscapes-19",
            "clearclip-coco-object-81",
            "clearclip-voc-20",
            "clearclip-voc-21",
            "coco-object-81",
            "coco-stuff-171",
            "pascal-context-459",
            "pascal-context-59",
            "pascal-context-60",
            "sclip-ade20k-150",
            "sclip-cityscapes-19",
            "sclip-coco-object-81",
            "sclip-coco-stuff-171",
            "sclip-pascal-context-59",
            "sclip-pascal-context-60",
            "sclip-voc-20",
            "sclip-voc-21",
            "voc-20",
            "voc-21",
            "a"
        ]
    );
    let read_only = Err(VocabularyError::ReadOnly { name: "voc-20".into() });
    assert_eq!(put(&registry, "voc-20", "cat", always).map(drop), read_only);
    assert_eq!(registry.delete_blocking("voc-20", always), read_only);
}

#[test]
fn there_is_a_limit_that_shipped_ones_and_replacements_do_not_count_towards() {
    let registry = registry();
    put(&registry, "a", "cat", always).unwrap();
    put(&registry, "b", "cat", always).unwrap();
    assert_eq!(
        put(&registry, "c", "cat", always),
        Err(VocabularyError::TooMany { limit: 2 })
    );
    assert_eq!(put(&registry, "a", "dog", always), Ok(Stored::Replaced));
}

#[test]
fn a_name_that_is_no_slug_is_refused() {
    let refused = put(&registry(), "../etc", "cat", always).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("\"../etc\" is no name for a vocabulary"),
        "{refused}"
    );
}

#[test]
fn the_digest_follows_the_content() {
    let registry = registry();
    let digest = |class| {
        registry
            .put_blocking("a", list(&[class], &[]), always, NOW)
            .unwrap()
            .0
            .digest
            .clone()
    };
    let (cat, dog) = (digest("cat"), digest("dog"));
    assert_ne!(cat, dog);
    assert_eq!(digest("cat"), cat);
    assert!(
        cat.len() == 32 && cat.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{cat}"
    );
}

#[test]
fn only_who_knows_the_state_may_change_it() {
    let registry = registry();
    assert_eq!(put(&registry, "a", "cat", absent), Ok(Stored::Created));
    let seen = registry.get("a").unwrap().digest.clone();
    let changed = |current: &str| VocabularyError::Changed {
        name: "a".into(),
        current: Some(current.into()),
    };
    assert_eq!(put(&registry, "a", "dog", absent), Err(changed(&seen)));

    let from_seen = |current: Option<&str>| current == Some(&seen);
    assert_eq!(put(&registry, "a", "dog", from_seen), Ok(Stored::Replaced));
    let now = registry.get("a").unwrap().digest.clone();
    assert_eq!(put(&registry, "a", "cow", from_seen), Err(changed(&now)));
    assert_eq!(registry.delete_blocking("a", from_seen), Err(changed(&now)));
    assert_eq!(registry.delete_blocking("a", always), Ok(()));

    let gone = VocabularyError::Changed {
        name: "a".into(),
        current: None,
    };
    assert_eq!(put(&registry, "a", "cow", from_seen), Err(gone));
}

#[test]
fn only_requests_count_as_hits() {
    let registry = registry();
    registry.get("voc-20").unwrap();
    registry.get_for_request("voc-20").unwrap();
    registry.get_for_request("voc-20").unwrap();
    assert_eq!(registry.get("voc-20").unwrap().hits(), 2);
}

/// Returns the registries of two processes on the same file.
fn two_on_one_disk() -> (tempfile::TempDir, VocabularyRegistry, VocabularyRegistry) {
    let folder = tempfile::tempdir().unwrap();
    let on_disk = || {
        let disk = DiskStore::open(&folder.path().join("store"), 1 << 20).unwrap();
        VocabularyRegistry::new(limits(2), Some(disk), NOW)
    };
    let (one, other) = (on_disk(), on_disk());
    (folder, one, other)
}

#[test]
fn what_was_defined_before_the_start_is_found_while_another_reads_the_disk() {
    let (folder, one, _) = two_on_one_disk();
    put(&one, "pets", "cat", always).unwrap();
    let disk = DiskStore::open(&folder.path().join("store"), 1 << 20).unwrap();
    let started = VocabularyRegistry::new(limits(2), Some(disk), NOW);
    let _reading = started.seen.lock().unwrap();
    assert!(started.list().iter().any(|vocabulary| vocabulary.name == "pets"));
}

#[test]
fn what_one_process_defines_and_drops_the_other_sees() {
    let (_folder, one, other) = two_on_one_disk();
    put(&one, "pets", "cat", always).unwrap();
    let pets = other.get_for_request("pets").unwrap();
    assert_eq!(
        (&pets.list, pets.defined_at, pets.shipped),
        (&one.get("pets").unwrap().list, NOW, false)
    );

    // An unchanged vocabulary keeps its hits.
    put(&one, "trees", "oak", always).unwrap();
    let defined = other.list().iter().filter(|vocabulary| !vocabulary.shipped).count();
    assert_eq!(defined, 2);
    assert_eq!(other.get("pets").unwrap().hits(), 1);
    assert_eq!(
        put(&other, "more", "cat", always),
        Err(VocabularyError::TooMany { limit: 2 })
    );

    other.delete_blocking("pets", always).unwrap();
    assert_eq!(
        one.get("pets").unwrap_err(),
        VocabularyError::NotFound { name: "pets".into() }
    );
    assert_eq!(one.get("trees").unwrap().list.classes()[0].name, "oak");
}

#[test]
fn a_precondition_is_about_what_any_process_has_written() {
    let (_folder, one, other) = two_on_one_disk();
    put(&one, "a", "cat", always).unwrap();
    let seen = other.get("a").unwrap().digest.clone();
    put(&one, "a", "dog", always).unwrap();
    let now = one.get("a").unwrap().digest.clone();
    let changed = Err(VocabularyError::Changed {
        name: "a".into(),
        current: Some(now),
    });
    let from_seen = |current: Option<&str>| current == Some(&seen);
    assert_eq!(put(&other, "a", "cow", from_seen), changed);
    assert_eq!(
        other.delete_blocking("a", from_seen).map(|()| Stored::Replaced),
        changed
    );
}

#[test]
fn of_many_processes_that_create_one_name_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let created = std::thread::scope(|scope| {
        let attempts: Vec<_> = ["cat", "dog", "cow", "hen"]
            .into_iter()
            .map(|class| {
                let path = folder.path().join("store");
                scope.spawn(move || {
                    let disk = DiskStore::open(&path, 1 << 20).unwrap();
                    put(
                        &VocabularyRegistry::new(limits(9), Some(disk), NOW),
                        "pets",
                        class,
                        absent,
                    )
                    .is_ok()
                })
            })
            .collect();
        let outcomes = attempts.into_iter().map(|attempt| attempt.join().unwrap());
        outcomes.filter(|created| *created).count()
    });
    assert_eq!(created, 1);
}

#[test]
fn the_bytes_of_all_definitions_have_a_limit() {
    let one = NamedVocabulary::new("a", list(&["cat"], &[]).into(), false, NOW).bytes;
    let limits = RegistryLimits {
        definitions_bytes: 2 * one + 5,
        ..limits(9)
    };
    let registry = VocabularyRegistry::new(limits, None, NOW);
    put(&registry, "a", "cat", always).unwrap();
    put(&registry, "b", "cat", always).unwrap();
    assert_eq!(registry.size(), (2, 2 * one));
    let refused = put(&registry, "c", "cat", always).unwrap_err();
    assert_eq!(
        refused,
        VocabularyError::TooManyBytes {
            bytes: 3 * one,
            limit: 2 * one + 5
        }
    );
    assert!(
        refused.to_string().contains("vocabulary.definitions_bytes"),
        "{refused}"
    );
    // A definition makes room for its successor.
    assert_eq!(put(&registry, "a", "catfish", always), Ok(Stored::Replaced));
    assert!(put(&registry, "b", "catfish", always).is_err());
    registry.delete_blocking("a", always).unwrap();
    assert_eq!(put(&registry, "c", "cat", always), Ok(Stored::Created));
}

/// Returns a registry on a file, a connection that holds the file, and its folder.
fn held_by_another(wait: Duration) -> (tempfile::TempDir, Arc<VocabularyRegistry>, rusqlite::Connection) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let disk = DiskStore::open(&path, 1 << 20).unwrap();
    let limits = RegistryLimits { wait, ..limits(9) };
    let registry = Arc::new(VocabularyRegistry::new(limits, Some(disk), NOW));
    put(&registry, "pets", "cat", always).unwrap();
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    (folder, registry, holder)
}

#[test]
fn a_change_gives_up_on_a_file_that_another_process_holds() {
    let (_folder, registry, holder) = held_by_another(Duration::ZERO);
    let refused = put(&registry, "trees", "oak", always).unwrap_err();
    assert_eq!(
        refused,
        VocabularyError::StoreBusy {
            name: "trees".into(),
            waited: Duration::ZERO
        }
    );
    assert!(registry.delete_blocking("pets", always).is_err());
    assert_eq!(registry.size().0, 1, "nothing has changed");
    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(put(&registry, "trees", "oak", always), Ok(Stored::Created));
}

#[tokio::test]
async fn who_reads_does_not_wait_for_changes_that_wait_and_they_wait_together() {
    let wait = Duration::from_secs(2);
    let (_folder, registry, holder) = run_blocking(move || held_by_another(wait)).await;
    let start = Instant::now();
    let changes: Vec<_> = (0..20)
        .map(|number| {
            let registry = Arc::clone(&registry);
            let definition = VocabularyDefinition::from(list(&["oak"], &[]));
            tokio::spawn(async move { registry.put(format!("trees-{number}"), definition, always, NOW).await })
        })
        .collect();
    tokio::task::yield_now().await;
    for _ in 0..100 {
        let registry = Arc::clone(&registry);
        run_blocking(move || registry.get("pets").unwrap()).await;
    }
    assert!(start.elapsed() < wait || changes.iter().all(|change| change.is_finished()));
    for change in changes {
        let refused = change.await.unwrap().unwrap_err();
        assert!(matches!(refused, VocabularyError::StoreBusy { .. }), "{refused}");
    }
    // One after the other they would have taken 40 seconds.
    assert!(start.elapsed() < 10 * wait, "{:?}", start.elapsed());
    holder.execute_batch("ROLLBACK").unwrap();
    let definition = VocabularyDefinition::from(list(&["oak"], &[]));
    let (_, stored) = registry.put("trees".into(), definition, always, NOW).await.unwrap();
    assert_eq!(stored, Stored::Created);
    registry.delete("trees".into(), always).await.unwrap();
}

#[test]
fn what_was_defined_survives_the_loss_of_the_file_while_it_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/store");
    let open = || VocabularyRegistry::new(limits(9), Some(DiskStore::open(&path, 1 << 20).unwrap()), NOW);
    let registry = open();
    put(&registry, "pets", "cat", always).unwrap();
    put(&registry, "trees", "oak", always).unwrap();
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert_eq!(put(&registry, "pets", "dog", always), Ok(Stored::Replaced));
    assert_eq!(put(&registry, "fruit", "pear", absent), Ok(Stored::Created));
    assert!(registry.is_durable());
    let first = |registry: &VocabularyRegistry, name: &str| registry.get(name).unwrap().list.classes()[0].name.clone();
    for registry in [&registry, &open()] {
        assert_eq!(registry.size().0.max(registry.list().len() - registry.shipped.len()), 3);
        assert_eq!(
            ["pets", "trees", "fruit"].map(|name| first(registry, name)),
            ["dog", "oak", "pear"]
        );
    }
}

#[test]
fn a_space_has_vocabularies_of_its_own_beside_the_shipped_ones() {
    let registry = VocabularyRegistry::new(limits(100), None, NOW);
    for (name, class) in [
        ("fruit", "common"),
        ("alice/fruit", "hers"),
        ("alice/trees", "hers"),
        ("bob/fruit", "his"),
    ] {
        assert_eq!(put(&registry, name, class, always), Ok(Stored::Created));
    }
    let names = |space| {
        let all = registry
            .list_of(space)
            .into_iter()
            .filter(|vocabulary| !vocabulary.shipped);
        all.map(|vocabulary| vocabulary.local_name().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(None), ["fruit"]);
    assert_eq!(names(Some("alice")), ["fruit", "trees"]);
    assert_eq!(names(Some("carol")), [""; 0]);
    assert_eq!(registry.list_of(Some("carol")).len(), registry.shipped.len());
    assert!(registry.get("alice/voc-20").unwrap().shipped);
    let read_only = put(&registry, "alice/voc-20", "cat", always).unwrap_err();
    assert!(matches!(read_only, VocabularyError::ReadOnly { .. }));
    registry.delete_blocking("alice/fruit", always).unwrap();
    assert_eq!(
        (names(None), names(Some("bob"))),
        (vec!["fruit".to_owned()], vec!["fruit".to_owned()])
    );
    for name in ["alice/", "/fruit", "a/b/c", "Alice/fruit"] {
        let refused = put(&registry, name, "cat", always).unwrap_err();
        assert!(matches!(refused, VocabularyError::InvalidName { .. }), "{name}");
    }
}

#[test]
fn a_space_has_no_more_than_is_left_for_all() {
    let registry = VocabularyRegistry::new(limits(4), None, NOW);
    for name in ["alice/a", "alice/b"] {
        put(&registry, name, "cat", always).unwrap();
    }
    let refused = |name| put(&registry, name, "cat", always).unwrap_err();
    let share = VocabularyError::ShareTaken {
        key: "limits.max_vocabularies",
        limit: 4,
    };
    assert_eq!(refused("alice/c"), share);
    assert_eq!(put(&registry, "alice/a", "dog", always), Ok(Stored::Replaced));
    put(&registry, "bob/a", "cat", always).unwrap();
    assert_eq!(refused("bob/b"), share);
    let limits = RegistryLimits {
        definitions_bytes: registry.size().1,
        ..limits(100)
    };
    let registry = VocabularyRegistry::new(limits, None, NOW);
    put(&registry, "alice/a", "cat", always).unwrap();
    let refused = put(&registry, "alice/b", "cat", always).unwrap_err();
    assert!(matches!(
        refused,
        VocabularyError::ShareTaken {
            key: "vocabulary.definitions_bytes",
            ..
        }
    ));
    put(&registry, "bob/a", "cat", always).unwrap();
}
