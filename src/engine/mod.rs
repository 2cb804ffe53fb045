//! From a request to a result: admission, decoding, text embeddings, the model's worker threads,
//! the label map and its encoding, each under the request's deadline.
//!
//! Owns the order of the stages, the queue, the threads and all waiting. Knows nothing of HTTP; the
//! only libtorch here is the worker's ([`clip_labeller`]).

mod labeller;
mod request;

pub use labeller::{DenseScores, Labeller, LabellerError, ModelInfo, Precision};
pub use request::{
    Background, ClassResult, OutputOptions, SegmentError, SegmentRequest, Segmentation, Timings, VocabularyChoice,
    Warning, WarningCode,
};
