//! COCO's annotation files: panoptic segmentation, with a PNG of segment ids per image, and instances, as polygons or
//! run lengths. CVAT, Label Studio and other programs export the second form.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::annotations::{BACKGROUND, Entry, connected};
use super::legend::counted_names;
use super::shapes::{DrawingOrder, Shape, Shapes};
use super::{Dataset, DatasetError, TruthForm};
use crate::label_map::coco_runs;
use crate::scores::UNLABELLED;

/// An annotation file, read and not yet connected with images and classes.
#[derive(Debug)]
pub struct CocoTruths {
    path: PathBuf,
    file: AnnotationFile,
    /// Whether images have segments in PNGs.
    is_panoptic: bool,
}

/// The parts of the file that are read (<https://cocodataset.org/#format-data>).
#[derive(Debug, Deserialize)]
struct AnnotationFile {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Debug, Deserialize)]
struct Image {
    id: Id,
    file_name: String,
    width: u32,
    height: u32,
}

/// An id: a number in COCO's own files, a text in those of some programs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged)]
enum Id {
    Number(u64),
    Text(String),
}

#[derive(Debug, Deserialize)]
struct Category {
    id: u64,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Annotation {
    image_id: Id,
    /// Of an instance.
    category_id: Option<u64>,
    /// Of an instance.
    #[serde(default)]
    segmentation: Segmentation,
    /// The PNG of an image's segments.
    file_name: Option<String>,
    /// The segments of an image.
    segments_info: Option<Vec<Segment>>,
}

#[derive(Debug, Deserialize)]
struct Segment {
    id: u32,
    category_id: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Segmentation {
    Polygons(Vec<Vec<f64>>),
    Runs {
        counts: Counts,
        /// Height and width of the mask in pixels.
        size: Option<[f64; 2]>,
    },
    #[default]
    None,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Counts {
    Lengths(Vec<u32>),
    Text(String),
}

impl CocoTruths {
    /// Reads the text of an annotation file at this path.
    ///
    /// # Errors
    /// [`DatasetError`] when it has another form.
    pub fn parse(path: &Path, text: &str) -> Result<Self, DatasetError> {
        let file: AnnotationFile = serde_json::from_str(text).map_err(|error| DatasetError::InvalidTruth {
            path: path.to_owned(),
            reason: format!("it has not the form of COCO's annotations: {error}"),
        })?;
        let is_panoptic = file
            .annotations
            .iter()
            .any(|annotation| annotation.segments_info.is_some());
        Ok(Self {
            path: path.to_owned(),
            file,
            is_panoptic,
        })
    }

    /// Returns the names of the categories, each once, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        counted_names(self.file.categories.iter().map(|category| category.name.as_str()))
    }

    /// Returns the images of a folder with their truths, and what was left out. `class_of` returns the class with a
    /// name. Pixels of categories without a class do not count. Pixels without an object belong to the class
    /// "background", or do not count if there is none.
    ///
    /// # Errors
    /// [`DatasetError`] when the folder cannot be read, no image has a truth, or a part of the file does not fit.
    pub fn dataset(&self, images: &Path, class_of: &dyn Fn(&str) -> Option<u16>) -> Result<Dataset, DatasetError> {
        let categories = self.file.categories.iter();
        let categories: HashMap<u64, u16> = categories
            .map(|category| (category.id, class_of(&category.name).unwrap_or(UNLABELLED)))
            .collect();
        let rest = class_of(BACKGROUND).unwrap_or(UNLABELLED);
        let mut annotations: HashMap<&Id, Vec<&Annotation>> = HashMap::new();
        for annotation in &self.file.annotations {
            annotations.entry(&annotation.image_id).or_default().push(annotation);
        }
        let entries = self.file.images.iter().map(|image| Entry {
            file_names: vec![image.file_name.clone()],
            annotated: image,
        });
        let entries = entries.collect();
        let truth = |image: &Image| {
            let annotations = annotations.get(&image.id).map_or(&[][..], Vec::as_slice);
            self.truth(image, annotations, &categories, rest)
        };
        let dataset = connected(&self.path, images, entries, truth)?;
        Ok(dataset.with_names(self.names(), class_of))
    }

    /// Returns the file of an image's truth, and how to read it.
    fn truth(
        &self,
        image: &Image,
        annotations: &[&Annotation],
        categories: &HashMap<u64, u16>,
        rest: u16,
    ) -> Result<(PathBuf, TruthForm), DatasetError> {
        let invalid = |reason: String| DatasetError::InvalidTruth {
            path: self.path.clone(),
            reason: format!("{}: {reason}", image.file_name),
        };
        let class = |id: u64| {
            let class = categories.get(&id).copied();
            class.ok_or_else(|| invalid(format!("there is no category {id}")))
        };
        if let [annotation] = annotations
            && let (Some(file), Some(segments)) = (&annotation.file_name, &annotation.segments_info)
        {
            let mut labels = BTreeMap::from([(0, rest)]);
            for segment in segments {
                labels.insert(segment.id, class(segment.category_id)?);
            }
            // COCO's PNGs lie in a folder beside the file, under the file's name.
            let truth = self.path.with_extension("").join(file);
            return Ok((truth, TruthForm::Segments(Arc::new(labels))));
        }
        if self.is_panoptic {
            return Err(invalid("it has no segments, as other images have".to_owned()));
        }
        let mut objects = Vec::with_capacity(annotations.len());
        for annotation in annotations {
            let shape = annotation.segmentation.shape(image).map_err(invalid)?;
            let category = annotation.category_id;
            let category = category.ok_or_else(|| invalid("an object has no category".to_owned()))?;
            objects.push((class(category)?, shape));
        }
        let shapes = Shapes {
            width: image.width,
            height: image.height,
            rest,
            objects,
            order: DrawingOrder::LargestFirst,
        };
        Ok((self.path.clone(), TruthForm::Shapes(Arc::new(shapes))))
    }
}

impl Segmentation {
    /// Returns the mask of an object in an image. The error is a reason in words.
    fn shape(&self, image: &Image) -> Result<Shape, String> {
        match self {
            Self::Polygons(polygons) if !polygons.is_empty() => Ok(Shape::Polygons(polygons.clone())),
            Self::Polygons(_) | Self::None => Err("an object has a box alone, and no mask".to_owned()),
            Self::Runs {
                size: Some([height, width]),
                ..
            } if [*height, *width] != [image.height, image.width].map(f64::from) => Err(format!(
                "run lengths are of {width} x {height} pixels, and the image has {} x {}",
                image.width, image.height
            )),
            Self::Runs { counts, .. } => match counts {
                Counts::Lengths(lengths) => Ok(Shape::Runs(lengths.clone())),
                Counts::Text(text) => {
                    let lengths = coco_runs(text).ok_or("run lengths cannot be read")?;
                    Ok(Shape::Runs(lengths))
                }
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ::image::{Rgb, RgbImage};
    use serde_json::{Value, json};

    use super::*;
    use crate::evaluation::Truth;

    fn class_of(name: &str) -> Option<u16> {
        ["cat", "dog"]
            .iter()
            .position(|class| *class == name)
            .map(|id| id as u16)
    }

    /// A folder with an image of 3 x 2 pixels and an annotation file.
    fn folder(annotations: &Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("images")).unwrap();
        RgbImage::new(3, 2).save(folder.path().join("images/a.png")).unwrap();
        RgbImage::new(3, 2)
            .save(folder.path().join("images/other.png"))
            .unwrap();
        std::fs::write(folder.path().join("truths.json"), annotations.to_string()).unwrap();
        folder
    }

    fn open(folder: &Path, class_of: &dyn Fn(&str) -> Option<u16>) -> Result<Dataset, String> {
        let file = folder.join("truths.json");
        let truths = CocoTruths::parse(&file, &std::fs::read_to_string(&file).unwrap());
        let dataset = truths.and_then(|truths| truths.dataset(&folder.join("images"), class_of));
        dataset.map_err(|error| error.to_string().replace(folder.to_str().unwrap(), ""))
    }

    fn file(images: Value, annotations: Value) -> Value {
        let categories = json!([{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 11, "name": "car"}]);
        json!({"images": images, "annotations": annotations, "categories": categories, "info": {}})
    }

    fn image(name: &str) -> Value {
        json!({"id": 1, "file_name": name, "width": 3, "height": 2})
    }

    #[test]
    fn objects_are_read_as_polygons_and_as_both_forms_of_run_lengths() {
        let object = |category: u64, segmentation: Value| json!({"image_id": 1, "category_id": category, "segmentation": segmentation});
        let annotations = json!([
            object(7, json!([[0, 0, 1, 0, 1, 1, 0, 1]])),
            object(9, json!({"size": [2, 3], "counts": [2, 2, 2]})),
            // [5, 1]: the last pixel.
            object(11, json!({"size": [2, 3], "counts": "51"})),
        ]);
        let missing = json!({"id": 2, "file_name": "gone.png", "width": 3, "height": 2});
        let folder = folder(&file(json!([image("upload/1/a.png"), missing]), annotations));
        let dataset = open(folder.path(), &class_of).unwrap();
        let truth = Truth::read(&dataset.samples[0], 2).unwrap();
        const N: u16 = UNLABELLED;
        assert_eq!(
            (truth.width, truth.height, truth.labels),
            (3, 2, vec![0, 1, N, N, 1, N])
        );
        assert_eq!(
            (
                dataset.left_out.truths_without_image,
                dataset.left_out.images_without_truth
            ),
            (1, 1)
        );
        assert_eq!(
            (dataset.samples.len(), dataset.uncounted_names),
            (1, vec!["car".to_owned()])
        );

        let with_background = |name: &str| if name == BACKGROUND { Some(2) } else { class_of(name) };
        let dataset = open(folder.path(), &with_background).unwrap();
        assert_eq!(Truth::read(&dataset.samples[0], 3).unwrap().labels, [0, 1, 2, 2, 1, N]);
    }

    #[test]
    fn segments_are_read_from_the_png_beside_the_file() {
        let segments = json!([{"id": 259, "category_id": 9}, {"id": 65_536, "category_id": 7}]);
        let annotations = json!([{"image_id": 1, "file_name": "a.png", "segments_info": segments}]);
        let folder = folder(&file(json!([image("a.png")]), annotations));
        std::fs::create_dir(folder.path().join("truths")).unwrap();
        let mut map = RgbImage::new(3, 2);
        map.put_pixel(0, 0, Rgb([3, 1, 0]));
        map.put_pixel(1, 0, Rgb([0, 0, 1]));
        let png = folder.path().join("truths/a.png");
        map.save(&png).unwrap();
        let dataset = open(folder.path(), &class_of).unwrap();
        const N: u16 = UNLABELLED;
        assert_eq!(Truth::read(&dataset.samples[0], 2).unwrap().labels, [1, 0, N, N, N, N]);
        map.put_pixel(2, 1, Rgb([9, 0, 0]));
        map.save(&png).unwrap();
        let error = Truth::read(&dataset.samples[0], 2).unwrap_err().to_string();
        assert!(
            error.ends_with("truths/a.png has the segment 9, which the annotations do not have"),
            "{error}"
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let refused = |images: Value, annotations: Value| {
            let folder = folder(&file(images, annotations));
            open(folder.path(), &class_of).unwrap_err()
        };
        let boxed = json!([{"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1]}]);
        assert_eq!(
            refused(json!([image("a.png")]), boxed),
            "/truths.json is no truth: a.png: an object has a box alone, and no mask"
        );
        let unknown = json!([{"image_id": 1, "category_id": 8, "segmentation": [[0, 0, 1, 0, 1, 1]]}]);
        assert_eq!(
            refused(json!([image("a.png")]), unknown),
            "/truths.json is no truth: a.png: there is no category 8"
        );
        let turned = json!([{"image_id": 1, "category_id": 7, "segmentation": {"size": [3, 2], "counts": [2, 2, 2]}}]);
        assert_eq!(
            refused(json!([image("a.png")]), turned),
            "/truths.json is no truth: a.png: run lengths are of 2 x 3 pixels, and the image has 3 x 2"
        );
        let other = json!({"id": 2, "file_name": "other.png", "width": 3, "height": 2});
        let segments = json!([{"image_id": 1, "file_name": "a.png", "segments_info": []}]);
        assert_eq!(
            refused(json!([image("a.png"), other]), segments),
            "/truths.json is no truth: other.png: it has no segments, as other images have"
        );
        assert_eq!(
            refused(json!([image("b.png")]), json!([])),
            "/images has no image with a truth: none of its images is named in /truths.json"
        );
        let twice = refused(json!([image("a.png"), image("x/a.png")]), json!([]));
        assert!(twice.contains("it names /images/a.png twice"), "{twice}");
    }
}
