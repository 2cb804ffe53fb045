//! Tests of the files: shared between processes, full, damaged at every place, gone, locked, or of another program.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::{Instant, SystemTime};

use super::super::classes::tests::list;
use super::super::embedding::{EmbeddingKey, EmbeddingSpace, TextEmbedding};
use super::super::prompts::TemplateSet;
use super::super::{Class, VocabularyDefinition, VocabularyOptions, VocabularyText};
use super::database::{beside, open_file};
use super::embeddings::Changes;
use super::*;

const ROOMY: u64 = 1 << 30;

/// Returns a folder, and a path for a store in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/store.sqlite3");
    (folder, path)
}

fn key(text: &str) -> EmbeddingKey {
    let space = EmbeddingSpace {
        weights_sha256: "w".into(),
        precision: "float32",
        variant: "".into(),
        templates: TemplateSet::Simple,
        dimension: 256,
    };
    EmbeddingKey::new(&space, text)
}

/// Returns 256 floats that no other text has. Long texts count as truncated.
fn embedding(text: &str) -> TextEmbedding {
    let first: u32 = text.bytes().map(u32::from).sum();
    TextEmbedding {
        vector: (0..256_u16)
            .map(|place| first as f32 + f32::from(place) / 256.0)
            .collect(),
        truncated: text.len() > 8,
    }
}

fn entries(texts: &[String]) -> Vec<(EmbeddingKey, TextEmbedding)> {
    texts.iter().map(|text| (key(text), embedding(text))).collect()
}

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("text {number}")).collect()
}

fn at(hours: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(hours * 3600)
}

fn keys(texts: &[String]) -> Vec<EmbeddingKey> {
    texts.iter().map(|text| key(text)).collect()
}

fn read(store: &Arc<DiskStore>, texts: &[String]) -> Vec<Option<TextEmbedding>> {
    store.read(&keys(texts), at(0))
}

/// Writes embeddings at once.
fn write(store: &DiskStore, texts: &[String], now: SystemTime) -> Result<(), DiskError> {
    let entries = entries(texts).into_iter();
    let changes = Changes {
        entries: entries.map(|(key, embedding)| (key.digest(), embedding)).collect(),
        ..Changes::default()
    };
    store.embeddings.write(&changes, now)
}

/// A time that no test reaches.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn put(store: &DiskStore, definition: &Definition, expected: Option<&str>) -> bool {
    store.definitions().put(definition, expected, soon()).unwrap()
}

fn definitions(store: &DiskStore) -> Vec<Definition> {
    store.definitions().read(&HashMap::new()).unwrap().others
}

fn definition(name: &str, classes: &[&str]) -> Definition {
    Definition {
        name: name.to_owned(),
        vocabulary: VocabularyDefinition {
            list: list(classes, &["sky; #sea"]),
            options: VocabularyOptions {
                background_threshold: Some(0.1),
                ..VocabularyOptions::default()
            },
        },
        defined_at: at(7),
    }
}

/// Returns a definition that takes several pages.
fn long_definition() -> Definition {
    let classes = names(0..5000).into_iter().map(Class::from);
    Definition {
        name: "long".to_owned(),
        vocabulary: VocabularyDefinition::trusted(VocabularyText {
            classes: classes.collect(),
            ..VocabularyText::default()
        }),
        defined_at: at(7),
    }
}

#[test]
fn what_was_written_is_there_after_the_store_has_been_closed() {
    let (_folder, path) = place();
    let texts = ["cat".to_owned(), "a very long text".to_owned()];
    let pets = definition("pets", &["cat; kitty", "dog"]);
    {
        let store = DiskStore::open(&path, ROOMY).unwrap();
        write(&store, &texts, at(0)).unwrap();
        assert!(put(&store, &pets, None));
    }
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let asked = ["a very long text".to_owned(), "dog".to_owned(), "cat".to_owned()];
    assert_eq!(
        read(&store, &asked),
        [Some(embedding("a very long text")), None, Some(embedding("cat"))]
    );
    assert_eq!(store.count(&asked.map(|text| key(&text))), 2);
    assert_eq!(definitions(&store), [pets]);
    store.close();
    let length = |path: &Path| std::fs::metadata(path).unwrap().len();
    assert_eq!(store.bytes(), length(&path) + length(&embeddings_path(&path)));
}

