//! `maskclip compare`: measures every combination of settings on one data set and prints one table.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::measure::{Axis, Bench, MeasureArguments, RESULTS, Result, progress, tell, tell_skipped, with_bench, write};
use super::output::print;
use crate::engine::SegmentFields;
use crate::evaluation::{Corruption, Dataset, EvaluationTask, RunWarning, Subject, Summary, table};

/// Arguments of `maskclip compare`.
#[derive(Debug, Args)]
pub struct CompareArguments {
    #[command(flatten)]
    measure: MeasureArguments,
    /// Write the table and what was measured as JSON.
    #[arg(long, value_name = "FILE", help_heading = RESULTS)]
    json: Option<PathBuf>,
    /// Write the table as Markdown. It is printed to standard output in any case.
    #[arg(long, value_name = "FILE", help_heading = RESULTS)]
    markdown: Option<PathBuf>,
}

/// A combination of settings.
struct Combination {
    /// The values of the varied settings, in the order of the table's columns.
    values: Vec<String>,
    fields: SegmentFields,
    /// The fields as JSON, for the report.
    request: Value,
    corruption: Option<Corruption>,
}

/// The table as JSON.
#[derive(Serialize)]
struct Comparison {
    #[serde(flatten)]
    subject: Subject,
    /// What was odd about the images and truths, the same for all rows.
    warnings: Vec<RunWarning>,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    request: Value,
    corruption: Option<Corruption>,
    #[serde(flatten)]
    summary: Summary,
}

/// Measures every combination of the given values.
pub fn run(arguments: CompareArguments) -> Result<()> {
    with_bench(&arguments.measure, async |bench| compare(bench, &arguments).await)
}

async fn compare(mut bench: Bench, arguments: &CompareArguments) -> Result<()> {
    let (settings, combinations) = combinations(&bench, &arguments.measure)?;
    let mut tasks: Vec<EvaluationTask> = Vec::with_capacity(combinations.len());
    for combination in &combinations {
        tasks.push(bench.task(combination.fields.clone(), combination.corruption).await?);
    }
    let mut recorder = std::mem::take(&mut bench.recorder);
    // Every combination first labels one image, so that an option the model cannot compute fails at once.
    let first = Dataset {
        samples: bench.dataset.samples[..1].to_vec(),
        ..bench.dataset.clone()
    };
    for task in &tasks {
        bench.run(&first, task).all(&bench.model, &mut recorder, || ()).await?;
    }
    let bar = progress(bench.dataset.samples.len() * tasks.len());
    let (mut summaries, mut warnings, mut skipped) = (Vec::with_capacity(tasks.len()), Vec::new(), 0);
    for task in &tasks {
        let run = bench.run(&bench.dataset, task);
        let results = run.all(&bench.model, &mut recorder, || bar.inc(1)).await;
        let results = results.inspect_err(|_| bar.finish_and_clear())?;
        if summaries.is_empty() {
            // The same files are skipped under all settings.
            bar.suspend(|| tell_skipped(&results))?;
            warnings = bench.warnings(&results);
            skipped = results.skipped.len();
        }
        summaries.push(Summary::of(&results, bench.unseen.as_deref()));
    }
    bar.finish_and_clear();

    let rows: Vec<_> = combinations
        .iter()
        .map(|each| each.values.clone())
        .zip(&summaries)
        .collect();
    let text = table(&settings, &rows);
    if let Some(file) = &arguments.markdown {
        write(file, &text)?;
    }
    if let Some(file) = &arguments.json {
        let subject = Subject {
            images: bench.dataset.samples.len() - skipped,
            ..bench.subject
        };
        write_json(file, subject, warnings.clone(), combinations, summaries)?;
    }
    print(&text)?;
    tell(&warnings);
    Ok(())
}

/// Writes the table as JSON.
fn write_json(
    file: &Path,
    subject: Subject,
    warnings: Vec<RunWarning>,
    combinations: Vec<Combination>,
    summaries: Vec<Summary>,
) -> Result<()> {
    let rows = combinations.into_iter().zip(summaries);
    let row = |(combination, summary): (Combination, Summary)| Row {
        request: combination.request,
        corruption: combination.corruption,
        summary,
    };
    let comparison = Comparison {
        subject,
        warnings,
        rows: rows.map(row).collect(),
    };
    write(file, serde_json::to_string_pretty(&json!(comparison))? + "\n")
}

/// Returns the names of the varied settings and every combination. The last setting varies fastest.
fn combinations(bench: &Bench, arguments: &MeasureArguments) -> Result<(Vec<&'static str>, Vec<Combination>)> {
    let axes = arguments.request.axes();
    let given: Vec<&Axis> = axes.iter().filter(|axis| !axis.values.is_empty()).collect();
    let mut settings: Vec<&'static str> = given
        .iter()
        .filter(|axis| axis.values.len() > 1)
        .map(|axis| axis.name)
        .collect();
    let mut combinations = vec![Combination {
        values: Vec::new(),
        fields: bench.fields.clone(),
        request: bench.request.clone(),
        corruption: None,
    }];
    for axis in given {
        combinations = crossed(&combinations, axis.values, |combination, value| {
            axis.set(&mut combination.fields, value)?;
            axis.report(&mut combination.request, value);
            Ok((axis.values.len() > 1).then(|| value.clone()))
        })?;
    }
    if !arguments.corruption.is_empty() {
        let is_varied = arguments.corruption.len() > 1;
        settings.extend(is_varied.then_some("corruption"));
        combinations = crossed(
            &combinations,
            &arguments.corruption,
            |combination, (name, corruption)| {
                combination.corruption = *corruption;
                Ok(is_varied.then(|| name.clone()))
            },
        )?;
    }
    Ok((settings, combinations))
}

/// Combines each combination with each value. `set` puts the value into a combination and returns its text for the
/// table, if the table shows it.
fn crossed<T>(
    combinations: &[Combination],
    values: &[T],
    set: impl Fn(&mut Combination, &T) -> Result<Option<String>>,
) -> Result<Vec<Combination>> {
    let mut result = Vec::with_capacity(combinations.len() * values.len());
    for combination in combinations {
        for value in values {
            let mut next = Combination {
                values: combination.values.clone(),
                fields: combination.fields.clone(),
                request: combination.request.clone(),
                corruption: combination.corruption,
            };
            let shown = set(&mut next, value)?;
            next.values.extend(shown);
            result.push(next);
        }
    }
    Ok(result)
}
