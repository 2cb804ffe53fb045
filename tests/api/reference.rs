//! The book's pages of reference equal what the program says of itself: its commands, its settings and its routes.
//! `make reference` writes them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};
use maskclip::cli::Cli;
use serde_json::Value;

use crate::support::DOCUMENT;

/// The line of a page below which everything is generated.
const MARK: &str = "<!-- `make reference` writes what follows. -->\n";

/// Compares the generated part of a page of docs, or writes it where `UPDATE_REFERENCE` is set.
#[track_caller]
fn assert_current(name: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    let page = std::fs::read_to_string(&path).unwrap();
    let (words, _) = page.split_once(MARK).expect("the page has the mark");
    let current = [words, MARK, generated].concat();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &current).unwrap();
        return;
    }
    assert!(
        page == current,
        "docs/{name} is not what the program says; run: make reference"
    );
}

#[test]
fn the_book_lists_the_commands() {
    assert_current("commands.md", &commands());
}

#[test]
fn the_book_lists_the_settings() {
    assert_current("configuration.md", &settings(include_str!("../../config/default.yaml")));
}

#[test]
fn the_book_lists_the_routes() {
    assert_current("api.md", &routes());
}

/// Flags that at least this many commands have in the same words are told of once.
const COMMON: usize = 3;

/// The first columns of a table of flags.
const FLAGS: &str = "\n| | |\n|---|---|\n";

/// All commands with their flags.
fn commands() -> String {
    let program = Cli::command();
    let mut all = Vec::new();
    for command in program.get_subcommands() {
        leaves(command, "maskclip", &mut all);
    }
    let mut times: BTreeMap<_, usize> = BTreeMap::new();
    for (_, command) in &all {
        for argument in command.get_arguments() {
            *times.entry(row(argument)).or_default() += 1;
        }
    }
    let is_common = |argument: &Arg| times[&row(argument)] >= COMMON;
    let mut page = String::new();
    for (name, command) in &all {
        let usage = Command::clone(command).bin_name(name).render_usage().to_string();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let usage = usage.trim_start_matches("Usage: ");
        write!(page, "\n## {name}\n\n{}.\n\n```text\n{usage}\n```\n", prose(&about)).unwrap();
        let own: Vec<_> = command.get_arguments().filter(|a| !is_common(a)).collect();
        if !own.is_empty() {
            page += FLAGS;
        }
        for argument in own {
            page += &row(argument);
        }
        let common: Vec<_> = command.get_arguments().filter(|a| is_common(a)).map(flag).collect();
        if !common.is_empty() {
            let flags = common.join(", ");
            write!(
                page,
                "\n[Flags of several commands](#flags-of-several-commands): {flags}.\n"
            )
            .unwrap();
        }
    }
    page += "\n## Flags of several commands\n";
    page += FLAGS;
    let mut told = Vec::new();
    for argument in all.iter().flat_map(|(_, command)| command.get_arguments()) {
        if is_common(argument) && !told.contains(&row(argument)) {
            page += &row(argument);
            told.push(row(argument));
        }
    }
    page
}

/// The commands that run, with the words before their arguments.
fn leaves<'a>(command: &'a Command, before: &str, all: &mut Vec<(String, &'a Command)>) {
    let name = format!("{before} {}", command.get_name());
    if command.is_hide_set() {
        return;
    }
    if command.has_subcommands() {
        for inner in command.get_subcommands() {
            leaves(inner, &name, all);
        }
    } else {
        all.push((name, command));
    }
}

/// An argument as it is typed.
fn flag(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let values: Vec<_> = names.iter().map(|name| format!("<{name}>")).collect();
    let takes_values = argument.get_action().takes_values();
    match argument.get_long() {
        Some(long) if takes_values => format!("`--{long} {}`", values.join(" ")),
        Some(long) => format!("`--{long}`"),
        None if values.is_empty() => format!("`<{}>`", argument.get_id().as_str().to_uppercase()),
        None => format!("`{}`", values.join(" ")),
    }
}

/// An argument as a row of a table.
fn row(argument: &Arg) -> String {
    let mut text = prose(&argument.get_help().map(ToString::to_string).unwrap_or_default());
    if !text.ends_with('.') {
        text.push('.');
    }
    let defaults: Vec<_> = argument
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    if argument.get_action().takes_values() {
        let values: Vec<_> = argument
            .get_possible_values()
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if !values.is_empty() {
            write!(text, " One of {}.", values.join(", ")).unwrap();
        }
        if !defaults.is_empty() {
            write!(text, " Default: `{}`.", defaults.join(" ")).unwrap();
        }
    }
    if let Some(variable) = argument.get_env() {
        write!(text, " In the environment: `{}`.", variable.to_string_lossy()).unwrap();
    }
    format!("| {} | {text} |\n", flag(argument).replace('|', "\\|"))
}

