//! Labels in this process: an engine of its own answers.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::runtime::Runtime;

use super::arguments::LabelArguments;
use super::{Job, class_labels, inputs, request_of};
use crate::api::ClassBody;
use crate::cli::command_engine::start_engine;
use crate::cli::disk::OpenStore;
use crate::cli::measure::{Result, resolve};
use crate::config::Config;
use crate::engine::{
    ClassResult, Engine, EngineError, ImageSource, SegmentFields, SegmentOptions, SegmentRequest, Segmentation,
    VocabularyChoice,
};
use crate::formats::{ClassMask, ClassMeasures};
use crate::label_map::EncodedLabelMap;
use crate::labeller::ModelInfo;
use crate::labelling::{Answer, Plan, Refusal};
use crate::vocabulary::VocabularyDefinition;

/// How long a request waits that the engine cannot take at the moment.
const RETRY: Duration = Duration::from_millis(500);

/// Labels with the model of the settings.
pub fn run(arguments: &LabelArguments, config: &Config) -> Result<()> {
    let inputs = inputs(arguments)?;
    let model = config.asked_models().find_first()?;
    let store = OpenStore::for_reading(&config.vocabulary);
    let registry = store.registry(config);
    let vocabulary = arguments
        .vocabulary
        .vocabulary(arguments.request.protocol, &registry, config)?;
    let runtime = Runtime::new()?;
    let done = runtime.block_on(async {
        let mut settings = config.engine_settings();
        settings.queue.max_batch = usize::from(arguments.run.max_batch);
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        // One image at each worker, one waiting for it, and one before and one behind the model for each processor.
        let jobs = 2 * settings.queue.workers + 2 * processors;
        let jobs = jobs.min(settings.queue.queue_capacity);
        let (engine, model) = start_engine(settings, model, &store).await?;
        let mut fields = arguments.fields()?;
        fields.vocabulary = Some(VocabularyChoice::Defined(vocabulary.clone()));
        fields.features.deadline_seconds = Some(config.engine.max_deadline_seconds);
        let options = resolve(&fields, engine.settings(), &vocabulary.options, &model)?;
        engine.embed_for(&fields).await?;
        let plan = plan(arguments, &vocabulary, &options, &model);
        let job = Job::open(arguments, config, inputs, &plan, options.input.orientation, jobs)?;
        let patience = Duration::from_secs_f64(config.engine.max_deadline_seconds);
        let ask = move |image: Bytes| ask(Arc::clone(&engine), fields.clone(), image, patience);
        job.work(ask).await
    });
    // After an error, dropping it would wait for images that are given up.
    runtime.shutdown_background();
    done
}

fn plan(
    arguments: &LabelArguments,
    vocabulary: &VocabularyDefinition,
    options: &SegmentOptions,
    model: &ModelInfo,
) -> Plan {
    let classes: Vec<ClassBody> = vocabulary.list.classes().iter().cloned().map(Into::into).collect();
    let given = json!({"classes": classes, "background": {"names": vocabulary.list.background()}});
    let mut request = request_of(given, arguments);
    // What the flags leave open depends on the settings.
    let SegmentOptions {
        background,
        templates,
        synonyms,
        dense,
        input,
        ..
    } = options;
    request["resolved"] = format!("{background:?} {templates:?} {synonyms:?} {dense:?} {input:?}").into();
    let names = vocabulary.list.classes().iter().map(|class| class.name.as_str());
    Plan {
        version: crate::VERSION.to_owned(),
        model: json!({
            "name": model.name,
            "weights_sha256": model.weights_sha256,
            "precision": model.precision.name(),
        }),
        request,
        classes: class_labels(names, &arguments.results.style()),
        unlabelled: arguments.results.unlabelled,
        keeps_endings: arguments.results.keep_endings,
        drawings: Plan::drawings(&arguments.results.formats(), arguments.results.drawing()),
    }
}

/// Asks the engine for the labels of an image. Waits while the engine cannot take it, as after a model that failed.
async fn ask(
    engine: Arc<Engine>,
    fields: SegmentFields,
    image: Bytes,
    patience: Duration,
) -> std::result::Result<Answer, Refusal> {
    let begin = Instant::now();
    loop {
        let request = SegmentRequest {
            image: ImageSource::Upload(image.clone()),
            fields: fields.clone(),
        };
        match engine.segment_for_command(request).await {
            Ok(segmentation) => return Ok(answer_of(segmentation)),
            Err(error) if is_of_the_moment(&error) && begin.elapsed() < patience => tokio::time::sleep(RETRY).await,
            Err(error) if is_of_the_run(&error) => return Err(Refusal::Run(error.to_string())),
            Err(error) => return Err(Refusal::Image(error.to_string())),
        }
    }
}

/// Returns the answer of an engine that was asked for run lengths.
fn answer_of(segmentation: Segmentation) -> Answer {
    let EncodedLabelMap::CocoRle(masks) = segmentation.label_map else {
        unreachable!("run lengths were asked for");
    };
    let measures = |class: ClassResult| ClassMeasures {
        pixels: class.statistics.pixels,
        bounding_box: class.statistics.bounding_box,
        mean_confidence: class.statistics.mean_confidence,
        max_confidence: class.statistics.max_confidence,
        presence: class.statistics.presence,
        similarity: class.similarity,
        image_probability: class.image_probability,
    };
    Answer {
        model: segmentation.model,
        width: segmentation.width,
        height: segmentation.height,
        classes: segmentation.classes.into_iter().map(measures).collect(),
        masks: masks.into_iter().map(ClassMask::from).collect(),
        confidence: segmentation.confidence_map,
        probabilities: segmentation.probability_maps,
        warnings: segmentation
            .warnings
            .into_iter()
            .map(|warning| warning.message)
            .collect(),
    }
}

/// Returns whether the same request may be answered later.
fn is_of_the_moment(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::ModelUnavailable { .. } | EngineError::Overloaded { .. } | EngineError::TooBusy { .. }
    )
}

/// Returns whether no other image would fare better.
fn is_of_the_run(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Field(_)
            | EngineError::Vocabulary(_)
            | EngineError::UnknownModel { .. }
            | EngineError::Unsupported(_)
            | EngineError::ModelUnavailable { .. }
            | EngineError::Unavailable(_)
    )
}
