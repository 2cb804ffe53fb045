//! CVAT's own export "CVAT for images 1.1": an XML file, whose images have polygons, rectangles and masks.
//!
//! The form: <https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/>. Corners are in pixels. The runs of a
//! mask go along the rows of its box, the first one outside of the object.

use std::path::{Path, PathBuf};

use roxmltree::{Document, Node};

use super::annotations::{BACKGROUND, Entry, connected};
use super::legend::counted_names;
use super::shapes::{DrawingOrder, Shape, Shapes, runs_of};
use super::{Dataset, DatasetError, TruthForm};
use crate::scores::UNLABELLED;

/// Largest number of pixels of an image with a mask, so that a damaged file does not ask for gigabytes.
const MOST_PIXELS: usize = 1 << 28;

/// An export, read and not yet connected with images and classes.
#[derive(Debug)]
pub struct CvatTruths {
    path: PathBuf,
    /// The labels that the task declares, in their order; empty if the file does not say.
    declared: Vec<String>,
    images: Vec<AnnotatedImage>,
}

/// An image with its objects, the rearmost first.
#[derive(Debug)]
struct AnnotatedImage {
    name: String,
    width: u32,
    height: u32,
    objects: Vec<Object>,
}

#[derive(Debug)]
struct Object {
    label: String,
    /// Objects with a higher number lie in front.
    z_order: i64,
    shape: Shape,
}

impl CvatTruths {
    /// Reads the text of an export at this path.
    ///
    /// # Errors
    /// [`DatasetError`] when it has another form, or an object that is no area.
    pub fn parse(path: &Path, text: &str) -> Result<Self, DatasetError> {
        let invalid = |reason: String| DatasetError::InvalidTruth {
            path: path.to_owned(),
            reason,
        };
        let document = Document::parse(text).map_err(|error| invalid(format!("it is not XML: {error}")))?;
        let root = document.root_element();
        if !root.has_tag_name("annotations") {
            let name = root.tag_name().name();
            return Err(invalid(format!(
                "its root is <{name}>, not the <annotations> of \"CVAT for images\""
            )));
        }
        if root.children().any(|child| child.has_tag_name("track")) {
            return Err(invalid(
                "it is of the form \"CVAT for video\": export \"CVAT for images\"".to_owned(),
            ));
        }
        let images = root.children().filter(|child| child.has_tag_name("image"));
        let images = images.map(|image| AnnotatedImage::parse(&image).map_err(invalid));
        Ok(Self {
            path: path.to_owned(),
            declared: declared_labels(&root),
            images: images.collect::<Result<_, _>>()?,
        })
    }

    /// Returns the names of the labels, each once: those that the task declares, in their order, then any others.
    pub fn names(&self) -> Vec<String> {
        let used = self.images.iter().flat_map(|image| &image.objects);
        let declared = self.declared.iter().map(String::as_str);
        counted_names(declared.chain(used.map(|object| object.label.as_str())))
    }

    /// Returns the images of a folder with their truths, and what was left out, as
    /// [`CocoTruths::dataset`](super::CocoTruths::dataset) does.
    ///
    /// # Errors
    /// [`DatasetError`] when the folder cannot be read, or no image has a truth.
    pub fn dataset(&self, images: &Path, class_of: &dyn Fn(&str) -> Option<u16>) -> Result<Dataset, DatasetError> {
        let entries = self.images.iter().map(|image| Entry {
            file_names: vec![image.name.clone()],
            annotated: image,
        });
        let truth = |image: &AnnotatedImage| {
            let form = TruthForm::Shapes(image.shapes(class_of).into());
            Ok((self.path.clone(), form))
        };
        let dataset = connected(&self.path, images, entries.collect(), truth)?;
        Ok(dataset.with_names(self.names(), class_of))
    }
}

/// Returns the labels of the task or job that was exported.
fn declared_labels(root: &Node) -> Vec<String> {
    let labels = root.descendants().filter(|node| node.has_tag_name("labels"));
    let labels = labels.flat_map(|labels| labels.children().filter(|child| child.has_tag_name("label")));
    let names = labels.filter_map(|label| label.children().find(|child| child.has_tag_name("name")));
    names.filter_map(|name| name.text().map(str::to_owned)).collect()
}

impl AnnotatedImage {
    fn parse(node: &Node) -> Result<Self, String> {
        let name = node.attribute("name").ok_or("an image has no name")?;
        let within = |reason: String| format!("{name}: {reason}");
        let (width, height) = (
            number(node, "width").map_err(within)?,
            number(node, "height").map_err(within)?,
        );
        let elements = node.children().filter(|child| child.is_element());
        // Tags are about the whole image.
        let elements = elements.filter(|child| !child.has_tag_name("tag"));
        let objects = elements.map(|element| Object::parse(&element, width, height));
        let mut objects: Vec<Object> = objects.collect::<Result<_, _>>().map_err(within)?;
        objects.sort_by_key(|object| object.z_order);
        Ok(Self {
            name: name.to_owned(),
            width,
            height,
            objects,
        })
    }

