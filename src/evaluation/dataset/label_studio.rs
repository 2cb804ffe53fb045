//! Label Studio's own export: a JSON list of tasks, whose regions are polygons, rectangles and brush strokes.
//!
//! Corners are percentages of the image's sides. A brush stroke is an RGBA image, packed as runs
//! (<https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack>), of which the last channel counts.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::annotations::{BACKGROUND, Entry, connected};
use super::legend::counted_names;
use super::shapes::{DrawingOrder, Shape, Shapes, runs_of};
use super::{Dataset, DatasetError, TruthForm};
use crate::scores::UNLABELLED;

/// Largest number of pixels of a brush stroke, so that a damaged one does not ask for gigabytes.
const MOST_PIXELS: usize = 1 << 28;

/// An export, read and not yet connected with images and classes.
#[derive(Debug)]
pub struct LabelStudioTruths {
    path: PathBuf,
    tasks: Vec<Task>,
}

#[derive(Debug, Deserialize)]
struct Task {
    id: u64,
    /// What was annotated: one of the values is the image's address.
    data: serde_json::Map<String, Value>,
    #[serde(default)]
    annotations: Vec<Annotation>,
}

#[derive(Debug, Deserialize)]
struct Annotation {
    #[serde(default)]
    was_cancelled: bool,
    result: Vec<Region>,
}

#[derive(Debug, Deserialize)]
struct Region {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    original_width: u32,
    #[serde(default)]
    original_height: u32,
    #[serde(default)]
    image_rotation: f64,
    #[serde(default)]
    value: Value,
}

impl Task {
    /// Returns the annotations that were not given up.
    fn finished(&self) -> impl Iterator<Item = &Annotation> {
        self.annotations.iter().filter(|annotation| !annotation.was_cancelled)
    }

    /// Returns the regions that are about classes.
    fn regions(&self) -> impl Iterator<Item = &Region> {
        let regions = self.finished().flat_map(|annotation| &annotation.result);
        regions.filter(|region| region.is_about_classes())
    }
}

impl Region {
    /// Returns the labels of the region. Only kinds with labels are about classes.
    fn labels(&self) -> Vec<&str> {
        let labels = self.value.get(&self.kind).and_then(Value::as_array);
        labels.map_or(Vec::new(), |labels| labels.iter().filter_map(Value::as_str).collect())
    }

    fn is_about_classes(&self) -> bool {
        self.kind.ends_with("labels")
    }

    /// Returns the region's mask.
    fn shape(&self) -> Result<Shape, String> {
        let number = |key: &str| self.value.get(key).and_then(Value::as_f64);
        let (width, height) = (f64::from(self.original_width), f64::from(self.original_height));
        let in_pixels = |(x, y): (f64, f64)| [x * width / 100.0, y * height / 100.0];
        let lacks = |what: &str| format!("a region has no {what}");
        match self.kind.as_str() {
            "polygonlabels" => {
                let points: Vec<(f64, f64)> = Vec::deserialize(&self.value["points"]).map_err(|_| lacks("points"))?;
                Ok(Shape::Polygons(vec![points.into_iter().flat_map(in_pixels).collect()]))
            }
            "rectanglelabels" => {
                let sides = (number("x"), number("y"), number("width"), number("height"));
                let (Some(x), Some(y), Some(across), Some(down)) = sides else {
                    return Err(lacks("x, y, width and height"));
                };
                // It is turned clockwise about its first corner, in pixels.
                let (sine, cosine) = number("rotation").unwrap_or(0.0).to_radians().sin_cos();
                let [left, top] = in_pixels((x, y));
                let [across, down] = in_pixels((across, down));
                let turned = |(right, below): (f64, f64)| {
                    [
                        left + right * cosine - below * sine,
                        top + right * sine + below * cosine,
                    ]
                };
                let corners = [(0.0, 0.0), (across, 0.0), (across, down), (0.0, down)];
                Ok(Shape::Polygons(vec![corners.into_iter().flat_map(turned).collect()]))
            }
            "brushlabels" => {
                let packed: Vec<u8> = Vec::deserialize(&self.value["rle"]).map_err(|_| lacks("rle"))?;
                let size = (self.original_width as usize, self.original_height as usize);
                brush(&packed, size).ok_or_else(|| "a brush stroke does not fit its image".to_owned())
            }
            kind => Err(format!("regions of the type {kind} are not read")),
        }
    }
}

