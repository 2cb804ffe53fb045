//! One step after the other: views, pseudo-labels, the loss, the change of the weights.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::checkpoint::{State, StateHeader, to_bytes};
use super::network::{Mode, Network, Parameters};
use super::pseudo_labels::LabelCache;
use super::settings::Plan;
use super::teacher::Teacher;
use super::views::{View, ViewSettings, image_at};
use super::{Sgd, TrainError, cross_entropy, file_error};
use crate::image::{Normalisation, RgbImage, decode};
use crate::label_map::UNLABELLED;
use crate::random::Random;
use crate::vocabulary::Classifier;

/// Steps in a row without a single labelled pixel after which nobody will come.
const BARREN_STEPS: u64 = 20;

/// Names of the state's tensors begin with one of these.
const STUDENT: &str = "student.";
const MOMENTUM: &str = "momentum.";

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Its number, from 1.
    pub step: u64,
    /// Mean cross-entropy over the labelled pixels; none when there were none, and no weight was changed.
    pub loss: Option<f64>,
    /// The learning rate.
    pub learning_rate: f64,
    /// Share of the views' pixels that were labelled, 0 to 1.
    pub labelled: f64,
}

/// A view, and the labels that a cache has for its pixels.
type LabelledView = (View, Option<Vec<u16>>);

/// A student that is being trained.
#[derive(Debug)]
pub(super) struct Trainer<'a> {
    plan: &'a Plan,
    files: &'a [PathBuf],
    max_image_pixels: u64,
    network: Network,
    parameters: Parameters,
    optimiser: Sgd,
    /// `[queries, embedding]`, not trained.
    text: Tensor,
    /// Of the last step that was made.
    last: Option<StepReport>,
    /// How many steps in a row had no labelled pixel.
    barren: u64,
}

impl<'a> Trainer<'a> {
    /// A student that has learned nothing, or what `state` holds.
    pub(super) fn new(
        plan: &'a Plan,
        files: &'a [PathBuf],
        max_image_pixels: u64,
        classifier: &Classifier,
        state: Option<State>,
    ) -> Result<Self, TrainError> {
        let (mut student, mut momentum) = (HashMap::new(), HashMap::new());
        let mut last = None;
        let mut parameters = match state {
            None => Parameters::from_scratch(plan.settings.seed, Device::Cpu),
            Some((tensors, header)) => {
                last = Some(header.last);
                for (name, tensor) in tensors {
                    match (name.strip_prefix(STUDENT), name.strip_prefix(MOMENTUM)) {
                        (Some(name), _) => student.insert(name.to_owned(), tensor),
                        (_, Some(name)) => momentum.insert(name.to_owned(), tensor),
                        (None, None) => return Err(TrainError::Foreign(format!("it has a tensor {name}"))),
                    };
                }
                Parameters::stored(student, Device::Cpu)
            }
        };
        let foreign = |error: super::ParameterError| TrainError::Foreign(error.to_string());
        let network = Network::new(&mut parameters, &plan.network).map_err(foreign)?;
        parameters.finish().map_err(foreign)?;
        let mut optimiser = Sgd::new(&plan.settings.optimiser, &parameters);
        if last.is_some() {
            optimiser
                .restore(&mut momentum)
                .map_err(|name| TrainError::Foreign(format!("the momentum of {name} is not what it should be")))?;
        }
        let shape = [classifier.queries, classifier.dimension].map(size);
        Ok(Self {
            plan,
            files,
            max_image_pixels,
            network,
            parameters,
            optimiser,
            text: Tensor::from_slice(&classifier.embeddings).view(shape),
            last,
            barren: 0,
        })
    }

    /// What the last step did; none before the first.
    pub(super) fn last(&self) -> Option<StepReport> {
        self.last
    }

    /// Makes the next step.
    pub(super) fn step(&mut self, teacher: &mut Teacher<'_>) -> Result<StepReport, TrainError> {
        let settings = &self.plan.settings;
        let done = self.last.map_or(0, |last| last.step);
        let views = self.views(done, teacher.cache)?;
        let mut labels = Vec::new();
        for (view, cut) in &views {
            match cut {
                Some(cut) => labels.extend_from_slice(cut),
                None => labels.extend(teacher.labels(view)?),
            }
        }
        let views: Vec<View> = views.into_iter().map(|(view, _)| view).collect();
        let labelled = labels.iter().filter(|label| **label != UNLABELLED).count();
        let learning_rate = settings.optimiser.learning_rate_at(done, settings.steps);
        let mut report = StepReport {
            step: done + 1,
            loss: None,
            learning_rate,
            labelled: labelled as f64 / labels.len() as f64,
        };
        if labelled == 0 {
            self.barren += 1;
            if self.barren >= BARREN_STEPS.min(settings.steps) {
                return Err(TrainError::NoPseudoLabels {
                    steps: self.barren,
                    confidence: settings.confidence,
                });
            }
        } else {
            self.barren = 0;
            let loss = self.learn(&views, &labels, learning_rate);
            if !loss.is_finite() {
                return Err(TrainError::Diverged {
                    step: report.step,
                    learning_rate,
                    last_loss: self.last.and_then(|last| last.loss),
                });
            }
            report.loss = Some(loss);
        }
        self.last = Some(report);
        Ok(report)
    }

