//! The `maskclip` binary: parse and dispatch; nothing else.

use std::io::Write;

use clap::Parser;
use maskclip::cli::{self, Cli};

fn main() {
    let status = match Cli::parse().run() {
        Ok(()) => 0,
        Err(error) => {
            // Where nobody can read it, the status alone tells.
            let _ = writeln!(std::io::stderr(), "maskclip: {error}");
            1
        }
    };
    cli::end(status)
}
