//! The rules between rooms, and between rooms and crates. Each rule returns its violations, one line each.

use std::collections::{BTreeMap, BTreeSet};

use crate::resolve::{Found, Use};
use crate::rooms::Table;
use crate::sources::{Files, Source};

/// The rooms that each room uses, by the code.
pub(crate) fn used(source: &Source) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for use_ in source.uses() {
        if let Some((room, other)) = other_room(source, &use_) {
            used.entry(room).or_default().insert(other);
        }
    }
    used
}

/// The room that uses, and the first other room on the way of what it uses.
fn other_room<'a>(source: &'a Source, use_: &Use<'_>) -> Option<(&'a str, &'a str)> {
    let room = source.room(use_.module)?;
    let mut rooms = use_.resolved.through.iter().filter_map(|&module| source.room(module));
    rooms.find(|&other| other != room).map(|other| (room, other))
}

/// Files that no module declares.
pub(crate) fn strangers(files: &Files, source: &Source) -> Vec<String> {
    let known: BTreeSet<&str> = source.modules.iter().map(|module| &*module.file).collect();
    let strangers = files.names().filter(|name| !known.contains(name));
    strangers
        .map(|name| format!("{name}: no module declares this file"))
        .collect()
}

/// Rooms that list a room above them, or themselves. Without these, the table has no circle.
pub(crate) fn upward(table: &Table) -> Vec<String> {
    let mut violations = Vec::new();
    for (place, (name, uses)) in table.iter().enumerate() {
        for other in uses.split_whitespace() {
            if table[place + 1..].iter().all(|(below, _)| *below != other) {
                violations.push(format!(
                    "rooms.rs: `{name}` lists `{other}`, which does not stand below `{name}`"
                ));
            }
        }
    }
    violations
}

/// Uses of rooms that the table does not list, and what the table lists in vain.
pub(crate) fn rooms(source: &Source, table: &Table) -> Vec<String> {
    let mut violations = Vec::new();
    let rooms: BTreeSet<&str> = (0..source.modules.len())
        .filter_map(|module| source.room(module))
        .collect();
    for room in rooms.iter().filter(|&room| table.iter().all(|(name, _)| name != room)) {
        violations.push(format!("rooms.rs: the table does not have the room `{room}` of src"));
    }
    for (room, _) in table.iter().filter(|(room, _)| !rooms.contains(room)) {
        violations.push(format!("rooms.rs: src does not have the room `{room}` of the table"));
    }
    for use_ in source.uses().filter(|use_| use_.is_spelled_out) {
        if let Some((room, other)) = other_room(source, &use_)
            && let Some((_, allowed)) = table.iter().find(|(name, _)| *name == room)
            && !allowed.split_whitespace().any(|name| name == other)
        {
            let place = use_.place(source);
            violations.push(format!(
                "{place}: the room `{room}` may not use `{other}`, only: {allowed}"
            ));
        }
    }
    let used = used(source);
    for (room, allowed) in table.iter().filter(|(room, _)| rooms.contains(room)) {
        for other in allowed
            .split_whitespace()
            .filter(|other| !used.get(room).is_some_and(|used| used.contains(other)))
        {
            violations.push(format!("rooms.rs: `{room}` lists `{other}`, but does not use it"));
        }
    }
    violations
}

/// Names of crates outside the rooms that may know them, and permissions that no room needs.
pub(crate) fn crates(source: &Source, table: &Table) -> Vec<String> {
    let mut violations = Vec::new();
    let mut needed = BTreeSet::new();
    for use_ in source.uses() {
        let Found::Crate(name) = &use_.resolved.found else {
            continue;
        };
        let Some((guarded, rooms)) = table.iter().find(|(guarded, _)| is_of(name, guarded)) else {
            continue;
        };
        let room = source.room(use_.module).unwrap_or("lib.rs");
        needed.insert((*guarded, room));
        if !rooms.split_whitespace().any(|name| name == room) && use_.is_spelled_out {
            let place = use_.place(source);
            violations.push(format!(
                "{place}: the room `{room}` may not name `{guarded}`, only: {rooms}"
            ));
        }
    }
    for (guarded, rooms) in table {
        for room in rooms
            .split_whitespace()
            .filter(|room| !needed.contains(&(*guarded, *room)))
        {
            violations.push(format!("rooms.rs: `{room}` may name `{guarded}`, but does not"));
        }
    }
    violations
}

