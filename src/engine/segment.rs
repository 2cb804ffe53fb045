//! One request to segment through all stages: the image, text, queue, model, label map, encode.

use std::sync::Arc;
use std::time::Instant;

use super::request::{
    Background, ClassResult, OutputOptions, SegmentError, SegmentRequest, Segmentation, Warning, WarningCode,
};
use super::run::{Progress, Run};
use super::worker::{Job, ScoreJob, Scored};
use super::{Engine, Stage, cost};
use crate::label_map::{self, EncodedLabelMap, LabelMap, LabelMapOptions};
use crate::scores::DenseScores;
use crate::scores::QueryOwner;
use crate::vocabulary::{self, ClassList, Classifier, TextEmbedding};

impl Engine {
    /// Labels one image.
    ///
    /// Never waits for a free slot: a full engine is [`SegmentError::Overloaded`] at once. Dropping
    /// the future gives the request up; texts that are being embedded are finished and kept. Features of the image are kept once
    /// the request is answered.
    ///
    /// # Errors
    /// See [`SegmentError`]: the image, the vocabulary, the options, the engine's state, the deadline.
    pub async fn segment(&self, request: SegmentRequest) -> Result<Segmentation, SegmentError> {
        let progress = Progress::default();
        let deadline = request.deadline;
        let run = Run::admit(self, &request.model, &progress)?;
        progress.until(deadline, run.segment(request)).await
    }
}

impl Run<'_> {
    async fn segment(mut self, request: SegmentRequest) -> Result<Segmentation, SegmentError> {
        self.check(&request.dense)?;
        let (image, digest) = self.image(&request.image).await?;
        let list = self.engine.class_list(&request).await?;
        let look = self.look(image, digest, &request.dense, &request.input).await?;
        let (features_cached, (width, height)) = (look.is_cached(), look.size);
        let embeddings = self.embed(&list, &request).await?;
        let classifier = Arc::new(list.classifier(&embeddings, request.synonyms));
        self.check_refinement(look.size, &classifier, &request)?;
        let job = |ticket| {
            Job::Score(ScoreJob {
                sight: look.sight,
                classifier: Arc::clone(&classifier),
                options: request.dense,
                ticket,
            })
        };
        let Scored { scores, features } = self.on_worker(job).await?;

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
            .stage(Stage::LabelMap, move || {
                label_map::label_map(&scores, &owners, &options)
            })
            .await?;
        let statistics = map.classes.clone();
        let (label_map, confidence_map) = self.encode(map, request.output).await?;
        if let Some(key) = look.key.filter(|_| !features_cached) {
            self.hold_features(key, features, look.size, &request.dense);
        }

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
            features_cached,
            timings: self.timings,
        })
    }

    /// Only when all texts are known is it known how many of them there are.
    fn check_refinement(
        &self,
        (width, height): (u32, u32),
        classifier: &Classifier,
        request: &SegmentRequest,
    ) -> Result<(), SegmentError> {
        let pixels = u64::from(width) * u64::from(height);
        let limits = &self.engine.settings.input_limits;
        Ok(cost::check_refinement(
            &request.dense,
            classifier.queries,
            pixels,
            limits,
        )?)
    }

    async fn embed(&mut self, list: &ClassList, request: &SegmentRequest) -> Result<Vec<TextEmbedding>, SegmentError> {
        self.enter(Stage::Text);
        let start = Instant::now();
        let embeddings = self
            .engine
            .embed(list, request.templates, self.host, &self.model, &self.slot)
            .await?;
        self.record(Stage::Text, start.elapsed());
        Ok(embeddings)
    }

    async fn encode(
        &mut self,
        map: LabelMap,
        output: OutputOptions,
    ) -> Result<(EncodedLabelMap, Option<Vec<u8>>), SegmentError> {
        self.stage(Stage::Encode, move || {
            (
                label_map::encode(&map, output.label_map),
                label_map::encode_confidence(&map),
            )
        })
        .await
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
