//! The flags of `maskclip label`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::arguments::{ConfigArguments, ModelArguments, one_of};
use crate::cli::classes::VocabularyArguments;
use crate::cli::measure::{RequestArguments, Result, set_all};
use crate::engine::{FeatureFields, OutputOptions, ProbabilityMaps, Protocol, SegmentFields};
use crate::label_map::{LabelMapFormat, LabelStyle};
use crate::labelling::{Drawing, OutputFormat};

/// Heading of the help for results.
const RESULTS: &str = "Results";

/// Heading of the help for the run.
const RUN: &str = "Run";

/// The environment variable with the number of a pod in a Kubernetes Job whose completion mode is Indexed.
const JOB_INDEX: &str = "JOB_COMPLETION_INDEX";

/// Arguments of `maskclip label`.
#[derive(Debug, Args)]
pub struct LabelArguments {
    /// The images: files, folders with all their subfolders, patterns such as 'photos/**/*.jpg', or `-` for a list on
    /// standard input, one of these a line. With --merge, the folders of runs.
    #[arg(value_name = "IN", required = true)]
    pub inputs: Vec<String>,
    #[command(flatten)]
    pub vocabulary: VocabularyArguments,
    #[command(flatten, next_help_heading = RESULTS)]
    pub results: ResultArguments,
    #[command(flatten, next_help_heading = RUN)]
    pub run: RunArguments,
    #[command(flatten, next_help_heading = "Request (fields left out have their defaults)")]
    pub request: LabelRequestArguments,
    #[command(flatten, next_help_heading = "Model and settings")]
    pub config: ConfigArguments,
    #[command(flatten)]
    pub model: ModelArguments,
}

/// The flags for what is asked of each image.
#[derive(Debug, Args)]
pub struct LabelRequestArguments {
    /// A published protocol such as `sclip-voc21` (docs/options.md), which sets everything. The flags below override
    /// it.
    #[arg(long, value_name = "NAME")]
    pub protocol: Option<Protocol>,
    #[command(flatten)]
    pub fields: RequestArguments,
}

/// The flags for the results.
#[derive(Debug, Args)]
pub struct ResultArguments {
    /// The folder for the results. The same command goes on with a run that was stopped or killed.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// The formats, separated by commas. docs/label.md describes each.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "png", value_parser = one_of::<OutputFormat>())]
    pub format: Vec<OutputFormat>,
    /// The share of the classes' colours in overlays, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = parse_share)]
    opacity: f32,
    /// The quality of overlays in JPEG, 1 to 100.
    #[arg(long, value_name = "QUALITY", default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=100))]
    jpeg_quality: u8,
    /// The value of pixels without a class in png and png-grey, no smaller than the number of classes (field
    /// output.unlabelled). By default the largest value, 255 or 65535.
    #[arg(long, value_name = "VALUE")]
    pub unlabelled: Option<u16>,
    /// Colours of the first classes, as in '#ff8000,#0080ff' (field output.colors). The others have the usual ones.
    #[arg(long, value_name = "#RRGGBB", value_delimiter = ',', value_parser = parse_color)]
    colors: Vec<Color>,
    /// What stands before an image's path in label-studio and label-studio-polygons, as in '/data/local-files/?d=photos/'.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub image_prefix: String,
    /// Keep the endings of images in the names of their results, as in a.jpg.png.
    #[arg(long)]
    pub keep_endings: bool,
}

/// The flags for the way of a run.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Label only this share of the images: I/N for the shard I, counted from 0, of N; or auto/N for the one that
    /// JOB_COMPLETION_INDEX numbers. Shards may write into one folder; the last one writes the files about all images.
    #[arg(long, value_name = "I/N", value_parser = parse_shard)]
    pub shard: Option<Shard>,
    /// Label nothing: write the files about all images of finished runs, whose folders are given in place of images.
    #[arg(long, conflicts_with_all = ["classes", "shard", "watch", "server"])]
    pub merge: bool,
    /// Go on with images that come later, until SIGTERM or SIGINT.
    #[arg(long)]
    pub watch: bool,
    /// The number of images that are on their way at once. By default, enough that the model never waits.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Images of one size that may share a pass of the model. More than 1 is faster on GPUs; the results then depend,
    /// in their last digits, on which images met.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_batch: u16,
    /// Let a running `maskclip serve` at this address label the images.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// A file with the API key for the server.
    #[arg(long, value_name = "FILE", requires = "server")]
    pub key_file: Option<PathBuf>,
}

/// A share of the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// The number of the shard, from 0.
    pub index: u32,
    /// The number of shards.
    pub count: u32,
}

