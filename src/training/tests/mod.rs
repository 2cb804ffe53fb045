//! Whole runs of the training with a teacher that can tell red from blue.
#![allow(clippy::unwrap_used)]

mod labels;

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ::image::Rgb;
use tch::{Device, Kind, Tensor};

use super::*;
use crate::dense::{Attention, DenseOptions, FeatureOptions, Refinement, RefinementOptions, ScoreOptions};
use crate::image::{ModelInput, Normalisation, Orientation, RgbImage};
use crate::labeller::{ImageFeatures, Labeller, ModelInfo, ModelOptions, Precision};
use crate::models::DenseFeatureGrid;
use crate::models::student::{
    Backbone, CARD_FILE, Head, Mode, Network, NetworkConfig, Parameters, Plan, PlannedData, PlannedTeacher,
    PlannedVocabulary, PseudoLabels, STUDENT_FILE, Stem, StepReport, StudentPrecision, TrainSettings,
};
use crate::scores::DenseScores;
use crate::scores::{ScoreGrid, ScoreKind, ScoreMap};
use crate::vocabulary::{Class, ClassList, Classifier, Synonyms, TemplateSet, TextEmbedding, VocabularyLimits};

const SIDE: u32 = 64;
const CELLS: usize = SIDE as usize / 8;

/// A teacher with two texts: 0 is red, 1 is blue. It fails after a given number of answers.
struct ColourTeacher {
    info: ModelInfo,
    /// Factor on the difference of the colours. A larger factor makes the teacher surer.
    certainty: f32,
    answers_left: usize,
}

impl ColourTeacher {
    /// Returns red and blue at the middle of each cell.
    fn colours(&mut self, input: &ModelInput) -> Result<Colours, LabellerError> {
        self.answers_left = match self.answers_left.checked_sub(1) {
            Some(left) => left,
            None => return Err(LabellerError::Model("out of answers".to_owned())),
        };
        let image = &input.sizes[0];
        let plane = image.height * image.width;
        let cells = (0..CELLS * CELLS).map(|cell| {
            let pixel = (cell / CELLS * 8 + 4) * image.width + cell % CELLS * 8 + 4;
            [image.values[pixel], image.values[2 * plane + pixel]]
        });
        Ok(Colours {
            certainty: self.certainty,
            cells: cells.collect(),
        })
    }
}

impl Labeller for ColourTeacher {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn embed_texts(&mut self, _: &[String], _: TemplateSet) -> Result<Vec<TextEmbedding>, LabellerError> {
        unreachable!("training is given its texts' embeddings")
    }

    fn features(
        &mut self,
        inputs: &[&ModelInput],
        _: &FeatureOptions,
        _: &dyn Fn() -> bool,
    ) -> Result<Vec<Arc<dyn ImageFeatures>>, LabellerError> {
        let features = inputs
            .iter()
            .map(|input| Ok(Arc::new(self.colours(input)?) as Arc<dyn ImageFeatures>));
        features.collect()
    }

    fn refine(
        &mut self,
        scores: ScoreMap,
        _: &ModelInput,
        _: &Classifier,
        _: &RefinementOptions,
        _: &dyn Fn() -> bool,
    ) -> Result<ScoreMap, LabellerError> {
        Ok(scores)
    }
}

/// The features that the teacher computes from an image.
struct Colours {
    certainty: f32,
    /// Red and blue of each cell.
    cells: Vec<[f32; 2]>,
}

impl ImageFeatures for Colours {
    fn bytes(&self) -> usize {
        size_of_val(self.cells.as_slice())
    }

    fn score(
        &self,
        classifier: &Classifier,
        _: &ScoreOptions,
        _: &dyn Fn() -> bool,
    ) -> Result<DenseScores, LabellerError> {
        // The texts that the classifier asks for, by number.
        let asked: Vec<usize> = classifier
            .embeddings
            .chunks(3)
            .map(|text| usize::from(text[0] < 0.5))
            .collect();
        let red: Vec<f32> = self
            .cells
            .iter()
            .map(|[red, blue]| self.certainty * (red - blue))
            .collect();
        let blue = red.iter().map(|logit| -logit).collect();
        let scores: [Vec<f32>; 2] = [red, blue];
        Ok(DenseScores {
            map: ScoreMap {
                kind: ScoreKind::Logits,
                queries: asked.len(),
                grids: vec![ScoreGrid {
                    height: CELLS,
                    width: CELLS,
                    windows: None,
                    values: asked.iter().flat_map(|&text| scores[text].clone()).collect(),
                }],
            },
            similarity: vec![0.0; 2],
            image_probability: vec![0.5; 2],
            denoising_dropped_all: false,
        })
    }

