//! Labels for YOLO's segmentation, as Ultralytics reads them: a text file for each image, with a line for each
//! connected region, and a YAML file with the names (<https://docs.ultralytics.com/datasets/segment>).

use serde_json::Value;

use super::{ClassLabel, LabelledImage};
use crate::label_map::polygons;

/// Returns the lines of an image: the class, and x and y of each corner as fractions of the image's sides. A cut leads
/// to each hole. Returns `None` where the masks do not fit the image.
pub fn yolo_polygons(image: &LabelledImage) -> Option<String> {
    let map = image.label_map()?;
    let mut text = String::new();
    for class in polygons(&map) {
        for line in class.lines {
            text.push_str(&class.class_id.to_string());
            for [x, y] in line {
                let fraction = |part: u32, whole: u32| f64::from(part) / f64::from(whole);
                // Six digits are finer than a pixel of an image with 100,000 columns.
                let (x, y) = (fraction(x, image.width), fraction(y, image.height));
                text.push_str(&format!(" {x:.6} {y:.6}"));
            }
            text.push('\n');
        }
    }
    Some(text)
}

/// Returns the YAML file of a data set with these classes, whose images lie in the folder `images` beside it.
pub fn yolo_dataset(classes: &[ClassLabel]) -> String {
    let mut text = "path: .\ntrain: images\nval: images\nnames:\n".to_owned();
    for (class, id) in classes.iter().zip(0..) {
        // A text in JSON is a text in YAML, too.
        let name = Value::from(class.name.as_str());
        text.push_str(&format!("  {id}: {name}\n"));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{cat_and_dog, subject};
    use super::*;

    #[test]
    fn every_region_is_a_line_of_fractions() {
        let text = yolo_polygons(&cat_and_dog()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("0 0.000000 0.000000 0.750000 0.000000 0.750000 0.666667"));
        assert_eq!(
            lines[1],
            "1 0.750000 0.000000 1.000000 0.000000 1.000000 0.666667 0.750000 0.666667"
        );
    }

    #[test]
    fn names_are_quoted() {
        let text = yolo_dataset(&subject().classes);
        assert!(
            text.ends_with("names:\n  0: \"cat\"\n  1: \"<dog> & \\\"co\\\"\"\n  2: \"cow\"\n"),
            "{text}"
        );
    }
}
