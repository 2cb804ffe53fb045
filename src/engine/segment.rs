//! One request through all stages: decode, preprocess, text, queue, model, label map, encode.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::cost;
use super::host::ModelHost;
use super::request::{
    Background, ClassResult, OutputOptions, SegmentError, SegmentRequest, Segmentation, Timings, Warning, WarningCode,
};
use super::slots::Slot;
use super::worker::{Job, ScoreJob};
use super::{Engine, ModelInfo, ModelKind, Readiness};
use crate::dense::{self, DenseScores, KeySmoothing};
use crate::image::{self, ModelInput, RgbImage};
use crate::label_map::{self, EncodedLabelMap, LabelMap, LabelMapOptions, QueryOwner};
use crate::telemetry::Stage;
use crate::vocabulary::{self, ClassList, Classifier, TextEmbedding};

impl Engine {
    /// Labels one image.
    ///
    /// Never waits for a free slot: a full engine is [`SegmentError::Overloaded`] at once. Dropping
    /// the future gives the request up; texts that are being embedded are finished and kept.
    ///
    /// # Errors
    /// See [`SegmentError`]: the image, the vocabulary, the options, the engine's state, the deadline.
    pub async fn segment(&self, request: SegmentRequest) -> Result<Segmentation, SegmentError> {
        let host = self.host(&request.model)?;
        let model = self.ready_model(host)?;
        let slot = self.take_slot()?;
        let progress = Progress::default();
        let deadline = request.deadline;
        let start = Instant::now();
        let run = Run {
            engine: self,
            host,
            model,
            slot,
            progress: &progress,
            timings: Timings::default(),
        };
        match tokio::time::timeout_at(deadline.into(), run.all_stages(request)).await {
            Ok(result) => result,
            Err(_) => Err(SegmentError::DeadlineExceeded {
                seconds: start.elapsed().as_secs_f64(),
                stage: progress.stage().name(),
            }),
        }
    }

    /// What a model is, if a request to it can be answered now, whatever becomes of the others.
    pub(super) fn ready_model(&self, host: &ModelHost) -> Result<Arc<ModelInfo>, SegmentError> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(SegmentError::Unavailable("the server is going down"));
        }
        match (host.readiness(), host.info()) {
            (Readiness::Ready, Some(model)) => Ok(model),
            (Readiness::Recovering, _) => Err(SegmentError::Unavailable(
                "the model is being loaded anew after a failure",
            )),
            (Readiness::Starting | Readiness::Ready | Readiness::Draining, _) => {
                Err(SegmentError::Unavailable("the model is being loaded"))
            }
        }
    }

    pub(super) fn take_slot(&self) -> Result<Arc<Slot>, SegmentError> {
        self.slots.take().ok_or(SegmentError::Overloaded {
            capacity: self.slots.capacity(),
        })
    }
}

/// The stage a request is in, readable from outside when the deadline cuts it off.
#[derive(Default)]
struct Progress(AtomicU8);

impl Progress {
    fn enter(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    fn stage(&self) -> Stage {
        Stage::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }
}

/// One request on its way.
struct Run<'engine> {
    engine: &'engine Engine,
    host: &'engine ModelHost,
    model: Arc<ModelInfo>,
    slot: Arc<Slot>,
    progress: &'engine Progress,
    timings: Timings,
}

