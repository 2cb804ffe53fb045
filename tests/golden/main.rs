//! Compares this program with Python references on the same weights and the same texts. The scripts in tools/golden
//! wrote the arrays beside this file.
#![allow(clippy::disallowed_types)] // The rooms below the engine compute with tensors.

mod arrays;
mod attention;
mod checkpoints;
mod images;
mod jpeg;
mod precision;
mod refinement;
mod scales;
mod student;
mod text;
mod visual;
