//! Every dependency that `Cargo.toml` names is used by a source that it is there for.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::LIBRARY;
use crate::resolve::Found;
use crate::sources::{Files, Source};

/// The crates that sources name.
struct Named {
    /// In the library and the program, outside tests.
    product: BTreeSet<String>,
    /// In the tests of either, and in all of `tests` and `benches`.
    tests: BTreeSet<String>,
    /// In `build.rs`.
    build: BTreeSet<String>,
}

/// Dependencies that no source names.
pub(crate) fn unused(package: &Path) -> Vec<String> {
    let named = named(package);
    let metadata = metadata(package);
    let dependencies = metadata["packages"][0]["dependencies"].as_array().unwrap();
    let unused = dependencies
        .iter()
        .filter_map(|dependency| violation(dependency, &named));
    unused.collect()
}

fn named(package: &Path) -> Named {
    let mut named = Named {
        product: BTreeSet::new(),
        tests: BTreeSet::new(),
        build: BTreeSet::new(),
    };
    for (test_only, name) in crates(&LIBRARY) {
        if test_only {
            &mut named.tests
        } else {
            &mut named.product
        }
        .insert(name);
    }
    for folder in ["tests", "benches"] {
        let files = Files::below(package, folder);
        // cargo's programs: files directly below the folder, and main.rs one folder further down.
        let roots = files
            .names()
            .filter(|name| name.matches('/').count() == 1 || is_main(name));
        for root in roots {
            named
                .tests
                .extend(crates(&Source::read(&files, root)).map(|(_, name)| name));
        }
    }
    let build = Source::read(&Files::file(package, "build.rs"), "build.rs");
    named.build = crates(&build).map(|(_, name)| name).collect();
    named
}

fn is_main(name: &str) -> bool {
    name.matches('/').count() == 2 && name.ends_with("/main.rs")
}

/// The crates that a source names, each with whether only tests do there.
fn crates(source: &Source) -> impl Iterator<Item = (bool, String)> {
    source.uses().filter_map(|use_| match use_.resolved.found {
        Found::Crate(name) => Some((source.modules[use_.module].test_only, name)),
        _ => None,
    })
}

/// What cargo knows of this package, as `cargo metadata` prints it.
fn metadata(package: &Path) -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(package)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn violation(dependency: &Value, named: &Named) -> Option<String> {
    let name = dependency["rename"].as_str().or(dependency["name"].as_str()).unwrap();
    let (section, used, place) = match dependency["kind"].as_str() {
        None => ("dependencies", &named.product, "src, outside tests,"),
        Some("dev") => ("dev-dependencies", &named.tests, "a test or a bench"),
        Some("build") => ("build-dependencies", &named.build, "build.rs"),
        Some(kind) => panic!("an unknown kind of dependency: {kind}"),
    };
    let is_used = used.contains(&name.replace('-', "_"));
    (!is_used).then(|| format!("Cargo.toml: [{section}] has `{name}`, which nothing in {place} names"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dependency_is_sought_where_its_section_says() {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let named = Named {
            product: set(&["serde_json"]),
            tests: set(&["criterion"]),
            build: set(&["cc"]),
        };
        let violation =
            |name: &str, kind: Value| violation(&json!({"name": name, "kind": kind, "rename": null}), &named);
        for (name, kind) in [
            ("serde-json", json!(null)),
            ("criterion", json!("dev")),
            ("cc", json!("build")),
        ] {
            assert_eq!(violation(name, kind), None);
        }
        assert_eq!(
            violation("criterion", json!(null)).unwrap(),
            "Cargo.toml: [dependencies] has `criterion`, which nothing in src, outside tests, names"
        );
        assert!(violation("serde-json", json!("dev")).is_some());
        assert!(violation("criterion", json!("build")).is_some());
    }

    #[test]
    fn crates_are_found_in_macros_and_attributes_and_told_from_modules() {
        let files = Files::given(&[
            (
                "src/lib.rs",
                "mod png; use png::Reader; #[tokio::main] async fn f() { tracing::info!(\"{}\", url::parse()) }",
            ),
            ("src/png.rs", "#[cfg(test)] mod tests { use proptest::prelude::*; }"),
        ]);
        let source = Source::read(&files, "src/lib.rs");
        let found: BTreeSet<(bool, String)> = crates(&source).collect();
        let expected = [(false, "tokio"), (false, "tracing"), (false, "url"), (true, "proptest")];
        assert_eq!(
            found,
            expected.map(|(test_only, name)| (test_only, name.to_owned())).into()
        );
    }
}
