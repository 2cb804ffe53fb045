//! Arrays for NumPy: a ZIP archive of files in NumPy's own form, as `numpy.load` reads it
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{ClassLabel, ClassMeasures, LabelledImage};
use crate::label_map::LabelMap;

/// The first bytes of an array's file: the magic, and version 1.0.
const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";

/// The bytes to a multiple of which the head of an array's file is filled up.
const ALIGNMENT: usize = 64;

/// Writes what is known of an image as arrays:
///
/// - `labels`, `[height, width]` uint16, 65535 for pixels without a class;
/// - `confidence`, `[height, width]` uint8, the probability of each pixel's own label times 255;
/// - `classes`, `[classes]`, the names;
/// - `pixels`, `[classes]` int64;
/// - `boxes`, `[classes, 4]` int64: x, y, width and height, -1 for an absent class;
/// - `mean_confidence` and `max_confidence`, `[classes]` float32, NaN for an absent class;
/// - `presence`, `similarity` and `image_probability`, `[classes]` float32.
///
/// `confidence` holds `[height, width]` bytes.
pub fn npz(image: &LabelledImage, map: &LabelMap, classes: &[ClassLabel], confidence: &[u8]) -> Vec<u8> {
    let size = [map.height as usize, map.width as usize];
    let count = [image.classes.len()];
    let floats = |of: fn(&ClassMeasures) -> f32| bytes(image.classes.iter().map(|class| of(class).to_le_bytes()));
    let boxes = image
        .classes
        .iter()
        .flat_map(|class| class.bounding_box.map_or([-1; 4], |sides| sides.map(i64::from)));
    let pixels = image.classes.iter().map(|class| class.pixels.to_le_bytes());
    let (name_kind, names) = texts(classes);
    let mut archive = Archive(ZipWriter::new(Cursor::new(Vec::new())));
    archive.add(
        "labels",
        "<u2",
        &size,
        &bytes(map.labels.iter().map(|label| label.to_le_bytes())),
    );
    archive.add("confidence", "|u1", &size, confidence);
    archive.add("classes", &name_kind, &count, &names);
    archive.add("pixels", "<i8", &count, &bytes(pixels));
    archive.add("boxes", "<i8", &[count[0], 4], &bytes(boxes.map(i64::to_le_bytes)));
    archive.add(
        "mean_confidence",
        "<f4",
        &count,
        &floats(|class| class.mean_confidence.unwrap_or(f32::NAN)),
    );
    archive.add(
        "max_confidence",
        "<f4",
        &count,
        &floats(|class| class.max_confidence.unwrap_or(f32::NAN)),
    );
    archive.add("presence", "<f4", &count, &floats(|class| class.presence));
    archive.add("similarity", "<f4", &count, &floats(|class| class.similarity));
    archive.add(
        "image_probability",
        "<f4",
        &count,
        &floats(|class| class.image_probability),
    );
    archive.0.finish().expect("writing to memory cannot fail").into_inner()
}

/// Writes the probabilities of all classes in an image as arrays:
///
/// - `probabilities`, `[classes, height, width]` uint8, the probability of each class in each pixel times 255, whichever
///   class won there;
/// - `classes`, `[classes]`, the names.
///
/// `probabilities` holds `[classes, height, width]` bytes; `size` is `[height, width]`.
pub fn probabilities_npz(size: [u32; 2], classes: &[ClassLabel], probabilities: &[u8]) -> Vec<u8> {
    let [height, width] = size.map(|side| side as usize);
    let (name_kind, names) = texts(classes);
    let mut archive = Archive(ZipWriter::new(Cursor::new(Vec::new())));
    archive.add("probabilities", "|u1", &[classes.len(), height, width], probabilities);
    archive.add("classes", &name_kind, &[classes.len()], &names);
    archive.0.finish().expect("writing to memory cannot fail").into_inner()
}

fn bytes<const N: usize>(values: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    values.flatten().collect()
}

/// Returns the kind and the bytes of an array of names: characters of 4 bytes, filled up with zeros.
fn texts(classes: &[ClassLabel]) -> (String, Vec<u8>) {
    let width = classes
        .iter()
        .map(|class| class.name.chars().count())
        .max()
        .unwrap_or(0)
        .max(1);
    let characters = classes.iter().flat_map(|class| {
        let characters = class.name.chars().map(u32::from);
        characters.chain(std::iter::repeat(0)).take(width)
    });
    (format!("<U{width}"), bytes(characters.map(u32::to_le_bytes)))
}

struct Archive(ZipWriter<Cursor<Vec<u8>>>);

impl Archive {
    fn add(&mut self, name: &str, kind: &str, shape: &[usize], bytes: &[u8]) {
        let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
        let mut head = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({sides}), }}");
        // Magic, two bytes for the length of the head, the head, and a line break.
        let filled = (MAGIC.len() + 2 + head.len() + 1).next_multiple_of(ALIGNMENT);
        head.push_str(&" ".repeat(filled - MAGIC.len() - 2 - head.len() - 1));
        head.push('\n');
        let length = u16::try_from(head.len()).expect("a head has few bytes").to_le_bytes();
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        let written = self.0.start_file(format!("{name}.npy"), options);
        written.expect("every name is a new one, and writing to memory cannot fail");
        for part in [MAGIC, &length, head.as_bytes(), bytes] {
            self.0.write_all(part).expect("writing to memory cannot fail");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use zip::ZipArchive;

    use super::super::testing::{cat_and_dog, subject};
    use super::*;

    /// Returns the head and the values of an array.
    fn array(file: &[u8], name: &str) -> (String, Vec<u8>) {
        let mut archive = ZipArchive::new(Cursor::new(file)).unwrap();
        let mut bytes = Vec::new();
        let mut array = archive.by_name(&format!("{name}.npy")).unwrap();
        array.read_to_end(&mut bytes).unwrap();
        let head = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + head) % 64, 0);
        let text = String::from_utf8(bytes[10..10 + head].to_vec()).unwrap();
        (text.trim_end().to_owned(), bytes[10 + head..].to_vec())
    }

    #[test]
    fn probabilities_are_class_by_class() {
        let values: Vec<u8> = (0..3 * 2 * 4).collect();
        let file = probabilities_npz([2, 4], &subject().classes, &values);
        let head = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 4, ), }";
        assert_eq!(array(&file, "probabilities"), (head.to_owned(), values));
        let (head, _) = array(&file, "classes");
        assert_eq!(head, "{'descr': '<U12', 'fortran_order': False, 'shape': (3, ), }");
    }

    #[test]
    fn every_array_has_its_head_and_its_values() {
        let image = cat_and_dog();
        let file = npz(&image, &image.label_map().unwrap(), &subject().classes, &[7; 12]);
        let array = |name: &str| array(&file, name);
        let (head, values) = array("labels");
        assert_eq!(head, "{'descr': '<u2', 'fortran_order': False, 'shape': (3, 4, ), }");
        assert_eq!(values[..8], [0, 0, 0, 0, 0, 0, 1, 0]);
        let (head, values) = array("classes");
        assert_eq!(head, "{'descr': '<U12', 'fortran_order': False, 'shape': (3, ), }");
        assert_eq!((values.len(), values[0], values[8]), (3 * 12 * 4, b'c', b't'));
        let (_, values) = array("boxes");
        assert_eq!(values[64..], [255; 32]);
        let (_, values) = array("mean_confidence");
        assert_eq!(values[..4], 0.5_f32.to_le_bytes());
        assert!(f32::from_le_bytes(values[8..].try_into().unwrap()).is_nan());
    }
}
