//! `maskclip fetch`: downloads published weights into the folder of models, with a progress bar on a terminal.

use clap::Args;
use figment::value::{Dict, Value};
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use super::arguments::ConfigArguments;
use super::output::{note, print};
use crate::clip::Activation;
use crate::config::Config;
use crate::weights::{DownloadProgress, Fetch, Fetched, Supply, Vouched};
use crate::weights::{DownloadSource, EmbeddedModel, PUBLISHED, PublishedModel};

/// Arguments of `maskclip fetch`.
#[derive(Debug, Args)]
pub struct FetchArguments {
    /// The model, by a name from `--list`. The names of OpenAI ("ViT-B/16") and of open_clip work as well.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// A file or a mirror's address to use instead of the address of publication.
    #[arg(long, value_name = "FILE|URL", value_parser = Supply::parse)]
    from: Option<Supply>,
    /// List the published models.
    #[arg(long, conflicts_with_all = ["name", "from", "offline"])]
    list: bool,
    /// Do not use the network (setting fetch.offline); tell what is missing.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

impl FetchArguments {
    /// Returns the given flags, nested like the configuration file.
    fn settings(&self) -> Dict {
        if !self.offline {
            return Dict::new();
        }
        let section = Dict::from([("offline".to_owned(), Value::from(true))]);
        Dict::from([("fetch".to_owned(), Value::from(section))])
    }
}

/// Fetches one model, or lists all. Only the path of the weights or the list goes to standard output.
pub fn run(arguments: FetchArguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(arguments.config.config.as_deref(), arguments.settings())?;
    let folder = config.model.folder();
    let Some(name) = arguments.name else {
        let mut lines = vec![columns(["name", "size", "activation", "here", "licence"])];
        lines.extend(
            PUBLISHED
                .iter()
                .map(|model| line(model, model.find_in(&folder).is_some())),
        );
        return Ok(print(&(lines.join("\n") + "\n"))?);
    };
    if EmbeddedModel::named(&name).is_some() {
        return Err(format!("{name} is compiled in: there is nothing to fetch").into());
    }
    let model = PublishedModel::named(&name)
        .ok_or_else(|| format!("no model is called {name:?}: `maskclip fetch --list` lists those there are"))?;
    note(format!("{}, licence {}", model.name, model.licence));
    let mut bar = Bar::default();
    let fetched = Fetch {
        model,
        folder: &folder,
        settings: &config.fetch,
    }
    .run(arguments.from.as_ref(), &mut bar);
    bar.0.finish_and_clear();
    let fetched = fetched?;
    note(outcome(&fetched));
    note(format!("maskclip serve --model {}", model.name));
    Ok(print(&format!("{}\n", fetched.path.display()))?)
}

/// Returns the line of one model in the list.
fn line(model: &PublishedModel, is_there: bool) -> String {
    let size = match model.source {
        DownloadSource::Address { bytes, .. } => DecimalBytes(bytes).to_string(),
        // The hub tells the size only on request.
        DownloadSource::Hub { .. } => "-".to_owned(),
    };
    let activation = match model.activation {
        Activation::QuickGelu => "QuickGELU",
        Activation::Gelu => "GELU",
    };
    let here = if is_there { "yes" } else { "no" };
    columns([model.name, &size, activation, here, model.licence])
}

fn columns([name, size, activation, here, licence]: [&str; 5]) -> String {
    format!("{name:<26}{size:>9}  {activation:<12}{here:<6}{licence}")
}

fn outcome(fetched: &Fetched) -> String {
    let sha256 = &fetched.sha256;
    if fetched.was_there {
        return format!("already there, SHA-256 {sha256}");
    }
    match fetched.vouched {
        Vouched::Publisher => format!("SHA-256 {sha256}, as published"),
        Vouched::Server => format!("SHA-256 {sha256}, as the server stated"),
        Vouched::Nobody => format!("SHA-256 {sha256}, with nothing to compare it to"),
    }
}

/// A progress bar on standard error. Without a terminal it shows only messages.
struct Bar(ProgressBar);

impl Default for Bar {
    fn default() -> Self {
        let style = ProgressStyle::with_template(
            "{wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
        )
        .expect("the template names fields that indicatif has");
        Self(ProgressBar::no_length().with_style(style))
    }
}

impl DownloadProgress for Bar {
    fn begin(&mut self, held: u64, total: Option<u64>) {
        match total {
            Some(total) => self.0.set_length(total),
            None => self.0.unset_length(),
        }
        self.0.set_position(held);
        // Speed and remaining time cover only what is still to come.
        self.0.reset_eta();
    }

    fn advance(&mut self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn say(&mut self, message: &str) {
        self.0.suspend(|| note(message));
    }
}
