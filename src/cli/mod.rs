//! The command line. Each command has a file with a struct of its arguments and a function `run`.

mod arguments;
mod classes;
mod command_engine;
mod compare;
mod completions;
mod disk;
mod doctor;
mod ending;
mod eval;
mod fetch;
mod health;
mod input;
mod key;
mod label;
mod measure;
mod models;
mod output;
mod segment;
mod serve;
mod signals;
mod train;
mod vocab;

use clap::{Parser, Subcommand};

pub use ending::{end, explain, status_of};
pub use signals::end_as_first_process;

/// Open-vocabulary dense labelling: label maps from CLIP weights alone (MaskCLIP).
#[derive(Debug, Parser)]
#[command(name = "maskclip", version = crate::LONG_VERSION)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the JSON API and the page.
    Serve(serve::ServeArguments),
    /// Download the published weights of a model.
    Fetch(fetch::FetchArguments),
    /// Ask a server on this machine whether it is ready. The status is 0 if it is.
    Health(health::HealthArguments),
    /// Make API keys.
    Key(key::KeyArguments),
    /// Manage named vocabularies and text embeddings on disk, with or without a running server.
    Vocab(vocab::VocabArguments),
    /// Label one image, and show it with the classes' colours over it.
    Segment(segment::SegmentArguments),
    /// Label files and folders of images, into the formats of other programs.
    Label(label::LabelArguments),
    /// List the models that are here and those that can be fetched.
    Models(models::ModelsArguments),
    /// Say what the program works with here: device, precision, memory, store, weights, and the time of a pass.
    Doctor(doctor::DoctorArguments),
    /// Measure label maps against the truths of a data set: mIoU and accuracies, in total and per class.
    Eval(eval::EvalArguments),
    /// Measure every combination of settings and print one table: attentions, smoothing, resolutions, corruptions, ...
    Compare(compare::CompareArguments),
    /// Train a segmentation network on unlabelled images, with the model as its teacher (MaskCLIP+).
    Train(train::TrainArguments),
    /// Print the completions of commands and flags for a shell.
    Completions(completions::CompletionsArguments),
    /// Write the manual pages into a folder.
    #[command(hide = true)]
    Man(completions::ManArguments),
}

impl Cli {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// Whatever stopped the command, as a text for the user.
    pub fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        match self.command {
            Command::Serve(arguments) => serve::run(arguments),
            Command::Fetch(arguments) => fetch::run(arguments),
            Command::Health(arguments) => health::run(arguments),
            Command::Key(arguments) => key::run(arguments),
            Command::Vocab(arguments) => vocab::run(arguments),
            Command::Segment(arguments) => segment::run(arguments),
            Command::Label(arguments) => label::run(arguments),
            Command::Models(arguments) => models::run(arguments),
            Command::Doctor(arguments) => doctor::run(arguments),
            Command::Eval(arguments) => eval::run(arguments),
            Command::Compare(arguments) => compare::run(arguments),
            Command::Train(arguments) => train::run(arguments),
            Command::Completions(arguments) => completions::run(arguments),
            Command::Man(arguments) => completions::run_man(arguments),
        }
    }
}
