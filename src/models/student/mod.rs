//! What a student of MaskCLIP+ is made of: its network, its files, its card.
//!
//! Owns the form of a finished student. How one is made is [`training`](crate::training)'s to say.

mod card;
mod load;
mod network;

pub use card::{
    CARD_FILE, OptimiserSettings, Plan, PlannedData, PlannedInput, PlannedLabels, PlannedTeacher, PlannedVocabulary,
    PseudoLabels, STUDENT_FILE, StepReport, StudentCard, StudentPrecision, TrainSettings,
};
pub use load::{LoadError, StudentFiles};
pub use network::{Backbone, Head, Mode, Network, NetworkConfig, ParameterError, Parameters, Stem};
pub(crate) use network::{Initial, classify};
