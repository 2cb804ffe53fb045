//! CVAT's XML for images, version 1.1, with a mask for each class
//! (<https://docs.cvat.ai/docs/manual/advanced/xml_format>).
//!
//! A mask lies in the box around it. Its run lengths go along the rows and start with 0.

use super::{LabelledImage, Numbers, Subject, in_xml};

/// Returns the head with the classes, and the end.
pub(super) fn frame(subject: &Subject) -> Vec<String> {
    let mut head = concat!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n",
        "      <name>maskclip</name>\n      <mode>annotation</mode>\n      <labels>\n"
    )
    .to_owned();
    for class in &subject.classes {
        let (name, color) = (in_xml(&class.name), hex::encode(class.color));
        head.push_str(&format!(
            "        <label><name>{name}</name><color>#{color}</color><type>mask</type><attributes/></label>\n"
        ));
    }
    head.push_str("      </labels>\n    </task>\n  </meta>\n");
    vec![head, "</annotations>\n".to_owned()]
}

/// Returns the element of an image.
pub(super) fn image(image: &LabelledImage, subject: &Subject, numbers: Numbers) -> Option<Vec<String>> {
    let map = image.label_map()?;
    let mut text = format!(
        "  <image id=\"{}\" name=\"{}\" width=\"{}\" height=\"{}\">\n",
        numbers.image - 1,
        in_xml(&image.file_name),
        image.width,
        image.height
    );
    for mask in &image.masks {
        let id = usize::from(mask.class_id);
        let [left, top, width, height] = image.classes[id].bounding_box?;
        let rows = (top..top + height).flat_map(|y| {
            let start = y as usize * image.width as usize + left as usize;
            &map.labels[start..start + width as usize]
        });
        text.push_str(&format!(
            "    <mask label=\"{}\" source=\"auto\" occluded=\"0\" rle=\"{}\" left=\"{left}\" top=\"{top}\" \
             width=\"{width}\" height=\"{height}\" z_order=\"0\"></mask>\n",
            in_xml(&subject.classes[id].name),
            runs(rows.map(|&label| label == mask.class_id)),
        ));
    }
    text.push_str("  </image>\n");
    Some(vec![text])
}

/// Returns the lengths of runs of 0 and 1 in turn, starting with 0.
fn runs(pixels: impl Iterator<Item = bool>) -> String {
    let (mut lengths, mut value) = (vec![0_u64], false);
    for pixel in pixels {
        if pixel != value {
            lengths.push(0);
            value = pixel;
        }
        *lengths.last_mut().expect("there is a first length") += 1;
    }
    let lengths: Vec<String> = lengths.iter().map(u64::to_string).collect();
    lengths.join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{FIRST, cat_and_dog, subject, whole};
    use super::*;

    #[test]
    fn a_mask_lies_in_its_box_row_by_row() {
        let text = whole(&frame(&subject()), &image(&cat_and_dog(), &subject(), FIRST).unwrap());
        for part in [
            "<label><name>&lt;dog&gt; &amp; &quot;co&quot;</name><color>#008000</color>",
            "<image id=\"0\" name=\"pets/a.jpg\" width=\"4\" height=\"3\">",
            "<mask label=\"cat\" source=\"auto\" occluded=\"0\" rle=\"0, 3, 1, 1, 1, 1, 1, 4\" left=\"0\" top=\"0\" width=\"4\" height=\"3\"",
            "rle=\"0, 2\" left=\"3\" top=\"0\" width=\"1\" height=\"2\"",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