impl Shard {
    /// All images.
    pub const WHOLE: Self = Self { index: 0, count: 1 };
}

fn parse_shard(text: &str) -> Result<Shard, String> {
    shard(text, std::env::var(JOB_INDEX).ok().as_deref())
}

/// Parses a shard. `job_index` is the value of the environment variable.
fn shard(text: &str, job_index: Option<&str>) -> Result<Shard, String> {
    let (index, count) = text.split_once('/').ok_or("I/N, as in 0/8, or auto/N")?;
    let number = |text: &str| u32::from_str(text).map_err(|_| format!("{text:?} is no whole number"));
    let index = match index {
        "auto" => number(job_index.ok_or_else(|| format!("{JOB_INDEX} is not set"))?)?,
        index => number(index)?,
    };
    let count = number(count)?;
    match index < count {
        true => Ok(Shard { index, count }),
        false => Err(format!(
            "shards count from 0, so the last one of {count} is {}",
            count.saturating_sub(1)
        )),
    }
}

fn parse_share(text: &str) -> Result<f32, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share is a number from 0 to 1".to_owned())
}

/// An RGB colour.
type Color = [u8; 3];

fn parse_color(text: &str) -> Result<Color, String> {
    let mut color = [0; 3];
    let digits = text.strip_prefix('#').unwrap_or_default();
    let parsed = hex::decode_to_slice(digits, &mut color);
    parsed
        .map(|()| color)
        .map_err(|_| "a colour has the form #rrggbb".to_owned())
}

impl ResultArguments {
    /// Returns the values and colours of label maps.
    pub fn style(&self) -> LabelStyle {
        LabelStyle {
            unlabelled: self.unlabelled,
            colors: self.colors.clone(),
        }
    }

    /// Returns how images are drawn over.
    pub fn drawing(&self) -> Drawing {
        Drawing {
            opacity: self.opacity,
            jpeg_quality: self.jpeg_quality,
        }
    }

    /// Returns the formats, each once.
    pub fn formats(&self) -> Vec<OutputFormat> {
        let mut formats = Vec::with_capacity(self.format.len());
        for &format in &self.format {
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
        formats
    }

    /// Returns how an answer is written.
    pub fn output(&self) -> OutputOptions {
        OutputOptions {
            label_map: LabelMapFormat::CocoRle,
            confidence_map: self.format.iter().any(|format| format.needs_confidence()),
            probability_maps: match self.format.iter().any(|format| format.needs_probabilities()) {
                true => ProbabilityMaps::All,
                false => ProbabilityMaps::None,
            },
            ..OutputOptions::default()
        }
    }
}

impl LabelArguments {
    /// Returns the fields of the request that the flags set, without the vocabulary.
    pub fn fields(&self) -> Result<SegmentFields> {
        let mut fields = SegmentFields {
            features: FeatureFields {
                protocol: self.request.protocol,
                ..FeatureFields::default()
            },
            output: self.results.output(),
            style: self.results.style(),
            ..SegmentFields::default()
        };
        set_all(&mut fields, &self.request.fields.axes())?;
        Ok(fields)
    }

    /// Writes the flags into a request as JSON, which has the classes and the background already.
    pub fn report(&self, request: &mut Value) {
        request["protocol"] = json!(self.request.protocol);
        for axis in self.request.fields.axes() {
            axis.values.iter().for_each(|value| axis.report(request, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_a_number_below_their_count() {
        assert_eq!(shard("0/2", None), Ok(Shard { index: 0, count: 2 }));
        assert_eq!(shard("auto/8", Some("7")), Ok(Shard { index: 7, count: 8 }));
        for (text, job_index, error) in [
            ("2/2", None, "shards count from 0, so the last one of 2 is 1"),
            ("auto/2", Some("2"), "shards count from 0, so the last one of 2 is 1"),
            ("auto/2", None, "JOB_COMPLETION_INDEX is not set"),
            ("2", None, "I/N, as in 0/8, or auto/N"),
            ("-1/2", None, "\"-1\" is no whole number"),
        ] {
            assert_eq!(shard(text, job_index), Err(error.to_owned()));
        }
    }

    #[test]
    fn colours_and_shares_are_checked() {
        assert_eq!(parse_color("#ff8000"), Ok([255, 128, 0]));
        assert!(parse_color("ff8000").is_err() && parse_color("#ff80").is_err());
        assert_eq!(parse_share("0.25"), Ok(0.25));
        assert!(parse_share("1.5").is_err() && parse_share("NaN").is_err());
    }
}
