//! The `maskclip` binary: parse and dispatch; nothing else.

use clap::Parser;
use maskclip::cli::{self, Cli};

fn main() {
    let status = match Cli::parse().run() {
        Ok(()) => 0,
        Err(error) => {
            cli::explain(&*error);
            cli::status_of(&*error)
        }
    };
    cli::end(status)
}
