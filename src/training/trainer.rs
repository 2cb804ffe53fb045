//! The steps of the training: views, pseudo-labels, loss, and change of the weights.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::backbone_weights::BackboneWeights;
use super::checkpoint::{State, StateHeader, Tensors, to_bytes};
use super::teacher::Teacher;
use super::texts::Texts;
use super::views::{View, ViewSettings, image_at};
use super::{Sgd, TrainError, cross_entropy, feature_distance, file_error};
use crate::evaluation::Truth;
use crate::image::{Normalisation, Orientation, RgbImage, decode};
use crate::models::student::{Initial, Mode, Network, Parameters, Plan, PseudoLabels, StepReport, classify};
use crate::scores::UNLABELLED;
use crate::support::{Random, read_regular_file, to_i64, to_usize};

/// Number of steps in a row without a labelled pixel after which the training gives up.
const BARREN_STEPS: u64 = 20;

/// Prefixes of the names of the state's tensors.
const STUDENT: &str = "student.";
const MOMENTUM: &str = "momentum.";

/// Name of the tensor of a learned background.
const BACKGROUND: &str = "background";

/// A student in training.
#[derive(Debug)]
pub(super) struct Trainer<'a> {
    plan: &'a Plan,
    files: &'a [PathBuf],
    max_image_pixels: u64,
    network: Network,
    parameters: Parameters,
    optimiser: Sgd,
    /// The text embeddings, `[queries, embedding]`, which are not trained.
    text: Tensor,
    /// The query whose embedding is learned, and that embedding, `[embedding]`.
    learned: Option<(i64, Tensor)>,
    /// The queries that pseudo-labels may name.
    pseudo_labelled: Vec<i64>,
    /// The report of the last step; `None` before the first.
    last: Option<StepReport>,
    /// Number of the last steps in a row that had no labelled pixel.
    barren: u64,
}

impl<'a> Trainer<'a> {
    /// Creates a student from `state`, or a new one whose backbone may start with given weights.
    pub(super) fn new(
        plan: &'a Plan,
        files: &'a [PathBuf],
        max_image_pixels: u64,
        texts: &Texts,
        backbone: Option<&BackboneWeights>,
        state: Option<State>,
    ) -> Result<Self, TrainError> {
        let foreign = |error: super::ParameterError| TrainError::Foreign(error.to_string());
        let last = state.as_ref().map(|(_, header)| header.last);
        let (student, mut momentum) = match state {
            None => (None, HashMap::new()),
            Some((tensors, _)) => {
                let (student, momentum) = apart(tensors)?;
                (Some(student), momentum)
            }
        };
        let (network, mut parameters) = match (student, backbone) {
            (None, Some(backbone)) => backbone.begin(plan.settings.seed, &plan.network)?,
            (student, _) => {
                let mut parameters = match student {
                    None => Parameters::from_scratch(plan.settings.seed, Device::Cpu),
                    Some(student) => Parameters::stored(student, Device::Cpu),
                };
                let network = Network::new(&mut parameters, &plan.network).map_err(foreign)?;
                (network, parameters)
            }
        };
        let learned = texts.learned.map(|query| {
            let length = to_i64(texts.student.dimension);
            // The learned embedding starts about as long as a text's embedding.
            let deviation = 1.0 / (length as f64).sqrt();
            let begun = parameters.trainable(BACKGROUND.to_owned(), &[length], Initial::Normal { deviation });
            Ok::<_, TrainError>((i64::from(query), begun.map_err(foreign)?))
        });
        let learned = learned.transpose()?;
        parameters.finish().map_err(foreign)?;
        let mut optimiser = Sgd::new(&plan.settings.optimiser, &parameters);
        if last.is_some() {
            optimiser.restore(&mut momentum).map_err(|name| {
                TrainError::Foreign(format!("the momentum of {name} is missing or has another shape"))
            })?;
        }
        let shape = [texts.student.queries, texts.student.dimension].map(to_i64);
        let pseudo_labelled = (0..).zip(&texts.pseudo_labelled);
        Ok(Self {
            plan,
            files,
            max_image_pixels,
            network,
            parameters,
            optimiser,
            text: Tensor::from_slice(&texts.student.embeddings).view(shape),
            learned,
            pseudo_labelled: pseudo_labelled
                .filter(|(_, may)| **may)
                .map(|(query, _)| query)
                .collect(),
            last,
            barren: 0,
        })
    }

