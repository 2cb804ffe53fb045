//! `maskclip eval`: label maps of a data set against its truths.

use std::path::PathBuf;

use clap::Args;

use super::measure::{Bench, MeasureArguments, progress, with_bench, write};
use crate::evaluation::Report;

/// Arguments of `maskclip eval`.
#[derive(Debug, Args)]
pub struct EvalArguments {
    #[command(flatten)]
    measure: MeasureArguments,
    /// Write everything that was found, per class and per image, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the figures, per class too, as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Measures one setting. The figures go to standard output.
pub fn run(arguments: EvalArguments) -> Result<(), Box<dyn std::error::Error>> {
    with_bench(&arguments.measure, async |bench| evaluate(bench, &arguments).await)
}

async fn evaluate(mut bench: Bench, arguments: &EvalArguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut request = bench.request.clone();
    for axis in arguments.measure.request.axes() {
        match axis.values {
            [] => {}
            [value] => axis.set(&mut request, value),
            _ => return Err(format!("several values of {}: `maskclip compare` takes those", axis.name).into()),
        }
    }
    let task = bench.task(&request).await?;
    let mut recorder = std::mem::take(&mut bench.recorder);
    let bar = progress(bench.dataset.samples.len());
    let outcome = bench
        .run(&bench.dataset, &task)
        .all(&bench.model, &mut recorder, || bar.inc(1))
        .await;
    bar.finish_and_clear();
    let outcome = outcome?;
    let subject = bench.subject.clone();
    let report = Report::new(subject, request, &bench.names(), &outcome, bench.unseen.as_deref());
    if let Some(file) = &arguments.json {
        write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    if let Some(file) = &arguments.markdown {
        write(file, report.markdown())?;
    }
    print!("{}", report.summary_table());
    Ok(())
}