#[test]
fn what_one_process_writes_another_reads_and_is_told_of() {
    let (_folder, path) = place();
    let here = DiskStore::open(&path, ROOMY).unwrap();
    let there = DiskStore::open(&path, ROOMY).unwrap();
    let texts = names(0..3);
    write(&here, &texts, at(0)).unwrap();
    assert_eq!(
        read(&there, &texts),
        texts.iter().map(|text| Some(embedding(text))).collect::<Vec<_>>()
    );

    let seen = there.definitions().mark().unwrap();
    assert_eq!(definitions(&there), []);
    assert_eq!(there.definitions().mark(), Some(seen));
    let pets = definition("pets", &["cat"]);
    put(&here, &pets, None);
    let mark = there.definitions().mark().unwrap();
    assert_ne!(mark, seen);
    let trees = definition("trees", &["oak"]);
    put(&here, &trees, None);
    // What is known is not read again.
    let known = HashMap::from([("pets".to_owned(), pets.vocabulary.digest())]);
    let now = there.definitions().read(&known).unwrap();
    assert_ne!(now.mark, mark);
    assert_eq!((now.unchanged, now.others), (vec!["pets".to_owned()], vec![trees]));
}

#[test]
fn a_definition_is_changed_only_from_the_state_that_was_seen() {
    let (_folder, path) = place();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let (cat, dog) = (definition("pets", &["cat"]), definition("pets", &["dog"]));
    let digest = |definition: &Definition| definition.vocabulary.digest();
    assert!(!put(&store, &dog, Some(&digest(&cat))));
    assert!(put(&store, &cat, None));
    assert!(!put(&store, &dog, None));
    assert!(put(&store, &dog, Some(&digest(&cat))));
    let delete = |definition| store.definitions().delete("pets", &digest(definition), soon()).unwrap();
    assert!(!delete(&cat));
    assert!(delete(&dog));
    assert_eq!(definitions(&store), []);
}

#[test]
fn deletions_of_shared_definitions_are_remembered_until_they_are_forgotten_or_the_name_is_defined_again() {
    let (_folder, path) = place();
    let deleted = |names: &[&str]| {
        let deletion = |name: &&str| Deletion {
            name: (*name).to_owned(),
            version: 1_764_471_234,
        };
        names.iter().map(deletion).collect::<Vec<_>>()
    };
    let remembered = |store: &DiskStore| {
        let mut deletions = store.definitions().deletions();
        deletions.sort_by(|one, other| one.name.cmp(&other.name));
        deletions
    };
    let learn = |store: &DiskStore, learned: Learned| store.definitions().mirror(&learned, soon()).unwrap();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    put(&store, &definition("pets", &["cat"]), None);
    assert_eq!(
        remembered(&store),
        [],
        "a file of earlier versions has no table of them"
    );
    learn(
        &store,
        Learned {
            forgotten: vec!["never".to_owned()],
            ..Learned::default()
        },
    );
    learn(
        &store,
        Learned {
            deleted: deleted(&["pets", "old", "damaged", "again"]),
            ..Learned::default()
        },
    );
    assert_eq!(definitions(&store), []);
    learn(
        &store,
        Learned {
            defined: vec![definition("again", &["oak"])],
            forgotten: vec!["old".to_owned()],
            ..Learned::default()
        },
    );
    store.close();
    let connection = open_file(&path).unwrap();
    let damage = "UPDATE deletions SET version = 1 WHERE name = 'damaged'";
    assert_eq!(connection.execute(damage, []).unwrap(), 1);
    drop(connection);
    let store = DiskStore::open(&path, ROOMY).unwrap();
    assert_eq!(remembered(&store), deleted(&["pets"]));
    assert_eq!(definitions(&store), [definition("again", &["oak"])]);
}