    fn similar_to(&self, _: (f64, f64)) -> Result<ScoreMap, LabellerError> {
        unreachable!("training compares no places")
    }

    fn pooled(&self) -> Result<Vec<f32>, LabellerError> {
        unreachable!("training embeds no whole images")
    }
}

impl TeachingLabeller for ColourTeacher {
    fn unit_grid(&mut self, input: &ModelInput, _: Attention) -> Result<DenseFeatureGrid, LabellerError> {
        let colours = self.colours(input)?;
        let values = colours.cells.iter().flat_map(|[red, blue]| {
            let length = (red * red + blue * blue).sqrt().max(1e-6);
            [red / length, 0.0, blue / length]
        });
        Ok(DenseFeatureGrid {
            rows: CELLS,
            columns: CELLS,
            dimension: 3,
            values: values.collect(),
        })
    }
}

fn teacher(certainty: f32, answers: usize) -> ColourTeacher {
    ColourTeacher {
        info: ModelInfo {
            name: "colours".to_owned(),
            architecture: "none".to_owned(),
            weights_sha256: "0".repeat(64),
            precision: Precision::Float32,
            text_variant: String::new(),
            device: "cpu".to_owned(),
            embedding_dimension: 3,
            patch_pixels: 8,
            options: ModelOptions {
                short_side: SIDE,
                scales: vec![1.0],
                temperature: 100.0,
                refinement: Refinement::None,
            },
            training_side: None,
            normalisation: Normalisation::CLIP,
            attentions: vec![Attention::Maskclip],
            training_words: None,
            embedded: false,
            student: None,
        },
        certainty,
        answers_left: answers,
    }
}

/// The number of each training image, and the column at which it turns from red to blue.
const EDGES: [(u32, u32); 3] = [(0, 20), (1, 40), (2, 60)];

/// Writes images that are red on the left and blue on the right.
fn images(folder: &Path) -> TrainingImages {
    for (number, edge) in EDGES {
        let image = RgbImage::from_fn(80, 72, |x, y| {
            let red = x < edge;
            let shade = (200 + (x + y) % 30) as u8;
            Rgb(if red { [shade, 30, 20] } else { [20, 30, shade] })
        });
        image.save(folder.join(format!("{number}.png"))).unwrap();
    }
    TrainingImages::find(folder, Orientation::Exif, 1 << 20).unwrap()
}

fn plan(images: &TrainingImages) -> Plan {
    Plan {
        network: NetworkConfig {
            backbone: Backbone::Resnet18,
            stem: Stem::V1c,
            width: 4,
            head: Head::DeeplabV2,
            head_channels: 16,
            embedding: 3,
        },
        vocabulary: PlannedVocabulary {
            classes: vec![vec!["red".to_owned()], vec!["blue".to_owned()]],
            background: Vec::new(),
            templates: "simple".to_owned(),
        },
        teacher: PlannedTeacher::new(&teacher(SURE, 0).info, &DenseOptions::default(), None),
        normalisation: [Normalisation::CLIP.mean, Normalisation::CLIP.std],
        settings: TrainSettings {
            steps: 6,
            batch: 2,
            crop_pixels: SIDE,
            short_side: 72,
            scale: [0.8, 1.5],
            confidence: 0.6,
            seed: 5,
            ..TrainSettings::default()
        },
        backbone_sha256: None,
        data: PlannedData {
            images: images.files.len(),
            sha256: images.sha256.clone(),
            undecodable: 0,
            label_maps: 0,
            orientation: Orientation::Exif,
        },
        given_labels: None,
    }
}

/// Returns red and blue as the student's texts. `labelled` says which of them have given labels.
fn texts(labelled: [bool; 2]) -> Texts {
    let names = ["red", "blue"].map(|name| Class::from(name.to_owned()));
    let list = ClassList::new(names.to_vec(), Vec::new(), &VocabularyLimits::for_testing()).unwrap();
    let embeddings = [[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]].map(|vector| TextEmbedding {
        vector: vector.to_vec().into(),
        truncated: false,
    });
    let embeddings = list.texts().into_iter().zip(embeddings).collect();
    let classifier = list.classifier(&embeddings, Synonyms::Mean);
    Texts::new(&list, &classifier, None, &labelled).unwrap()
}

