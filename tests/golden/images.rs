//! Compares the decoder with Pillow on images as people have them. tools/golden/images.py wrote the files and what is
//! expected of each, and docs/images.md shows the table. `cargo test --test golden images -- --nocapture` prints it.

use maskclip::image::{Orientation, decode};
use serde::Deserialize;

use crate::arrays::golden;

/// A file of the golden.
#[derive(Deserialize)]
struct Case {
    file: String,
    kind: String,
    width: u32,
    height: u32,
    /// The colours that Pillow shows at the middle of each quarter; `None` if Pillow refuses the file.
    pillow: Option<[[u8; 3]; 4]>,
    /// The colours that the file was made from, if Pillow does not show them.
    colours: Option<[[u8; 3]; 4]>,
    /// The message with which the file is refused.
    refused: Option<String>,
}

/// Largest difference of a sample. Lossy formats are decoded by other code than Pillow's, and 16 bits and opacity are
/// rounded where Pillow cuts.
const ALLOWED: u8 = 4;

#[test]
fn images_as_people_have_them_are_read_as_pillow_reads_them_or_refused_with_the_reason() {
    let read = |name: &str| std::fs::read(golden(&format!("images/{name}"))).expect("the golden is committed");
    let cases: Vec<Case> = serde_json::from_slice(&read("expected.json")).expect("the golden is JSON");
    println!("| file | this server | Pillow |");
    println!("|---|---|---|");
    let mut wrong = Vec::new();
    for case in cases {
        let (x, y) = (case.width / 4, case.height / 4);
        let result = decode(&read(&case.file), Orientation::Exif, 1 << 20);
        let shown = result.map_err(|error| error.to_string()).map(|image| {
            assert_eq!(image.dimensions(), (case.width, case.height), "{}", case.file);
            [(x, y), (3 * x, y), (x, 3 * y), (3 * x, 3 * y)].map(|(x, y)| image.get_pixel(x, y).0)
        });
        let difference = |theirs: Option<[[u8; 3]; 4]>| match (&shown, theirs) {
            (Ok(ours), Some(theirs)) => {
                let samples = ours.iter().flatten().zip(theirs.iter().flatten());
                samples.map(|(ours, theirs)| ours.abs_diff(*theirs)).max()
            }
            _ => None,
        };
        let ours = match (&shown, difference(case.pillow)) {
            (Err(error), _) => format!("refused: {error}"),
            (Ok(_), Some(0)) => "the same".to_owned(),
            (Ok(_), Some(difference)) if difference <= ALLOWED => format!("within {difference} of 255"),
            (Ok(_), _) => "read as it was made".to_owned(),
        };
        let pillow = if case.pillow.is_some() { "read" } else { "refused" };
        println!("| {} | {ours} | {pillow} |", case.kind);
        let is_right = match (&case.refused, &shown) {
            (Some(expected), Err(error)) => expected == error,
            (None, Ok(_)) => difference(case.colours.or(case.pillow)).is_some_and(|difference| difference <= ALLOWED),
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{}: {shown:?}", case.file));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
