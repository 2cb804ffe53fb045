//! How far a run is: a bar on a terminal, and a line a minute elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output::note;

/// The time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// How far a run is.
pub struct Progress {
    bar: Option<ProgressBar>,
    images: usize,
    passed: usize,
    /// Images labelled now, by which the rate counts.
    labelled: usize,
    begin: Instant,
    last_line: Instant,
}

impl Progress {
    /// Begins to count to a number of images.
    pub fn new(images: usize) -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} images, {per_sec}, {eta} left")
            .expect("the template names fields that indicatif has");
        let is_terminal = std::io::stderr().is_terminal();
        let now = Instant::now();
        Self {
            bar: is_terminal.then(|| ProgressBar::new(images as u64).with_style(style)),
            images,
            passed: 0,
            labelled: 0,
            begin: now,
            last_line: now,
        }
    }

    /// Counts an image. `is_new` tells whether it was labelled, or tried, now.
    pub fn pass(&mut self, is_new: bool) {
        self.passed += 1;
        self.labelled += usize::from(is_new);
        if let Some(bar) = &self.bar {
            bar.inc(1);
            if !is_new {
                // Rate and time left are about what takes time.
                bar.reset_eta();
            }
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            note(line(self.passed, self.images, self.labelled, self.begin.elapsed()));
        }
    }

    /// Removes the bar.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Returns the line about a run that has labelled so many images in this time.
fn line(passed: usize, images: usize, labelled: usize, time: Duration) -> String {
    let rate = labelled as f64 / time.as_secs_f64();
    let minutes = (images - passed) as f64 / rate / 60.0;
    let left = match minutes {
        minutes if !minutes.is_finite() => "unknown time".to_owned(),
        minutes if minutes < 120.0 => format!("{minutes:.0} minutes"),
        minutes => format!("{:.1} hours", minutes / 60.0),
    };
    format!("{passed} of {images} images, {rate:.2} a second, {left} left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_rate_of_what_was_labelled_and_the_time_left() {
        let minute = Duration::from_secs(60);
        assert_eq!(
            line(700, 1900, 600, minute),
            "700 of 1900 images, 10.00 a second, 2 minutes left"
        );
        assert_eq!(
            line(60, 36_060, 60, minute),
            "60 of 36060 images, 1.00 a second, 10.0 hours left"
        );
        assert_eq!(line(0, 9, 0, minute), "0 of 9 images, 0.00 a second, unknown time left");
    }
}
