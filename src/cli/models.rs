//! `maskclip models`: the models that are here, those that can be fetched, and which of them suit the method.

use clap::Args;
use figment::value::Dict;
use indicatif::DecimalBytes;

use super::arguments::ConfigArguments;
use super::output::print;
use crate::config::Config;
use crate::weights::{Architecture, DownloadSource, EmbeddedModel, PUBLISHED, PublishedModel, VisualSizes};

/// Arguments of `maskclip models`.
#[derive(Debug, Args)]
pub struct ModelsArguments {
    #[command(flatten)]
    config: ConfigArguments,
}

/// Prints every model, a line each, and the advice below.
pub fn run(arguments: ModelsArguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(arguments.config.config.as_deref(), Dict::new())?;
    let folder = config.model.folder();
    let mut lines = vec![columns(["name", "where", "size", "suits", "licence"])];
    lines.extend(EmbeddedModel::ALL.iter().map(|model| {
        let size = DecimalBytes(model.weights.len() as u64).to_string();
        columns([model.name, "compiled in", &size, "trying out", "Apache-2.0"])
    }));
    lines.extend(
        PUBLISHED
            .iter()
            .map(|model| line(model, model.find_in(&folder).is_some())),
    );
    let advice = format!(
        "\n`maskclip fetch NAME` brings a model into {}.\nPaths of checkpoints and of students' folders are names, too.\n\
         By the literature, ViT-B/16 and the ResNets suit this method better than ViT-B/32 and ViT-L/14.\n",
        folder.display()
    );
    Ok(print(&(lines.join("\n") + "\n" + &advice))?)
}

fn line(model: &PublishedModel, is_here: bool) -> String {
    let size = match model.source {
        DownloadSource::Address { bytes, .. } => DecimalBytes(bytes).to_string(),
        // The hub tells the size only on request.
        DownloadSource::Hub { .. } => "-".to_owned(),
    };
    let place = if is_here { "here" } else { "to fetch" };
    columns([model.name, place, &size, suits(model.architecture), model.licence])
}

/// Returns how well dense labels come out of an architecture, by the literature.
fn suits(architecture: &Architecture) -> &'static str {
    match architecture.visual {
        VisualSizes::ResNet(..) | VisualSizes::Vit(_, _, 16) => "well",
        VisualSizes::Vit(..) => "less well",
    }
}

fn columns([name, place, size, suits, licence]: [&str; 5]) -> String {
    format!("{name:<26}{place:<13}{size:>9}  {suits:<12}{licence}")
}