/// Plain text as Markdown for a cell or a paragraph.
fn prose(text: &str) -> String {
    let escape = |(at, part): (usize, &str)| match at % 2 {
        // What stands between backticks is code.
        0 => part.replace('*', "\\*").replace('<', "\\<").replace('[', "\\["),
        _ => part.to_owned(),
    };
    let parts: Vec<_> = text.split('`').enumerate().map(escape).collect();
    parts.join("`").replace('|', "\\|")
}

/// The settings of a file in YAML whose comments explain the keys below them.
fn settings(yaml: &str) -> String {
    let mut page = String::new();
    let mut comment: Vec<&str> = Vec::new();
    // The keys around the present line, each with its indentation.
    let mut around: Vec<(usize, &str)> = Vec::new();
    let mut entry: Option<Entry> = None;
    for line in yaml.lines() {
        let text = line.trim_start();
        let indentation = line.len() - text.len();
        if let Some(words) = text.strip_prefix('#') {
            comment.push(words.strip_prefix(' ').unwrap_or(words));
        } else if text.is_empty() {
            // The file's own first comment is no setting's.
            comment.clear();
        } else if let Some(item) = text.strip_prefix("- ") {
            entry.as_mut().expect("a list belongs to a key").items.push(item);
        } else {
            let (key, value) = text.split_once(':').expect("a line is a key and its value");
            around.retain(|(outer, _)| *outer < indentation);
            around.push((indentation, key));
            let path: Vec<_> = around.iter().map(|(_, key)| *key).collect();
            let path = path.join(".");
            match &mut entry {
                // A key without a comment shares that of the key before it.
                Some(entry) if comment.is_empty() && indentation > 0 => entry.keys.push((path, value.trim())),
                _ => {
                    page += &entry.as_ref().map(Entry::show).unwrap_or_default();
                    entry = Some(Entry {
                        keys: vec![(path, value.trim())],
                        items: Vec::new(),
                        comment: std::mem::take(&mut comment),
                    });
                }
            }
            if indentation == 0 {
                write!(page, "\n## {key}\n").unwrap();
            }
        }
    }
    page + &entry.as_ref().map(Entry::show).unwrap_or_default()
}

/// A key, or several that one comment explains.
struct Entry<'a> {
    keys: Vec<(String, &'a str)>,
    items: Vec<&'a str>,
    comment: Vec<&'a str>,
}

impl Entry<'_> {
    fn show(&self) -> String {
        let mut page = String::new();
        let is_section = self.items.is_empty() && self.keys.iter().all(|(_, value)| value.is_empty());
        let is_top = !self.keys[0].0.contains('.');
        if !is_top {
            let names: Vec<_> = self.keys.iter().map(|(path, _)| path.as_str()).collect();
            write!(page, "\n### {}\n", names.join(", ")).unwrap();
        }
        let is_list = self.comment.iter().any(|line| line.starts_with("  "));
        if is_list {
            write!(page, "\n```text\n{}\n```\n", self.comment.join("\n")).unwrap();
        } else if !self.comment.is_empty() {
            let lines: Vec<_> = self.comment.iter().map(|line| prose(line)).collect();
            write!(page, "\n{}\n", lines.join("\n")).unwrap();
        }
        if is_section {
            return page;
        }
        let items: Vec<_> = self
            .items
            .iter()
            .map(|item| {
                if item.contains(": ") {
                    format!("{{{item}}}")
                } else {
                    (*item).to_owned()
                }
            })
            .collect();
        let value = |value: &str| match items.len() {
            0 => value.to_owned(),
            _ => format!("[{}]", items.join(", ")),
        };
        for (path, default) in &self.keys {
            let variable = path.to_uppercase().replace('.', "__");
            let default = value(default);
            write!(page, "\n`{path}: {default}`, or `MASKCLIP_{variable}`.\n").unwrap();
        }
        page
    }
}

/// The routes by what they are about.
fn routes() -> String {
    let mut page = String::new();
    for tag in DOCUMENT["tags"].as_array().unwrap() {
        let (name, about) = (tag["name"].as_str().unwrap(), tag["description"].as_str().unwrap());
        write!(page, "\n## {name}\n\n{}\n", prose(about)).unwrap();
        page += "\n| route | does | scope of a key |\n|---|---|---|\n";
        for (path, operations) in DOCUMENT["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                if operation["tags"][0] == name {
                    let does = prose(operation["summary"].as_str().unwrap());
                    let method = method.to_uppercase();
                    writeln!(page, "| `{method} {path}` | {does} | {} |", scopes(operation)).unwrap();
                }
            }
        }
    }
    page
}

/// The scopes that open an operation, one of which is enough.
fn scopes(operation: &Value) -> String {
    let security = operation["security"].as_array().unwrap();
    let scopes: Vec<_> = security
        .iter()
        .flat_map(|needed| needed["ApiKey"].as_array().unwrap())
        .map(|scope| format!("`{}`", scope.as_str().unwrap()))
        .collect();
    if scopes.is_empty() {
        "open to everybody".to_owned()
    } else {
        scopes.join(" or ")
    }
}
