//! Whole images and texts in CLIP's own space: embeddings, and the classes of an image by them.
//!
//! An image passes the visual tower once more, as CLIP was trained: the square in its middle, at the side of its
//! training. Such passes go through the queue like all others, and images of several requests may share one.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::admitted::{AdmittedRequest, CurrentStage};
use super::estimate::{Part, Workload};
use super::footprint::{self, Dimensions, Footprint};
use super::job::{EmbedImageJob, Job};
use super::request::{
    ClassScore, Classification, ClassifyRequest, EmbedError, EmbedInput, EmbedRequest, Embeddings, EngineError,
    Warning, WarningCode,
};
use super::{Arrival, Engine, Stage};
use crate::dense::{Attention, FeatureOptions};
use crate::image::{self, ImageHeader, ModelInput, Orientation};
use crate::scores::QueryOwner;
use crate::telemetry::note;
use crate::vocabulary::{Classifier, TemplateSet, VocabularyOptions};

impl Engine {
    /// Embeds texts and images, for a request that has arrived. Texts are embedded as they are, without a prompt
    /// template, and cached as those of classes are. Nothing is kept of the images.
    ///
    /// Never waits for a free slot: a full engine fails at once, as in [`Engine::segment`].
    ///
    /// # Errors
    /// [`EmbedError`] when an input is refused, the model has no image embeddings, the engine is not ready or full, or
    /// the deadline passes.
    pub async fn embed_inputs(&self, arrival: Arrival, request: EmbedRequest) -> Result<Embeddings, EmbedError> {
        let embeddings = self.embed_in_time(arrival, request).await;
        embeddings.map_err(|EmbedError { input, error }| EmbedError {
            input,
            error: self.counted(error),
        })
    }

    async fn embed_in_time(&self, arrival: Arrival, request: EmbedRequest) -> Result<Embeddings, EmbedError> {
        let arrived = arrival.at;
        let deadline = self.deadline(request.deadline_seconds, arrived)?;
        let host = self.find_host(request.model.as_deref())?;
        let stage = CurrentStage::default();
        let admitted = AdmittedRequest::admit(self, host, &stage, arrival, deadline)?;
        let embeddings = async { Ok(admitted.embed_inputs(request).await) };
        stage.until(arrived, deadline, embeddings).await?
    }

    /// Says which classes an image shows as a whole, for a request that has arrived: CLIP's zero-shot classification.
    ///
    /// # Errors
    /// As [`Engine::segment`], and [`EngineError::Unsupported`] when the model has no image embeddings.
    pub async fn classify(&self, arrival: Arrival, request: ClassifyRequest) -> Result<Classification, EngineError> {
        let classification = self.classify_in_time(arrival, request).await;
        classification.map_err(|error| self.counted(error))
    }

    async fn classify_in_time(
        &self,
        arrival: Arrival,
        request: ClassifyRequest,
    ) -> Result<Classification, EngineError> {
        let arrived = arrival.at;
        let fields = &request.fields;
        let deadline = self.deadline(fields.deadline_seconds, arrived)?;
        let host = self.find_host(fields.model.as_deref())?;
        fields.resolve(self.surroundings(host), &VocabularyOptions::default())?;
        let stage = CurrentStage::default();
        let admitted = AdmittedRequest::admit(self, host, &stage, arrival, deadline)?;
        stage.until(arrived, deadline, admitted.classify(request)).await
    }
}

