//! `maskclip eval`: measures the label maps of a data set against its truths.

use std::path::PathBuf;

use clap::Args;

use super::measure::{
    Bench, MeasureArguments, RESULTS, Result, progress, set_all, several, tell, tell_skipped, with_bench, write,
};
use super::output::print;
use crate::evaluation::{EvaluationTask, Report, contact_sheet};

/// Arguments of `maskclip eval`.
#[derive(Debug, Args)]
pub struct EvalArguments {
    #[command(flatten)]
    measure: MeasureArguments,
    /// Write all results, per class and per image, as JSON.
    #[arg(long, value_name = "FILE", help_heading = RESULTS)]
    json: Option<PathBuf>,
    /// Write the metrics, in total and per class, as Markdown.
    #[arg(long, value_name = "FILE", help_heading = RESULTS)]
    markdown: Option<PathBuf>,
    /// Draw the worst cases into a PNG, worst first: image, truth and prediction side by side.
    #[arg(long, value_name = "FILE", help_heading = RESULTS)]
    grid: Option<PathBuf>,
    /// Number of cases in the grid.
    #[arg(long, value_name = "N", help_heading = RESULTS, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    grid_rows: u32,
}

/// Measures one combination of settings and prints the metrics to standard output.
pub fn run(arguments: EvalArguments) -> Result<()> {
    with_bench(&arguments.measure, async |bench| evaluate(bench, &arguments).await)
}

async fn evaluate(mut bench: Bench, arguments: &EvalArguments) -> Result<()> {
    let mut fields = bench.fields.clone();
    let axes = arguments.measure.request.axes();
    set_all(&mut fields, &axes)?;
    let mut request = bench.request.clone();
    for axis in &axes {
        axis.values.iter().for_each(|value| axis.report(&mut request, value));
    }
    let corruption = match arguments.measure.corruption.as_slice() {
        [] => None,
        [(_, corruption)] => *corruption,
        _ => return Err(several("corruption").into()),
    };
    let task = bench.task(fields, corruption).await?;
    let mut recorder = std::mem::take(&mut bench.recorder);
    let bar = progress(bench.dataset.samples.len());
    let results = bench
        .run(&bench.dataset, &task)
        .all(&bench.model, &mut recorder, || bar.inc(1))
        .await;
    bar.finish_and_clear();
    let results = results?;
    tell_skipped(&results)?;
    let (unseen, warnings) = (bench.unseen.as_deref(), bench.warnings(&results));
    let report = Report::new(bench.subject.clone(), request, &task, &results, unseen, warnings);
    if let Some(file) = &arguments.json {
        write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    if let Some(file) = &arguments.markdown {
        write(file, report.markdown())?;
    }
    if let Some(file) = &arguments.grid {
        write(
            file,
            worst_cases(&bench, &task, &report, arguments.grid_rows as usize).await?,
        )?;
    }
    print(&report.summary_table())?;
    tell(&report.warnings);
    Ok(())
}

/// Draws a contact sheet of the worst cases. Labels their images again, because label maps are not kept.
async fn worst_cases(bench: &Bench, task: &EvaluationTask, report: &Report, rows: usize) -> Result<Vec<u8>> {
    let run = bench.run(&bench.dataset, task);
    let mut cases = Vec::with_capacity(rows);
    for worst in report.per_image.iter().take(rows) {
        let mut samples = bench.dataset.samples.iter();
        let sample = samples.find(|sample| sample.name == worst.image);
        let sample = sample.expect("the report names only samples of this data set");
        cases.push(run.measure(sample).await?.0);
    }
    Ok(contact_sheet(
        &cases,
        task.options.input.orientation,
        bench.config.limits.input.max_image_pixels,
    )?)
}
