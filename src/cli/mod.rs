//! The command line: one file per command, each with a struct of its arguments and a `run`.

mod fetch;
mod serve;

use clap::{Parser, Subcommand};

/// Open-vocabulary dense labelling: label maps from CLIP weights alone (MaskCLIP).
#[derive(Debug, Parser)]
#[command(name = "maskclip", version = crate::LONG_VERSION)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get a model's published weights.
    Fetch(fetch::FetchArguments),
    /// Serve the JSON API and the page.
    Serve(serve::ServeArguments),
}

impl Cli {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// Whatever stopped the command, in words for whoever typed it.
    pub fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        match self.command {
            Command::Fetch(arguments) => fetch::run(arguments),
            Command::Serve(arguments) => serve::run(arguments),
        }
    }
}