/// Whether a crate is the guarded one or one of its kin: `utoipa_axum` is of `utoipa`.
fn is_of(name: &str, guarded: &str) -> bool {
    name.strip_prefix(guarded)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &Table = &[("engine", "image support"), ("image", "support"), ("support", "")];

    /// The library of three rooms that keep to the table, but for `image`.
    fn source(image: &str) -> Source {
        Source::read(
            &Files::given(&[
                ("src/lib.rs", "pub mod engine; pub mod image; mod support;"),
                (
                    "src/engine/mod.rs",
                    "mod queue; pub use queue::Queue; use crate::{image, support::Cache};",
                ),
                ("src/engine/queue.rs", "pub struct Queue;"),
                ("src/image.rs", image),
                ("src/support.rs", "pub struct Cache; macro_rules! keep { () => {}; }"),
            ]),
            "src/lib.rs",
        )
    }

    /// What the table says of a library whose `image` is given, without the name of the room.
    fn violations(image: &str) -> Vec<String> {
        rooms(&source(image), TABLE)
    }

    #[test]
    fn a_library_that_keeps_to_its_table_passes() {
        assert_eq!(violations("use crate::support::Cache;"), [""; 0]);
        assert_eq!(upward(TABLE), [""; 0]);
    }

    #[test]
    fn a_wrong_import_is_told_with_file_line_path_and_rule() {
        assert_eq!(
            violations("use crate::support::Cache;\n\nuse crate::engine::Queue;"),
            ["src/image.rs:3: `crate::engine::Queue`: the room `image` may not use `engine`, only: support"]
        );
    }

    /// Every way to write a use of `engine::Queue` in `image`.
    #[test]
    fn a_use_is_seen_however_it_is_written() {
        for code in [
            "use crate::{support, engine::{self, Queue}};",
            "use super::engine::Queue as Line;",
            "use crate::engine::*;",
            "use crate as library; use library::engine::Queue;",
            "fn f() { use crate::engine; engine::start() }",
            "fn f() -> Option<crate::engine::Queue> { None }",
            "fn f() { crate::engine::Queue::new(); }",
            "fn f<T: crate::engine::Ask>() {}",
            "impl From<u8> for crate::engine::Queue {}",
            "fn f() { println!(\"{}\", 1 + g(crate::engine::Queue)) }",
            "macro_rules! queue { ($name:ident) => { $crate::engine::$name } }",
            "macro_rules! queue { () => { use crate::{support, engine::Queue}; } }",
            "fn f() { crate::engine::queue!() }",
            "#[derive(crate::engine::Ask)] struct S;",
            "#[serde(default = \"crate::engine::default\")] struct S;",
            "#[serde(with = \"super::engine::seconds\")] struct S;",
            "#[cfg(test)] mod tests { use super::super::engine::Queue; }",
            "#[test] fn f() { crate::engine::Queue; }",
            "pub mod inner { pub mod deep { pub use super::super::super::engine::Queue; } }",
        ] {
            let violations = violations(&format!("use crate::support::Cache; {code}"));
            assert!(!violations.is_empty(), "{code}");
            for violation in violations {
                assert!(
                    violation.contains("the room `image` may not use `engine`"),
                    "{code}: {violation}"
                );
            }
        }
    }

    #[test]
    fn what_only_looks_like_a_use_is_none() {
        for code in [
            "//! See [`crate::engine::Queue`].",
            "pub(in crate::image) struct Pixels;",
            "/// [`engine`](crate::engine)\nfn f() { let engine = 1; }",
            "fn f() { println!(\"crate::engine::Queue\") }",
            "mod engine {} use self::engine as own;",
            "use image::engine::Other;",
        ] {
            assert_eq!(
                violations(&format!("{code}\nuse crate::support::Cache;")),
                [""; 0],
                "{code}"
            );
        }
    }

    #[test]
    fn the_table_has_all_rooms_and_no_others() {
        let source = source("use crate::support::Cache;");
        let table = [TABLE[0], TABLE[2]];
        assert_eq!(
            rooms(&source, &table),
            ["rooms.rs: the table does not have the room `image` of src"]
        );
        let table = [&[("attic", "")], TABLE].concat();
        assert_eq!(
            rooms(&source, &table),
            ["rooms.rs: src does not have the room `attic` of the table"]
        );
    }

    #[test]
    fn a_permission_that_nobody_uses_is_stale() {
        assert_eq!(
            violations(""),
            ["rooms.rs: `image` lists `support`, but does not use it"]
        );
    }

    #[test]
    fn a_circle_in_the_table_points_upwards() {
        let table = [("a", "b"), ("b", "a")];
        assert_eq!(
            upward(&table),
            ["rooms.rs: `b` lists `a`, which does not stand below `b`"]
        );
        let table = [("a", "a")];
        assert_eq!(
            upward(&table),
            ["rooms.rs: `a` lists `a`, which does not stand below `a`"]
        );
    }

    #[test]
    fn a_file_that_no_module_declares_is_a_stranger() {
        let files = Files::given(&[
            ("src/lib.rs", "mod a;"),
            ("src/a.rs", ""),
            ("src/main.rs", ""),
            ("src/b.rs", ""),
        ]);
        let found = strangers(&files, &Source::read(&files, "src/lib.rs"));
        assert_eq!(found, ["src/b.rs: no module declares this file"]);
    }

    #[test]
    fn a_guarded_crate_is_seen_with_its_kin() {
        let table: &Table = &[("tch", "engine"), ("utoipa", "")];
        let engine = "engine"; // Not named there: the permission is stale.
        for (code, expected) in [
            (
                "use tch::Tensor;",
                "`tch::Tensor`: the room `image` may not name `tch`, only: engine",
            ),
            (
                "fn f() { ::tch::manual_seed(1) }",
                "`::tch::manual_seed`: the room `image` may not name `tch`, only: engine",
            ),
            (
                "#[derive(utoipa::ToSchema)] struct S;",
                "`utoipa::ToSchema`: the room `image` may not name `utoipa`, only: ",
            ),
            (
                "use utoipa_axum::routes;",
                "`utoipa_axum::routes`: the room `image` may not name `utoipa`, only: ",
            ),
        ] {
            let stale = format!("rooms.rs: `{engine}` may name `tch`, but does not");
            assert_eq!(
                crates(&source(code), table),
                [format!("src/image.rs:1: {expected}"), stale],
                "{code}"
            );
        }
        // Neither kin nor a crate.
        let table: &Table = &[("tch", ""), ("support", "")];
        let code = "use tchotchke::x; use crate::support; fn f() { support::g() }";
        assert_eq!(crates(&source(code), table), [""; 0]);
    }
}
