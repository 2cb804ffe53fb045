//! The models in the settings: CLIPs and students, found by name or path, ready for workers to load.
//!
//! This room owns how CLIP and students become [`Labeller`]s, and on which device and in which element type they
//! compute. No other room tells the two kinds apart. The engine decides when a model is loaded.

#![allow(clippy::disallowed_types)] // Tensors live here.

mod clip_model;
mod labeller;
mod options_file;
mod place;
mod settings;
mod source;
pub mod student;
mod student_model;
mod text_encoder;

use std::sync::{Arc, LazyLock};

use tch::Device;

use crate::clip::Tokenizer;
use crate::labeller::{Labeller, LabellerError, ModelKind, ServedModel};

pub use clip_model::{ClipLabeller, ClipModel};
pub use labeller::{DenseFeatureGrid, NetworkLabeller};
pub use place::Place;
pub use settings::{DeviceChoice, ModelEntry, ModelSettings, PrecisionChoice, one_or_several};
pub use source::ModelError;
pub use student_model::{StudentLabeller, StudentModel};
pub use text_encoder::TextEncoder;

use source::ModelSource;
use student::{LoadError, StudentFiles};

/// Tokens that every published CLIP's text tower reads of a text.
const CONTEXT_LENGTH: usize = 77;

/// Why the models in the settings cannot be used. The text begins with the model's path in the settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelsError {
    /// A model does not exist, or cannot compute on the given device.
    #[error("models[{index}]: {source}")]
    Model {
        /// The model's index in `models`.
        index: usize,
        /// The cause.
        source: ModelError,
    },
    /// A student's card cannot be used.
    #[error("models[{index}]: {source}")]
    Student {
        /// The student's index in `models`.
        index: usize,
        /// The cause.
        source: LoadError,
    },
    /// A student's teacher does not exist.
    #[error(
        "models[{index}]: {student} is a student of {teacher:?}, whose text tower it needs: {source}; set teacher in its \
         entry of models to the teacher's path"
    )]
    Teacher {
        /// The student's index in `models`.
        index: usize,
        /// The student's name.
        student: String,
        /// The teacher's name or path.
        teacher: String,
        /// The cause.
        source: Box<ModelError>,
    },
    /// The entry of a CLIP names a teacher, but only students have one.
    #[error("models[{index}].teacher: {name} is no student")]
    NeedsNoTeacher {
        /// The model's index in `models`.
        index: usize,
        /// The model's name.
        name: String,
    },
    /// Two models have the same name, so requests could not tell them apart.
    #[error("models[{index}]: the name {name:?} is that of models[{first}], too; an alias gives it another one")]
    SameName {
        /// The second model's index in `models`.
        index: usize,
        /// The name of both.
        name: String,
        /// The first model's index in `models`.
        first: usize,
    },
    /// A student is named as a teacher, but only a CLIP can teach.
    #[error("models[0]: {name} is a student, and a teacher has to be a CLIP")]
    StudentTeaches {
        /// The student's name.
        name: String,
    },
}

/// A model whose files have been found, with the name that requests use.
#[derive(Debug, Clone)]
struct FoundModel {
    name: String,
    model: Model,
}

#[derive(Debug, Clone)]
enum Model {
    Clip(ClipModel),
    Student(Box<StudentModel>),
}

/// The size of a model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelBytes {
    /// The model's name in requests.
    pub name: String,
    /// Bytes of the files with its weights. For a student, its teacher's are among them.
    pub file_bytes: u64,
    /// Whether the model computes on the CPU, so that its weights are in the process's memory.
    pub is_on_cpu: bool,
}

/// The models that the settings ask for, not found yet.
#[derive(Debug, Clone, Copy)]
pub struct AskedModels<'a> {
    /// The entries of `models`, at least one.
    pub entries: &'a [ModelEntry],
    /// Settings of all models, where an entry has none of its own.
    pub common: &'a ModelSettings,
    /// Workers of each model. They share the processors.
    pub workers: usize,
}

