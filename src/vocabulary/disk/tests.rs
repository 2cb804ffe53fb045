//! Tests of the file: shared between processes, full, damaged at every place, or of another program.
#![allow(clippy::unwrap_used)]

use std::time::SystemTime;

use super::super::classes::tests::list;
use super::super::embedding::{EmbeddingKey, EmbeddingSpace, TextEmbedding};
use super::super::prompts::TemplateSet;
use super::super::{VocabularyDefinition, VocabularyOptions};
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
        templates: TemplateSet::Simple,
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

fn read(store: &DiskStore, texts: &[String]) -> Vec<Option<TextEmbedding>> {
    let keys: Vec<_> = texts.iter().map(|text| key(text)).collect();
    store.read(&keys, at(0)).unwrap()
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

#[test]
fn what_was_written_is_there_after_the_store_has_been_closed() {
    let (_folder, path) = place();
    let texts = ["cat".to_owned(), "a very long text".to_owned()];
    let pets = definition("pets", &["cat; kitty", "dog"]);
    {
        let store = DiskStore::open(&path, ROOMY).unwrap();
        store.write(&entries(&texts), at(0)).unwrap();
        assert!(store.put_definition(&pets, None).unwrap());
    }
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let asked = ["a very long text".to_owned(), "dog".to_owned(), "cat".to_owned()];
    assert_eq!(
        read(&store, &asked),
        [Some(embedding("a very long text")), None, Some(embedding("cat"))]
    );
    assert_eq!(store.count(&asked.map(|text| key(&text))).unwrap(), 2);
    assert_eq!(store.definitions_since(None).unwrap().unwrap().1, [pets]);
    assert_eq!(store.bytes(), std::fs::metadata(&path).unwrap().len());
}

#[test]
fn what_one_process_writes_another_reads_and_is_told_of() {
    let (_folder, path) = place();
    let here = DiskStore::open(&path, ROOMY).unwrap();
    let there = DiskStore::open(&path, ROOMY).unwrap();
    let texts = names(0..3);
    here.write(&entries(&texts), at(0)).unwrap();
    assert_eq!(
        read(&there, &texts),
        texts.iter().map(|text| Some(embedding(text))).collect::<Vec<_>>()
    );

    let (seen, none) = there.definitions_since(None).unwrap().unwrap();
    assert_eq!(none, []);
    assert_eq!(there.definitions_since(Some(seen)).unwrap(), None);
    let pets = definition("pets", &["cat"]);
    here.put_definition(&pets, None).unwrap();
    assert_eq!(there.definitions_since(Some(seen)).unwrap().unwrap().1, [pets]);
}

#[test]
fn a_definition_is_changed_only_from_the_state_that_was_seen() {
    let (_folder, path) = place();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let (cat, dog) = (definition("pets", &["cat"]), definition("pets", &["dog"]));
    let digest = |definition: &Definition| definition.vocabulary.digest();
    assert!(!store.put_definition(&dog, Some(&digest(&cat))).unwrap());
    assert!(store.put_definition(&cat, None).unwrap());
    assert!(!store.put_definition(&dog, None).unwrap());
    assert!(store.put_definition(&dog, Some(&digest(&cat))).unwrap());
    assert!(!store.delete_definition("pets", &digest(&cat)).unwrap());
    assert!(store.delete_definition("pets", &digest(&dog)).unwrap());
    assert_eq!(store.definitions_since(None).unwrap().unwrap().1, []);
}

#[test]
fn a_full_file_drops_the_least_recently_used_and_stays_within_its_capacity() {
    let (_folder, path) = place();
    let capacity = 400_000;
    let store = DiskStore::open(&path, capacity).unwrap();
    let first = names(0..20);
    store.write(&entries(&first), at(0)).unwrap();
    for hour in 1..40 {
        let start = 1000 * usize::try_from(hour).unwrap();
        store.write(&entries(&names(start..start + 20)), at(hour)).unwrap();
        // The first texts are used again and again, so they outlive younger ones.
        let keys: Vec<_> = first.iter().map(|text| key(text)).collect();
        assert!(
            store.read(&keys, at(hour)).unwrap().iter().all(Option::is_some),
            "hour {hour}"
        );
        assert!(store.bytes() <= capacity, "{} bytes", store.bytes());
    }
    assert!(read(&store, &names(1000..1020)).iter().all(Option::is_none));
    assert!(read(&store, &names(39_000..39_020)).iter().all(Option::is_some));

    // Opening the file with a smaller capacity makes room.
    drop(store);
    let store = DiskStore::open(&path, capacity / 2).unwrap();
    assert!(store.bytes() <= capacity / 2);
    drop(store);
    assert!(std::fs::metadata(&path).unwrap().len() <= capacity / 2);
}

#[test]
fn a_capacity_of_nothing_keeps_nothing_and_fails_nothing() {
    let (_folder, path) = place();
    let store = DiskStore::open(&path, 1).unwrap();
    store.write(&entries(&names(0..40)), at(0)).unwrap();
    assert!(read(&store, &names(0..40)).iter().all(Option::is_none));
}

/// Writes a store with 60 embeddings and a definition, and closes it.
fn written() -> (tempfile::TempDir, PathBuf, Vec<String>) {
    let (folder, path) = place();
    let texts = names(0..60);
    let store = DiskStore::open(&path, ROOMY).unwrap();
    store.write(&entries(&texts), at(0)).unwrap();
    store.put_definition(&definition("pets", &["cat"]), None).unwrap();
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
    for definition in store.definitions_since(None).unwrap().unwrap().1 {
        assert_eq!(definition, self::definition("pets", &["cat"]), "{case}");
    }
    store
        .write(&entries(texts), at(0))
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    let found = read(&store, texts);
    right(&found);
    assert!(
        found.iter().all(Option::is_some),
        "{case}: what is written anew is there"
    );
}

#[test]
fn a_file_cut_off_anywhere_gives_nothing_wrong() {
    let (_folder, path, texts) = written();
    let whole = std::fs::read(&path).unwrap();
    for length in [
        0,
        1,
        50,
        100,
        5000,
        16384,
        16385,
        whole.len() / 2,
        whole.len() - 16384,
        whole.len() - 1,
    ] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert_nothing_wrong(&path, &texts, &format!("{length} of {} bytes", whole.len()));
    }
}

