//! Takes one request through all stages: image, text, queue, model, label map, encoding.

use std::sync::Arc;
use std::time::Instant;

use super::admission::{AdmittedRequest, CurrentStage};
use super::extraction::SeenImage;
use super::request::{
    Background, ClassResult, OutputOptions, SegmentError, SegmentOptions, SegmentRequest, Segmentation, Warning,
    WarningCode,
};
use super::weight::{Dimensions, Weight};
use super::worker::{Job, ScoreJob, Scored};
use super::{Arrival, Caller, CostError, Engine, Stage, cost};
use crate::dense::refinement_bytes;
use crate::label_map::{self, EncodedLabelMap, LabelMap, LabelMapOptions, LabelStyle};
use crate::scores::{DenseScores, QueryOwner};
use crate::telemetry::note;
use crate::vocabulary::{self, ClassList, Classifier, EmbeddedTexts, TemplateSet, Urgency, VocabularyOptions};

impl Engine {
    /// Labels one image, for the caller without a name.
    ///
    /// Never waits for a free slot: a full engine returns [`SegmentError::Overloaded`] at once. Dropping the future
    /// gives the request up; texts that have been embedded for it by then are kept. The image's features are cached
    /// after the request is answered.
    ///
    /// # Errors
    /// [`SegmentError`] when the image, the vocabulary or the options are refused, the engine is not ready or full, or
    /// the deadline passes.
    pub async fn segment(&self, request: SegmentRequest) -> Result<Segmentation, SegmentError> {
        self.segment_arrived(self.arrive(&Caller::default())?, request).await
    }

    /// Labels one image as [`Engine::segment`] does, for a request that arrived earlier.
    ///
    /// # Errors
    /// The same as [`Engine::segment`].
    pub async fn segment_arrived(
        &self,
        arrival: Arrival,
        request: SegmentRequest,
    ) -> Result<Segmentation, SegmentError> {
        let segmentation = self.segment_in_time(arrival, request).await;
        segmentation.map_err(|error| self.counted(error))
    }

    async fn segment_in_time(&self, arrival: Arrival, request: SegmentRequest) -> Result<Segmentation, SegmentError> {
        let arrived = arrival.at();
        let deadline = self.deadline(&request.fields.features, arrived)?;
        let host = self.find_host(request.fields.features.model.as_deref())?;
        // Errors that do not depend on the vocabulary are reported before the request costs anything.
        request
            .fields
            .resolve(self.surroundings(host), &VocabularyOptions::default())?;
        let stage = CurrentStage::default();
        let admitted = AdmittedRequest::admit(self, host, &stage, arrival, deadline)?;
        stage.until(arrived, deadline, admitted.segment(request)).await
    }
}