    fn shapes(&self, class_of: &dyn Fn(&str) -> Option<u16>) -> Shapes {
        let class = |object: &Object| class_of(&object.label).unwrap_or(UNLABELLED);
        let objects = self.objects.iter().map(|object| (class(object), object.shape.clone()));
        Shapes {
            width: self.width,
            height: self.height,
            rest: class_of(BACKGROUND).unwrap_or(UNLABELLED),
            objects: objects.collect(),
            order: DrawingOrder::Listed,
        }
    }
}

impl Object {
    fn parse(node: &Node, width: u32, height: u32) -> Result<Self, String> {
        let shape = match node.tag_name().name() {
            "polygon" => polygon(node)?,
            "box" => rectangle(node)?,
            "mask" => mask(node, width as usize, height as usize)?,
            other => return Err(format!("objects of the type {other} are not read")),
        };
        let label = node.attribute("label").ok_or("an object has no label")?;
        let z_order = match node.attribute("z_order") {
            Some(_) => number(node, "z_order")?,
            None => 0,
        };
        Ok(Self {
            label: label.to_owned(),
            z_order,
            shape,
        })
    }
}

/// Returns an attribute that must be a number.
fn number<T: std::str::FromStr>(node: &Node, name: &str) -> Result<T, String> {
    let kind = node.tag_name().name();
    let text = node
        .attribute(name)
        .ok_or_else(|| format!("{kind} has no attribute {name}"))?;
    let number = text.trim().parse();
    number.map_err(|_| format!("the {name} of {kind} is {text:?}, which is no number that it can be"))
}

/// Reads `points="x,y;x,y;..."`.
fn polygon(node: &Node) -> Result<Shape, String> {
    let points = node.attribute("points").ok_or("a polygon has no points")?;
    let numbers = points.split([',', ';']).map(|number| number.trim().parse());
    let numbers: Result<Vec<f64>, _> = numbers.collect();
    let numbers = numbers.map_err(|_| "the points of a polygon are not x,y;x,y;...".to_owned())?;
    Ok(Shape::Polygons(vec![numbers]))
}

/// Reads a rectangle, which is turned clockwise about its centre.
fn rectangle(node: &Node) -> Result<Shape, String> {
    let (left, top): (f64, f64) = (number(node, "xtl")?, number(node, "ytl")?);
    let (right, bottom): (f64, f64) = (number(node, "xbr")?, number(node, "ybr")?);
    let rotation = match node.attribute("rotation") {
        Some(_) => number(node, "rotation")?,
        None => 0.0_f64,
    };
    let (sine, cosine) = rotation.to_radians().sin_cos();
    let (centre_x, centre_y) = ((left + right) / 2.0, (top + bottom) / 2.0);
    let turned = |(x, y): (f64, f64)| {
        let (across, down) = (x - centre_x, y - centre_y);
        [
            centre_x + across * cosine - down * sine,
            centre_y + across * sine + down * cosine,
        ]
    };
    let corners = [(left, top), (right, top), (right, bottom), (left, bottom)];
    Ok(Shape::Polygons(vec![match rotation {
        0.0 => corners.into_iter().flat_map(|(x, y)| [x, y]).collect(),
        _ => corners.into_iter().flat_map(turned).collect(),
    }]))
}