#[test]
fn a_full_file_drops_the_least_recently_used_and_stays_within_its_capacity() {
    let (_folder, path) = place();
    let capacity = 400_000;
    let store = DiskStore::open(&path, capacity).unwrap();
    let first = names(0..20);
    write(&store, &first, at(0)).unwrap();
    for hour in 1..40 {
        let start = 1000 * usize::try_from(hour).unwrap();
        write(&store, &names(start..start + 20), at(hour)).unwrap();
        // The first texts are used again and again, so they outlive younger ones.
        let found = store.read(&keys(&first), at(hour));
        assert!(found.iter().all(Option::is_some), "hour {hour}");
        store.wait_until_written(Duration::from_secs(60));
        let bytes = store.embeddings.bytes();
        assert!(bytes <= capacity, "{bytes} bytes with the log");
    }
    assert!(read(&store, &names(1000..1020)).iter().all(Option::is_none));
    assert!(read(&store, &names(39_000..39_020)).iter().all(Option::is_some));

    // Opening the file with a smaller capacity makes room.
    drop(store);
    let store = DiskStore::open(&path, capacity / 2).unwrap();
    assert!(store.embeddings.bytes() <= capacity / 2);
    store.close();
    assert!(std::fs::metadata(embeddings_path(&path)).unwrap().len() <= capacity / 2);
}

#[test]
fn a_capacity_of_nothing_keeps_nothing_and_fails_nothing() {
    let (_folder, path) = place();
    let store = DiskStore::open(&path, 1).unwrap();
    write(&store, &names(0..40), at(0)).unwrap();
    assert!(read(&store, &names(0..40)).iter().all(Option::is_none));
}

/// Writes a store with 60 embeddings and a definition, and closes it.
fn written() -> (tempfile::TempDir, PathBuf, Vec<String>) {
    let (folder, path) = place();
    let texts = names(0..60);
    let store = DiskStore::open(&path, ROOMY).unwrap();
    write(&store, &texts, at(0)).unwrap();
    put(&store, &definition("pets", &["cat"]), None);
    (folder, path, texts)
}

/// Reads everything, writes it again and reads it again. Every result must be what was written or missing.
fn assert_nothing_wrong(path: &Path, texts: &[String], case: &str) {
    let store = DiskStore::open(path, ROOMY).unwrap_or_else(|error| panic!("{case}: {error}"));
    let right = |found: &[Option<TextEmbedding>]| {
        let wrong = found
            .iter()
            .zip(texts)
            .find(|(found, text)| found.as_ref().is_some_and(|found| *found != embedding(text)));
        assert_eq!(wrong, None, "{case}");
    };
    right(&read(&store, texts));
    for definition in definitions(&store) {
        assert_eq!(definition, self::definition("pets", &["cat"]), "{case}");
    }
    write(&store, texts, at(0)).unwrap_or_else(|error| panic!("{case}: {error}"));
    let found = read(&store, texts);
    right(&found);
    assert!(
        found.iter().all(Option::is_some),
        "{case}: what is written anew is there"
    );
}

#[test]
fn files_cut_off_anywhere_give_nothing_wrong() {
    let (_folder, definitions, texts) = written();
    for path in [&definitions, &embeddings_path(&definitions)] {
        let whole = std::fs::read(path).unwrap();
        let lengths = [0, 1, 50, 100, 5000, 16384, 16385, whole.len() / 2];
        for length in lengths.into_iter().chain([whole.len() - 16384, whole.len() - 1]) {
            std::fs::write(path, &whole[..length]).unwrap();
            let case = format!("{length} of {} bytes of {}", whole.len(), path.display());
            assert_nothing_wrong(&definitions, &texts, &case);
        }
    }
}

