//! The `maskclip` binary: parse and dispatch; nothing else.

use clap::Parser;
use maskclip::cli::{self, Cli};

fn main() {
    let status = match run() {
        Ok(()) => 0,
        Err(error) => {
            cli::explain(&*error);
            cli::status_of(&*error)
        }
    };
    cli::end(status)
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    cli::end_as_first_process()?;
    Cli::parse().run()
}
