//! A student of MaskCLIP+ as a model among others: its network, its files, its card.
//!
//! Owns what a finished student is. How one is made is [`training`](crate::training)'s to say.

mod card;
mod labeller;
mod load;
mod network;

pub use card::{
    CARD_FILE, OptimiserSettings, Plan, PlannedData, PlannedInput, PlannedLabels, PlannedTeacher, PlannedVocabulary,
    PseudoLabels, STUDENT_FILE, StepReport, StudentCard, StudentPrecision, TrainSettings,
};
pub use labeller::{StudentLabeller, StudentModel};
pub use load::{LoadError, StudentFiles};
pub use network::{Backbone, Head, Mode, Network, NetworkConfig, ParameterError, Parameters, Stem};
pub(crate) use network::{Initial, classify};
