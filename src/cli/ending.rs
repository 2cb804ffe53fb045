//! The end of the process.

use std::error::Error;
use std::io::Write;

use super::label::SomeSkipped;
use crate::telemetry;

/// Returns the exit status for an error: 3 for a run that came to its end without some images, 1 for every other. clap
/// ends with 2 for flags that it refuses.
pub fn status_of(error: &(dyn Error + 'static)) -> i32 {
    match error.is::<SomeSkipped>() {
        true => SomeSkipped::STATUS,
        false => 1,
    }
}

/// Says why a command failed: in the log where that is JSON, else as a line of text.
pub fn explain(error: &dyn Error) {
    if telemetry::writes_json() {
        tracing::error!(%error, "the command failed");
    } else {
        // Where nobody can read it, the status alone tells.
        let _ = writeln!(std::io::stderr(), "maskclip: {error}");
    }
}

/// Ends the process with an exit status, without running the static destructors of C++ libraries. Writes buffered
/// output first.
///
/// At the end of a command, threads may still be inside libtorch: a worker that loads a model or computes for a request
/// that was given up, a label map, the digest of a checkpoint. None of them can be stopped in the middle, and waiting
/// for them could take minutes. libtorch's destructors would take its memory from under them, which ends the process
/// with a fault.
pub fn end(status: i32) -> ! {
    // Nobody reads the output any more if it cannot be written.
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    signal_hook::low_level::exit(status)
}
