//! Datumaro's own JSON, with a mask for each class
//! (<https://openvinotoolkit.github.io/datumaro/latest/docs/data-formats/formats/datumaro.html>).

use serde_json::{Value, json};

use super::{LabelledImage, Subject};

/// Returns the texts around the items.
pub(super) fn frame(subject: &Subject) -> Vec<String> {
    let label = |name: &str| json!({"name": name, "parent": "", "attributes": []});
    let labels: Vec<Value> = subject.classes.iter().map(|class| label(&class.name)).collect();
    let colors = subject.classes.iter().zip(0..);
    let colors: Vec<Value> = colors
        .map(|(class, id)| {
            let [red, green, blue] = class.color;
            json!({"label_id": id, "r": red, "g": green, "b": blue})
        })
        .collect();
    let categories = json!({
        "label": {"labels": labels, "attributes": ["occluded"]},
        "mask": {"colormap": colors},
    });
    vec![
        format!(
            "{{\"dm_format_version\":\"1.0\",\"media_type\":2,\"infos\":{{}},\"categories\":{categories},\"items\":[\n"
        ),
        "\n]}\n".to_owned(),
    ]
}

/// Returns the item of an image.
pub(super) fn item(image: &LabelledImage) -> Vec<String> {
    let annotations = image.masks.iter().zip(0..).map(|(mask, id)| {
        json!({
            "id": id,
            "type": "mask",
            "attributes": {},
            "group": 0,
            "label_id": mask.class_id,
            "rle": {"counts": mask.counts, "size": [image.height, image.width]},
            "z_order": 0,
        })
    });
    let item = json!({
        "id": image.name,
        "annotations": annotations.collect::<Vec<_>>(),
        "image": {"path": image.file_name, "size": [image.height, image.width]},
    });
    vec![item.to_string()]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{cat_and_dog, subject, whole};
    use super::*;

    #[test]
    fn an_item_has_the_masks_of_its_image() {
        let file: Value = serde_json::from_str(&whole(&frame(&subject()), &item(&cat_and_dog()))).unwrap();
        assert_eq!(file["categories"]["label"]["labels"][0]["name"], "cat");
        let item = &file["items"][0];
        assert_eq!(
            (&item["id"], &item["image"]["size"]),
            (&json!("pets/a"), &json!([3, 4]))
        );
        assert_eq!(item["annotations"][1]["label_id"], 1);
    }
}
