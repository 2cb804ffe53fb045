//! The two tables that this program holds the code to. A change of a table is a decision about the architecture.

/// Names, each with the names that a rule allows it, separated by spaces.
pub(crate) type Table = [(&'static str, &'static str)];

/// All rooms from the top of the house to the bottom, each with the rooms that it uses. These stand below it.
///
/// A room is a module that `src/lib.rs` declares, or the program, `main`.
pub(crate) const ROOMS: &Table = &[
    ("main", "cli"),
    (
        "cli",
        "config client api access labelling training evaluation engine models labeller weights dense clip formats \
         label_map vocabulary scores image telemetry support",
    ),
    (
        "config",
        "api access engine models labeller weights dense vocabulary telemetry support",
    ),
    (
        "api",
        "access engine labeller dense label_map vocabulary image telemetry support",
    ),
    ("access", "support"),
    ("client", "labelling formats support"),
    ("labelling", "formats label_map image support"),
    (
        "training",
        "evaluation engine models labeller dense label_map vocabulary scores image support",
    ),
    ("evaluation", "engine labeller label_map scores image support"),
    (
        "engine",
        "labeller dense label_map vocabulary scores image telemetry support",
    ),
    ("models", "labeller weights dense clip vocabulary scores image support"),
    ("labeller", "dense vocabulary scores image"),
    ("weights", "clip support"),
    ("dense", "clip label_map scores support"),
    ("clip", "support"),
    ("formats", "label_map scores image"),
    ("label_map", "scores"),
    ("vocabulary", "scores telemetry support"),
    ("scores", ""),
    ("image", ""),
    ("telemetry", "support"),
    ("support", ""),
];

/// Crates that only some rooms may name, and those rooms. A name stands for the crates whose names begin with it, too:
/// `utoipa` covers `utoipa_axum`.
pub(crate) const CRATES: &Table = &[
    // Tensors.
    ("tch", "clip dense models training"),
    // The wire.
    ("axum", "api"),
    ("hyper", "api"),
    ("tower", "api"),
    ("utoipa", "api"),
    // A room registers its own metrics.
    ("prometheus", "api engine telemetry"),
    ("opentelemetry", "telemetry"),
    ("prost", "telemetry"),
    ("rusqlite", "vocabulary"),
];
