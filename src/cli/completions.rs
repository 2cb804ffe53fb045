//! `maskclip completions` and `maskclip man`: what shells and `man` know of the commands, from their own definitions.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::output::print;

/// Arguments of `maskclip completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell.
    shell: Shell,
}

/// Prints the completions.
pub fn run(arguments: CompletionsArguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "maskclip", &mut script);
    Ok(print(&String::from_utf8(script)?)?)
}

/// Arguments of `maskclip man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// The folder for the pages, which is made if it is missing.
    folder: PathBuf,
}

/// Writes a page for the program and one for each command.
pub fn run_man(arguments: ManArguments) -> Result<(), Box<dyn std::error::Error>> {
    let ManArguments { folder } = arguments;
    let pages = std::fs::create_dir_all(&folder).and_then(|()| clap_mangen::generate_to(Cli::command(), &folder));
    Ok(pages.map_err(|error| format!("{}: {error}", folder.display()))?)
}
