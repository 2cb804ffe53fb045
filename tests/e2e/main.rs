//! The real binary over a real socket, with the embedded model.
#![allow(clippy::unwrap_used)]

mod commands;
mod evaluation;
mod fetch;
mod lifecycle;
mod loopback;
mod segment;
mod server;
mod site;
mod student;
mod train;
mod vocabulary;
