//! The `maskclip` binary: parse and dispatch; nothing else.

use clap::Parser;
use maskclip::cli::{self, Cli};

fn main() {
    let status = match Cli::parse().run() {
        Ok(()) => 0,
        Err(error) => {
            cli::explain(&*error);
            1
        }
    };
    cli::end(status)
}
