//! Tasks of Label Studio, each with the labels of an image as a prediction that people correct
//! (<https://labelstud.io/guide/predictions>).

use serde_json::{Value, json};

use super::{ClassMask, LabelledImage, Numbers, Subject, in_xml};
use crate::label_map::{Corner, LabelMap, brush_rle, polygons};

/// The names of the control and the object tag in [`labelling_configuration`].
const CONTROL: &str = "label";
const OBJECT: &str = "image";

/// What regions are drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelStudioTool {
    /// A stroke for each class.
    Brush,
    /// A polygon for each connected region of a class. Holes are reached by cuts.
    Polygon,
}

impl LabelStudioTool {
    /// The tag of the control in a labelling configuration.
    fn tag(self) -> &'static str {
        match self {
            Self::Brush => "BrushLabels",
            Self::Polygon => "PolygonLabels",
        }
    }

    /// The type of its regions, and the key of their labels.
    fn region_type(self) -> &'static str {
        match self {
            Self::Brush => "brushlabels",
            Self::Polygon => "polygonlabels",
        }
    }

    /// Returns the regions of each class with pixels: the `value` of each, without its labels.
    fn shapes(self, map: &LabelMap, masks: &[ClassMask]) -> Vec<(u16, Vec<Value>)> {
        match self {
            Self::Brush => {
                let shape = |mask: &ClassMask| (mask.class_id, vec![stroke(map, mask.class_id)]);
                masks.iter().map(shape).collect()
            }
            Self::Polygon => {
                let shape = |line: Vec<Corner>| polygon_shape(&line, [map.width, map.height]);
                let classes = polygons(map).into_iter();
                classes
                    .map(|class| (class.class_id, class.lines.into_iter().map(shape).collect()))
                    .collect()
            }
        }
    }
}

/// Returns the `value` of a brush stroke over all pixels of a class, without its labels.
pub fn stroke(map: &LabelMap, class_id: u16) -> Value {
    let stroke = brush_rle(map.labels.iter().map(|&label| label == class_id));
    json!({"format": "rle", "rle": stroke})
}

/// Returns the `value` of a polygon along a line in an image of `[width, height]` pixels, without its labels. Corners
/// are in percent of the sides.
pub fn polygon_shape(line: &[Corner], size: [u32; 2]) -> Value {
    let percent = |corner: &Corner| [0, 1].map(|axis| 100.0 * f64::from(corner[axis]) / f64::from(size[axis]));
    json!({"points": line.iter().map(percent).collect::<Vec<_>>(), "closed": true})
}

/// Returns the task of an image.
pub(super) fn task(
    image: &LabelledImage,
    subject: &Subject,
    numbers: Numbers,
    tool: LabelStudioTool,
) -> Option<Vec<String>> {
    let map = image.label_map()?;
    let region = |class_id: u16, id: String, mut value: Value| {
        value[tool.region_type()] = json!([subject.classes[usize::from(class_id)].name]);
        json!({
            "id": id,
            "type": tool.region_type(),
            "from_name": CONTROL,
            "to_name": OBJECT,
            "original_width": image.width,
            "original_height": image.height,
            "image_rotation": 0,
            "score": image.classes[usize::from(class_id)].mean_confidence,
            "value": value,
        })
    };
    let of_class = |(class_id, shapes): (u16, Vec<Value>)| {
        let shapes = shapes.into_iter().zip(1..);
        let numbered = |(shape, number): (Value, u32)| {
            let id = match tool {
                LabelStudioTool::Brush => format!("class-{class_id}"),
                LabelStudioTool::Polygon => format!("class-{class_id}-{number}"),
            };
            region(class_id, id, shape)
        };
        shapes.map(numbered).collect::<Vec<_>>()
    };
    let shapes = tool.shapes(&map, &image.masks);
    let regions: Vec<Value> = shapes.into_iter().flat_map(of_class).collect();
    let task = json!({
        "id": numbers.image,
        "data": {OBJECT: format!("{}{}", subject.image_prefix, image.file_name)},
        "predictions": [{"model_version": image.model, "result": regions}],
    });
    Some(vec![task.to_string()])
}