#[test]
fn bytes_flipped_anywhere_give_nothing_wrong() {
    let (_folder, path, texts) = written();
    let whole = std::fs::read(&path).unwrap();
    // The bytes that identify the file stay. Without them the file would be another program's.
    let places = (0..whole.len()).step_by(6151).chain([0, 17, 28, 101, 103, 108]);
    for place in places {
        let mut damaged = whole.clone();
        for byte in &mut damaged[place..(place + 3).min(whole.len())] {
            *byte ^= 0x5a;
        }
        std::fs::write(&path, &damaged).unwrap();
        assert_nothing_wrong(&path, &texts, &format!("bytes from {place}"));
    }
}

#[test]
fn a_file_of_noise_makes_way_and_is_kept_beside() {
    let (_folder, path) = place();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let noise: Vec<u8> = (0..60_000_u32)
        .map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(&path, &noise).unwrap();
    assert_nothing_wrong(&path, &names(0..5), "noise");
    assert_eq!(std::fs::read(path.with_extension("sqlite3.damaged")).unwrap(), noise);
}

#[test]
fn a_file_damaged_while_it_is_open_makes_way_and_keeps_its_definitions() {
    let (_folder, path, texts) = written();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let (seen, _) = store.definitions_since(None).unwrap().unwrap();
    // Damages the last pages. The definitions were written first, so their pages stay.
    let mut bytes = std::fs::read(&path).unwrap();
    let start = bytes.len() - 5 * 16384;
    bytes[start..].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    read(&store, &texts);
    store.write(&entries(&texts), at(0)).unwrap();
    assert!(read(&store, &texts).iter().all(Option::is_some));
    let (mark, definitions) = store.definitions_since(Some(seen)).unwrap().unwrap();
    assert_ne!(mark, seen);
    assert_eq!(definitions, [definition("pets", &["cat"])]);
}

#[test]
fn a_damaged_row_is_dropped_alone() {
    let (_folder, path, texts) = written();
    let outsider = open_file(&path).unwrap();
    outsider
        .execute("UPDATE embeddings SET vector = zeroblob(1024) WHERE rowid = 3", [])
        .unwrap();
    outsider.execute("UPDATE vocabularies SET classes = 'dog'", []).unwrap();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let missing: Vec<usize> = read(&store, &texts)
        .iter()
        .enumerate()
        .filter_map(|(place, found)| found.is_none().then_some(place))
        .collect();
    assert_eq!(missing, [2]);
    assert_eq!(store.count(&[key(&texts[2])]).unwrap(), 0, "it is gone");
    assert_eq!(store.definitions_since(None).unwrap().unwrap().1, []);
    assert!(
        store.put_definition(&definition("pets", &["cat"]), None).unwrap(),
        "its name is free"
    );
}

#[test]
fn an_embedding_under_another_texts_key_is_not_believed() {
    let (_folder, path, texts) = written();
    let swap = "UPDATE embeddings SET (vector, checksum) = (SELECT vector, checksum FROM embeddings WHERE rowid = 2)
                WHERE rowid = 1";
    open_file(&path).unwrap().execute(swap, []).unwrap();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    assert_eq!(read(&store, &texts[..2]), [None, Some(embedding(&texts[1]))]);
}

#[test]
fn another_programs_database_is_refused_untouched() {
    let (_folder, path) = place();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    open_file(&path)
        .unwrap()
        .execute_batch("CREATE TABLE notes (text)")
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(DiskStore::open(&path, ROOMY), Err(DiskError::Foreign)));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn another_versions_file_is_refused_with_both_versions() {
    let (_folder, path, _) = written();
    open_file(&path)
        .unwrap()
        .pragma_update(None, "user_version", 7)
        .unwrap();
    assert_eq!(
        DiskStore::open(&path, ROOMY).unwrap_err().to_string(),
        "the file's format is 7, this build's is 1; remove the file or name another"
    );
}

#[test]
fn a_file_left_empty_by_a_killed_process_is_filled_again() {
    let (_folder, path, texts) = written();
    let store = DiskStore::open(&path, ROOMY).unwrap();
    let other = open_file(&path).unwrap();
    other
        .execute_batch("DROP TABLE embeddings; DROP TABLE vocabularies")
        .unwrap();
    assert!(read(&store, &texts).iter().all(Option::is_none));
    store.write(&entries(&texts), at(0)).unwrap();
    assert!(read(&store, &texts).iter().all(Option::is_some));
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
                    store.write(&entries(&names(start..start + 10)), at(0)).unwrap();
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
