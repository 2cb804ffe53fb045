//! Takes one request through all stages: image, text, queue, model, label map, encoding.

use std::sync::Arc;
use std::time::Instant;

use super::admitted::{AdmittedRequest, CurrentStage};
use super::estimate::{Part, Workload};
use super::extraction::SeenImage;
use super::footprint::{self, Dimensions, Footprint};
use super::job::{FeatureInput, Job, ScoreJob, Scored};
use super::request::{
    ClassResult, EngineError, OutputOptions, SegmentFields, SegmentOptions, SegmentRequest, Segmentation, Warning,
    WarningCode,
};
use super::vocabulary::FoundVocabulary;
use super::{Arrival, Caller, CostError, Engine, Stage, cost};
use crate::dense::{DenseOptions, refinement_bytes, refinement_work};
use crate::label_map::{
    self, EncodedLabelMap, LabelMap, LabelMapFormat, LabelMapOptions, LabelStyle, ProbabilityMap, TooManyCorners,
};
use crate::scores::{DenseScores, QueryOwner};
use crate::telemetry::note;
use crate::vocabulary::{self, ClassList, Classifier, EmbeddedTexts, Synonyms, TemplateSet, Urgency, VocabularyError};

impl Engine {
    /// Labels one image, for a request that has arrived.
    ///
    /// Never waits for a free slot: a full engine returns [`EngineError::Overloaded`] at once. Dropping the future
    /// gives the request up; texts that have been embedded for it by then are kept. The image's features are cached
    /// after the request is answered.
    ///
    /// # Errors
    /// [`EngineError`] when the image, the vocabulary or the options are refused, the engine is not ready or full, or
    /// the deadline passes.
    pub async fn segment(&self, arrival: Arrival, request: SegmentRequest) -> Result<Segmentation, EngineError> {
        let segmentation = self.segment_in_time(arrival, request).await;
        segmentation.map_err(|error| self.counted(error))
    }

    /// Labels one image as [`Engine::segment`] does, for a command: the request arrives now, and no client has sent it.
    ///
    /// # Errors
    /// The same as [`Engine::segment`].
    pub async fn segment_for_command(&self, request: SegmentRequest) -> Result<Segmentation, EngineError> {
        self.segment(self.arrive(&Caller::default())?, request).await
    }

    /// Checks what the fields of a request say that depends on no image, as [`Engine::segment`] does: a batch is refused as
    /// a whole where each of its images would be.
    ///
    /// # Errors
    /// [`EngineError`] when the vocabulary or the options are refused.
    pub async fn check_fields(&self, caller: &Caller, fields: &SegmentFields) -> Result<(), EngineError> {
        let (host, _) = self.check_request(fields, Instant::now())?;
        let vocabulary = self.find_vocabulary(caller, fields.choice()?).await?;
        let options = fields.resolve(self.surroundings(host), &vocabulary.options)?;
        let background = options.background.names.as_deref();
        let list = self.class_list(caller, vocabulary, background, options.templates)?;
        options.check_style(list.classes().len())?;
        options.output.probability_maps.of(&list)?;
        Ok(())
    }

    async fn segment_in_time(&self, arrival: Arrival, request: SegmentRequest) -> Result<Segmentation, EngineError> {
        let arrived = arrival.at;
        let (host, deadline) = self.check_request(&request.fields, arrived)?;
        let stage = CurrentStage::default();
        let admitted = AdmittedRequest::admit(self, host, &stage, arrival, deadline)?;
        stage.until(arrived, deadline, admitted.segment(request)).await
    }
}

/// The scores of an image, and whose they are.
struct OwnedScores {
    scores: DenseScores,
    owners: Vec<QueryOwner>,
    /// The classes of which there will be a probability map.
    wanted: Vec<u16>,
}

/// What is known of every pixel.
struct Labelled {
    map: LabelMap,
    probabilities: Vec<ProbabilityMap>,
}

/// The maps of a result in the forms that were asked for.
struct EncodedMaps {
    label_map: EncodedLabelMap,
    label_maps: Vec<EncodedLabelMap>,
    confidence_map: Option<Vec<u8>>,
    probability_maps: Vec<(u16, Vec<u8>)>,
}

