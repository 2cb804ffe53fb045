//! The real binary over a real socket, on the embedded model.
#![allow(clippy::unwrap_used)]

mod commands;
mod lifecycle;
mod segment;
mod server;
mod vocabulary;
