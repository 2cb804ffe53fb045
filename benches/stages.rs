//! Measures one stage of a request for `make bench`. The driver, tools/bench/bench.py, starts this program once for
//! each of our rows and lets it take turns with the alternatives.
//!
//! Owns the protocol and the extent of what is timed. Inputs come from files, which the alternatives read as well. When
//! everything is loaded, the program writes `{"ready":true}` to standard output. Then it answers each line of standard
//! input with one line:
//!
//! - `run`: runs the stage once and answers `{"seconds":0.41}`.
//! - `write PATH`: writes the result of the last run to a safetensors file for comparison and answers
//!   `{"written":"PATH"}`.
//!
//! The program ends when standard input ends.
#![allow(clippy::disallowed_types)] // Towers take tensors, and results are compared as tensors.

use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Parser, Subcommand, ValueEnum};
use maskclip::clip::{Clip, ModelConfig, Weights};
use maskclip::dense::{DenseFeatures, FeatureOptions, ImageViews};
use maskclip::image::{self, Normalisation, NormalisedImage, Resize};
use maskclip::label_map::{LabelMap, LabelMapOptions, label_map};
use maskclip::scores::{QueryOwner, ScoreGrid, ScoreKind, ScoreMap, UNLABELLED};
use maskclip::vocabulary::TemplateSet;
use serde_json::json;
use tch::{Device, Kind, Tensor};

/// Number of class names that are embedded at once, about as many as the vocabulary's store passes to the text tower.
const CHUNK_NAMES: usize = 16;

/// Most pixels of the benchmark's images.
const MAX_IMAGE_PIXELS: u64 = 1 << 26;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    stage: Option<StageArguments>,
    /// Number of threads of libtorch and of the pool for pixels.
    #[arg(long, default_value_t = 1, global = true)]
    threads: usize,
    /// `cargo bench` passes this flag to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum StageArguments {
    /// Compute MaskCLIP's dense features of one image.
    Forward {
        #[command(flatten)]
        model: ModelArguments,
        /// A safetensors file with `pixels`, `[3, height, width]`, normalised.
        #[arg(long)]
        pixels: PathBuf,
    },
    /// Compute MaskCLIP's dense features of several images, each alone or together.
    Batch {
        #[command(flatten)]
        model: ModelArguments,
        /// Number of images.
        #[arg(long)]
        images: usize,
        /// Side of the images in pixels.
        #[arg(long)]
        side: i64,
        /// Let the images share a pass.
        #[arg(long)]
        together: bool,
    },
    /// Embed class names in all templates, including the tokenizing.
    Texts {
        #[command(flatten)]
        model: ModelArguments,
        /// A text file with one class name per line.
        #[arg(long)]
        names: PathBuf,
    },
    /// Compute labels, confidence and statistics at the image's size.
    LabelMap {
        /// A safetensors file with `scores`, `[classes, rows, columns]`: temperature times cosine.
        #[arg(long)]
        scores: PathBuf,
        #[arg(long)]
        width: u32,
        #[arg(long)]
        height: u32,
    },
    /// Turn an encoded image into the model's input.
    Pixels {
        #[arg(long)]
        image: PathBuf,
        #[arg(long)]
        short_side: u32,
        /// Side of the model's patches in pixels.
        #[arg(long)]
        patch: u32,
    },
}

#[derive(Args)]
struct ModelArguments {
    /// A checkpoint.
    #[arg(long)]
    weights: PathBuf,
    #[arg(long)]
    precision: Precision,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    Float32,
    Bfloat16,
}

impl ModelArguments {
    fn load(&self) -> Result<Clip, Box<dyn Error>> {
        let weights = Weights::load(&self.weights, Device::Cpu, self.kind())?;
        let config = ModelConfig::find(weights.format(), &self.weights)?;
        Ok(Clip::load(weights, &config)?)
    }