impl AskedModels<'_> {
    /// Finds the files of all models. Loads nothing.
    ///
    /// # Errors
    /// [`ModelsError`] when a model does not exist, cannot compute where the settings say, or has another model's name.
    pub fn find_all(&self) -> Result<Vec<ServedModel>, ModelsError> {
        let mut found: Vec<FoundModel> = Vec::with_capacity(self.entries.len());
        for index in 0..self.entries.len() {
            let model = self.find(index)?;
            if let Some(first) = found.iter().position(|other| other.name == model.name) {
                return Err(ModelsError::SameName {
                    index,
                    name: model.name,
                    first,
                });
            }
            found.push(model);
        }
        Ok((0..).zip(found).map(|(index, model)| model.served(index)).collect())
    }

    /// Returns the sizes of all models' files. Loads nothing.
    ///
    /// # Errors
    /// [`ModelsError`] when a model does not exist, cannot compute where the settings say, or its size cannot be read.
    pub fn sizes(&self) -> Result<Vec<ModelBytes>, ModelsError> {
        let size = |index| {
            let FoundModel { name, model } = self.find(index)?;
            let bytes = match &model {
                Model::Clip(clip) => clip.file_bytes(),
                Model::Student(student) => student.file_bytes(),
            };
            Ok(ModelBytes {
                name,
                file_bytes: bytes.map_err(|source| ModelsError::Model { index, source })?,
                is_on_cpu: model.place().device == Device::Cpu,
            })
        };
        (0..self.entries.len()).map(size).collect()
    }

    /// Finds the first model only, for commands that use one model.
    ///
    /// # Errors
    /// The same as [`AskedModels::find_all`].
    pub fn find_first(&self) -> Result<ServedModel, ModelsError> {
        Ok(self.find(0)?.served(0))
    }

    /// Finds the first model, which must be a CLIP.
    ///
    /// # Errors
    /// The same as [`AskedModels::find_all`], and [`ModelsError::StudentTeaches`] when the model is a student.
    pub fn find_teacher(&self) -> Result<ClipModel, ModelsError> {
        let FoundModel { name, model } = self.find(0)?;
        match model {
            Model::Clip(clip) => Ok(clip),
            Model::Student(_) => Err(ModelsError::StudentTeaches { name }),
        }
    }

    fn find(&self, index: usize) -> Result<FoundModel, ModelsError> {
        let entry = &self.entries[index];
        let wrong = |source| ModelsError::Model { index, source };
        let place = Place::find(entry, self.common, self.workers).map_err(wrong)?;
        let source = ModelSource::find(&entry.name, &self.common.folder()).map_err(wrong)?;
        let (name, model) = match source {
            ModelSource::Student(files) => {
                let student = self.find_student(index, files, place)?;
                (student.name(), Model::Student(Box::new(student)))
            }
            ModelSource::Clip(source) => {
                let clip = ClipModel { source, place };
                let name = clip.name();
                if entry.teacher.is_some() {
                    return Err(ModelsError::NeedsNoTeacher { index, name });
                }
                (name, Model::Clip(clip))
            }
        };
        Ok(FoundModel {
            name: entry.alias.clone().unwrap_or(name),
            model,
        })
    }

    fn find_student(&self, index: usize, files: StudentFiles, place: Place) -> Result<StudentModel, ModelsError> {
        let card = files.card().map_err(|source| ModelsError::Student { index, source })?;
        let teacher = self.entries[index].teacher.as_deref();
        let teacher = teacher.unwrap_or_else(|| called(self.entries, &card.plan.teacher.name));
        let wrong = |source| ModelsError::Teacher {
            index,
            student: files.name(),
            teacher: teacher.to_owned(),
            source: Box::new(source),
        };
        let source = match ModelSource::find(teacher, &self.common.folder()).map_err(wrong)? {
            ModelSource::Clip(source) => source,
            ModelSource::Student(files) => return Err(ModelsError::StudentTeaches { name: files.name() }),
        };
        let clip = ClipModel {
            source,
            place: place.clone(),
        };
        Ok(StudentModel::new(files, card, clip, place))
    }
}

/// Returns the name or path of the teacher that a card names. If a served model's file or folder has that name, this is
/// its path; otherwise the name itself.
fn called<'a>(models: &'a [ModelEntry], name: &'a str) -> &'a str {
    let path_called = |entry: &&ModelEntry| {
        let path = std::path::Path::new(&entry.name);
        path.exists() && [path.file_stem(), path.file_name()].contains(&Some(name.as_ref()))
    };
    models.iter().find(path_called).map_or(name, |entry| &entry.name)
}

impl Model {
    fn place(&self) -> &Place {
        match self {
            Self::Clip(clip) => &clip.place,
            Self::Student(student) => student.place(),
        }
    }
}

impl FoundModel {
    /// Returns the model for the engine. Errors of a later load name the model's index in the settings.
    fn served(self, index: usize) -> ServedModel {
        let Self { name, model } = self;
        let kind = match &model {
            Model::Clip(_) => ModelKind::Clip,
            Model::Student(_) => ModelKind::Student,
        };
        let load = move || -> Result<Box<dyn Labeller>, LabellerError> {
            let loaded: Result<Box<dyn Labeller>, _> = match &model {
                Model::Clip(clip) => clip.load().map(|labeller| Box::new(labeller) as _),
                Model::Student(student) => student.load().map(|labeller| Box::new(labeller) as _),
            };
            loaded.map_err(|error| match error {
                LabellerError::Load(reason) => LabellerError::Load(format!("models[{index}]: {reason}")),
                other => other,
            })
        };
        ServedModel {
            name,
            kind,
            factory: Arc::new(load),
            count_tokens,
        }
    }
}

/// Returns how many tokens a text tower reads of a text. All of CLIP's have one tokenizer, and students have their
/// teacher's.
fn count_tokens(text: &str) -> usize {
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::new(CONTEXT_LENGTH));
    TOKENIZER.encode(text).ids.len()
}