    /// Returns the report of the last step; `None` before the first.
    pub(super) fn last(&self) -> Option<StepReport> {
        self.last
    }

    /// Makes the next step and returns its report.
    ///
    /// # Errors
    /// [`TrainError`] when a file cannot be used, the teacher fails or labels nothing, or the loss is not finite.
    pub(super) fn step(&mut self, teacher: &mut Teacher<'_>) -> Result<StepReport, TrainError> {
        let settings = &self.plan.settings;
        let done = self.last.map_or(0, |last| last.step);
        let seen = self.views(done, teacher)?;
        let labels = self.labels(&seen, teacher)?;
        let views: Vec<View> = seen.into_iter().map(|seen| seen.view).collect();
        let labelled = labels.iter().filter(|label| **label != UNLABELLED).count();
        let learning_rate = settings.optimiser.learning_rate_at(done, settings.steps);
        let mut report = StepReport {
            step: done + 1,
            loss: None,
            distillation: None,
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
            let features = match settings.distillation > 0.0 {
                true => Some(teacher.features(views.iter())?),
                false => None,
            };
            let (loss, distillation) = self.learn(&views, &labels, features, learning_rate);
            if !(loss + distillation.unwrap_or(0.0)).is_finite() {
                return Err(TrainError::Diverged {
                    step: report.step,
                    learning_rate,
                    last_loss: self.last.and_then(|last| last.loss),
                });
            }
            report.loss = Some(loss);
            report.distillation = distillation;
        }
        self.last = Some(report);
        Ok(report)
    }

    /// Returns the views of the step that follows `done` steps, each with the labels stored for its image.
    fn views(&self, done: u64, teacher: &Teacher<'_>) -> Result<Vec<Seen>, TrainError> {
        let settings = &self.plan.settings;
        let [mean, std] = self.plan.normalisation;
        let view = ViewSettings {
            side: settings.crop_pixels,
            short_side: settings.short_side,
            scale: settings.scale,
            colour: settings.colour,
            normalisation: Normalisation { mean, std },
        };
        // The threads get plain data only. Tensors and the teacher's model stay on this thread.
        let (files, max_image_pixels) = (self.files, self.max_image_pixels);
        let orientation = self.plan.data.orientation;
        let cache = teacher.cache.filter(|_| !self.trains_itself());
        let given = teacher.given;
        (0..settings.batch as u64)
            .into_par_iter()
            .map(|index| {
                let place = done * settings.batch as u64 + index;
                let number = image_at(place, files.len(), settings.seed);
                let image = read_image(&files[number], orientation, max_image_pixels)?;
                let mut random = Random::seeded(&format!("{} view {place}", settings.seed));
                let view = view.view(&image, &mut random);
                let cut = |labels: Truth| {
                    if (labels.width, labels.height) != image.dimensions() {
                        let image = files[number].clone();
                        return Err(TrainError::LabelSize { image });
                    }
                    Ok(view.place.cut(&labels.labels, labels.width as usize))
                };
                let cached = cache.map(|cache| cut(cache.read(number)?)).transpose()?;
                let given = given.map(|given| cut(given.read(number)?)).transpose()?;
                Ok(Seen { view, cached, given })
            })
            .collect()
    }

    /// Returns whether the next step's pseudo-labels come from the student itself.
    fn trains_itself(&self) -> bool {
        let next = 1 + self.last.map_or(0, |last| last.step);
        self.plan.settings.self_training_from.is_some_and(|from| next >= from)
    }

