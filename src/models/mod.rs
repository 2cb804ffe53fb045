//! The models that the settings ask for: CLIP and students, found by their names or paths, ready to be loaded by workers.
//!
//! Owns what CLIP and a student are as a [`Labeller`], the one place that tells the two apart, and where and in which element type
//! they compute. When a model is loaded is for whoever serves it to say.

#![allow(clippy::disallowed_types)] // Tensors live here.

mod clip_model;
mod labeller;
mod place;
mod settings;
mod source;
pub mod student;
mod student_model;
mod text_encoder;

use std::sync::Arc;

use crate::labeller::{Labeller, LabellerError, ModelKind, ServedModel};

pub use clip_model::{ClipLabeller, ClipModel};
pub use labeller::{DenseFeatureGrid, NetworkLabeller};
pub use place::{Place, PrecisionRule};
pub use settings::{DeviceChoice, ModelEntry, ModelSettings, PrecisionChoice, one_or_several};
pub use source::ModelError;
pub use student_model::{StudentLabeller, StudentModel};
pub use text_encoder::TextEncoder;

use source::ModelSource;
use student::{LoadError, StudentFiles};

/// Why the settings' models cannot be used. The text begins with the place in the settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelsError {
    /// A model is not there, or cannot compute where it should.
    #[error("models[{index}]: {source}")]
    Model {
        /// Its place in `models`.
        index: usize,
        /// What is wrong with it.
        source: ModelError,
    },
    /// A student's card cannot be used.
    #[error("models[{index}]: {source}")]
    Student {
        /// Its place in `models`.
        index: usize,
        /// What is wrong with it.
        source: LoadError,
    },
    /// A student's teacher is not there.
    #[error(
        "models[{index}]: {student} is a student of {teacher:?}, whose text tower it needs: {source}; teacher, in its entry of \
         models, says where that is"
    )]
    Teacher {
        /// The student's place in `models`.
        index: usize,
        /// The student's name.
        student: String,
        /// The teacher's name or path.
        teacher: String,
        /// What is wrong with it.
        source: Box<ModelError>,
    },
    /// Only a student has a teacher.
    #[error("models[{index}].teacher: {name} is no student")]
    NeedsNoTeacher {
        /// Its place in `models`.
        index: usize,
        /// The model's name.
        name: String,
    },
    /// Requests could not tell two models apart.
    #[error("models[{index}]: the name {name:?} is that of models[{first}], too; an alias gives it another one")]
    SameName {
        /// Its place in `models`.
        index: usize,
        /// Their name.
        name: String,
        /// The other's place.
        first: usize,
    },
    /// A student cannot do what is asked of a CLIP.
    #[error("models[0]: {name} is a student, and a teacher has to be a CLIP")]
    StudentTeaches {
        /// The student's name.
        name: String,
    },
}

/// A model that has been found, with its name among the others.
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

/// The models that the settings ask for.
#[derive(Debug, Clone, Copy)]
pub struct AskedModels<'a> {
    /// The models, at least one.
    pub entries: &'a [ModelEntry],
    /// What they have in common unless an entry says otherwise.
    pub common: &'a ModelSettings,
    /// Workers of each model, which share the processors.
    pub workers: usize,
}

impl AskedModels<'_> {
    /// Finds all models, without loading anything.
    ///
    /// # Errors
    /// When one is not there, cannot compute where the settings say, or has another's name.
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

    /// Finds the first model alone, for commands that take one.
    ///
    /// # Errors
    /// As [`AskedModels::find_all`].
    pub fn find_first(&self) -> Result<ServedModel, ModelsError> {
        Ok(self.find(0)?.served(0))
    }

    /// Finds the first model, which has to be a CLIP.
    ///
    /// # Errors
    /// As [`AskedModels::find_all`], and when the model is a student.
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

/// The name or path of the teacher that a card calls so: that of a served model whose file or folder has the name, else the
/// name itself.
fn called<'a>(models: &'a [ModelEntry], name: &'a str) -> &'a str {
    let path_called = |entry: &&ModelEntry| {
        let path = std::path::Path::new(&entry.name);
        path.exists() && [path.file_stem(), path.file_name()].contains(&Some(name.as_ref()))
    };
    models.iter().find(path_called).map_or(name, |entry| &entry.name)
}

impl FoundModel {
    /// For the engine; what is wrong with its files when they are loaded is told with its place in the settings.
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
        }
    }
}
