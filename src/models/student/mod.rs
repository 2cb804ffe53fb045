//! A finished student of MaskCLIP+: its network, its files, its card.
//!
//! This room owns the format of a finished student. [`training`](crate::training) makes students.

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