    /// Returns one label per pixel of the views, `[batch, side, side]`: the given label if there is one, otherwise the
    /// pseudo-label.
    fn labels(&self, seen: &[Seen], teacher: &mut Teacher<'_>) -> Result<Vec<u16>, TrainError> {
        let own = self.trains_itself().then(|| self.own_labels(seen));
        let mut labels = Vec::new();
        for (index, Seen { view, cached, given }) in seen.iter().enumerate() {
            let area = view.place.side * view.place.side;
            let mut of_view = match (&own, cached, self.plan.settings.pseudo_labels) {
                (Some(own), ..) => own[index * area..][..area].to_vec(),
                (None, Some(cached), _) => cached.clone(),
                (None, None, PseudoLabels::EachView | PseudoLabels::Once) => teacher.labels(view)?,
                (None, None, PseudoLabels::None) => vec![UNLABELLED; area],
            };
            for (label, given) in of_view.iter_mut().zip(given.iter().flatten()) {
                if *given != UNLABELLED {
                    *label = *given;
                }
            }
            labels.extend(of_view);
        }
        Ok(labels)
    }

    /// Returns the student's own pseudo-labels of the views in their original colours. Only queries that pseudo-labels
    /// may name compete.
    fn own_labels(&self, seen: &[Seen]) -> Vec<u16> {
        let side = i64::from(self.plan.settings.crop_pixels);
        let (probabilities, best) = tch::no_grad(|| {
            let images = self.batch(seen.iter().map(|seen| &seen.view.plain.sizes[0].values));
            let logits = self
                .network
                .logits(&images, &self.text(), Mode::Evaluate)
                .to_kind(Kind::Float);
            let queries = Tensor::from_slice(&self.pseudo_labelled);
            let logits = logits.index_select(1, &queries);
            let logits = logits.upsample_bilinear2d([side, side], false, None, None);
            let (probabilities, best) = logits.softmax(1, Kind::Float).max_dim(1, false);
            (probabilities.flatten(0, -1), best.flatten(0, -1))
        });
        let probabilities = Vec::<f32>::try_from(probabilities).expect("probabilities are floats on the CPU");
        let best = Vec::<i64>::try_from(best).expect("places are integers on the CPU");
        let shown = seen.iter().flat_map(|seen| {
            let place = seen.view.place;
            (0..place.side * place.side).map(move |pixel| place.shows(pixel))
        });
        let pixels = probabilities.into_iter().zip(best).zip(shown);
        let label = |((probability, best), shown): ((f32, i64), bool)| {
            let query = self.pseudo_labelled[to_usize(best)];
            match shown && probability >= self.plan.settings.confidence {
                true => u16::try_from(query).expect("there are at most 65535 queries"),
                false => UNLABELLED,
            }
        };
        pixels.map(label).collect()
    }

