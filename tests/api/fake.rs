//! A fake model that knows three words, red, green and blue, and sees these colours where they are. A control makes it
//! wait, fail or panic when a test wants it to.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use maskclip::dense::{Attention, DenseOptions, FeatureOptions, Refinement, RefinementOptions, ScoreOptions};
use maskclip::image::{ModelInput, Normalisation, NormalisedImage};
use maskclip::labeller::{
    ImageFeatures, Labeller, LabellerError, LabellerFactory, ModelInfo, ModelKind, ModelOptions, Precision,
    ServedModel, StudentInfo, TeacherInfo,
};
use maskclip::scores::DenseScores;
use maskclip::scores::{QueryOwner, ScoreGrid, ScoreKind, ScoreMap};
use maskclip::vocabulary::{Class, Classifier, TemplateSet, TextEmbedding};
use tokio::sync::Semaphore;

/// Side of the fake's grid cells in pixels.
pub const PATCH_PIXELS: u32 = 4;

/// Number of bytes that the fake reads of a text.
pub const READ_BYTES: usize = 100;

/// What the fake does when it is called.
pub enum Action {
    /// Blocks until the test drops or uses the sender, then answers.
    WaitFor(mpsc::Receiver<()>),
    /// Answers as if there were no action.
    Answer,
    /// Returns an error.
    Fail,
    /// Panics, as tch does where libtorch throws.
    Panic,
    /// Blocks until the test drops or uses the sender, then panics.
    PanicAfter(mpsc::Receiver<()>),
    /// Answers with a similarity that is not a number.
    NotANumber,
    /// Works until it is stopped, as a long computation does that asks between its steps.
    WorkUntilStopped,
}

/// The actions of the next calls, one queue per kind of call. A call without an action answers.
#[derive(Clone, Default)]
pub struct Control(Arc<Calls>);

#[derive(Default)]
struct Calls {
    load: Mutex<VecDeque<Action>>,
    /// Whether every load fails that has no action.
    is_broken: AtomicBool,
    /// Changes the description of a model that is loaded.
    change: Mutex<Option<fn(&mut ModelInfo)>>,
    look: Mutex<VecDeque<Action>>,
    score: Mutex<VecDeque<Action>>,
    refine: Mutex<VecDeque<Action>>,
    embed: Mutex<VecDeque<Action>>,
    entered: Entered,
    /// Every so many-th look panics; 0 for none.
    panics_every: AtomicUsize,
    /// Number of images whose features have been computed, including the warm-up.
    looks: AtomicUsize,
    /// Number of chunks of texts that have been embedded, including the warm-up.
    embeds: AtomicUsize,
    refinements: AtomicUsize,
    /// Number of calls that have been stopped.
    stops: AtomicUsize,
    /// What the last score was asked for.
    asked: Mutex<Option<Asked>>,
}

/// What a score was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub options: DenseOptions,
    /// Width and height of the model's input in pixels, at each scale.
    pub sizes: Vec<(usize, usize)>,
    /// Width and height of the image itself in pixels.
    pub image: (usize, usize),
    /// The owner of each query.
    pub owners: Vec<QueryOwner>,
}

/// A semaphore with one permit for each call that has reached its action.
struct Entered(Semaphore);

