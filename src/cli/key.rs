//! `maskclip key new`: makes an API key and prints it once, with the line that stands for it in the file of keys.

use clap::{Args, Subcommand};

use super::arguments::one_of;
use super::output::{note, print};
use crate::access::{NewKey, Scope};
use crate::support::is_plain_name;

/// Arguments of `maskclip key`.
#[derive(Debug, Args)]
pub struct KeyArguments {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key. Prints the key, then the line for the file of the setting access.keys_file.
    New(NewArguments),
}

#[derive(Debug, Args)]
struct NewArguments {
    /// Who will use it: the name that logs and metrics show. Keys of one name stand for one client.
    #[arg(value_parser = name)]
    name: String,
    /// What it opens. use: label and hold images. vocabularies: define and drop named vocabularies. metrics: read the
    /// metrics. models: read what is loaded.
    #[arg(long, value_delimiter = ',', default_value = "use", value_parser = one_of::<Scope>())]
    scopes: Vec<Scope>,
}

/// Checks the name of a key.
fn name(text: &str) -> Result<String, &'static str> {
    match is_plain_name(text) {
        true => Ok(text.to_owned()),
        false => Err("a name has 1 to 64 characters of a-z, 0-9, '.', '_' and '-', the first a letter or digit"),
    }
}

/// Makes a key. Only the key and the line go to standard output.
pub fn run(arguments: KeyArguments) -> Result<(), Box<dyn std::error::Error>> {
    let KeyCommand::New(NewArguments { name, scopes }) = arguments.command;
    let key = NewKey::random()?;
    note("The key, which is shown this once, and the line for the file of keys (access.keys_file):");
    print(&format!("{}\n{}", key.text(), key.line(&name, &scopes)))?;
    note("Send the server SIGHUP once the line is in its file.");
    Ok(())
}
