//! Wire types that several resources share, and the counterparts of all enumerations below.
//!
//! No room below derives a schema. What a client reads of a type, and how the type is written, stands here; conversions
//! connect it with the type below.

mod classes;
mod enums;
mod features;
mod form;
mod further_format;
mod key_smoothing;
mod map_format;
mod model_health;
mod named;
mod object;
mod timings;
mod vocabulary_state;
mod warning;
mod whole_number;
mod window;

pub use classes::{ClassBody, ClassDetail, Name};
pub use enums::{
    Attention, KeySmoothingMethod, LabelMapFormat, ModelKind, Orientation, Precision, Refinement, Resize, Synonyms,
    TemplateSet,
};
pub(super) use features::feature_fields;
pub use form::{BodyInForm, without_image};
pub use further_format::FurtherLabelMapFormat;
pub use key_smoothing::KeySmoothingBody;
pub use map_format::MapFormat;
pub use model_health::ModelHealth;
pub use object::{Object, object, object_or_null};
pub use timings::Timings;
pub use vocabulary_state::VocabularyState;
pub(super) use warning::MASKCLIP_WARNINGS;
pub use warning::WarningReply;
pub use whole_number::optional_whole_number;
pub use window::WindowBody;

/// A PNG of 8 x 8 pixels as a data URI, for the examples of the OpenAPI document.
pub(super) const EXAMPLE_IMAGE: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP4v4ABK2IYWhIAyeBnwXyeEDwAAAAASUVORK5CYII=";