/// The texts of a run, and its sources of labels besides the teacher.
struct Guide {
    texts: Texts,
    cache: Option<LabelCache>,
    given: Option<GivenLabels>,
}

struct World {
    images: TrainingImages,
    plan: Plan,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images_folder = folder.path().join("images");
        std::fs::create_dir(&images_folder).unwrap();
        let images = images(&images_folder);
        Self {
            plan: plan(&images),
            images,
            folder,
        }
    }

    /// Trains in the folder `name` with a checkpoint every second step, until this call has made `stop` steps.
    fn train(&self, name: &str, teacher: &mut ColourTeacher, stop: u64) -> Result<TrainOutcome, TrainError> {
        let guide = Guide {
            texts: texts([false; 2]),
            cache: None,
            given: None,
        };
        self.train_with(name, teacher, &guide, stop)
    }

    /// Does the same as [`World::train`] with other texts and labels.
    fn train_with(
        &self,
        name: &str,
        teacher: &mut ColourTeacher,
        guide: &Guide,
        stop: u64,
    ) -> Result<TrainOutcome, TrainError> {
        let made = Cell::new(0);
        TrainRun {
            folder: &self.folder.path().join(name),
            plan: &self.plan,
            files: &self.images.files,
            backbone: None,
            max_image_pixels: 1 << 20,
            checkpoint_steps: 2,
        }
        .train(
            &mut Teacher {
                labeller: teacher,
                texts: &guide.texts,
                options: DenseOptions::default(),
                cache: guide.cache.as_ref(),
                given: guide.given.as_ref(),
                confidence: self.plan.settings.confidence,
            },
            || made.get() >= stop,
            |_, _| made.set(made.get() + 1),
        )
    }

    fn read(&self, run: &str, file: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(run).join(file)).unwrap()
    }

    /// Returns the log's lines without the measured speed.
    fn log(&self, run: &str) -> Vec<String> {
        let text = String::from_utf8(self.read(run, LOG_FILE)).unwrap();
        text.lines()
            .map(|line| line.rsplit_once(',').unwrap().0.to_owned())
            .collect()
    }
}

const SURE: f32 = 1.0;
const FOREVER: usize = usize::MAX;

#[test]
fn a_run_that_is_stopped_or_killed_ends_with_the_bits_of_an_unbroken_one() {
    let world = World::new();
    let whole = world.train("whole", &mut teacher(SURE, FOREVER), u64::MAX).unwrap();
    assert!(
        matches!(whole, TrainOutcome::Finished(StepReport { step: 6, .. })),
        "{whole:?}"
    );

    let stopped = world.train("stopped", &mut teacher(SURE, FOREVER), 3).unwrap();
    assert!(
        matches!(stopped, TrainOutcome::Stopped(StepReport { step: 3, .. })),
        "{stopped:?}"
    );
    assert_eq!(
        world.train("stopped", &mut teacher(SURE, FOREVER), u64::MAX).unwrap(),
        whole
    );

    // The run dies in step 6, so step 5, which follows the checkpoint of step 4, is lost.
    world.train("killed", &mut teacher(SURE, 11), u64::MAX).unwrap_err();
    assert_eq!(world.log("killed").len(), 1 + 5);
    assert_eq!(
        world.train("killed", &mut teacher(SURE, FOREVER), u64::MAX).unwrap(),
        whole
    );

    for run in ["stopped", "killed"] {
        for file in [STUDENT_FILE, CARD_FILE, STATE_FILE] {
            assert!(
                world.read(run, file) == world.read("whole", file),
                "{file} of the run that was {run}"
            );
        }
        assert_eq!(world.log(run), world.log("whole"));
    }
    // A finished run has nothing left to do and does not ask the teacher.
    assert_eq!(world.train("whole", &mut teacher(SURE, 0), u64::MAX).unwrap(), whole);
}