    /// Stacks views `[3, side, side]` into one tensor `[batch, 3, side, side]` in the student's precision.
    fn batch<'v>(&self, views: impl Iterator<Item = &'v Vec<f32>>) -> Tensor {
        let side = i64::from(self.plan.settings.crop_pixels);
        let images: Vec<_> = views
            .map(|view| Tensor::from_slice(view).view([3, side, side]))
            .collect();
        Tensor::stack(&images, 0).to_kind(self.plan.settings.precision.kind())
    }

    /// Returns the text embeddings, `[queries, embedding]`, with the learned embedding in its row.
    fn text(&self) -> Tensor {
        match &self.learned {
            None => self.text.shallow_clone(),
            Some((query, embedding)) => {
                let after = self.text.size()[0] - query - 1;
                let rows = [
                    self.text.narrow(0, 0, *query),
                    embedding.unsqueeze(0),
                    self.text.narrow(0, query + 1, after),
                ];
                Tensor::cat(&rows, 0)
            }
        }
    }

    /// Changes the weights by the gradient of the loss. `labels` holds the labels of the views, `[batch, side, side]`;
    /// `features` holds the teacher's features, `[batch, embedding, ...]`, if they are distilled. Returns the
    /// cross-entropy and the feature distance from before the change.
    fn learn(
        &mut self,
        views: &[View],
        labels: &[u16],
        features: Option<Tensor>,
        learning_rate: f64,
    ) -> (f64, Option<f64>) {
        let side = i64::from(self.plan.settings.crop_pixels);
        let images = self.batch(views.iter().map(|view| &view.coloured));
        let labels: Vec<i64> = labels.iter().copied().map(i64::from).collect();
        let labels = Tensor::from_slice(&labels).view([-1, side, side]);
        let (loss, distance) = tch::with_grad(|| {
            let own = self.network.features(&images, Mode::Train);
            let loss = cross_entropy(&classify(&own, &self.text()).to_kind(Kind::Float), &labels);
            let distance = features.map(|features| {
                let (_, _, rows, columns) = own.size4().expect("features are [batch, embedding, rows, columns]");
                let counted = shown_cells(views, rows, columns);
                feature_distance(&own.to_kind(Kind::Float), &features, &counted)
            });
            match &distance {
                None => loss.backward(),
                Some(distance) => (&loss + distance * self.plan.settings.distillation).backward(),
            }
            (loss, distance)
        });
        let value = |loss: Tensor| loss.detach().to_kind(Kind::Double).double_value(&[]);
        let (loss, distance) = (value(loss), distance.map(value));
        // A loss that is not finite changes nothing, so the weights stay finite.
        if (loss + distance.unwrap_or(0.0)).is_finite() {
            self.optimiser.step(&self.parameters, learning_rate);
        }
        (loss, distance)
    }

    /// Returns the state as the bytes of a file, or `None` before the first step.
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

    /// Returns the student as the bytes of a file: the network's tensors, and as `classifier` the text embeddings it
    /// was trained on, including a learned one.
    pub(super) fn student(&self) -> Vec<u8> {
        let tensors = self.parameters.all().map(|(name, tensor)| (name.clone(), tensor));
        to_bytes(tensors.chain([("classifier".to_owned(), &self.text())]), None)
    }
}

/// A view with the labels stored for it, `[side, side]` each.
struct Seen {
    view: View,
    /// Labels from the teacher's label map of the whole image.
    cached: Option<Vec<u16>>,
    /// Labels drawn by people.
    given: Option<Vec<u16>>,
}

/// Splits a state's tensors into those of the student and those of the optimiser.
fn apart(state: Tensors) -> Result<(Tensors, Tensors), TrainError> {
    let (mut student, mut momentum) = (HashMap::new(), HashMap::new());
    for (name, tensor) in state {
        match (name.strip_prefix(STUDENT), name.strip_prefix(MOMENTUM)) {
            (Some(name), _) => student.insert(name.to_owned(), tensor),
            (_, Some(name)) => momentum.insert(name.to_owned(), tensor),
            (None, None) => return Err(TrainError::Foreign(format!("it has a tensor {name}"))),
        };
    }
    Ok((student, momentum))
}

/// Returns `[batch, rows, columns]`: 1 for each cell whose middle shows the image, otherwise 0.
fn shown_cells(views: &[View], rows: i64, columns: i64) -> Tensor {
    let cells = views.iter().flat_map(|view| {
        let place = view.place;
        let middle = move |cell: i64, cells: i64| (2 * cell + 1) as f64 / (2 * cells) as f64 * place.side as f64;
        (0..rows).flat_map(move |row| {
            (0..columns).map(move |column| {
                let down = middle(row, rows) < place.shown_height as f64;
                let right = middle(column, columns) < place.shown_width as f64;
                f32::from(u8::from(down && right))
            })
        })
    });
    let cells: Vec<f32> = cells.collect();
    Tensor::from_slice(&cells).view([-1, rows, columns])
}

fn read_image(file: &Path, orientation: Orientation, max_image_pixels: u64) -> Result<RgbImage, TrainError> {
    let bytes = read_regular_file(file).map_err(file_error(file))?;
    decode(&bytes, orientation, max_image_pixels).map_err(|source| TrainError::Image {
        path: file.to_owned(),
        source,
    })
}