impl AdmittedRequest<'_> {
    async fn embed_inputs(mut self, request: EmbedRequest) -> Result<Embeddings, EmbedError> {
        let orientation = Orientation::default();
        let (mut texts, mut images) = (Vec::new(), Vec::new());
        for (place, input) in request.inputs.into_iter().enumerate() {
            match input {
                EmbedInput::Text(text) => texts.push((place, text)),
                EmbedInput::Image(bytes) => images.push((place, bytes)),
            }
        }
        let total = texts.len() + images.len();
        // What is wrong with an image is told before anything dear happens.
        let largest = self.largest_footprint(&images, orientation).await?;
        let reply = footprint::embedding_bytes(total, self.model.embedding_dimension);
        let (_, footprint) = largest.unwrap_or_default();
        let footprint = footprint.with_reply(reply);
        self.check_footprint(&footprint)?;
        let (text_vectors, tokens, truncated) = self.embed_texts(texts).await?;
        let mut vectors: HashMap<usize, Arc<[f32]>> = text_vectors.into_iter().collect();
        if let Some((side, _)) = largest {
            self.reserve(&footprint, self.square_workload(side)).await?;
            for (place, bytes) in images {
                let vector = self.embed_square(bytes, orientation, side).await;
                let vector = vector.map_err(|error| EmbedError::of_input(place, error))?;
                vectors.insert(place, vector.into());
            }
            self.shrink_to(reply);
        } else {
            self.reserve_reply(reply).await?;
        }
        let vector = |place| vectors.remove(&place).expect("every input has been embedded");
        Ok(Embeddings {
            model: self.model.name.clone(),
            vectors: (0..total).map(vector).collect(),
            tokens,
            truncated,
            held_bytes: self.held_bytes(),
        })
    }

    /// Embeds texts without a template. Returns their vectors, the number of their tokens, and whether one of them was
    /// cut.
    async fn embed_texts(
        &mut self,
        texts: Vec<(usize, String)>,
    ) -> Result<(Vec<(usize, Arc<[f32]>)>, usize, bool), EngineError> {
        if texts.is_empty() {
            return Ok((Vec::new(), 0, false));
        }
        let names: Vec<String> = texts.iter().map(|(_, text)| text.clone()).collect();
        let embedded = self.embed(&distinct(&names), TemplateSet::None).await?;
        let count_tokens = self.host.count_tokens;
        let count = move || names.iter().map(|text| count_tokens(text)).sum::<usize>();
        let tokens = self.blocking("counting tokens", count).await?;
        let truncated = embedded.values().any(|embedding| embedding.truncated);
        let vectors = texts
            .into_iter()
            .map(|(place, text)| (place, Arc::clone(&embedded[&text].vector)));
        Ok((vectors.collect(), tokens, truncated))
    }

    /// Returns the largest footprint of some images, which are embedded one after the other, and the side of the
    /// squares in which the model sees them. `None` without images.
    async fn largest_footprint(
        &self,
        images: &[(usize, Bytes)],
        orientation: Orientation,
    ) -> Result<Option<(u32, Footprint)>, EmbedError> {
        if images.is_empty() {
            return Ok(None);
        }
        let side = self.training_side()?;
        let mut footprints = Vec::with_capacity(images.len());
        for (place, bytes) in images {
            let header = self.header(bytes.clone(), orientation).await;
            let header = header.map_err(|error| EmbedError::of_input(*place, error))?;
            let footprint = self.square_footprint(&header, side, 0);
            self.check_footprint(&footprint)
                .map_err(|error| EmbedError::of_input(*place, error.into()))?;
            footprints.push(footprint);
        }
        let largest = footprints.into_iter().max_by_key(Footprint::total);
        Ok(largest.map(|footprint| (side, footprint)))
    }

    async fn classify(mut self, request: ClassifyRequest) -> Result<Classification, EngineError> {
        let ClassifyRequest { image, fields } = request;
        let side = self.training_side()?;
        let choice = fields.vocabulary.clone();
        let vocabulary = self.engine.find_vocabulary(&self.caller, choice).await?;
        let options = fields.resolve(self.surroundings(), &vocabulary.options)?;
        let (bytes, _) = self.image(&image).await?;
        // Background names do not compete.
        let background: Option<&[String]> = Some(&[]);
        let list = self.class_list(vocabulary, background, options.templates)?;
        let header = self.header(bytes.clone(), options.orientation).await?;
        note("pixels", i64::from(header.width) * i64::from(header.height));
        let names = list.classes().iter().map(|class| class.name.as_str());
        let reply = footprint::class_bytes(names);
        let queries = list.query_count(options.synonyms);
        let footprint = self.square_footprint(&header, side, queries).with_reply(reply);
        self.check_footprint(&footprint)?;
        let texts = list.texts();
        let embeddings = self.embed(&texts, options.templates).await?;
        self.reserve(&footprint, self.square_workload(side)).await?;
        let image = self.embed_square(bytes, options.orientation, side).await?;
        let warnings = self.warnings(background, &list, &embeddings);
        let classifier = self.classifier(&list, embeddings, options.synonyms).await?;
        let scores = class_scores(&classifier, &image, options.temperature);
        drop(classifier);
        self.shrink_to(reply);
        let names = list.classes().iter().map(|class| class.name.clone());
        let classes = names.zip(scores).map(|(name, (probability, similarity))| ClassScore {
            name,
            probability,
            similarity,
        });
        let classes = classes.collect();
        Ok(Classification {
            model: self.model.name.clone(),
            width: header.width,
            height: header.height,
            vocabulary_id: list.id(options.templates),
            vocabulary_texts: texts.len(),
            classes,
            warnings: warnings.into_iter().map(of_whole_image).collect(),
            timings: self.timings,
            held_bytes: self.held_bytes(),
        })
    }

    /// Returns the side of the squares in which the model sees whole images, in pixels.
    fn training_side(&self) -> Result<u32, EngineError> {
        self.model.training_side.ok_or_else(|| {
            EngineError::Unsupported(format!(
                "the model {} is a student, which has no embedding of a whole image; ask the CLIP that it learned from, or \
                 POST /v1/segment for image_probability",
                self.model.name
            ))
        })
    }

    /// Returns the bytes that an image takes as a square for the model, and the texts that it is compared with.
    fn square_footprint(&self, header: &ImageHeader, side: u32, queries: usize) -> Footprint {
        let [side, patch] = [side, self.model.patch_pixels].map(u64::from);
        Footprint::of_features(&Dimensions {
            decoding_bytes: header.decoding_bytes,
            pixels: u64::from(header.width) * u64::from(header.height),
            input_pixels: side * side,
            cells: (side / patch) * (side / patch),
            cell_floats: self.model.embedding_dimension as u64,
            queries: queries as u64,
            text_floats: self.model.embedding_dimension as u64,
            ..Dimensions::default()
        })
    }

    /// Returns the work for the features of one square.
    fn square_workload(&self, side: u32) -> Workload {
        let cells = u64::from(side / self.model.patch_pixels);
        Workload::default().with(Part::Features, cells * cells)
    }

    /// Returns the embedding of an image's middle square, of unit length.
    async fn embed_square(
        &mut self,
        bytes: Bytes,
        orientation: Orientation,
        side: u32,
    ) -> Result<Vec<f32>, EngineError> {
        let max_pixels = self.engine.settings.input_limits.max_image_pixels;
        let decode = move || image::decode(&bytes, orientation, max_pixels);
        let pixels = self.stage(Stage::Decode, decode).await??;
        let normalisation = self.model.normalisation;
        let preprocess = move || ModelInput {
            image_height: pixels.height() as usize,
            image_width: pixels.width() as usize,
            sizes: vec![image::preprocess_square(&pixels, side, &normalisation)],
        };
        let input = self.stage(Stage::Preprocess, preprocess).await?;
        let options = FeatureOptions {
            attention: Attention::Clip,
            ..FeatureOptions::default()
        };
        let job = |ticket| Job::EmbedImage(EmbedImageJob { input, options, ticket });
        self.on_worker(job).await
    }
}

