//! `maskclip doctor`: says what the program would work with here, and times a pass.

use std::io::Cursor;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use tokio::runtime::Runtime;

use super::arguments::{ConfigArguments, ModelArguments};
use super::command_engine::start_engine;
use super::disk::OpenStore;
use super::measure::Result;
use super::output::print;
use crate::config::Config;
use crate::engine::{Engine, ImageSource, OutputOptions, SegmentFields, SegmentRequest, Timings, VocabularyChoice};
use crate::image::RgbImage;
use crate::label_map::LabelMapFormat;
use crate::labeller::ModelInfo;
use crate::models::Place;
use crate::vocabulary::Class;

/// Sides of the image that is timed, in pixels.
const IMAGE: [u32; 2] = [640, 480];

/// Passes that are timed; the first one also embeds texts and warms up.
const PASSES: usize = 4;

/// Arguments of `maskclip doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    model: ModelArguments,
}

/// Prints one finding a line. A defect ends the command after the findings before it.
pub fn run(arguments: DoctorArguments) -> Result<()> {
    tell("program", format!("maskclip {}", crate::LONG_VERSION))?;
    let config = arguments.config.start(arguments.model.settings())?;
    tell(
        "processors",
        std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
    )?;
    let models = config.asked_models();
    let (entry, workers) = (&config.models[0], config.engine.workers);
    let threads = Place::find(entry, &config.model, workers)?.threads;
    tell(
        "threads",
        format!("{threads} of libtorch in each of {workers} workers (model.threads, engine.workers)"),
    )?;
    let memory = config.memory(&models.sizes()?);
    tell("memory", memory.summary())?;
    tell("folder of models", with_state(&config.model.folder()))?;
    let store = match config.vocabulary.store_path.file() {
        Some(path) => with_state(&path),
        None => "none: vocabularies end with the program".to_owned(),
    };
    tell("store", store)?;
    let disk = OpenStore::for_reading(&config.vocabulary);
    tell_caches(&config, &disk)?;
    let served = models.find_first()?;
    Runtime::new()?.block_on(async {
        let begin = Instant::now();
        let (engine, model) = start_engine(config.engine_settings(), served, &disk).await?;
        let loaded = begin.elapsed().as_secs_f64();
        tell_model(&model, loaded)?;
        tell_passes(&engine).await?;
        memory.check()?;
        Ok(())
    })
}

/// Says what is kept so that it need not be computed again, where, and how much of it there may be.
fn tell_caches(config: &Config, disk: &OpenStore) -> Result<()> {
    let megabytes = |bytes: u64| format!("{:.0} MB", bytes as f64 / 1e6);
    let on_disk = match disk.get() {
        Some(disk) => {
            let (file, bytes) = disk.embeddings();
            let most = megabytes(config.vocabulary.store_bytes);
            format!(
                "{:.1} of {most} in {} (vocabulary.store_bytes)",
                bytes as f64 / 1e6,
                file.display()
            )
        }
        None => "none on disk".to_owned(),
    };
    let texts = megabytes(config.vocabulary.cache_bytes);
    tell(
        "text cache",
        format!("embeddings: up to {texts} in memory (vocabulary.cache_bytes), {on_disk}"),
    )?;
    let (features, held) = (
        megabytes(config.images.cache_bytes),
        megabytes(config.images.held_bytes),
    );
    tell(
        "image cache",
        format!("features: up to {features} in memory (images.cache_bytes); images: up to {held} (images.held_bytes)"),
    )
}

fn tell_model(model: &ModelInfo, loaded: f64) -> Result<()> {
    let ModelInfo {
        name,
        architecture,
        weights_sha256,
        precision,
        device,
        ..
    } = model;
    tell("model", format!("{name}, {architecture}, loaded in {loaded:.2} s"))?;
    tell("weights", format!("SHA-256 {weights_sha256}"))?;
    tell("device", format!("{device}, {}", precision.name()))
}

/// Times passes over an image of noise, whose features nothing can know beforehand.
async fn tell_passes(engine: &Engine) -> Result<()> {
    let [width, height] = IMAGE;
    let classes = ["a thing", "another thing"].map(|name| Class::from(name.to_owned()));
    let fields = SegmentFields {
        vocabulary: Some(VocabularyChoice::Inline(classes.to_vec())),
        output: OutputOptions {
            label_map: LabelMapFormat::Png,
            ..OutputOptions::default()
        },
        ..SegmentFields::default()
    };
    for pass in 0..PASSES {
        let pixels = RgbImage::from_fn(width, height, |x, y| {
            let seed = (x ^ y).wrapping_mul(2_654_435_761).wrapping_add(pass as u32);
            ::image::Rgb([(seed >> 24) as u8, (seed >> 16) as u8, (seed >> 8) as u8])
        });
        let mut file = Cursor::new(Vec::new());
        pixels.write_to(&mut file, ::image::ImageFormat::Png)?;
        let request = SegmentRequest {
            image: ImageSource::Upload(Bytes::from(file.into_inner())),
            fields: fields.clone(),
        };
        let begin = Instant::now();
        let Timings {
            text_seconds,
            model_seconds,
            label_map_seconds,
            ..
        } = engine.segment_for_command(request).await?.timings;
        let whole = begin.elapsed().as_secs_f64();
        let name = if pass == 0 { "first pass" } else { "pass" };
        if pass == 0 || pass == PASSES - 1 {
            let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
            tell(
                name,
                format!(
                    "{width} x {height} pixels in {}: texts {}, model {}, label map {}",
                    ms(whole),
                    ms(text_seconds),
                    ms(model_seconds),
                    ms(label_map_seconds)
                ),
            )?;
        }
    }
    Ok(())
}

/// Returns a path with whether something is there.
fn with_state(path: &Path) -> String {
    let state = if path.exists() {
        "is there"
    } else {
        "does not exist yet"
    };
    format!("{} {state}", path.display())
}

fn tell(what: &str, found: impl std::fmt::Display) -> Result<()> {
    Ok(print(&format!("{what:<17} {found}\n"))?)
}