    fn kind(&self) -> Kind {
        match self.precision {
            Precision::Float32 => Kind::Float,
            Precision::Bfloat16 => Kind::BFloat16,
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let Some(stage) = arguments.stage else {
        println!("This benchmark takes turns with others: `make bench` runs it.");
        return Ok(());
    };
    tch::set_num_threads(i32::try_from(arguments.threads)?);
    rayon::ThreadPoolBuilder::new()
        .num_threads(arguments.threads)
        .build_global()?;
    match stage {
        StageArguments::Forward { model, pixels } => answer(&Forward {
            pixels: read(&pixels, "pixels")?.to_kind(model.kind()),
            clip: model.load()?,
        }),
        StageArguments::Batch {
            model,
            images,
            side,
            together,
        } => {
            tch::manual_seed(0); // Both ways get the same images.
            let image = || [Tensor::randn([3, side, side], (model.kind(), Device::Cpu))];
            answer(&Batch {
                images: std::iter::repeat_with(image).take(images).collect(),
                together,
                clip: model.load()?,
            })
        }
        StageArguments::Texts { model, names } => answer(&Texts {
            clip: model.load()?,
            names: std::fs::read_to_string(names)?.lines().map(str::to_owned).collect(),
        }),
        StageArguments::LabelMap { scores, width, height } => {
            answer(&Labels::new(&read(&scores, "scores")?, width, height)?)
        }
        StageArguments::Pixels {
            image,
            short_side,
            patch,
        } => answer(&Pixels {
            file: std::fs::read(image)?,
            short_side,
            patch,
        }),
    }
}

/// Reads the tensor `name` from a safetensors file.
fn read(path: &Path, name: &str) -> Result<Tensor, Box<dyn Error>> {
    let tensors = Tensor::read_safetensors(path)?;
    let found = tensors.into_iter().find(|(found, _)| found == name);
    let (_, tensor) = found.ok_or_else(|| format!("{} holds no {name}", path.display()))?;
    Ok(tensor)
}

/// A stage with all its inputs in memory.
trait Stage {
    /// The result of the stage.
    type Output;

    /// Runs the stage once. Only this call is timed.
    fn run(&self) -> Result<Self::Output, Box<dyn Error>>;

    /// Returns the tensors that are compared with those of the alternatives, by name.
    fn tensors(output: Self::Output) -> Result<Vec<(&'static str, Tensor)>, Box<dyn Error>>;
}

/// Answers commands until standard input ends.
fn answer<S: Stage>(stage: &S) -> Result<(), Box<dyn Error>> {
    say(&json!({"ready": true}))?;
    let mut last = None;
    for line in stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ') {
            None if line == "run" => {
                drop(last.take()); // The old output is freed before the clock starts.
                let start = Instant::now();
                let output = stage.run()?;
                let seconds = start.elapsed().as_secs_f64();
                last = Some(output);
                say(&json!({"seconds": seconds}))?;
            }
            Some(("write", path)) => {
                let output = last.take().ok_or("write comes after run")?;
                Tensor::write_safetensors(&S::tensors(output)?, path)?;
                say(&json!({"written": path}))?;
            }
            _ => return Err(format!("{line:?} is not a command").into()),
        }
    }
    Ok(())
}

fn say(reply: &serde_json::Value) -> std::io::Result<()> {
    let mut stdout = stdout().lock();
    writeln!(stdout, "{reply}")?;
    stdout.flush()
}

/// The stage `forward`.
struct Forward {
    clip: Clip,
    /// The normalised image, `[3, height, width]`.
    pixels: Tensor,
}

impl Stage for Forward {
    type Output = DenseFeatures;

    fn run(&self) -> Result<DenseFeatures, Box<dyn Error>> {
        // The options are MaskCLIP on the whole image without key smoothing.
        let options = FeatureOptions::default();
        Ok(DenseFeatures::extract(&self.clip.visual, &self.pixels, &options)?)
    }

    fn tensors(output: DenseFeatures) -> Result<Vec<(&'static str, Tensor)>, Box<dyn Error>> {
        Ok(vec![("features", output.cells.to_kind(Kind::Float))])
    }
}

/// The stage `batch`.
struct Batch {
    clip: Clip,
    /// Each image at its only size, `[3, height, width]`.
    images: Vec<[Tensor; 1]>,
    together: bool,
}

impl Stage for Batch {
    type Output = Vec<ImageViews>;

    fn run(&self) -> Result<Vec<ImageViews>, Box<dyn Error>> {
        let options = FeatureOptions::default();
        let network = &self.clip.visual;
        if self.together {
            let images: Vec<&[Tensor]> = self.images.iter().map(<[Tensor; 1]>::as_slice).collect();
            return Ok(ImageViews::extract_batch(network, &images, &options, &|| false)?);
        }
        let alone = self.images.iter();
        Ok(alone
            .map(|image| ImageViews::extract(network, image, &options))
            .collect::<Result<_, _>>()?)
    }

