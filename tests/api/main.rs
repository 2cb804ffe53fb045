//! The HTTP contract as a specification. The tests drive the router without a socket, on a real engine whose model is a
//! fake that tells colours apart.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(
    clippy::too_many_lines,
    reason = "a test that tells one story, or lists many cases, reads better whole"
)]

mod fake;
mod socket;
mod support;

mod access;
mod base_path;
mod batch;
mod batching;
mod browsers;
mod classify;
mod compression;
mod connections;
mod corpora;
mod embeddings;
mod errors;
mod fairness;
mod health;
mod hostile;
mod hugging_face;
mod images;
mod inference;
mod label_studio;
mod logs;
mod models;
mod observability;
mod openapi;
mod options;
mod otlp;
mod outputs;
mod overload;
mod page;
mod reference;
mod segment;
mod several_models;
mod shutdown;
mod supervision;
mod tls;
mod vocabularies;
