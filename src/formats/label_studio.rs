//! Tasks of Label Studio, each with the labels of an image as a prediction that people correct
//! (<https://labelstud.io/guide/predictions>).

use serde_json::{Value, json};

use super::{LabelledImage, Numbers, Subject, in_xml};
use crate::label_map::brush_rle;

/// The names of the control and the object tag in [`labelling_configuration`].
const CONTROL: &str = "label";
const OBJECT: &str = "image";

/// Returns the task of an image.
pub(super) fn task(image: &LabelledImage, subject: &Subject, numbers: Numbers) -> Option<Vec<String>> {
    let map = image.label_map()?;
    let region = |class_id: u16| {
        json!({
            "id": format!("class-{class_id}"),
            "type": "brushlabels",
            "from_name": CONTROL,
            "to_name": OBJECT,
            "original_width": image.width,
            "original_height": image.height,
            "image_rotation": 0,
            "score": image.classes[usize::from(class_id)].mean_confidence,
            "value": {
                "format": "rle",
                "rle": brush_rle(map.labels.iter().map(|&label| label == class_id)),
                "brushlabels": [subject.classes[usize::from(class_id)].name],
            },
        })
    };
    let regions: Vec<Value> = image.masks.iter().map(|mask| region(mask.class_id)).collect();
    let task = json!({
        "id": numbers.image,
        "data": {OBJECT: format!("{}{}", subject.image_prefix, image.file_name)},
        "predictions": [{"model_version": image.model, "result": regions}],
    });
    Some(vec![task.to_string()])
}

/// Returns the labelling configuration of a project for these tasks.
pub(super) fn labelling_configuration(subject: &Subject) -> String {
    let mut text = format!(
        "<View>\n  <Image name=\"{OBJECT}\" value=\"${OBJECT}\" zoom=\"true\"/>\n  <BrushLabels name=\"{CONTROL}\" \
         toName=\"{OBJECT}\">\n"
    );
    for class in &subject.classes {
        let (name, color) = (in_xml(&class.name), hex::encode(class.color));
        text.push_str(&format!("    <Label value=\"{name}\" background=\"#{color}\"/>\n"));
    }
    text.push_str("  </BrushLabels>\n</View>\n");
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{FIRST, cat_and_dog, subject};
    use super::*;

    #[test]
    fn a_task_has_a_stroke_for_each_class_with_pixels() {
        let task: Value = serde_json::from_str(&task(&cat_and_dog(), &subject(), FIRST).unwrap()[0]).unwrap();
        assert_eq!(task["data"], json!({"image": "/data/pets/a.jpg"}));
        let regions = task["predictions"][0]["result"].as_array().unwrap();
        let labels: Vec<_> = regions
            .iter()
            .map(|region| &region["value"]["brushlabels"][0])
            .collect();
        assert_eq!(labels, ["cat", "<dog> & \"co\""]);
        let stroke: Vec<u8> = serde_json::from_value(regions[0]["value"]["rle"].clone()).unwrap();
        assert_eq!(stroke[..4], [0, 0, 0, 48]);
    }

    #[test]
    fn the_configuration_lists_the_classes_with_their_colours() {
        let text = labelling_configuration(&subject());
        assert!(text.contains("<Label value=\"cat\" background=\"#800000\"/>"), "{text}");
        assert!(text.contains("value=\"&lt;dog&gt; &amp; &quot;co&quot;\""), "{text}");
    }
}
