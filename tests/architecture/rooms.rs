//! The tables that this program holds the code to. A change of a table is a decision about the architecture.

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
         label_map vocabulary shared scores image telemetry support",
    ),
    (
        "config",
        "api access engine models labeller weights dense vocabulary shared telemetry support",
    ),
    (
        "api",
        "access engine labeller dense formats label_map vocabulary scores image telemetry support",
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
        "labeller dense label_map vocabulary shared scores image telemetry support",
    ),
    ("models", "labeller weights dense clip vocabulary scores image support"),
    ("labeller", "dense vocabulary scores image"),
    ("weights", "clip support"),
    ("dense", "clip label_map scores support"),
    ("clip", "support"),
    ("formats", "label_map scores image"),
    ("label_map", "scores"),
    ("vocabulary", "shared scores telemetry support"),
    ("shared", "telemetry support"),
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
    ("prometheus", "api engine shared telemetry"),
    ("opentelemetry", "telemetry"),
    ("prost", "telemetry"),
    ("redis", "shared"),
    ("rusqlite", "vocabulary"),
];

/// Work that only some files do, told by the names that they write for it.
#[derive(Clone, Copy)]
pub(crate) struct Owned {
    pub(crate) work: &'static str,
    pub(crate) names: &'static [&'static str],
    pub(crate) files: &'static [&'static str],
}

/// What people give the program is read one way, whichever command or route reads it.
pub(crate) const OWNERS: &[Owned] = &[
    Owned {
        work: "walking over the folders of others",
        names: &["WalkDir", "glob_with", "glob::glob"],
        files: &["src/support/folder.rs"],
    },
    Owned {
        work: "listing a folder of the program's own, of a cache or of the system",
        names: &["read_dir"],
        files: &[
            "src/clip/checkpoint/hub.rs",
            "src/clip/native/primitives.rs",
            "src/labelling/journal.rs",
            "src/support/whole_file.rs",
        ],
    },
    Owned {
        work: "opening images",
        names: &[
            "ImageReader",
            "JpegDecoder",
            "TiffDecoder",
            "PngDecoder",
            "WebPDecoder",
            "GifDecoder",
            "BmpDecoder",
            "load_from_memory",
            "load_from_memory_with_format",
            "image::open",
        ],
        files: &["src/image/decode.rs", "src/image/jpeg.rs", "src/image/tiff.rs"],
    },
    Owned {
        work: "reading the samples of a PNG or the tags of a TIFF as they are stored",
        names: &["Decoder"],
        files: &[
            "src/evaluation/dataset/truth.rs",
            "src/formats/geotiff.rs",
            "src/image/tiff.rs",
        ],
    },
    Owned {
        work: "opening a file that people name, whatever kind it is (support::read_regular_file looks at that)",
        names: &["pem_file_iter", "from_pem_file"],
        files: &[],
    },
    Owned {
        work: "reading texts from outside",
        names: &["stdin", "plain_text"],
        files: &[
            "src/cli/input.rs",
            "src/support/mod.rs",
            "src/support/plain_text.rs",
            "src/support/regular_file.rs",
        ],
    },
    Owned {
        work: "reading a text of the system, a hub's cache or a server",
        names: &["read_to_string"],
        files: &[
            "src/clip/checkpoint/hub.rs",
            "src/cli/health.rs",
            "src/config/available_memory.rs",
        ],
    },
    Owned {
        work: "reading lists of classes",
        names: &["parse_vocabulary"],
        files: &[
            "src/cli/input.rs",
            "src/vocabulary/disk/definitions.rs",
            "src/vocabulary/registry/shared/exchange.rs",
            "src/vocabulary/mod.rs",
            "src/vocabulary/shipped.rs",
            "src/vocabulary/text_form.rs",
        ],
    },
];
