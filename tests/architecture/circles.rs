//! The direction inside a room: modules beside each other, each with all that is below it, use each other one way.
//!
//! A module counts as one thing with all modules below it. A parent and what is below it use each other freely. What a
//! file uses that exists for tests alone does not count: no other code depends on that file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::sources::Source;

/// For every module: which of the modules in it uses which, with the first place.
type Graph = BTreeMap<usize, BTreeMap<usize, BTreeMap<usize, String>>>;

/// One violation for each circle.
pub(crate) fn circles(source: &Source) -> Vec<String> {
    let mut violations = Vec::new();
    for neighbours in graph(source).values() {
        let mut told = BTreeSet::new();
        for &module in neighbours.keys() {
            if told.contains(&module) {
                continue;
            }
            if let Some(circle) = shortest_circle(neighbours, module) {
                violations.push(describe(source, neighbours, &circle));
                told.extend(circle);
            }
        }
    }
    violations
}

fn graph(source: &Source) -> Graph {
    let mut graph = Graph::new();
    for use_ in source.uses() {
        if is_test_file(source, use_.module) {
            continue;
        }
        for &used in &use_.resolved.through {
            if let Some((around, from, to)) = neighbours(source, use_.module, used) {
                let places = graph.entry(around).or_default().entry(from).or_default();
                places.entry(to).or_insert_with(|| use_.place(source));
            }
        }
    }
    graph
}

/// Whether a module stands in a file that exists for tests alone.
fn is_test_file(source: &Source, module: usize) -> bool {
    let mut around = std::iter::successors(Some(module), |&module| source.modules[module].parent);
    around.any(|module| source.modules[module].has_file && source.modules[module].test_only)
}

/// The module around both and the two modules in it to which they belong, if that is in a room and the two differ.
fn neighbours(source: &Source, from: usize, to: usize) -> Option<(usize, usize, usize)> {
    let ways = [from, to].map(|module| {
        let mut way: Vec<usize> =
            std::iter::successors(Some(module), |&module| source.modules[module].parent).collect();
        way.reverse();
        way
    });
    let shared = ways[0].iter().zip(&ways[1]).take_while(|(a, b)| a == b).count();
    let (&from, &to) = (ways[0].get(shared)?, ways[1].get(shared)?);
    (shared > 1).then(|| (ways[0][shared - 1], from, to))
}

/// The shortest way from a module back to it.
fn shortest_circle(uses: &BTreeMap<usize, BTreeMap<usize, String>>, start: usize) -> Option<Vec<usize>> {
    let mut ways = VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for &next in uses.get(way.last()?).into_iter().flat_map(BTreeMap::keys) {
            if next == start {
                return Some(way);
            }
            if seen.insert(next) {
                ways.push_back(way.iter().copied().chain([next]).collect());
            }
        }
    }
    None
}

fn describe(source: &Source, uses: &BTreeMap<usize, BTreeMap<usize, String>>, circle: &[usize]) -> String {
    let name = |module: usize| source.modules[module].path.join("::");
    let mut text = "a circle:".to_owned();
    for (at, &module) in circle.iter().enumerate() {
        let next = circle[(at + 1) % circle.len()];
        text += &format!("\n    {} -> {}: {}", name(module), name(next), uses[&module][&next]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Files;

    /// The circles of a room `dense` with these files.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<(String, &str)> = files
            .iter()
            .map(|&(name, text)| (format!("src/dense/{name}.rs"), text))
            .collect();
        let library = [("src/lib.rs", "mod dense;")];
        let files: Vec<(&str, &str)> = library
            .into_iter()
            .chain(files.iter().map(|(name, text)| (&**name, *text)))
            .collect();
        circles(&Source::read(&Files::given(&files), "src/lib.rs"))
    }

    #[test]
    fn two_files_that_use_each_other_are_a_circle() {
        let files = [
            ("mod", "mod scores; mod windows;"),
            ("scores", "use super::windows;"),
            ("windows", "\nfn f() { crate::dense::scores::g() }"),
        ];
        assert_eq!(
            found(&files),
            [
                "a circle:\n    dense::scores -> dense::windows: src/dense/scores.rs:1: `super::windows`\n    \
             dense::windows -> dense::scores: src/dense/windows.rs:2: `crate::dense::scores::g`"
            ]
        );
    }

    #[test]
    fn a_longer_circle_is_told_once() {
        let files = [
            ("mod", "mod a; mod b; mod c; mod d;"),
            ("a", "use super::b;"),
            ("b", "use super::c::C;"),
            ("c", "use super::a; pub struct C;"),
            ("d", "use super::{a, b, c};"),
        ];
        let found = found(&files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].lines().count(), 4, "{}", found[0]);
    }

    #[test]
    fn a_circle_through_a_re_export_of_the_parent_is_one() {
        let files = [
            ("mod", "mod a; mod b; pub use a::A; pub use b::B;"),
            ("a", "pub struct A; use super::B;"),
            ("b", "pub struct B; use super::*; fn f(a: A) { A::new() }"),
        ];
        assert_eq!(found(&files).len(), 1);
    }

    #[test]
    fn a_circle_through_folders_is_one() {
        let files = [
            ("mod", "mod attention; mod windows;"),
            ("attention/mod", "mod gem; pub struct Kind;"),
            ("attention/gem", "use crate::dense::windows;"),
            ("windows", "use super::attention::Kind;"),
        ];
        assert_eq!(found(&files).len(), 1);
    }

    #[test]
    fn a_parent_and_its_children_use_each_other_freely() {
        let files = [
            ("mod", "mod a; mod b; pub struct Grid; use a::A; use b::B;"),
            ("a", "pub struct A; use super::Grid; use super::b;"),
            ("b", "pub struct B; use crate::dense::Grid;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }

    #[test]
    fn test_files_use_what_they_want() {
        let files = [
            ("mod", "mod a; #[cfg(test)] mod testing; #[cfg(test)] mod tests;"),
            ("a", "#[cfg(test)] mod tests { use super::super::testing; }"),
            ("testing", "use super::a;"),
            ("tests", "use super::testing; use super::a;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }
}
