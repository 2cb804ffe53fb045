//! COCO's annotations: instances, with run lengths or polygons, and panoptic segments
//! (<https://cocodataset.org/#format-data>).
//!
//! A category has the id of its class plus 1, because COCO counts from 1. An image has one annotation for each class
//! with pixels.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{ClassMask, LabelledImage, Numbers, Subject};
use crate::label_map::{coco_category, polygons};

/// Returns the texts around the images and the annotations of instances.
pub(super) fn instances_frame(subject: &Subject) -> Vec<String> {
    frame(subject, |_, class| json!({"supercategory": "", "name": class}))
}

/// Returns the texts around the images and the annotations of panoptic segments.
pub(super) fn panoptic_frame(subject: &Subject) -> Vec<String> {
    frame(
        subject,
        |color, class| json!({"supercategory": "", "name": class, "isthing": 0, "color": color}),
    )
}

fn frame(subject: &Subject, category: impl Fn([u8; 3], &str) -> Value) -> Vec<String> {
    let categories = subject.classes.iter().zip(0..).map(|(class, id)| {
        let mut category = category(class.color, &class.name);
        category["id"] = coco_category(id).into();
        category
    });
    let categories = Value::Array(categories.collect());
    let info = json!({"description": format!("Labels by maskclip {}", crate::VERSION), "version": "1.0"});
    vec![
        format!("{{\"info\":{info},\"licenses\":[],\"categories\":{categories},\"images\":[\n"),
        "\n],\"annotations\":[\n".to_owned(),
        "\n]}\n".to_owned(),
    ]
}

/// Returns the entries of an image whose masks are run lengths.
pub(super) fn with_run_lengths(image: &LabelledImage, numbers: Numbers) -> Vec<String> {
    let segmentation = |mask: &ClassMask| json!({"size": [image.height, image.width], "counts": mask.counts});
    instances(image, numbers, segmentation)
}

/// Returns the entries of an image whose masks are polygons. COCO's polygons have no holes, so a cut leads to each.
pub(super) fn with_polygons(image: &LabelledImage, numbers: Numbers) -> Option<Vec<String>> {
    let polygons = polygons(&image.label_map()?).into_iter();
    let lines: HashMap<u16, _> = polygons.map(|class| (class.class_id, class.lines)).collect();
    let segmentation = |mask: &ClassMask| {
        let lines = lines.get(&mask.class_id).into_iter().flatten();
        json!(lines.map(|line| line.as_flattened()).collect::<Vec<_>>())
    };
    Some(instances(image, numbers, segmentation))
}

fn instances(image: &LabelledImage, numbers: Numbers, segmentation: impl Fn(&ClassMask) -> Value) -> Vec<String> {
    let annotations = image.masks.iter().zip(numbers.annotation..).map(|(mask, id)| {
        let class = &image.classes[usize::from(mask.class_id)];
        let annotation = json!({
            "id": id,
            "image_id": numbers.image,
            "category_id": coco_category(mask.class_id),
            "segmentation": segmentation(mask),
            "area": class.pixels,
            "bbox": class.bounding_box,
            "iscrowd": 0,
            "score": class.mean_confidence,
        });
        annotation.to_string()
    });
    vec![image_entry(image, numbers), annotations.collect::<Vec<_>>().join(",\n")]
}

/// Returns the entries of an image with one segment for each class with pixels.
pub(super) fn panoptic(image: &LabelledImage, numbers: Numbers) -> Vec<String> {
    let segments = image.masks.iter().map(|mask| {
        let class = &image.classes[usize::from(mask.class_id)];
        json!({
            "id": coco_category(mask.class_id),
            "category_id": coco_category(mask.class_id),
            "area": class.pixels,
            "bbox": class.bounding_box,
            "iscrowd": 0,
        })
    });
    let annotation = json!({
        "image_id": numbers.image,
        "file_name": format!("{}.png", image.name),
        "segments_info": segments.collect::<Vec<_>>(),
    });
    vec![image_entry(image, numbers), annotation.to_string()]
}

fn image_entry(image: &LabelledImage, numbers: Numbers) -> String {
    let entry = json!({
        "id": numbers.image,
        "file_name": image.file_name,
        "width": image.width,
        "height": image.height,
    });
    entry.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{FIRST, cat_and_dog, subject, whole};
    use super::*;

    #[test]
    fn instances_have_a_mask_for_each_class_with_pixels() {
        let file: Value = serde_json::from_str(&whole(
            &instances_frame(&subject()),
            &with_run_lengths(&cat_and_dog(), FIRST),
        ))
        .unwrap();
        let image = json!({"id": 1, "file_name": "pets/a.jpg", "width": 4, "height": 3});
        assert_eq!(file["images"], json!([image]));
        assert_eq!(
            file["categories"][2],
            json!({"id": 3, "name": "cow", "supercategory": ""})
        );
        let annotations = file["annotations"].as_array().unwrap();
        assert_eq!(annotations.len(), 2);
        assert_eq!(
            annotations[1],
            json!({
                "id": 2, "image_id": 1, "category_id": 2, "area": 2, "bbox": [3, 0, 1, 2], "iscrowd": 0, "score": 0.5,
                "segmentation": {"size": [3, 4], "counts": annotations[1]["segmentation"]["counts"]},
            })
        );
    }

    #[test]
    fn polygons_reach_holes_by_cuts() {
        let file: Value = serde_json::from_str(&whole(
            &instances_frame(&subject()),
            &with_polygons(&cat_and_dog(), FIRST).unwrap(),
        ))
        .unwrap();
        assert_eq!(
            file["annotations"][0]["segmentation"],
            json!([[
                0, 0, 3, 0, 3, 2, 4, 2, 4, 3, 0, 3, 0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 0, 1
            ]])
        );
        assert_eq!(
            file["annotations"][1]["segmentation"],
            json!([[3, 0, 4, 0, 4, 2, 3, 2]])
        );
    }

    #[test]
    fn panoptic_segments_name_the_values_of_the_png() {
        let file: Value =
            serde_json::from_str(&whole(&panoptic_frame(&subject()), &panoptic(&cat_and_dog(), FIRST))).unwrap();
        let annotation = &file["annotations"][0];
        assert_eq!(annotation["file_name"], "pets/a.png");
        assert_eq!(
            annotation["segments_info"][1],
            json!({"id": 2, "category_id": 2, "area": 2, "bbox": [3, 0, 1, 2], "iscrowd": 0})
        );
        assert_eq!(file["categories"][0]["color"], json!([128, 0, 0]));
    }
}