#[test]
fn bytes_flipped_anywhere_give_nothing_wrong() {
    let (_folder, definitions, texts) = written();
    for path in [&definitions, &embeddings_path(&definitions)] {
        let whole = std::fs::read(path).unwrap();
        // The bytes that identify the file stay. Without them the file would be another program's.
        let places = (0..whole.len()).step_by(6151).chain([0, 17, 28, 101, 103, 108]);
        for place in places {
            let mut damaged = whole.clone();
            for byte in &mut damaged[place..(place + 3).min(whole.len())] {
                *byte ^= 0x5a;
            }
            std::fs::write(path, &damaged).unwrap();
            assert_nothing_wrong(
                &definitions,
                &texts,
                &format!("bytes from {place} of {}", path.display()),
            );
        }
    }
}

#[test]
fn a_file_of_noise_makes_way_and_definitions_are_kept_beside() {
    let (_folder, path) = place();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let noise: Vec<u8> = (0..60_000_u32)
        .map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(&path, &noise).unwrap();
    std::fs::write(embeddings_path(&path), &noise).unwrap();
    assert_nothing_wrong(&path, &names(0..5), "noise");
    assert_eq!(std::fs::read(beside(&path, ".damaged")).unwrap(), noise);
    assert!(!beside(&embeddings_path(&path), ".damaged").exists());
}

#[test]
fn definitions_damaged_while_they_are_open_make_way_for_what_is_left_of_them() {
    let (_folder, path) = place();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    // The pages of the long definition lie behind those of the first one.
    put(&store, &definition("pets", &["cat"]), None);
    put(&store, &long_definition(), None);
    store.close();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let seen = store.definitions().mark().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let start = bytes.len() - 2 * 16384;
    bytes[start..].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    put(&store, &definition("trees", &["oak"]), None);
    let mut left = definitions(&store);
    left.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(left, [definition("pets", &["cat"]), definition("trees", &["oak"])]);
    assert_ne!(store.definitions().mark().unwrap().rebuilds, seen.rebuilds);
}

#[test]
fn embeddings_damaged_while_they_are_open_make_way() {
    let (_folder, path, texts) = written();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let mut bytes = std::fs::read(embeddings_path(&path)).unwrap();
    let start = bytes.len() - 5 * 16384;
    bytes[start..].fill(0xff);
    std::fs::write(embeddings_path(&path), bytes).unwrap();
    read(&store, &texts);
    write(&store, &texts, at(0)).unwrap();
    assert!(read(&store, &texts).iter().all(Option::is_some));
}

#[test]
fn a_damaged_row_is_dropped_alone() {
    let (_folder, path, texts) = written();
    let change = |path: &Path, change: &str| open_file(path).unwrap().execute(change, []).unwrap();
    change(
        &embeddings_path(&path),
        "UPDATE embeddings SET vector = zeroblob(1024) WHERE rowid = 3",
    );
    change(&path, "UPDATE vocabularies SET classes = 'dog'");
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let missing: Vec<usize> = read(&store, &texts)
        .iter()
        .enumerate()
        .filter_map(|(place, found)| found.is_none().then_some(place))
        .collect();
    assert_eq!(missing, [2]);
    store.wait_until_written(Duration::from_secs(60));
    assert_eq!(store.count(&[key(&texts[2])]), 0, "it is gone");
    assert_eq!(definitions(&store), []);
    assert!(put(&store, &definition("pets", &["cat"]), None), "its name is free");
    assert_eq!(definitions(&store), [definition("pets", &["cat"])]);
}

#[test]
fn an_embedding_under_another_texts_key_is_not_believed() {
    let (_folder, path, texts) = written();
    let swap = "UPDATE embeddings SET (vector, checksum) = (SELECT vector, checksum FROM embeddings WHERE rowid = 2)
                WHERE rowid = 1";
    open_file(&embeddings_path(&path)).unwrap().execute(swap, []).unwrap();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    assert_eq!(read(&store, &texts[..2]), [None, Some(embedding(&texts[1]))]);
}