    /// The views of the step after `done`, each with the labels that the cache has for it.
    fn views(&self, done: u64, cache: Option<&LabelCache>) -> Result<Vec<LabelledView>, TrainError> {
        let settings = &self.plan.settings;
        let [mean, std] = self.plan.normalisation;
        let view = ViewSettings {
            side: settings.crop_pixels,
            short_side: settings.short_side,
            scale: settings.scale,
            colour: settings.colour,
            normalisation: Normalisation { mean, std },
        };
        // Threads get the plain parts: tensors stay on this one.
        let (files, max_image_pixels) = (self.files, self.max_image_pixels);
        (0..settings.batch as u64)
            .into_par_iter()
            .map(|index| {
                let place = done * settings.batch as u64 + index;
                let number = image_at(place, files.len(), settings.seed);
                let image = read_image(&files[number], max_image_pixels)?;
                let mut random = Random::seeded(&format!("{} view {place}", settings.seed));
                let view = view.view(&image, &mut random);
                let labels = cache.map(|cache| {
                    let labels = cache.read(number)?;
                    if (labels.width, labels.height) != image.dimensions() {
                        let image = files[number].clone();
                        return Err(TrainError::LabelSize { image });
                    }
                    Ok(view.place.cut(&labels.labels, labels.width as usize))
                });
                Ok((view, labels.transpose()?))
            })
            .collect()
    }

    /// Changes the weights by what the labels of the views, `[batch, side, side]`, teach. The loss before that.
    fn learn(&mut self, views: &[View], labels: &[u16], learning_rate: f64) -> f64 {
        let side = i64::from(self.plan.settings.crop_pixels);
        let images: Vec<_> = views
            .iter()
            .map(|view| Tensor::from_slice(&view.coloured).view([3, side, side]))
            .collect();
        let images = Tensor::stack(&images, 0).to_kind(self.plan.settings.precision.kind());
        let labels: Vec<i64> = labels.iter().copied().map(i64::from).collect();
        let labels = Tensor::from_slice(&labels).view([-1, side, side]);
        let loss = tch::with_grad(|| {
            let logits = self.network.logits(&images, &self.text, Mode::Train);
            let loss = cross_entropy(&logits.to_kind(Kind::Float), &labels);
            loss.backward();
            loss
        });
        let loss = loss.detach().to_kind(Kind::Double).double_value(&[]);
        // Weights that were finite stay so: what diverged is not kept.
        if loss.is_finite() {
            self.optimiser.step(&self.parameters, learning_rate);
        }
        loss
    }

    /// The state as a file's bytes, if a step was made.
    pub(super) fn state(&self) -> Option<Vec<u8>> {
        let header = StateHeader {
            plan: self.plan.clone(),
            last: self.last?,
        };
        let student = self
            .parameters
            .all()
            .map(|(name, tensor)| (format!("{STUDENT}{name}"), tensor));
        let momentum = self.optimiser.buffers().iter();
        let momentum = momentum.map(|(name, tensor)| (format!("{MOMENTUM}{name}"), tensor));
        Some(to_bytes(student.chain(momentum), Some(&header)))
    }

    /// The student as a file's bytes: the network's tensors, and the texts it was trained on as `classifier`.
    pub(super) fn student(&self) -> Vec<u8> {
        let tensors = self.parameters.all().map(|(name, tensor)| (name.clone(), tensor));
        to_bytes(tensors.chain([("classifier".to_owned(), &self.text)]), None)
    }
}

fn read_image(file: &Path, max_image_pixels: u64) -> Result<RgbImage, TrainError> {
    let bytes = std::fs::read(file).map_err(file_error(file))?;
    decode(&bytes, max_image_pixels).map_err(|source| TrainError::Image {
        path: file.to_owned(),
        source,
    })
}

fn size(length: usize) -> i64 {
    i64::try_from(length).expect("a length in memory fits 63 bits")
}