impl LabelStudioTruths {
    /// Reads the text of an export in the format "JSON" at this path.
    ///
    /// # Errors
    /// [`DatasetError`] when it has another form.
    pub fn parse(path: &Path, text: &str) -> Result<Self, DatasetError> {
        let tasks = serde_json::from_str(text).map_err(|error| DatasetError::InvalidTruth {
            path: path.to_owned(),
            reason: format!("it has not the form of Label Studio's JSON export: {error}"),
        })?;
        let path = path.to_owned();
        Ok(Self { path, tasks })
    }

    /// Returns the names of the labels, each once, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        counted_names(self.tasks.iter().flat_map(Task::regions).flat_map(Region::labels))
    }

    /// Returns the images of a folder with their truths, and what was left out, as
    /// [`CocoTruths::dataset`](super::CocoTruths::dataset) does.
    ///
    /// # Errors
    /// [`DatasetError`] when the folder cannot be read, no image has a truth, or a part of the file does not fit.
    pub fn dataset(&self, images: &Path, class_of: &dyn Fn(&str) -> Option<u16>) -> Result<Dataset, DatasetError> {
        let annotated = self.tasks.iter().filter(|task| task.regions().next().is_some());
        let entries = annotated.map(|task| Entry {
            file_names: file_names(&task.data),
            annotated: task,
        });
        let dataset = connected(&self.path, images, entries.collect(), |task| self.truth(task, class_of))?;
        Ok(dataset.with_names(self.names(), class_of))
    }

    /// Returns the file of a task's truth, and how to read it.
    fn truth(&self, task: &Task, class_of: &dyn Fn(&str) -> Option<u16>) -> Result<(PathBuf, TruthForm), DatasetError> {
        let invalid = |reason: String| DatasetError::InvalidTruth {
            path: self.path.clone(),
            reason: format!("task {}: {reason}", task.id),
        };
        if task.finished().count() > 1 {
            return Err(invalid("it has several annotations: which of them counts?".to_owned()));
        }
        let (mut objects, mut size) = (Vec::new(), (0, 0));
        for region in task.regions() {
            if region.image_rotation != 0.0 {
                return Err(invalid(
                    "its image was turned in the editor, which is not read".to_owned(),
                ));
            }
            let [label] = region.labels()[..] else {
                return Err(invalid("a region has no label, or several".to_owned()));
            };
            let class = class_of(label).unwrap_or(UNLABELLED);
            objects.push((class, region.shape().map_err(invalid)?));
            size = (region.original_width, region.original_height);
        }
        let shapes = Shapes {
            width: size.0,
            height: size.1,
            rest: class_of(BACKGROUND).unwrap_or(UNLABELLED),
            objects,
            order: DrawingOrder::LargestFirst,
        };
        Ok((self.path.clone(), TruthForm::Shapes(shapes.into())))
    }
}

