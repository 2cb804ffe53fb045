//! The metrics that the rooms register, read from their sources, as the table of docs/metrics.md.

use std::fmt::Write as _;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::LitStr;

use crate::sources::Files;

/// The line of docs/metrics.md below which the table stands.
pub(crate) const MARK: &str = "<!-- `make reference` writes what follows. -->\n";

/// How sources say what kind of metric they register, and what Prometheus calls that kind.
const KINDS: [(&str, &str); 8] = [
    ("counter", "counter"),
    ("counters", "counter"),
    ("Counter", "counter"),
    ("gauge", "gauge"),
    ("gauges", "gauge"),
    ("Gauge", "gauge"),
    ("seconds", "histogram"),
    ("histograms", "histogram"),
];

/// A metric as its room registers it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) labels: Vec<String>,
    pub(crate) help: String,
}

/// What all metrics' names begin with.
const PREFIX: &str = "maskclip_";

/// All metrics that the files register outside of tests, by name.
///
/// # Panics
/// If the name of a metric stands where none of the ways to register one is.
pub(crate) fn registered(files: &Files) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for text in files.texts() {
        find(text.parse().expect("the sources are Rust"), &mut metrics);
    }
    metrics.sort();
    metrics
}

/// The table in Markdown.
pub(crate) fn table(metrics: &[Metric]) -> String {
    let mut table = "\n| metric | kind | labels | what it is |\n|---|---|---|---|\n".to_owned();
    for metric in metrics {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind,
            labels.join(", "),
            metric.help
        )
        .unwrap();
    }
    table
}

/// Looks for a kind's name before arguments whose first is the name of a metric, at any depth.
fn find(tokens: TokenStream, metrics: &mut Vec<Metric>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else {
            let name = text(token).filter(|name| name.len() > PREFIX.len() && name.starts_with(PREFIX));
            let name = name.filter(|name| name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'));
            assert_eq!(name, None, "a metric is registered in none of the known ways");
            continue;
        };
        let before = |steps: usize| match at.checked_sub(steps).map(|place| &tokens[place]) {
            Some(TokenTree::Ident(name)) => name.to_string(),
            _ => String::new(),
        };
        if before(2) == "mod" && before(1) == "tests" {
            continue;
        }
        let kind = KINDS.iter().find(|(word, _)| *word == before(1));
        match kind.and_then(|&(_, kind)| metric(kind, group.stream())) {
            Some(metric) => metrics.push(metric),
            None => find(group.stream(), metrics),
        }
    }
}

/// Reads arguments `"name", "help"`, and `&["label", ...]` where there are labels.
fn metric(kind: &'static str, arguments: TokenStream) -> Option<Metric> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let name = text(arguments.first()?).filter(|name| name.starts_with(PREFIX))?;
    let help = text(arguments.get(2)?)?;
    let labels = match arguments.get(5) {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            group.stream().into_iter().filter_map(|token| text(&token)).collect()
        }
        _ => Vec::new(),
    };
    Some(Metric {
        name,
        kind,
        labels,
        help,
    })
}

fn text(token: &TokenTree) -> Option<String> {
    syn::parse2::<LitStr>(token.clone().into())
        .ok()
        .map(|text| text.value())
}

#[test]
fn metrics_are_found_in_calls_and_macros_but_not_in_tests() {
    let files = Files::given(&[(
        "src/lib.rs",
        r#"
            fn register(registry: &Registry) {
                registry.counters("maskclip_things_total", "Things.", &["model", "kind"]);
                read(|| vec![Reading::Gauge("maskclip_room_bytes", "Room.", 2)]);
                registry.counter("other", "None of ours.");
            }
            mod tests {
                fn test() { registry.gauge("maskclip_test", "Only here."); }
            }
        "#,
    )]);
    let found = registered(&files);
    let expected = [
        ("maskclip_room_bytes", "gauge", &[][..], "Room."),
        ("maskclip_things_total", "counter", &["model", "kind"][..], "Things."),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (metric, (name, kind, labels, help)) in found.iter().zip(expected) {
        assert_eq!((&*metric.name, metric.kind, &*metric.help), (name, kind, help));
        assert_eq!(metric.labels, labels);
    }
}
