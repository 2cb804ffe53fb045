//! The real binary over a real socket, with the embedded model.
#![allow(clippy::unwrap_used)]
#![allow(clippy::too_many_lines, reason = "a test that tells one story reads better whole")]

mod commands;
mod evaluation;
mod fetch;
mod health;
mod keys;
mod label;
mod lifecycle;
mod loopback;
mod memory;
mod replicas;
mod segment;
mod server;
mod shutdown;
mod site;
mod student;
mod train;
mod vocabulary;