/// Returns the names under which a task's image may lie in a folder: that of its address, and without the random
/// beginning that an upload gets.
fn file_names(data: &serde_json::Map<String, Value>) -> Vec<String> {
    let mut names = Vec::new();
    for address in data.values().filter_map(Value::as_str) {
        let name = address.rsplit(['/', '=']).next().unwrap_or_default().to_owned();
        let behind_upload = name
            .split_once('-')
            .filter(|(start, _)| start.len() == 8 && start.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let behind_upload = behind_upload.map(|(_, rest)| rest.to_owned());
        names.push(name);
        names.extend(behind_upload);
    }
    names
}

/// Unpacks a brush stroke. Returns `None` where the data end early or have another size.
fn brush(packed: &[u8], (width, height): (usize, usize)) -> Option<Shape> {
    const CHANNELS: usize = 4;
    let mut bits = Bits { packed, at: 0 };
    let count = bits.read(32)?;
    let samples = width.checked_mul(height)?.checked_mul(CHANNELS)?;
    if count != samples || samples > CHANNELS * MOST_PIXELS {
        return None;
    }
    let word = bits.read(5)? + 1;
    let mut lengths = [0; 4];
    for length in &mut lengths {
        *length = bits.read(4)? + 1;
    }
    let mut covered = vec![false; width * height];
    let mut at = 0;
    while at < count {
        let is_run = bits.read(1)? == 1;
        let kind = bits.read(2)?;
        let end = (at + 1 + bits.read(lengths[kind])?).min(count);
        let mut value = if is_run { bits.read(word)? } else { 0 };
        for sample in at..end {
            if !is_run {
                value = bits.read(word)?;
            }
            if sample % CHANNELS == CHANNELS - 1 {
                covered[sample / CHANNELS] = value > 0;
            }
        }
        at = end;
    }
    Some(Shape::Runs(runs_of(&covered, width, height)))
}

/// Bits of bytes, the highest first.
struct Bits<'a> {
    packed: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// Reads a number of at most 32 bits.
    fn read(&mut self, bits: usize) -> Option<usize> {
        let mut number = 0;
        for _ in 0..bits {
            let byte = self.packed.get(self.at / 8)?;
            number = number << 1 | usize::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(number)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ::image::RgbImage;
    use serde_json::json;

    use super::*;
    use crate::evaluation::Truth;

    /// An entry of label_studio_brush.json, written by tools/golden/label_studio_brush.py.
    #[derive(Deserialize)]
    struct Golden {
        width: usize,
        height: usize,
        rle: Vec<u8>,
        /// A row of 0 and 1 per row of the image.
        rows: Vec<String>,
    }

    #[test]
    fn brush_strokes_are_those_of_label_studios_converter() {
        let text = include_str!("../../../tests/golden/label_studio_brush.json");
        let goldens: Vec<Golden> = serde_json::from_str(text).unwrap();
        assert!(goldens.len() >= 4);
        for (place, golden) in goldens.iter().enumerate() {
            let size = (golden.width, golden.height);
            let covered: Vec<bool> = golden.rows.concat().bytes().map(|digit| digit == b'1').collect();
            let expected = Shape::Runs(runs_of(&covered, golden.width, golden.height));
            assert_eq!(brush(&golden.rle, size), Some(expected), "{place}");
            assert_eq!(brush(&golden.rle, (golden.width + 1, golden.height)), None);
            assert_eq!(brush(&golden.rle[..golden.rle.len() / 2], size), None);
        }
    }

    fn region(kind: &str, label: &str, value: &Value) -> Value {
        let mut value = value.clone();
        value[kind] = json!([label]);
        json!({"type": kind, "original_width": 4, "original_height": 2, "image_rotation": 0, "value": value})
    }

    fn opened(tasks: &Value) -> Result<(Dataset, Vec<String>), String> {
        let folder = tempfile::tempdir().unwrap();
        let (images, file) = (folder.path().join("images"), folder.path().join("export.json"));
        std::fs::create_dir(&images).unwrap();
        RgbImage::new(4, 2).save(images.join("a.png")).unwrap();
        let truths = LabelStudioTruths::parse(&file, &tasks.to_string()).map_err(|error| error.to_string())?;
        let class_of = |name: &str| {
            ["cat", "dog"]
                .iter()
                .position(|class| *class == name)
                .map(|id| id as u16)
        };
        let dataset = truths.dataset(&images, &class_of);
        let dataset = dataset.map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), ""))?;
        Ok((dataset, truths.names()))
    }

    fn task(regions: &Value) -> Value {
        let image = "/data/upload/1/1a2b3c4d-a.png";
        json!([{"id": 5, "data": {"image": image}, "annotations": [{"was_cancelled": false, "result": regions}]}])
    }

    #[test]
    fn polygons_and_rectangles_are_percentages_of_the_image() {
        let regions = json!([
            region("polygonlabels", "cat", &json!({"points": [[0, 0], [50, 0], [50, 50], [0, 50]]})),
            region("rectanglelabels", "dog", &json!({"x": 75, "y": 0, "width": 25, "height": 100, "rotation": 0})),
            region("rectanglelabels", "car", &json!({"x": 0, "y": 50, "width": 25, "height": 50})),
            {"type": "choices", "value": {"choices": ["sunny"]}},
        ]);
        let (dataset, names) = opened(&task(&regions)).unwrap();
        const N: u16 = UNLABELLED;
        assert_eq!(
            Truth::read(&dataset.samples[0], 2).unwrap().labels,
            [0, 0, N, 1, N, N, N, 1]
        );
        assert_eq!(
            (names, dataset.uncounted_names),
            (vec!["cat".into(), "dog".into(), "car".into()], vec!["car".into()])
        );
    }

    #[test]
    fn what_is_not_read_is_named() {
        let ellipse = json!([region("ellipselabels", "cat", &json!({"x": 1}))]);
        assert_eq!(
            opened(&task(&ellipse)).unwrap_err(),
            "/export.json is no truth: task 5: regions of the type ellipselabels are not read"
        );
        let region = region("polygonlabels", "cat", &json!({"points": [[0, 0], [50, 0], [50, 50]]}));
        let mut twice = task(&json!([region]));
        let again = twice[0]["annotations"][0].clone();
        twice[0]["annotations"].as_array_mut().unwrap().push(again);
        assert!(
            opened(&twice)
                .unwrap_err()
                .contains("task 5: it has several annotations")
        );
    }
}
