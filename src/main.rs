//! The `maskclip` binary: parse and dispatch; nothing else.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match maskclip::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("maskclip: {error}");
            ExitCode::FAILURE
        }
    }
}