/// Returns each text once.
fn distinct(texts: &[String]) -> Vec<String> {
    let mut distinct = texts.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

/// Returns the probability and the cosine of each class. A class has the largest of its queries', taken after the
/// softmax, as in a label map.
fn class_scores(classifier: &Classifier, image: &[f32], temperature: f32) -> Vec<(f32, f32)> {
    let cosines = classifier.embeddings.chunks_exact(classifier.dimension);
    let cosines: Vec<f32> = cosines
        .map(|text| text.iter().zip(image).map(|(left, right)| left * right).sum())
        .collect();
    let largest = cosines.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = cosines
        .iter()
        .map(|cosine| (temperature * (cosine - largest)).exp())
        .collect();
    let sum: f32 = weights.iter().sum();
    let mut scores: Vec<(f32, f32)> = Vec::new();
    for ((owner, cosine), weight) in classifier.owners.iter().zip(cosines).zip(weights) {
        let QueryOwner::Class(id) = *owner else { continue };
        let id = usize::from(id);
        if scores.len() <= id {
            scores.resize(id + 1, (0.0, f32::NEG_INFINITY));
        }
        let (probability, similarity) = &mut scores[id];
        *probability = probability.max(weight / sum);
        *similarity = similarity.max(cosine);
    }
    scores
}

/// Says a warning about a class list in words that are about whole images.
fn of_whole_image(warning: Warning) -> Warning {
    match warning.code {
        WarningCode::SingleClass => Warning {
            message: "there is one class alone, so its probability is 1 whatever the image shows".to_owned(),
            ..warning
        },
        _ => warning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classifier(texts: &[[f32; 2]], owners: &[QueryOwner]) -> Classifier {
        Classifier {
            queries: texts.len(),
            dimension: 2,
            embeddings: texts.concat(),
            owners: owners.to_vec(),
        }
    }

    #[test]
    fn probabilities_are_the_softmax_of_cosines_and_a_class_has_its_best_query() {
        let owners = [QueryOwner::Class(0), QueryOwner::Class(1), QueryOwner::Class(1)];
        let classifier = classifier(&[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], &owners);
        let scores = class_scores(&classifier, &[1.0, 0.0], 2.0);
        let sum = 2.0_f32.exp() + 1.2_f32.exp() + 1.0;
        let expected = [(2.0_f32.exp() / sum, 1.0), (1.2_f32.exp() / sum, 0.6)];
        for (found, expected) in scores.iter().zip(expected) {
            assert!(
                (found.0 - expected.0).abs() < 1e-6 && (found.1 - expected.1).abs() < 1e-6,
                "{found:?}"
            );
        }
    }

    #[test]
    fn large_temperatures_do_not_overflow() {
        let owners = [QueryOwner::Class(0), QueryOwner::Class(1)];
        let scores = class_scores(&classifier(&[[1.0, 0.0], [-1.0, 0.0]], &owners), &[1.0, 0.0], 1000.0);
        assert_eq!(scores, [(1.0, 1.0), (0.0, -1.0)]);
    }
}