#[test]
fn another_programs_database_is_left_untouched() {
    let (_folder, path) = place();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let make = |path: &Path| {
        let notes = open_file(path).unwrap();
        notes.execute_batch("CREATE TABLE notes (text)").unwrap();
        drop(notes);
        std::fs::read(path).unwrap()
    };
    let before = make(&path);
    assert!(matches!(DiskStore::open(&path, ROOMY), Err(DiskError::Foreign)));
    assert_eq!(std::fs::read(&path).unwrap(), before);

    // Definitions do without embeddings.
    std::fs::remove_file(&path).unwrap();
    let before = make(&embeddings_path(&path));
    let store = DiskStore::open(&path, ROOMY).unwrap();
    assert!(put(&store, &definition("pets", &["cat"]), None));
    assert!(matches!(write(&store, &names(0..1), at(0)), Err(DiskError::Foreign)));
    assert_eq!(read(&store, &names(0..1)), [None]);
    assert_eq!(std::fs::read(embeddings_path(&path)).unwrap(), before);
}

#[test]
fn definitions_of_another_version_are_refused_and_its_embeddings_made_anew() {
    let (_folder, path, texts) = written();
    let mark = |path: &Path| {
        let file = open_file(path).unwrap();
        file.pragma_update(None, "user_version", 7).unwrap();
    };
    mark(&embeddings_path(&path));
    let store = DiskStore::open(&path, ROOMY).unwrap();
    assert_eq!(definitions(&store), [definition("pets", &["cat"])]);
    assert!(read(&store, &texts).iter().all(Option::is_none));
    write(&store, &texts, at(0)).unwrap();
    assert!(read(&store, &texts).iter().all(Option::is_some));
    store.close();

    mark(&path);
    let before = std::fs::read(&path).unwrap();
    assert_eq!(
        DiskStore::open(&path, ROOMY).unwrap_err().to_string(),
        "its format is 7, and this version of maskclip reads format 1; start the version that wrote it, or name another \
         file"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// Puts the embeddings where earlier versions had them: into a table in the file of definitions.
fn make_one_file(path: &Path) {
    let file = open_file(path).unwrap();
    let attach = format!("ATTACH '{}' AS other", embeddings_path(path).display());
    file.execute_batch(&attach).unwrap();
    file.execute_batch(
        "CREATE TABLE embeddings (
             key BLOB PRIMARY KEY, vector BLOB NOT NULL, truncated INTEGER NOT NULL, checksum BLOB NOT NULL,
             used_at INTEGER NOT NULL
         ) STRICT;
         CREATE INDEX embeddings_by_use ON embeddings (used_at);
         INSERT INTO embeddings SELECT * FROM other.embeddings;
         DETACH other;",
    )
    .unwrap();
    drop(file);
    super::database::remove_files(&embeddings_path(path));
}

#[test]
fn the_one_file_of_earlier_versions_becomes_two_without_loss() {
    let (_folder, path) = place();
    let texts = names(0..2500);
    let pets = definition("pets", &["cat"]);
    {
        let store = DiskStore::open(&path, ROOMY).unwrap();
        write(&store, &texts, at(0)).unwrap();
        put(&store, &pets, None);
    }
    make_one_file(&path);
    let one_file = std::fs::metadata(&path).unwrap().len();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let found = read(&store, &texts);
    assert!(
        found
            .iter()
            .zip(&texts)
            .all(|(found, text)| *found == Some(embedding(text)))
    );
    assert_eq!(definitions(&store), [pets]);
    store.close();
    let definitions = std::fs::metadata(&path).unwrap().len();
    assert!(definitions < one_file / 10, "{definitions} of {one_file} bytes");
}

#[test]
fn embeddings_that_cannot_move_now_move_at_the_next_start() {
    let (_folder, path, texts) = written();
    make_one_file(&path);
    let holder = open_file(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    drop(DiskStore::open(&path, ROOMY).unwrap());
    let left = "SELECT count(*) FROM embeddings";
    let left = |holder: &rusqlite::Connection| holder.query_row(left, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(left(&holder), 60);
    holder.execute_batch("ROLLBACK").unwrap();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    assert_eq!(left(&holder), 0);
    assert!(read(&store, &texts).iter().all(Option::is_some));
}

#[test]
fn files_left_empty_by_a_killed_process_are_filled_again() {
    let (_folder, path, texts) = written();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    open_file(&path)
        .unwrap()
        .execute_batch("DROP TABLE vocabularies")
        .unwrap();
    let embeddings = open_file(&embeddings_path(&path)).unwrap();
    embeddings.execute_batch("DROP TABLE embeddings").unwrap();
    assert!(read(&store, &texts).iter().all(Option::is_none));
    write(&store, &texts, at(0)).unwrap();
    assert!(read(&store, &texts).iter().all(Option::is_some));
    assert!(put(&store, &definition("pets", &["cat"]), None));
    assert_eq!(definitions(&store), [definition("pets", &["cat"])]);
}

#[test]
fn another_process_that_holds_the_files_keeps_nobody_from_reading() {
    let (_folder, path, texts) = written();
    let holders = [&path, &embeddings_path(&path)].map(|path| {
        let holder = open_file(path).unwrap();
        holder.execute_batch("BEGIN IMMEDIATE").unwrap();
        holder
    });
    let store = DiskStore::open(&path, ROOMY).unwrap();
    assert!(read(&store, &texts).iter().all(Option::is_some));
    assert_eq!(definitions(&store), [definition("pets", &["cat"])]);
    let trees = definition("trees", &["oak"]);
    let refused = store.definitions().put(&trees, None, Instant::now()).unwrap_err();
    assert!(refused.is_busy(), "{refused}");

    // Embeddings are given up and go on counting as embedded.
    let more = names(100..103);
    store.write_behind(entries(&more));
    store.wait_until_written(Duration::from_secs(60));
    assert_eq!((store.given_up(), store.count_unwritten(keys(&more).iter())), (3, 0));
    assert!(read(&store, &more).iter().all(Option::is_none));

    for holder in holders {
        holder.execute_batch("ROLLBACK").unwrap();
    }
    assert!(put(&store, &trees, None));
    store.write_behind(entries(&more));
    store.wait_until_written(Duration::from_secs(60));
    assert!(read(&store, &more).iter().all(Option::is_some));
}

#[test]
fn a_full_disk_refuses_changes_by_name_and_reads_on() {
    let (_folder, path, texts) = written();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    store.definitions.0.limit_pages(1);
    let refused = store.definitions().put(&long_definition(), None, soon()).unwrap_err();
    assert!(refused.is_full() && !refused.is_busy());
    assert_eq!(refused.to_string(), "database or disk is full (SQLite's code 13)");
    assert_eq!(definitions(&store), [definition("pets", &["cat"])]);
    assert!(read(&store, &texts).iter().all(Option::is_some));
    store.definitions.0.limit_pages(1 << 20);
    assert!(put(&store, &long_definition(), None));
}

#[test]
fn a_deleted_store_is_made_anew_by_the_next_write() {
    for all in [false, true] {
        let (_folder, path, texts) = written();
        let store = DiskStore::open(&path, ROOMY).unwrap();
        // A log with content is left behind.
        assert!(put(&store, &definition("trees", &["oak"]), None));
        write(&store, &texts, at(1)).unwrap();
        match all {
            true => std::fs::remove_dir_all(path.parent().unwrap()).unwrap(),
            false => {
                for path in [&path, &embeddings_path(&path)] {
                    std::fs::remove_file(path).unwrap();
                }
            }
        }
        let cats = definition("cats", &["cat"]);
        assert!(put(&store, &cats, None), "{all}");
        write(&store, &texts, at(0)).unwrap();
        let known = [definition("pets", &["cat"]), definition("cats", &["dog"])];
        assert_eq!(store.definitions().restore(&known, soon()).unwrap(), 1);
        let other = DiskStore::open(&path, ROOMY).unwrap();
        for store in [&store, &other] {
            assert_eq!(definitions(store), [cats.clone(), definition("pets", &["cat"])]);
            assert!(read(store, &texts).iter().all(Option::is_some));
        }
    }
}

#[test]
fn a_replaced_store_is_opened_without_the_log_of_the_old_one() {
    let (folder, path, _) = written();
    let backup = folder.path().join("backup");
    std::fs::copy(&path, &backup).unwrap();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let seen = store.definitions().mark().unwrap();
    assert!(put(&store, &long_definition(), None));
    std::fs::rename(&backup, &path).unwrap();
    assert!(put(&store, &definition("trees", &["oak"]), None));
    assert_ne!(store.definitions().mark().unwrap().rebuilds, seen.rebuilds);
    let pets_and_trees = [definition("pets", &["cat"]), definition("trees", &["oak"])];
    assert_eq!(definitions(&store), pets_and_trees);
    store.close();
    let check = open_file(&path).unwrap();
    let check = check.pragma_query_value(None, "integrity_check", |row| row.get::<_, String>(0));
    assert_eq!(check.unwrap(), "ok");
    assert_eq!(definitions(&DiskStore::open(&path, ROOMY).unwrap()), pets_and_trees);
}

#[test]
fn readers_notice_in_a_while_that_the_store_is_gone() {
    let (_folder, path, _) = written();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let seen = store.definitions().mark().unwrap();
    std::fs::remove_file(&path).unwrap();
    let start = Instant::now();
    while store.definitions().mark().unwrap().rebuilds == seen.rebuilds {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(path.exists());
}

#[test]
fn a_closed_store_refuses_everything() {
    let (_folder, path, texts) = written();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    store.write_behind(entries(&names(100..140)));
    store.close();
    for file in [&path, &embeddings_path(&path)] {
        assert!(!beside(file, "-wal").exists(), "all is in the file");
    }
    assert!(!store.definitions().is_open());
    assert!(read(&store, &texts).iter().all(Option::is_none));
    let refused = store.definitions().put(&definition("trees", &["oak"]), None, soon());
    assert!(matches!(refused, Err(DiskError::Closed)));
    let store = DiskStore::open(&path, ROOMY).unwrap();
    assert!(
        read(&store, &names(100..140)).iter().all(Option::is_some),
        "what waited was written"
    );
}

#[test]
fn many_stores_write_one_file_at_a_time() {
    let (_folder, path) = place();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let path = path.clone();
            std::thread::spawn(move || {
                let store = DiskStore::open(&path, ROOMY).unwrap();
                for chunk in 0..10 {
                    let start = writer * 100 + chunk * 10;
                    write(&store, &names(start..start + 10), at(0)).unwrap();
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let store = DiskStore::open(&path, ROOMY).unwrap();
    assert!(read(&store, &names(0..400)).iter().all(Option::is_some));
}

/// Each store finds the file absent, incomplete or complete, and all of them open.
#[test]
fn many_stores_make_one_new_file_at_a_time() {
    const STORES: usize = 8;
    for round in 0..12 {
        let (_folder, path) = place();
        let start = std::sync::Barrier::new(STORES);
        std::thread::scope(|scope| {
            for _ in 0..STORES {
                scope.spawn(|| {
                    start.wait();
                    if let Err(error) = DiskStore::open(&path, ROOMY) {
                        panic!("round {round}: {error}");
                    }
                });
            }
        });
    }
}