/// Returns the labelling configuration of a project for these tasks.
pub(super) fn labelling_configuration(subject: &Subject, tool: LabelStudioTool) -> String {
    let tag = tool.tag();
    let mut text = format!(
        "<View>\n  <Image name=\"{OBJECT}\" value=\"${OBJECT}\" zoom=\"true\"/>\n  <{tag} name=\"{CONTROL}\" \
         toName=\"{OBJECT}\">\n"
    );
    for class in &subject.classes {
        let (name, color) = (in_xml(&class.name), hex::encode(class.color));
        text.push_str(&format!("    <Label value=\"{name}\" background=\"#{color}\"/>\n"));
    }
    text.push_str(&format!("  </{tag}>\n</View>\n"));
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{FIRST, cat_and_dog, labelled, subject};
    use super::LabelStudioTool as Tool;
    use super::*;

    fn regions(image: &LabelledImage, tool: LabelStudioTool) -> Vec<Value> {
        let task: Value = serde_json::from_str(&task(image, &subject(), FIRST, tool).unwrap()[0]).unwrap();
        assert_eq!(task["data"], json!({"image": format!("/data/{}", image.file_name)}));
        task["predictions"][0]["result"].as_array().unwrap().clone()
    }

    #[test]
    fn a_task_has_a_stroke_for_each_class_with_pixels() {
        let regions = regions(&cat_and_dog(), Tool::Brush);
        let labels: Vec<_> = regions
            .iter()
            .map(|region| &region["value"]["brushlabels"][0])
            .collect();
        assert_eq!(labels, ["cat", "<dog> & \"co\""]);
        let stroke: Vec<u8> = serde_json::from_value(regions[0]["value"]["rle"].clone()).unwrap();
        assert_eq!(stroke[..4], [0, 0, 0, 48]);
    }

    #[test]
    fn a_task_has_a_polygon_for_each_region_and_cuts_reach_holes() {
        // Two cats, one around a dog.
        let image = labelled(
            "a.png",
            5,
            &[0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 0],
            2,
        );
        let regions = regions(&image, Tool::Polygon);
        let found: Vec<_> = regions
            .iter()
            .map(|region| (region["id"].as_str().unwrap(), &region["value"]["polygonlabels"][0]))
            .collect();
        let dog = &json!("<dog> & \"co\"");
        assert_eq!(
            found,
            [
                ("class-0-1", &json!("cat")),
                ("class-0-2", &json!("cat")),
                ("class-1-1", dog),
                ("class-1-2", dog),
            ]
        );
        let around = json!([
            [0, 0],
            [60, 0],
            [60, 75],
            [0, 75],
            [0, 25],
            [20, 25],
            [20, 50],
            [40, 50],
            [40, 25],
            [20, 25],
            [0, 25]
        ]);
        let points =
            |region: &Value| -> Vec<[f64; 2]> { serde_json::from_value(region["value"]["points"].clone()).unwrap() };
        assert_eq!(
            points(&regions[0]),
            serde_json::from_value::<Vec<[f64; 2]>>(around).unwrap()
        );
        assert_eq!(
            points(&regions[1]),
            [[80.0, 0.0], [100.0, 0.0], [100.0, 100.0], [80.0, 100.0]]
        );
        assert_eq!(regions[0]["type"], "polygonlabels");
    }

    #[test]
    fn the_configuration_lists_the_classes_with_their_colours() {
        let text = labelling_configuration(&subject(), Tool::Brush);
        assert!(text.contains("<Label value=\"cat\" background=\"#800000\"/>"), "{text}");
        assert!(text.contains("value=\"&lt;dog&gt; &amp; &quot;co&quot;\""), "{text}");
        let polygons = labelling_configuration(&subject(), Tool::Polygon);
        assert_eq!(polygons, text.replace("BrushLabels", "PolygonLabels"));
    }
}