impl Default for Entered {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

/// A call that waits until this hold is dropped.
pub struct Hold(#[expect(dead_code, reason = "dropped to let the call go on")] mpsc::Sender<()>);

impl Control {
    /// Sets the action of the next computation of features.
    pub fn on_look(&self, action: Action) {
        self.0.look.lock().unwrap().push_back(action);
    }

    /// Makes every so many-th look panic, or none with 0.
    pub fn panic_every(&self, looks: usize) {
        self.0.panics_every.store(looks, Ordering::Relaxed);
    }

    /// Returns how often features have been computed so far, including warm-ups.
    pub fn looks(&self) -> usize {
        self.0.looks.load(Ordering::Relaxed)
    }

    /// Returns how often texts have been embedded so far, including warm-ups.
    pub fn embeds(&self) -> usize {
        self.0.embeds.load(Ordering::Relaxed)
    }

    /// Returns how often scores have been refined.
    pub fn refinements(&self) -> usize {
        self.0.refinements.load(Ordering::Relaxed)
    }

    /// Sets the action of the next score.
    pub fn on_score(&self, action: Action) {
        self.0.score.lock().unwrap().push_back(action);
    }

    /// Returns how many calls have been stopped before their end.
    pub fn stops(&self) -> usize {
        self.0.stops.load(Ordering::Relaxed)
    }

    /// Sets the action of the next refinement.
    pub fn on_refine(&self, action: Action) {
        self.0.refine.lock().unwrap().push_back(action);
    }

    /// Sets the action of the next embedding of texts.
    pub fn on_embed(&self, action: Action) {
        self.0.embed.lock().unwrap().push_back(action);
    }

    /// Makes the next computation of features wait until the hold is dropped.
    pub fn hold_look(&self) -> Hold {
        hold(&self.0.look)
    }

    /// Makes the next score wait until the hold is dropped.
    pub fn hold_score(&self) -> Hold {
        hold(&self.0.score)
    }

    /// Makes the next refinement wait until the hold is dropped.
    pub fn hold_refine(&self) -> Hold {
        hold(&self.0.refine)
    }

    /// Makes the next embedding of texts wait until the hold is dropped.
    pub fn hold_embed(&self) -> Hold {
        hold(&self.0.embed)
    }

    /// Makes the next load of the model wait until the hold is dropped.
    pub fn hold_load(&self) -> Hold {
        hold(&self.0.load)
    }

    /// Makes every load of the model fail, or no load any more.
    pub fn break_loads(&self, is_broken: bool) {
        self.0.is_broken.store(is_broken, Ordering::SeqCst);
    }

    /// Puts other files in the place of the model's, or the model's own back.
    pub fn replace_files(&self, change: Option<fn(&mut ModelInfo)>) {
        *self.0.change.lock().unwrap() = change;
    }

    /// Waits until a call with an action has begun.
    pub async fn entered(&self) {
        self.0.entered.0.acquire().await.unwrap().forget();
    }

    /// Returns what the last score was asked for.
    pub fn asked(&self) -> Asked {
        self.0.asked.lock().unwrap().clone().expect("an image has been scored")
    }

    /// Returns a CLIP that obeys this control.
    pub fn model(&self) -> ServedModel {
        self.model_of(info)
    }

    /// Returns a CLIP of another description that obeys this control.
    pub fn model_of(&self, info: fn() -> ModelInfo) -> ServedModel {
        self.served("colours", ModelKind::Clip, info)
    }

    /// Returns a student that obeys this control.
    pub fn student(&self) -> ServedModel {
        self.served("fruit", ModelKind::Student, student_info)
    }

    fn served(&self, name: &str, kind: ModelKind, info: fn() -> ModelInfo) -> ServedModel {
        let control = self.clone();
        let factory: LabellerFactory = Arc::new(move || {
            control.perform(&control.0.load, &|| false)?;
            if control.0.is_broken.load(Ordering::SeqCst) {
                return Err(LabellerError::Load(
                    "the fake is broken\nbelow, a call stack".to_owned(),
                ));
            }
            let mut info = info();
            if let Some(change) = *control.0.change.lock().unwrap() {
                change(&mut info);
            }
            Ok(Box::new(ColourLabeller {
                info,
                control: control.clone(),
            }))
        });
        ServedModel {
            name: name.to_owned(),
            kind,
            factory,
            count_tokens: |text| 2 + text.split_whitespace().count(),
        }
    }

    /// Carries out the next action. Returns whether the answer must hold a similarity that is not a number.
    fn perform(&self, actions: &Mutex<VecDeque<Action>>, stop: &dyn Fn() -> bool) -> Result<bool, LabellerError> {
        let Some(action) = actions.lock().unwrap().pop_front() else {
            return Ok(false);
        };
        self.0.entered.0.add_permits(1);
        match action {
            Action::WaitFor(release) => {
                // An error means that the hold was dropped, which releases the call.
                let _ = release.recv();
                Ok(false)
            }
            Action::Answer => Ok(false),
            Action::Fail => Err(LabellerError::Model("the fake was told to fail".to_owned())),
            Action::Panic => panic!("the fake was told to panic"),
            Action::PanicAfter(release) => {
                let _ = release.recv();
                panic!("the fake was told to panic")
            }
            Action::NotANumber => Ok(true),
            Action::WorkUntilStopped => {
                while !stop() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                self.0.stops.fetch_add(1, Ordering::Relaxed);
                Err(LabellerError::Stopped)
            }
        }
    }
}

fn hold(actions: &Mutex<VecDeque<Action>>) -> Hold {
    let (sender, receiver) = mpsc::channel();
    actions.lock().unwrap().push_back(Action::WaitFor(receiver));
    Hold(sender)
}

/// Returns the description of the fake, as `/v1/models` shows it.
pub fn info() -> ModelInfo {
    ModelInfo {
        name: "colours".to_owned(),
        architecture: "fake".to_owned(),
        weights_sha256: "c0".repeat(32),
        precision: Precision::Float32,
        text_variant: String::new(),
        device: "cpu".to_owned(),
        embedding_dimension: 4,
        patch_pixels: PATCH_PIXELS,
        options: ModelOptions {
            short_side: 8,
            scales: vec![1.0],
            temperature: 100.0,
            refinement: Refinement::None,
        },
        training_side: Some(8),
        normalisation: Normalisation::CLIP,
        attentions: vec![
            Attention::Clip,
            Attention::Maskclip,
            Attention::ScClip,
            Attention::Resclip,
        ],
        training_words: Some(["red", "green", "blue", "grey"].map(str::to_owned).into()),
        embedded: false,
        student: None,
    }
}

/// Returns the description of the fake as a student of the other, with a learned background.
pub fn student_info() -> ModelInfo {
    let teacher = info();
    ModelInfo {
        options: ModelOptions {
            temperature: 1.0,
            ..teacher.options.clone()
        },
        // Its own name. It is served under another one.
        name: "student".to_owned(),
        weights_sha256: "5d".repeat(32),
        attentions: Vec::new(),
        training_side: None,
        student: Some(StudentInfo {
            classes: ["red", "blue"].map(|name| Class::from(name.to_owned())).into(),
            background: Vec::new(),
            templates: "simple".to_owned(),
            learned_background: true,
            teacher: TeacherInfo {
                name: teacher.name.clone(),
                weights_sha256: teacher.weights_sha256.clone(),
                precision: teacher.precision,
                text_variant: teacher.text_variant.clone(),
            },
        }),
        ..teacher
    }
}

/// Text embeddings are the axes red, green, blue and a fourth for all other texts. Image features are colours.
struct ColourLabeller {
    info: ModelInfo,
    control: Control,
}

impl ColourLabeller {
    fn features_of(
        &self,
        input: &ModelInput,
        options: &FeatureOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<Arc<dyn ImageFeatures>, LabellerError> {
        let looks = 1 + self.control.0.looks.fetch_add(1, Ordering::Relaxed);
        if looks.checked_rem(self.control.0.panics_every.load(Ordering::Relaxed)) == Some(0) {
            panic!("the fake panics over look {looks}");
        }
        self.control.perform(&self.control.0.look, stop)?;
        let side = PATCH_PIXELS as usize;
        let grid = |image: &NormalisedImage| {
            let (height, width) = (image.height / side, image.width / side);
            Grid {
                height,
                width,
                cells: (0..height * width)
                    .map(|cell| feature(image, cell / width * side, cell % width * side))
                    .collect(),
            }
        };
        Ok(Arc::new(ColourFeatures {
            grids: input.sizes.iter().map(grid).collect(),
            sizes: input.sizes.iter().map(|image| (image.width, image.height)).collect(),
            image: (input.image_width, input.image_height),
            options: *options,
            control: self.control.clone(),
        }))
    }
}

impl Labeller for ColourLabeller {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn embed_texts(&mut self, texts: &[String], _templates: TemplateSet) -> Result<Vec<TextEmbedding>, LabellerError> {
        self.control.0.embeds.fetch_add(1, Ordering::Relaxed);
        self.control.perform(&self.control.0.embed, &|| false)?;
        let embeddings = texts.iter().map(|text| TextEmbedding {
            vector: embedding(text).into(),
            truncated: text.len() > READ_BYTES,
        });
        Ok(embeddings.collect())
    }

    fn features(
        &mut self,
        inputs: &[&ModelInput],
        options: &FeatureOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Arc<dyn ImageFeatures>>, LabellerError> {
        let features = inputs.iter().map(|input| self.features_of(input, options, stop));
        features.collect()
    }

    fn refine(
        &mut self,
        scores: ScoreMap,
        _input: &ModelInput,
        _classifier: &Classifier,
        options: &RefinementOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<ScoreMap, LabellerError> {
        if let Some(asked) = &mut *self.control.0.asked.lock().unwrap() {
            asked.options.refinement = *options;
        }
        if *options != RefinementOptions::None {
            self.control.0.refinements.fetch_add(1, Ordering::Relaxed);
            self.control.perform(&self.control.0.refine, stop)?;
        }
        Ok(scores)
    }
}

/// The colours of an image at each of its sizes.
struct ColourFeatures {
    grids: Vec<Grid>,
    sizes: Vec<(usize, usize)>,
    image: (usize, usize),
    options: FeatureOptions,
    control: Control,
}

struct Grid {
    height: usize,
    width: usize,
    cells: Vec<[f32; 4]>,
}

impl ImageFeatures for ColourFeatures {
    fn bytes(&self) -> usize {
        self.grids.iter().map(|grid| size_of_val(grid.cells.as_slice())).sum()
    }

    fn similar_to(&self, (x, y): (f64, f64)) -> Result<ScoreMap, LabellerError> {
        let first = &self.grids[0];
        let row = (y * first.height as f64) as usize;
        let column = (x * first.width as f64) as usize;
        let feature = first.cells[row * first.width + column];
        let cosines = |grid: &Grid| ScoreGrid {
            height: grid.height,
            width: grid.width,
            windows: None,
            values: grid.cells.iter().map(|cell| dot(cell, &feature)).collect(),
        };
        Ok(ScoreMap {
            kind: ScoreKind::Logits,
            queries: 1,
            grids: self.grids.iter().map(cosines).collect(),
        })
    }

    fn score(
        &self,
        classifier: &Classifier,
        options: &ScoreOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<DenseScores, LabellerError> {
        let needed = options.key_smoothing.keys();
        assert!(
            needed.is_none() || needed == self.options.keys,
            "features without the keys"
        );
        *self.control.0.asked.lock().unwrap() = Some(Asked {
            options: DenseOptions {
                features: self.options,
                scoring: *options,
                refinement: RefinementOptions::None,
            },
            sizes: self.sizes.clone(),
            image: self.image,
            owners: classifier.owners.clone(),
        });
        let spoilt = self.control.perform(&self.control.0.score, stop)?;
        let queries: Vec<&[f32]> = classifier.embeddings.chunks(classifier.dimension).collect();
        let mut similarity = vec![-1_f32; queries.len()];
        let mut score = |grid: &Grid| {
            let mut values = Vec::with_capacity(queries.len() * grid.cells.len());
            for (query, best) in queries.iter().zip(&mut similarity) {
                for cosine in grid.cells.iter().map(|cell| dot(query, cell)) {
                    *best = best.max(cosine);
                    values.push(options.temperature * cosine);
                }
            }
            ScoreGrid {
                height: grid.height,
                width: grid.width,
                windows: None,
                values,
            }
        };
        let map = ScoreMap {
            kind: ScoreKind::Logits,
            queries: queries.len(),
            grids: self.grids.iter().map(&mut score).collect(),
        };
        let image_probability = vec![1.0 / queries.len() as f32; queries.len()];
        if spoilt {
            similarity[0] = f32::NAN;
        }
        Ok(DenseScores {
            map,
            similarity,
            image_probability,
            denoising_dropped_all: false,
        })
    }

    /// Returns the mean colour of the first size.
    fn pooled(&self) -> Result<Vec<f32>, LabellerError> {
        let cells = &self.grids[0].cells;
        let sum = cells.iter().fold([0.0; 4], |sum, cell| {
            std::array::from_fn(|channel| sum[channel] + cell[channel])
        });
        let length = dot(&sum, &sum).sqrt().max(1e-6);
        Ok(sum.map(|channel| channel / length).into())
    }
}

/// Returns the axis of the colour that the text names, or the fourth axis for any other text.
fn embedding(text: &str) -> [f32; 4] {
    match text {
        "red" => [1.0, 0.0, 0.0, 0.0],
        "green" => [0.0, 1.0, 0.0, 0.0],
        "blue" => [0.0, 0.0, 1.0, 0.0],
        _ => [0.0, 0.0, 0.0, 1.0],
    }
}

/// Returns the colour of the middle pixel of a cell, scaled to unit length.
fn feature(image: &NormalisedImage, top: usize, left: usize) -> [f32; 4] {
    let middle = PATCH_PIXELS as usize / 2;
    let pixel = (top + middle) * image.width + left + middle;
    let channel = |plane: usize| {
        let value = image.values[plane * image.height * image.width + pixel];
        (value * Normalisation::CLIP.std[plane] + Normalisation::CLIP.mean[plane]).max(0.0)
    };
    let colour = [channel(0), channel(1), channel(2)];
    let length = dot(&colour, &colour).sqrt().max(1e-6);
    [colour[0] / length, colour[1] / length, colour[2] / length, 0.0]
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}