#[test]
fn the_student_learns_what_the_teacher_says() {
    let mut world = World::new();
    world.plan.settings.steps = 240;
    world.plan.settings.optimiser.learning_rate = 0.02;
    world.train("run", &mut teacher(SURE, FOREVER), u64::MAX).unwrap();
    let log = world.log("run");
    let loss = |line: &String| line.split(',').nth(1).unwrap().parse::<f64>().unwrap();
    let mean = |lines: &[String]| lines.iter().map(loss).sum::<f64>() / lines.len() as f64;
    let (first, last) = (mean(&log[1..6]), mean(&log[236..]));
    assert!(last < 0.5 * first, "{first} to {last}");

    // The file holds the network and its texts. The network tells red from blue in images of one colour, which are not
    // among the training images.
    let path = world.folder.path().join("run").join(STUDENT_FILE);
    let mut tensors: HashMap<_, _> = Tensor::read_safetensors(path).unwrap().into_iter().collect();
    let text = tensors.remove("classifier").unwrap();
    let mut parameters = Parameters::stored(tensors, Device::Cpu);
    let network = Network::new(&mut parameters, &world.plan.network).unwrap();
    parameters.finish().unwrap();
    let [red, blue] = [[220u8, 30, 20], [20, 30, 220]].map(|colour| {
        let values: Vec<f32> = (0..3)
            .map(|channel| {
                (f32::from(colour[channel]) / 255.0 - Normalisation::CLIP.mean[channel])
                    / Normalisation::CLIP.std[channel]
            })
            .collect();
        Tensor::from_slice(&values)
            .view([1, 3, 1, 1])
            .expand([1, 3, 64, 64], false)
    });
    let share_of_blue = |image: &Tensor| {
        let labels = network.logits(image, &text, Mode::Evaluate).argmax(1, false); // [1, rows, columns]
        labels.mean(Kind::Double).double_value(&[])
    };
    let (red, blue) = (share_of_blue(&red), share_of_blue(&blue));
    assert!(red < 0.1 && blue > 0.9, "blue is seen in {red} of red, {blue} of blue");
}

#[test]
fn a_teacher_that_is_never_sure_stops_the_run() {
    let world = World::new();
    let error = world.train("run", &mut teacher(0.0, FOREVER), u64::MAX).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no pixel had a label in 6 steps: no probability reaches the confidence 0.6; use a lower confidence or a \
         vocabulary that fits the images"
    );
}

#[test]
fn a_run_that_diverges_stops_and_keeps_what_was_saved() {
    let mut world = World::new();
    world.plan.settings.steps = 200;
    world.plan.settings.optimiser.learning_rate = 1e30;
    let error = world.train("run", &mut teacher(SURE, FOREVER), u64::MAX).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("a lower rate may hold"), "{error}");
    assert!(!world.folder.path().join("run").join(STUDENT_FILE).exists());
}

#[test]
fn another_plan_does_not_go_on_with_a_run() {
    let mut world = World::new();
    world.train("run", &mut teacher(SURE, FOREVER), 2).unwrap();
    world.plan.settings.seed = 6;
    world.plan.teacher.temperature = 7.0;
    let error = world
        .train("run", &mut teacher(SURE, FOREVER), 2)
        .unwrap_err()
        .to_string();
    assert!(error.contains("a run with another settings, teacher:"), "{error}");
}

#[test]
fn a_damaged_state_is_said_to_be() {
    let world = World::new();
    world.train("run", &mut teacher(SURE, FOREVER), 2).unwrap();
    let state = world.folder.path().join("run").join(STATE_FILE);
    let bytes = std::fs::read(&state).unwrap();
    std::fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
    let error = world.train("run", &mut teacher(SURE, FOREVER), 2).unwrap_err();
    assert!(matches!(error, TrainError::Damaged { .. }), "{error}");
}

#[test]
fn settings_out_of_range_are_named_with_what_is_possible() {
    let world = World::new();
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = world.plan.clone();
        change(&mut plan);
        plan.settings.check(&plan.network, 8).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&|plan| plan.settings.crop_pixels = 60),
        "crop-pixels has to be a multiple of 8, the teacher's patch"
    );
    assert_eq!(
        refused(&|plan| plan.settings.scale = [2.0, 1.0]),
        "view-scale has to be two numbers above 0 and at most 16, the smaller first"
    );
    let one_image = |plan: &mut Plan| {
        plan.network.head = Head::DeeplabV3Plus;
        plan.settings.batch = 1;
    };
    assert_eq!(refused(&one_image), "batch has to be at least 2 with deeplab-v3-plus");
    world.plan.settings.check(&world.plan.network, 8).unwrap();
}