impl AdmittedRequest<'_> {
    async fn segment(mut self, request: SegmentRequest) -> Result<Segmentation, SegmentError> {
        let SegmentRequest { image, fields } = request;
        let vocabulary = self.engine.find_vocabulary(&self.caller, fields.choice()?).await?;
        let options = fields.resolve(self.surroundings(), &vocabulary.options)?;
        let SegmentOptions { dense, input, .. } = &options;
        self.check(&dense.features)?;
        let (image, digest) = self.image(&image).await?;
        let list = self
            .engine
            .class_list(&self.caller, vocabulary, &options.background, options.templates)?;
        note("classes", list.classes().len() as i64);
        options.check_style(list.classes().len())?;
        let seen = self.look(image, digest, dense, input).await?;
        let weight = self.check_cost(&seen, &list, &options)?;
        let (size, features_cached) = (seen.size, seen.is_cached());
        let texts = list.texts();
        let embeddings = self.embed(&texts, options.templates).await?;
        let classifier = Arc::new(list.classifier(&embeddings, options.synonyms));
        self.reserve(&weight).await?;
        let prepared = self.prepare(seen, dense.refinement, input).await?;
        self.shrink_to(weight.after_pixels());
        let job = |ticket| {
            Job::Score(ScoreJob {
                input: prepared.input,
                classifier: Arc::clone(&classifier),
                options: *dense,
                ticket,
            })
        };
        let Scored { scores, features } = self.on_worker(job).await?;
        self.shrink_to(weight.after_scores());
        let scored = Instant::now();
        let warnings = self.warnings(&options.background, &list, &embeddings, scores.denoising_dropped_all);
        let (map, classes) = self.label(scores, size, &list, &classifier, &options).await?;
        self.shrink_to(weight.after_label_map());
        let legend = legend(&options, &classes);
        let (label_map, confidence_map) = self.encode(map, options.output, options.style.clone()).await?;
        self.host.times.record_rest(scored.elapsed());
        if let Some(key) = prepared.key {
            self.hold_features(key, features, size, dense.features.keys);
        }
        let (width, height) = size;
        Ok(Segmentation {
            model: self.model.name.clone(),
            width,
            height,
            vocabulary_id: list.id(options.templates),
            vocabulary_texts: texts.len(),
            classes,
            label_map,
            legend,
            confidence_map,
            warnings,
            features_cached,
            timings: self.timings,
            held_bytes: self.held_bytes(),
        })
    }

    /// Makes a label map of the image's width and height from scores. Returns it with the result for each class.
    async fn label(
        &mut self,
        scores: DenseScores,
        (width, height): (u32, u32),
        list: &ClassList,
        classifier: &Arc<Classifier>,
        options: &SegmentOptions,
    ) -> Result<(LabelMap, Vec<ClassResult>), SegmentError> {
        let classes = list.classes().len();
        let map_options = LabelMapOptions {
            width,
            height,
            classes,
            background_label: list.background_label(),
            background_threshold: options.background.threshold,
            smallest_area: options.background.area,
            confidence_map: options.output.confidence_map,
        };
        let similarity = best_per_class(&scores.similarity, &classifier.owners, classes);
        let image_probability = best_per_class(&scores.image_probability, &classifier.owners, classes);
        let classifier = Arc::clone(classifier);
        let is_abandoned = self.is_abandoned();
        let map = self
            .stage(Stage::LabelMap, move || {
                label_map::label_map_unless(&scores.map, &classifier.owners, &map_options, &is_abandoned)
            })
            .await?;
        let map =
            map.ok_or_else(|| SegmentError::Internal("a label map was given up that is still wanted".to_owned()))?;
        let colors = (0..).map(|id| options.style.color(id));
        let results = list.classes().iter().zip(&map.classes).zip(colors);
        let results = results.zip(similarity.into_iter().zip(image_probability));
        let results = results.map(
            |(((class, statistics), color), (similarity, image_probability))| ClassResult {
                name: class.name.clone(),
                color,
                statistics: statistics.clone(),
                similarity,
                image_probability,
            },
        );
        let results = results.collect();
        Ok((map, results))
    }

    /// Checks the cost of the scores, and of what is made of them at the image's size. Returns the request's weight.
    fn check_cost(&self, image: &SeenImage, list: &ClassList, options: &SegmentOptions) -> Result<Weight, CostError> {
        let limits = &self.engine.settings.input_limits;
        let queries = list.query_count(options.synonyms);
        cost::check_scores(queries, image.cells, limits)?;
        let output = options.output;
        let form = (output.label_map, output.confidence_map);
        cost::check_label_map(queries, image.pixels(), form, limits)?;
        let refinement = &options.dense.refinement;
        cost::check_refinement(refinement, queries, image.pixels(), limits)?;
        let dimensions = Dimensions {
            queries: queries as u64,
            refinement_bytes: refinement_bytes(refinement, queries, image.pixels()),
            label_bytes: if list.classes().len() > 255 { 2 } else { 1 },
            ..self.dimensions(image)
        };
        let weight = Weight::of_label_map(&dimensions, output);
        self.check_weight(&weight)?;
        Ok(weight)
    }

    async fn embed(&mut self, texts: &[String], templates: TemplateSet) -> Result<EmbeddedTexts, SegmentError> {
        self.enter(Stage::Text);
        let start = Instant::now();
        let missing = self.engine.missing_texts(&self.model, texts, templates).await;
        self.check_text_time(missing, templates)?;
        let _waiting = self.engine.take_text_share(&self.caller, missing)?;
        let embeddings = self
            .engine
            .embed(&self.caller, texts, templates, self.host, &self.model, Urgency::Request)
            .await?;
        self.record(Stage::Text, start.elapsed());
        Ok(embeddings)
    }

    async fn encode(
        &mut self,
        map: LabelMap,
        output: OutputOptions,
        style: LabelStyle,
    ) -> Result<(EncodedLabelMap, Option<Vec<u8>>), SegmentError> {
        self.stage(Stage::Encode, move || {
            (
                label_map::encode(&map, output.label_map, &style),
                label_map::encode_confidence(&map),
            )
        })
        .await
    }

    fn warnings(
        &self,
        background: &Background,
        list: &ClassList,
        embeddings: &EmbeddedTexts,
        denoising_dropped_all: bool,
    ) -> Vec<Warning> {
        let is_open = background.names.is_none();
        let surroundings = is_open.then_some(&*self.engine.settings.vocabulary.background);
        let advice = vocabulary::advice(list, embeddings, surroundings, self.model.training_words.as_ref());
        let advice = vocabulary::form_advice(list).into_iter().chain(advice);
        let mut warnings: Vec<Warning> = advice.map(Warning::from).collect();
        if denoising_dropped_all {
            warnings.push(Warning {
                code: WarningCode::DenoisingDroppedAll,
                message: "prompt denoising would have dropped every class, so it dropped none".to_owned(),
            });
        }
        warnings
    }
}

/// Returns which colour means which class, if the request asks for it.
fn legend(options: &SegmentOptions, classes: &[ClassResult]) -> Option<String> {
    let names = classes.iter().map(|class| class.name.as_str());
    options.output.legend.then(|| options.style.legend(names))
}

/// Returns the largest value among each class's queries, `[classes]`.
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
