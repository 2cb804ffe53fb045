//! What the Python references computed from the same weights and the same texts. The arrays beside are written by
//! tools/golden.
#![allow(clippy::disallowed_types)] // Golden arrays are compared as the layers below the engine make them: tensors.

mod arrays;
mod attention;
mod checkpoints;
mod jpeg;
mod precision;
mod refinement;
mod scales;
mod student;
mod text;
mod visual;