impl AdmittedRequest<'_> {
    async fn segment(mut self, request: SegmentRequest) -> Result<Segmentation, EngineError> {
        let SegmentRequest { image, fields } = request;
        let vocabulary = self.engine.find_vocabulary(&self.caller, fields.choice()?).await?;
        let options = fields.resolve(self.surroundings(), &vocabulary.options)?;
        let SegmentOptions { dense, input, .. } = &options;
        self.check(&dense.features)?;
        let (image, digest) = self.image(&image).await?;
        let background = options.background.names.as_deref();
        let list = self.class_list(vocabulary, background, options.templates)?;
        options.check_style(list.classes().len())?;
        let wanted = options.output.probability_maps.of(&list)?;
        let seen = self.look(image, digest, dense, input).await?;
        let footprint = self.check_cost(&seen, &list, wanted.len(), &options)?;
        let (size, features_cached) = (seen.size, seen.is_cached());
        let texts = list.texts();
        let embeddings = self.embed(&texts, options.templates).await?;
        let workload = workload(&seen, &list, &options);
        self.reserve(&footprint, workload).await?;
        let prepared = self.prepare(seen, dense.refinement, input).await?;
        self.shrink_to(footprint.after_pixels());
        let mut warnings = self.warnings(background, &list, &embeddings);
        let classifier = self.classifier(&list, embeddings, options.synonyms).await?;
        let owners = classifier.owners.clone();
        let Scored { scores, features } = self.score(prepared.input, classifier, *dense).await?;
        self.shrink_to(footprint.after_scores());
        let scored = Instant::now();
        warnings.extend(scores.denoising_dropped_all.then(denoising_dropped_all));
        let owned = OwnedScores { scores, owners, wanted };
        let (labelled, classes) = self.label(owned, size, &list, &options).await?;
        self.shrink_to(footprint.after_label_map());
        let legend = legend(&options, &classes);
        let encoded = self
            .encode(labelled, options.output.clone(), options.style.clone())
            .await?;
        let amount = workload.amount(Part::LabelMap);
        self.host.times.record(Part::LabelMap, amount, scored.elapsed());
        if let Some(key) = prepared.key {
            self.hold_features(key, features, size, dense.features.keys);
        }
        Ok(Segmentation {
            model: self.model.name.clone(),
            width: size.0,
            height: size.1,
            vocabulary_id: list.id(options.templates),
            vocabulary_texts: texts.len(),
            classes,
            label_map: encoded.label_map,
            label_maps: encoded.label_maps,
            legend,
            confidence_map: encoded.confidence_map,
            probability_maps: encoded.probability_maps,
            warnings,
            features_cached,
            image_sha256: digest.map(|digest| digest.to_string()),
            timings: self.timings,
            held_bytes: self.held_bytes(),
        })
    }

    /// Returns the class list of the request, as [`Engine::class_list`] does.
    pub(super) fn class_list(
        &self,
        vocabulary: FoundVocabulary,
        background_names: Option<&[String]>,
        templates: TemplateSet,
    ) -> Result<Arc<ClassList>, VocabularyError> {
        let list = self
            .engine
            .class_list(&self.caller, vocabulary, background_names, templates)?;
        note("classes", list.classes().len() as i64);
        Ok(list)
    }

    /// Makes the classifier of a class list, which may be large: not before the request has reserved its bytes.
    pub(super) async fn classifier(
        &self,
        list: &Arc<ClassList>,
        embeddings: EmbeddedTexts,
        synonyms: Synonyms,
    ) -> Result<Classifier, EngineError> {
        let list = Arc::clone(list);
        self.blocking("the classifier", move || list.classifier(&embeddings, synonyms))
            .await
    }

    /// Has a worker score the image.
    async fn score(
        &mut self,
        input: FeatureInput,
        classifier: Classifier,
        options: DenseOptions,
    ) -> Result<Scored, EngineError> {
        let job = |ticket| {
            Job::Score(ScoreJob {
                input,
                classifier,
                options,
                ticket,
            })
        };
        self.on_worker(job).await
    }

    /// Makes a label map of the image's width and height from scores. Returns it with the result for each class.
    async fn label(
        &mut self,
        owned: OwnedScores,
        (width, height): (u32, u32),
        list: &ClassList,
        options: &SegmentOptions,
    ) -> Result<(Labelled, Vec<ClassResult>), EngineError> {
        let OwnedScores { scores, owners, wanted } = owned;
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
        let similarity = best_per_class(&scores.similarity, &owners, classes);
        let image_probability = best_per_class(&scores.image_probability, &owners, classes);
        let is_abandoned = self.is_abandoned();
        let map = self
            .stage(Stage::LabelMap, move || {
                label_map::label_map_with_probabilities(&scores.map, &owners, &map_options, &wanted, &is_abandoned)
            })
            .await?;
        let (map, probabilities) =
            map.ok_or_else(|| EngineError::Internal("a label map was given up that is still wanted".to_owned()))?;
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
        Ok((Labelled { map, probabilities }, results))
    }

    /// Checks the cost of the scores, and of what is made of them at the image's size. Returns the request's footprint.
    fn check_cost(
        &self,
        image: &SeenImage,
        list: &ClassList,
        probability_maps: usize,
        options: &SegmentOptions,
    ) -> Result<Footprint, CostError> {
        let limits = &self.engine.settings.input_limits;
        let queries = list.query_count(options.synonyms);
        cost::check_scores(queries, image.cells, limits)?;
        let output = &options.output;
        let maps = cost::Maps {
            is_raw: output.formats().any(|format| format == LabelMapFormat::Raw),
            confidence: output.confidence_map,
            probabilities: probability_maps,
        };
        cost::check_label_map(queries, image.pixels(), maps, limits)?;
        let refinement = &options.dense.refinement;
        cost::check_refinement(refinement, queries, image.size, limits)?;
        let dimensions = Dimensions {
            queries: queries as u64,
            text_floats: self.model.embedding_dimension as u64,
            refinement_bytes: refinement_bytes(refinement, queries, image.size),
            label_bytes: if list.classes().len() > 255 { 2 } else { 1 },
            probability_maps: probability_maps as u64,
            most_corners: limits.max_polygon_corners,
            class_bytes: footprint::class_bytes(list.classes().iter().map(|class| class.name.as_str())),
            ..self.dimensions(image)
        };
        let footprint = Footprint::of_label_map(&dimensions, output);
        self.check_footprint(&footprint)?;
        Ok(footprint)
    }

    pub(super) async fn embed(
        &mut self,
        texts: &[String],
        templates: TemplateSet,
    ) -> Result<EmbeddedTexts, EngineError> {
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
        labelled: Labelled,
        output: OutputOptions,
        style: LabelStyle,
    ) -> Result<EncodedMaps, EngineError> {
        let limit = self.engine.settings.input_limits.max_polygon_corners;
        let encoded = self.stage(Stage::Encode, move || -> Result<_, TooManyCorners> {
            let Labelled { map, probabilities } = labelled;
            let (width, height) = (map.width, map.height);
            let encode = |format| label_map::encode(&map, format, &style, limit);
            let encode_probabilities =
                |map: ProbabilityMap| (map.class_id, label_map::encode_probabilities(&map, width, height));
            Ok(EncodedMaps {
                label_map: encode(output.label_map)?,
                label_maps: output.label_maps.into_iter().map(encode).collect::<Result<_, _>>()?,
                confidence_map: label_map::encode_confidence(&map),
                probability_maps: probabilities.into_iter().map(encode_probabilities).collect(),
            })
        });
        Ok(encoded
            .await?
            .map_err(|TooManyCorners| CostError::PolygonCorners { limit })?)
    }

    pub(super) fn warnings(
        &self,
        background_names: Option<&[String]>,
        list: &ClassList,
        embeddings: &EmbeddedTexts,
    ) -> Vec<Warning> {
        let is_open = background_names.is_none();
        let surroundings = is_open.then_some(&*self.engine.settings.vocabulary.background);
        let advice = vocabulary::advice(list, embeddings, surroundings, self.model.training_words.as_ref());
        let advice = vocabulary::form_advice(list).into_iter().chain(advice);
        advice.map(Warning::from).collect()
    }
}

fn denoising_dropped_all() -> Warning {
    Warning {
        code: WarningCode::DenoisingDroppedAll,
        message: "prompt denoising would have dropped every class, so it dropped none".to_owned(),
    }
}

/// Returns the work for the scores, the refinement and the label map of an image, and for its features.
fn workload(image: &SeenImage, list: &ClassList, options: &SegmentOptions) -> Workload {
    let queries = list.query_count(options.synonyms);
    let refinement = &options.dense.refinement;
    let workload = image
        .workload()
        .with(Part::Scores, (queries as u64).saturating_mul(image.cells))
        .with(Part::LabelMap, (queries as u64).saturating_mul(image.pixels()));
    match Part::of_refinement(refinement.refinement()) {
        Some(part) => workload.with(part, refinement_work(refinement, queries, image.size)),
        None => workload,
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
