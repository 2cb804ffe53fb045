//! The measures of every class in every image as a table: the columns, and the rows as comma-separated values.

use super::{ClassMeasures, LabelledImage, Subject};

/// The columns, in their order.
const COLUMNS: [&str; 16] = [
    "image",
    "width",
    "height",
    "class_id",
    "class",
    "pixels",
    "fraction",
    "x",
    "y",
    "box_width",
    "box_height",
    "mean_confidence",
    "max_confidence",
    "presence",
    "similarity",
    "image_probability",
];

/// Returns the line of the columns' names, and the end.
pub(super) fn frame() -> Vec<String> {
    vec![lines(|writer| writer.write_record(COLUMNS)), String::new()]
}

/// Returns the rows of an image, one for each class.
pub(super) fn rows(image: &LabelledImage, subject: &Subject) -> Vec<String> {
    let classes = image.classes.iter().zip(&subject.classes).zip(0..);
    let rows = |writer: &mut csv::Writer<Vec<u8>>| {
        for ((measures, class), id) in classes {
            writer.write_record(row(image, measures, &class.name, id))?;
        }
        Ok(())
    };
    vec![lines(rows)]
}

fn row(image: &LabelledImage, measures: &ClassMeasures, class: &str, id: u16) -> [String; 16] {
    let side = |axis: usize| {
        measures
            .bounding_box
            .map_or(String::new(), |sides| sides[axis].to_string())
    };
    let given = |value: Option<f32>| value.map_or(String::new(), |value| value.to_string());
    [
        image.file_name.clone(),
        image.width.to_string(),
        image.height.to_string(),
        id.to_string(),
        class.to_owned(),
        measures.pixels.to_string(),
        fraction(image, measures).to_string(),
        side(0),
        side(1),
        side(2),
        side(3),
        given(measures.mean_confidence),
        given(measures.max_confidence),
        measures.presence.to_string(),
        measures.similarity.to_string(),
        measures.image_probability.to_string(),
    ]
}

/// Returns the pixels of a class as a fraction of the image.
pub(super) fn fraction(image: &LabelledImage, measures: &ClassMeasures) -> f64 {
    measures.pixels as f64 / (f64::from(image.width) * f64::from(image.height))
}

/// Returns what a writer of lines is made to write.
fn lines(write: impl FnOnce(&mut csv::Writer<Vec<u8>>) -> csv::Result<()>) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    write(&mut writer).expect("writing to memory cannot fail, and all rows have the same columns");
    let bytes = writer.into_inner().expect("writing to memory cannot fail");
    String::from_utf8(bytes).expect("every field is a text")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cat_and_dog, subject, whole};
    use super::*;

    #[test]
    fn every_class_has_a_row_and_what_is_absent_is_empty() {
        assert_eq!(
            whole(&frame(), &rows(&cat_and_dog(), &subject())),
            "image,width,height,class_id,class,pixels,fraction,x,y,box_width,box_height,mean_confidence,max_confidence,\
             presence,similarity,image_probability\n\
             pets/a.jpg,4,3,0,cat,9,0.75,0,0,4,3,0.5,0.75,0.75,0.25,0.125\n\
             pets/a.jpg,4,3,1,\"<dog> & \"\"co\"\"\",2,0.16666666666666666,3,0,1,2,0.5,0.75,0.75,0.25,0.125\n\
             pets/a.jpg,4,3,2,cow,0,0,,,,,,,0.75,0.25,0.125\n"
        );
    }
}