impl Run<'_> {
    async fn all_stages(mut self, request: SegmentRequest) -> Result<Segmentation, SegmentError> {
        self.check(&request)?;
        let list = self.engine.class_list(&request).await?;

        let bytes = request.image.clone();
        let max_pixels = self.engine.settings.limits.max_image_pixels;
        let pixels = self
            .blocking(Stage::Decode, move || image::decode(&bytes, max_pixels))
            .await??;
        let (width, height) = pixels.dimensions();
        let input = self.preprocess(pixels, &request).await?;
        let embeddings = self.embed(&list, &request).await?;
        let classifier = Arc::new(list.classifier(&embeddings, request.synonyms));
        self.check_refinement(&input, &classifier, &request)?;
        let scores = self.score(input, &classifier, &request).await?;

        let DenseScores {
            map: scores,
            similarity,
            image_probability,
            denoising_dropped_all,
        } = scores;
        let options = LabelMapOptions {
            width,
            height,
            classes: list.classes().len(),
            background_label: list.background_label(),
            background_threshold: request.background.threshold,
            smallest_area: request.background.area,
            confidence_map: request.output.confidence_map,
        };
        let owners = classifier.owners.clone();
        let map = self
            .blocking(Stage::LabelMap, move || {
                label_map::label_map(&scores, &owners, &options)
            })
            .await?;
        let statistics = map.classes.clone();
        let (label_map, confidence_map) = self.encode(map, request.output).await?;

        let similarity = best_per_class(&similarity, &classifier.owners, list.classes().len());
        let image_probability = best_per_class(&image_probability, &classifier.owners, list.classes().len());
        let classes = list
            .classes()
            .iter()
            .zip(statistics)
            .zip(similarity.into_iter().zip(image_probability));
        Ok(Segmentation {
            model: self.model.name.clone(),
            width,
            height,
            vocabulary_id: list.id(request.templates),
            vocabulary_texts: list.texts().len(),
            classes: classes
                .map(|((class, statistics), (similarity, image_probability))| ClassResult {
                    name: class.name.clone(),
                    statistics,
                    similarity,
                    image_probability,
                })
                .collect(),
            label_map,
            confidence_map,
            warnings: self.warnings(&request.background, &list, &embeddings, denoising_dropped_all),
            timings: self.timings,
        })
    }

    /// What the model at hand cannot do.
    fn check(&self, request: &SegmentRequest) -> Result<(), SegmentError> {
        match self.host.kind {
            ModelKind::Clip => self.check_attention(request),
            ModelKind::Student if request.dense.key_smoothing != KeySmoothing::None => Err(SegmentError::Unsupported(
                format!("the model {} is a student: it has no keys to smooth", self.model.name),
            )),
            // It has no attention, and does not look at the request's.
            ModelKind::Student => Ok(()),
        }
    }

    fn check_attention(&self, request: &SegmentRequest) -> Result<(), SegmentError> {
        let possible = &self.model.attentions;
        if possible.contains(&request.dense.attention) {
            return Ok(());
        }
        let possible = possible
            .iter()
            .map(|attention| attention.name())
            .collect::<Vec<_>>()
            .join(", ");
        Err(SegmentError::Unsupported(format!(
            "the model {} ({}) cannot compute the attention {}; it can: {possible}",
            self.model.name,
            self.model.architecture,
            request.dense.attention.name()
        )))
    }

    async fn preprocess(&mut self, pixels: RgbImage, request: &SegmentRequest) -> Result<ModelInput, SegmentError> {
        let sizes = self.sizes(&pixels, request)?;
        let (resize, normalisation) = (request.resize, self.model.normalisation);
        self.blocking(Stage::Preprocess, move || ModelInput {
            image_height: pixels.height() as usize,
            image_width: pixels.width() as usize,
            sizes: sizes
                .into_iter()
                .map(|(width, height)| image::preprocess(&pixels, width, height, resize, &normalisation))
                .collect(),
        })
        .await
    }

    /// Width and height in pixels at which the model sees the image at each scale, once it is known that it may.
    fn sizes(&self, pixels: &RgbImage, request: &SegmentRequest) -> Result<Vec<(u32, u32)>, SegmentError> {
        let limits = &self.engine.settings.limits;
        let patch_pixels = self.model.patch_pixels;
        let short_side = request.short_side.unwrap_or(self.model.short_side);
        let mut sizes = Vec::with_capacity(request.scales.len());
        for &scale in &request.scales {
            let short_side = cost::scaled_short_side(short_side, scale, limits)?;
            let (width, height) = pixels.dimensions();
            let max_pixels = limits.max_input_pixels;
            sizes.push(
                request
                    .resize
                    .working_size(width, height, short_side, patch_pixels, max_pixels)?,
            );
        }
        cost::check_sizes(&sizes, request.dense.window, patch_pixels, limits)?;
        let seen = |side: u32| request.dense.window.map_or(side, |window| side.min(window.side));
        for &(width, height) in &sizes {
            let [rows, columns] = [height, width].map(|side| (seen(side) / patch_pixels) as usize);
            dense::check_grid(request.dense.attention, rows, columns)?;
            cost::check_pairs(rows * columns, request.dense.attention, limits)?;
        }
        Ok(sizes)
    }

    /// Only when all texts are known is it known how many of them there are.
    fn check_refinement(
        &self,
        input: &ModelInput,
        classifier: &Classifier,
        request: &SegmentRequest,
    ) -> Result<(), SegmentError> {
        let pixels = (input.image_height * input.image_width) as u64;
        let limits = &self.engine.settings.limits;
        Ok(cost::check_refinement(
            &request.dense,
            classifier.queries,
            pixels,
            limits,
        )?)
    }

    async fn embed(&mut self, list: &ClassList, request: &SegmentRequest) -> Result<Vec<TextEmbedding>, SegmentError> {
        self.progress.enter(Stage::Text);
        let start = Instant::now();
        let embeddings = self
            .engine
            .embed(list, request.templates, self.host, &self.model, &self.slot)
            .await?;
        self.record(Stage::Text, start.elapsed());
        Ok(embeddings)
    }

    /// Waits for a worker and its scores.
    async fn score(
        &mut self,
        input: ModelInput,
        classifier: &Arc<Classifier>,
        request: &SegmentRequest,
    ) -> Result<DenseScores, SegmentError> {
        self.progress.enter(Stage::Queue);
        let (reply, answer) = oneshot::channel();
        let (started, has_started) = oneshot::channel();
        let job = ScoreJob {
            input,
            classifier: Arc::clone(classifier),
            options: request.dense,
            queued: Instant::now(),
            started,
            reply,
            _slot: Arc::clone(&self.slot),
        };
        if self.host.queue.push(Job::Score(job)).is_err() {
            return Err(SegmentError::Unavailable("the server is going down"));
        }
        let stopped = |_| SegmentError::Internal("the worker stopped before it answered".to_owned());
        let waited = has_started.await.map_err(stopped)?;
        self.record(Stage::Queue, waited);
        self.progress.enter(Stage::Model);
        let start = Instant::now();
        let scores = answer
            .await
            .map_err(stopped)?
            .map_err(|error| SegmentError::Internal(error.to_string()))?;
        self.record(Stage::Model, start.elapsed());
        Ok(scores)
    }

    async fn encode(
        &mut self,
        map: LabelMap,
        output: OutputOptions,
    ) -> Result<(EncodedLabelMap, Option<Vec<u8>>), SegmentError> {
        self.blocking(Stage::Encode, move || {
            (
                label_map::encode(&map, output.label_map),
                label_map::encode_confidence(&map),
            )
        })
        .await
    }

    /// Runs a stage on the blocking pool. The slot goes along, so that work whose request was given
    /// up still counts until it ends.
    async fn blocking<T: Send + 'static>(
        &mut self,
        stage: Stage,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SegmentError> {
        self.progress.enter(stage);
        let slot = Arc::clone(&self.slot);
        let start = Instant::now();
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(slot);
            result
        });
        let result = done
            .await
            .map_err(|error| SegmentError::Internal(format!("stage {}: {error}", stage.name())))?;
        self.record(stage, start.elapsed());
        Ok(result)
    }

    fn record(&mut self, stage: Stage, elapsed: Duration) {
        self.engine.metrics.stage(&self.host.name, stage, elapsed);
        self.timings.set(stage, elapsed);
    }

    fn warnings(
        &self,
        background: &Background,
        list: &ClassList,
        embeddings: &[TextEmbedding],
        denoising_dropped_all: bool,
    ) -> Vec<Warning> {
        let is_open = background.names.is_none();
        let surroundings = is_open.then_some(&*self.engine.settings.vocabulary.background);
        let advice = vocabulary::advice(list, embeddings, surroundings, self.model.training_words.as_ref());
        let mut warnings: Vec<Warning> = advice.into_iter().map(Warning::from).collect();
        if denoising_dropped_all {
            warnings.push(Warning {
                code: WarningCode::DenoisingDroppedAll,
                message: "prompt denoising would have dropped every class, so it dropped none".to_owned(),
            });
        }
        warnings
    }
}

/// The best value among each class's queries, `[classes]`.
fn best_per_class(values: &[f32], owners: &[QueryOwner], classes: usize) -> Vec<f32> {
    let mut best = vec![f32::NEG_INFINITY; classes];
    for (&value, owner) in values.iter().zip(owners) {
        if let QueryOwner::Class(id) = owner {
            let best = &mut best[usize::from(*id)];
            *best = best.max(value);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_counts_with_its_best_query_and_background_with_none() {
        let owners = [
            QueryOwner::Class(1),
            QueryOwner::Class(0),
            QueryOwner::Class(1),
            QueryOwner::Background,
        ];
        assert_eq!(best_per_class(&[0.1, 0.2, 0.3, 0.9], &owners, 2), [0.2, 0.3]);
    }
}