/// Reads a mask: the runs of its box.
fn mask(node: &Node, width: usize, height: usize) -> Result<Shape, String> {
    let (left, top): (usize, usize) = (number(node, "left")?, number(node, "top")?);
    let (across, down): (usize, usize) = (number(node, "width")?, number(node, "height")?);
    let does_not_fit = || "a mask does not fit its image".to_owned();
    let fits = |start: usize, length: usize, side: usize| start.checked_add(length).is_some_and(|end| end <= side);
    let pixels = width.checked_mul(height).filter(|pixels| *pixels <= MOST_PIXELS);
    let pixels = pixels.filter(|_| fits(left, across, width) && fits(top, down, height));
    let mut covered = vec![false; pixels.ok_or_else(does_not_fit)?];
    let runs = node.attribute("rle").ok_or("a mask has no rle")?;
    let (mut at, mut is_inside) = (0_usize, false);
    for run in runs.split(',') {
        let run: usize = run
            .trim()
            .parse()
            .map_err(|_| "the rle of a mask is not numbers with commas between".to_owned())?;
        let end = at.checked_add(run).filter(|end| *end <= across * down);
        let end = end.ok_or_else(does_not_fit)?;
        if is_inside {
            for position in at..end {
                covered[(top + position / across) * width + left + position % across] = true;
            }
        }
        (at, is_inside) = (end, !is_inside);
    }
    match at == across * down {
        true => Ok(Shape::Runs(runs_of(&covered, width, height))),
        false => Err(does_not_fit()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ::image::RgbImage;

    use super::*;
    use crate::evaluation::Truth;

    /// What is read of an export.
    struct Opened {
        labels: Vec<u16>,
        names: Vec<String>,
        uncounted: Vec<String>,
    }

    /// Reads an image of 4 x 2 pixels with these objects; cat and dog are classes.
    fn opened(objects: &str) -> Result<Opened, String> {
        let folder = tempfile::tempdir().unwrap();
        let (images, file) = (folder.path().join("images"), folder.path().join("annotations.xml"));
        std::fs::create_dir(&images).unwrap();
        RgbImage::new(4, 2).save(images.join("a.png")).unwrap();
        let label = |name: &str| format!("<label><name>{name}</name><color>#fa3253</color></label>");
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><annotations><version>1.1</version><meta><task><labels>{}{}\
             </labels></task></meta><image id=\"0\" name=\"batch/a.png\" width=\"4\" height=\"2\">{objects}</image>\
             </annotations>",
            label("dog"),
            label("cat")
        );
        let in_words = |error: DatasetError| error.to_string().replace(folder.path().to_str().unwrap(), "");
        let truths = CvatTruths::parse(&file, &text).map_err(in_words)?;
        let class_of = |name: &str| ["cat", "dog"].iter().position(|class| *class == name);
        let class_of = |name: &str| class_of(name).map(|id| id as u16);
        let dataset = truths.dataset(&images, &class_of).unwrap();
        let truth = Truth::read(&dataset.samples[0], 2).map_err(in_words)?;
        Ok(Opened {
            labels: truth.labels,
            names: truths.names(),
            uncounted: dataset.uncounted_names,
        })
    }

    #[test]
    fn polygons_rectangles_and_masks_are_drawn_from_the_rear_to_the_front() {
        const N: u16 = UNLABELLED;
        let read = opened(
            r#"<mask label="car" source="manual" occluded="0" rle="1, 2, 1" left="2" top="0" width="2" height="2" z_order="1">
               </mask><tag label="sunny" source="manual"></tag>
               <box label="dog" xtl="0.00" ytl="0.00" xbr="4.00" ybr="2.00" z_order="0"></box>
               <polygon label="cat" points="0,0;1.00,0.00;1.00,1.00;0.00,1.00" z_order="1"><attribute name="a">1</attribute></polygon>"#,
        )
        .unwrap();
        assert_eq!(read.labels, [0, 1, 1, N, 1, 1, N, 1]);
        assert_eq!(read.names, ["dog", "cat", "car"]);
        assert_eq!(read.uncounted, ["car"]);
        // A quarter turn about the centre.
        let turned = r#"<box label="dog" xtl="1" ytl="0" xbr="3" ybr="2" rotation="90"/>"#;
        assert_eq!(opened(turned).unwrap().labels, [N, 1, 1, N, N, 1, 1, N]);
    }

    #[test]
    fn what_is_not_read_is_named() {
        for (objects, reason) in [
            (
                r#"<polyline label="cat" points="0,0;1,1"/>"#,
                "a.png: objects of the type polyline are not read",
            ),
            (r#"<polygon label="cat" points="0,0;1"/>"#, "a polygon has 3 numbers"),
            (
                r#"<polygon label="cat" points="0;b"/>"#,
                "the points of a polygon are not x,y;x,y;...",
            ),
            (
                r#"<box label="cat" xtl="0" ytl="0" xbr="4"/>"#,
                "box has no attribute ybr",
            ),
            (
                r#"<mask label="cat" rle="1, 2" left="2" top="0" width="2" height="2"/>"#,
                "a mask does not fit its image",
            ),
            (
                r#"<mask label="cat" rle="0, 4" left="3" top="0" width="2" height="2"/>"#,
                "a mask does not fit its image",
            ),
        ] {
            let error = opened(objects).err().unwrap();
            assert!(
                error.starts_with("/annotations.xml is no truth: ") && error.contains(reason),
                "{error}"
            );
        }
        let refused = |text: &str| CvatTruths::parse(Path::new("a.xml"), text).unwrap_err().to_string();
        assert!(refused("<annotations><track id=\"0\"/></annotations>").contains("CVAT for video"));
        assert!(refused("<annotation/>").contains("its root is <annotation>"));
        assert!(refused("<annotations>").contains("it is not XML"));
    }
}
