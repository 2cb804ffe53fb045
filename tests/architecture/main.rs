//! The rooms of the library as a specification: which room may use which, read from the sources themselves.
//!
//! This program reads the sources as text. It uses neither the library nor libtorch.
#![allow(clippy::unwrap_used, missing_docs)]

mod circles;
mod dependencies;
mod diagram;
mod metrics;
mod owners;
mod resolve;
mod rooms;
mod rules;
mod sources;

use std::path::Path;
use std::sync::LazyLock;

use rooms::{CRATES, OWNERS, ROOMS};
use sources::{Files, Source};

/// The folder of this package.
fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

static LIBRARY: LazyLock<Source> = LazyLock::new(|| Source::read(&Files::below(package(), "src"), "src/lib.rs"));

/// Fails with one violation a line.
#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn every_file_of_src_belongs_to_the_library() {
    assert_none(&rules::strangers(&Files::below(package(), "src"), &LIBRARY));
}

#[test]
fn every_room_lists_only_rooms_below_it() {
    assert_none(&rules::upward(ROOMS));
}

#[test]
fn every_room_uses_what_the_table_says() {
    assert_none(&rules::rooms(&LIBRARY, ROOMS));
}

#[test]
fn a_crate_is_named_only_in_the_rooms_that_may_know_it() {
    assert_none(&rules::crates(&LIBRARY, CRATES));
}

#[test]
fn no_modules_of_a_room_use_each_other_in_a_circle() {
    assert_none(&circles::circles(&LIBRARY));
}

#[test]
fn what_people_give_is_read_in_one_place() {
    assert_none(&owners::violations(&Files::below(package(), "src"), &LIBRARY, OWNERS));
}

#[test]
fn every_dependency_is_used() {
    assert_none(&dependencies::unused(package()));
}

#[test]
fn the_document_shows_the_rooms() {
    let path = package().join("docs/architecture.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let current = diagram::with_block(&document, &diagram::print(&LIBRARY, ROOMS));
    if std::env::var_os("UPDATE_ARCHITECTURE").is_some() {
        std::fs::write(&path, &current).unwrap();
        return;
    }
    assert!(
        document == current,
        "docs/architecture.md does not show the rooms of the code; run: make architecture"
    );
}

#[test]
fn the_book_lists_the_metrics() {
    let path = package().join("docs/metrics.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (words, _) = page.split_once(metrics::MARK).expect("the page has the mark");
    let table = metrics::table(&metrics::registered(&Files::below(package(), "src")));
    let current = [words, metrics::MARK, &table].concat();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &current).unwrap();
        return;
    }
    assert!(
        page == current,
        "docs/metrics.md does not list the metrics of the code; run: make reference"
    );
}