    fn tensors(output: Vec<ImageViews>) -> Result<Vec<(&'static str, Tensor)>, Box<dyn Error>> {
        let cells = output.iter().map(|views| match views.first_whole() {
            Some(features) => Ok(features.cells.to_kind(Kind::Float)),
            None => Err("an image was seen through windows".into()),
        });
        let cells = cells.collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        Ok(vec![("features", Tensor::stack(&cells, 0))])
    }
}

/// The stage `texts`.
struct Texts {
    clip: Clip,
    names: Vec<String>,
}

impl Stage for Texts {
    /// The embeddings of each chunk, `[names of the chunk, embedding]`.
    type Output = Vec<Tensor>;

    fn run(&self) -> Result<Vec<Tensor>, Box<dyn Error>> {
        let templates = TemplateSet::Maskclip85;
        let ensemble = templates.templates().len();
        let chunks = self.names.chunks(CHUNK_NAMES).map(|names| {
            let prompts = names.iter().flat_map(|name| templates.prompts(name));
            let prompts: Vec<_> = prompts.map(|prompt| self.clip.tokenizer.encode(&prompt)).collect();
            tch::no_grad(|| self.clip.text.encode_ensembles(&prompts, ensemble))
        });
        Ok(chunks.collect())
    }

    fn tensors(output: Vec<Tensor>) -> Result<Vec<(&'static str, Tensor)>, Box<dyn Error>> {
        Ok(vec![("embeddings", Tensor::cat(&output, 0))])
    }
}

/// The stage `label-map`.
struct Labels {
    scores: ScoreMap,
    owners: Vec<QueryOwner>,
    options: LabelMapOptions,
}

impl Labels {
    /// Prepares the stage for scores `[classes, rows, columns]`.
    fn new(scores: &Tensor, width: u32, height: u32) -> Result<Self, Box<dyn Error>> {
        let (classes, rows, columns) = scores.size3()?;
        let classes = u16::try_from(classes)?;
        Ok(Self {
            scores: ScoreMap {
                kind: ScoreKind::Logits,
                queries: classes.into(),
                grids: vec![ScoreGrid {
                    height: usize::try_from(rows)?,
                    width: usize::try_from(columns)?,
                    windows: None,
                    // [classes, rows, columns] -> [classes * rows * columns]
                    values: Vec::try_from(scores.flatten(0, 2))?,
                }],
            },
            owners: (0..classes).map(QueryOwner::Class).collect(),
            options: LabelMapOptions {
                width,
                height,
                classes: classes.into(),
                background_label: UNLABELLED,
                background_threshold: 0.0,
                smallest_area: 0.0,
                confidence_map: true,
            },
        })
    }
}

impl Stage for Labels {
    type Output = LabelMap;

    fn run(&self) -> Result<LabelMap, Box<dyn Error>> {
        Ok(label_map(&self.scores, &self.owners, &self.options))
    }

    fn tensors(output: LabelMap) -> Result<Vec<(&'static str, Tensor)>, Box<dyn Error>> {
        let size = [output.height.into(), output.width.into()];
        let labels: Vec<i32> = output.labels.iter().map(|&label| label.into()).collect();
        let confidence = output.confidence.ok_or("the confidence map was asked for")?;
        // [height * width] -> [height, width]
        Ok(vec![
            ("labels", Tensor::from_slice(&labels).view::<[i64; 2]>(size)),
            ("confidence", Tensor::from_slice(&confidence).view::<[i64; 2]>(size)),
        ])
    }
}

/// The stage `pixels`.
struct Pixels {
    /// The bytes of an encoded image.
    file: Vec<u8>,
    short_side: u32,
    patch: u32,
}

impl Stage for Pixels {
    type Output = NormalisedImage;

    fn run(&self) -> Result<NormalisedImage, Box<dyn Error>> {
        let image = image::decode(&self.file, image::Orientation::Exif, MAX_IMAGE_PIXELS)?;
        let resize = Resize::Bicubic;
        let (width, height) = image.dimensions();
        let (width, height) = resize.working_size(width, height, self.short_side, self.patch, MAX_IMAGE_PIXELS)?;
        Ok(image::preprocess(&image, width, height, resize, &Normalisation::CLIP))
    }

    fn tensors(output: NormalisedImage) -> Result<Vec<(&'static str, Tensor)>, Box<dyn Error>> {
        let size = [3, i64::try_from(output.height)?, i64::try_from(output.width)?];
        Ok(vec![("pixels", Tensor::from_slice(&output.values).view(size))])
    }
}
