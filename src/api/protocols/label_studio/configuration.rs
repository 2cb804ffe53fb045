//! The labelling configuration of a Label Studio project: which controls label which image, with which labels.

use std::collections::HashMap;

use roxmltree::{Document, Node};

use crate::api::error::ApiError;
use crate::api::problem::Limit;
use crate::support::excerpt;

/// What a region is drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A mask: `BrushLabels`.
    Brush,
    /// A polygon for each connected region: `PolygonLabels`.
    Polygon,
    /// The box around a class: `RectangleLabels`.
    Rectangle,
}

impl Shape {
    /// The shape of a control's tag.
    fn of_tag(tag: &str) -> Option<Self> {
        match tag {
            "BrushLabels" => Some(Self::Brush),
            "PolygonLabels" => Some(Self::Polygon),
            "RectangleLabels" => Some(Self::Rectangle),
            _ => None,
        }
    }

    /// The name of the shape in a region: its `type`, and the key of its labels.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Brush => "brushlabels",
            Self::Polygon => "polygonlabels",
            Self::Rectangle => "rectanglelabels",
        }
    }
}

/// A control whose regions the server can draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) shape: Shape,
    /// The control's name, `from_name` of a region.
    pub(super) name: String,
    /// The name of the image that it labels, `to_name` of a region.
    pub(super) image: String,
    /// The field of a task's data that has the image.
    pub(super) field: String,
    /// The labels in their order.
    pub(super) labels: Vec<String>,
}

/// Reads the controls of a labelling configuration, at most `limit` of them (`limits.max_batch_images`). Takes
/// the square of the attributes of one element, which `limits.max_label_config_bytes` bounds.
///
/// # Errors
/// When the text is no XML, or has no control whose regions the server can draw, or too many.
pub(super) fn controls(xml: &str, limit: usize) -> Result<Vec<Control>, ApiError> {
    let document =
        Document::parse(xml).map_err(|error| refused(format!("the labelling configuration is no XML: {error}")))?;
    let elements = || document.descendants().filter(Node::is_element);
    // The first of each name counts.
    let mut images = HashMap::new();
    for image in elements().filter(|element| element.has_tag_name("Image")) {
        if let Some(name) = image.attribute("name") {
            images.entry(name).or_insert(image);
        }
    }
    let mut controls = Vec::new();
    for element in elements() {
        let Some(shape) = Shape::of_tag(element.tag_name().name()) else {
            continue;
        };
        if controls.len() == limit {
            return Err(ApiError::Invalid {
                path: None,
                detail: format!(
                    "the labelling configuration has more than limits.max_batch_images = {limit} controls, each of which is \
                     an image to label"
                ),
                limit: Some(Limit::whole("limits.max_batch_images", limit as u64)),
            });
        }
        controls.push(control(element, shape, &images)?);
    }
    if controls.is_empty() {
        return Err(refused(
            "the labelling configuration has none of BrushLabels, PolygonLabels and RectangleLabels of an Image, which are \
             what this server labels"
                .to_owned(),
        ));
    }
    Ok(controls)
}

/// Reads a control of one of the images.
fn control(element: Node<'_, '_>, shape: Shape, images: &HashMap<&str, Node<'_, '_>>) -> Result<Control, ApiError> {
    let (Some(name), Some(image)) = (element.attribute("name"), element.attribute("toName")) else {
        return Err(refused(format!("{} needs name and toName", element.tag_name().name())));
    };
    let field = images
        .get(image)
        .and_then(|image| image.attribute("value")?.strip_prefix('$'));
    let Some(field) = field else {
        let image = excerpt(image);
        return Err(refused(format!(
            "there is no <Image name={image:?} value=\"$...\"/> for the labels"
        )));
    };
    let labels = element.children().filter(|child| child.has_tag_name("Label"));
    let labels: Vec<_> = labels
        .filter_map(|label| label.attribute("value"))
        .map(str::to_owned)
        .collect();
    if labels.is_empty() {
        return Err(refused(format!("{} has no labels", element.tag_name().name())));
    }
    Ok(Control {
        shape,
        name: name.to_owned(),
        image: image.to_owned(),
        field: field.to_owned(),
        labels,
    })
}

fn refused(detail: String) -> ApiError {
    ApiError::Invalid {
        path: None,
        detail,
        limit: None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(xml: &str) -> String {
        controls(xml, 100).unwrap_err().to_string()
    }

    #[test]
    fn controls_name_their_image_and_labels() {
        let xml = r#"<View><!-- what to look for -->
            <Image name="photo" value="$image" zoom="true"/>
            <BrushLabels name="masks" toName="photo"><Label value="cat" background="red"/><Label value="a &amp; b"/></BrushLabels>
            <View><RectangleLabels name="boxes" toName="photo"><Label value="cat"/></RectangleLabels></View>
            <PolygonLabels name="outlines" toName="photo"><Label value="cat"/></PolygonLabels>
            <Choices name="choice" toName="photo"><Choice value="good"/></Choices>
        </View>"#;
        let control = |shape, name: &str, labels: &[&str]| Control {
            shape,
            name: name.to_owned(),
            image: "photo".to_owned(),
            field: "image".to_owned(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        };
        let expected = [
            control(Shape::Brush, "masks", &["cat", "a & b"]),
            control(Shape::Rectangle, "boxes", &["cat"]),
            control(Shape::Polygon, "outlines", &["cat"]),
        ];
        assert_eq!(controls(xml, 3).unwrap(), expected);
        let refused = controls(xml, 2).unwrap_err().to_string();
        assert!(
            refused.contains("more than limits.max_batch_images = 2 controls"),
            "{refused}"
        );
    }

    #[test]
    fn what_cannot_be_labelled_is_said() {
        assert!(refusal("<View>").starts_with("the labelling configuration is no XML"));
        assert!(refusal("<View><Text name='t' value='$t'/></View>").contains("none of BrushLabels, PolygonLabels and"));
        let brush = |inside: &str, rest: &str| {
            format!("<View><BrushLabels name='b' toName='i'>{inside}</BrushLabels>{rest}</View>")
        };
        let label = "<Label value='cat'/>";
        assert!(refusal(&brush(label, "")).contains("there is no <Image name=\"i\""));
        assert!(refusal(&brush("", "<Image name='i' value='$image'/>")).contains("BrushLabels has no labels"));
        assert!(refusal("<View><BrushLabels name='b'/></View>").contains("needs name and toName"));
    }

    #[test]
    fn entities_do_not_grow_without_end() {
        let bomb = r#"<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><View>&b;</View>"#;
        assert!(refusal(bomb).starts_with("the labelling configuration is no XML"));
    }
}
