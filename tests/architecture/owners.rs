//! Work that is done in one place: names of functions and types that only some files may write.
//!
//! What an import is called does not matter here: a name counts wherever it stands, in a `use`, a path, a method or a
//! macro. A name of two parts, as in `image::open`, counts where one part follows the other. Code that exists for tests
//! alone does not count.

use std::collections::BTreeSet;

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Macro};

use crate::rooms::Owned;
use crate::sources::{Files, Source, is_for_tests};

/// Names outside the files that own them, and owners that do not write any of the names.
pub(crate) fn violations(files: &Files, source: &Source, table: &[Owned]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut owners = BTreeSet::new();
    let product = source
        .modules
        .iter()
        .filter(|module| module.has_file && !module.test_only);
    for module in product {
        let names = names(files.text(&module.file));
        let before = std::iter::once("").chain(names.iter().map(|(_, name)| &**name));
        for ((line, name), before) in names.iter().zip(before) {
            let path = format!("{before}::{name}");
            let is_written = |owned: &&Owned| owned.names.iter().any(|one| *one == name || *one == path);
            let owned = table.iter().filter(is_written);
            for Owned { work, files, .. } in owned {
                if files.contains(&&*module.file) {
                    owners.insert((*work, module.file.clone()));
                } else {
                    let file = &module.file;
                    let files = files.join(" ");
                    violations.push(format!("{file}:{line}: `{name}`: {work} is the work of {files} alone"));
                }
            }
        }
    }
    for Owned { work, files, .. } in table {
        for file in files
            .iter()
            .filter(|file| !owners.contains(&(*work, (**file).to_owned())))
        {
            violations.push(format!("rooms.rs: `{file}` may do this, but does not: {work}"));
        }
    }
    violations
}

/// Every name in a file, outside tests and documentation, with its line.
fn names(text: &str) -> Vec<(usize, String)> {
    let mut names = Names(Vec::new());
    names.visit_file(&syn::parse_file(text).unwrap());
    names.0
}

struct Names(Vec<(usize, String)>);

impl Names {
    fn note(&mut self, name: &Ident) {
        self.0.push((name.span().start().line, name.unraw().to_string()));
    }

    fn read_tokens(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.read_tokens(group.stream()),
                TokenTree::Ident(name) => self.note(&name),
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_ident(&mut self, name: &'ast Ident) {
        self.note(name);
    }

    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.visit_path(&call.path);
        self.read_tokens(call.tokens.clone());
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Owned] = &[Owned {
        work: "listing folders",
        names: &["read_dir", "WalkDir", "glob::glob"],
        files: &["src/folder.rs"],
    }];

    fn found(other: &str) -> Vec<String> {
        let files = Files::given(&[
            ("src/lib.rs", "mod folder; mod other;"),
            ("src/folder.rs", "fn walk() { std::fs::read_dir(\"/\"); }"),
            ("src/other.rs", other),
        ]);
        violations(&files, &Source::read(&files, "src/lib.rs"), TABLE)
    }

    #[test]
    fn a_name_is_seen_however_it_is_written() {
        for code in [
            "use std::fs::read_dir as list;",
            "fn f() { std::fs::read_dir(\"/\"); }",
            "fn f(path: &Path) { path.read_dir(); }",
            "fn f() { println!(\"{}\", g(fs::read_dir(\"/\"))) }",
            "fn f() -> walkdir::WalkDir { g() }",
            "fn f() { ::glob::glob(\"*\"); }",
            "use glob::{glob, Pattern};",
        ] {
            let found = found(code);
            assert_eq!(found.len(), 1, "{code}: {found:?}");
            assert!(found[0].starts_with("src/other.rs:1: `"), "{code}: {found:?}");
            assert!(found[0].ends_with("`: listing folders is the work of src/folder.rs alone"));
        }
    }

    #[test]
    fn tests_and_texts_do_not_count() {
        for code in [
            "/// Calls [`read_dir`](std::fs::read_dir).\nfn f() { \"read_dir\"; }",
            "#[cfg(test)] mod tests { fn f() { std::fs::read_dir(\"/\"); } }",
            "#[cfg(test)] fn f() { std::fs::read_dir(\"/\"); }",
            "use glob::Pattern; fn glob() {}",
        ] {
            assert_eq!(found(code), [""; 0], "{code}");
        }
    }

    #[test]
    fn an_owner_that_does_nothing_is_stale() {
        let table = [Owned {
            files: &["src/folder.rs", "src/other.rs"],
            ..TABLE[0]
        }];
        let files = Files::given(&[
            ("src/lib.rs", "mod folder; mod other;"),
            ("src/folder.rs", "use walkdir::WalkDir;"),
            ("src/other.rs", ""),
        ]);
        let found = violations(&files, &Source::read(&files, "src/lib.rs"), &table);
        assert_eq!(
            found,
            ["rooms.rs: `src/other.rs` may do this, but does not: listing folders"]
        );
    }
}
