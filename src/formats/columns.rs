//! The measures of every class in every image as Parquet.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::table::fraction;
use super::{ClassMeasures, LabelledImage, Subject};

/// The columns, in the order of the table's.
const SCHEMA: &str = "message measures {
    required binary image (UTF8);
    required int32 width;
    required int32 height;
    required int32 class_id;
    required binary class (UTF8);
    required int64 pixels;
    required double fraction;
    optional int32 x;
    optional int32 y;
    optional int32 box_width;
    optional int32 box_height;
    optional float mean_confidence;
    optional float max_confidence;
    required float presence;
    required float similarity;
    required float image_probability;
}";

/// Rows that are written at once.
const ROWS: usize = 1 << 16;

/// A table that is being written, with a row for each class in each image.
pub struct ParquetTable<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    classes: Vec<ByteArray>,
    rows: Vec<Row>,
}

struct Row {
    image: ByteArray,
    size: [i32; 2],
    class_id: u16,
    fraction: f64,
    measures: ClassMeasures,
}

impl<W: Write + Send> ParquetTable<W> {
    /// Begins a table.
    ///
    /// # Errors
    /// Those of writing.
    pub fn begin(file: W, subject: &Subject) -> io::Result<Self> {
        let properties = Arc::new(WriterProperties::builder().build());
        let writer =
            parse_message_type(SCHEMA).and_then(|schema| SerializedFileWriter::new(file, Arc::new(schema), properties));
        let names = subject.classes.iter().map(|class| ByteArray::from(class.name.as_str()));
        Ok(Self {
            writer: writer.map_err(io::Error::other)?,
            classes: names.collect(),
            rows: Vec::new(),
        })
    }

    /// Adds the rows of an image.
    ///
    /// # Errors
    /// Those of writing.
    pub fn add(&mut self, image: &LabelledImage) -> io::Result<()> {
        let name = ByteArray::from(image.file_name.as_str());
        // A side of an image has less than 2^31 pixels.
        let size = [image.width as i32, image.height as i32];
        self.rows
            .extend(image.classes.iter().zip(0..).map(|(measures, class_id)| Row {
                image: name.clone(),
                size,
                class_id,
                fraction: fraction(image, measures),
                measures: *measures,
            }));
        match self.rows.len() >= ROWS {
            true => self.write_rows().map_err(io::Error::other),
            false => Ok(()),
        }
    }

    /// Writes what is left, and the end. Returns the file.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(mut self) -> io::Result<W> {
        let written = self.write_rows().and_then(|()| self.writer.into_inner());
        written.map_err(io::Error::other)
    }

    fn write_rows(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        let classes = &self.classes;
        required::<ByteArrayType>(&mut group, rows.iter().map(|row| row.image.clone()))?;
        required::<Int32Type>(&mut group, rows.iter().map(|row| row.size[0]))?;
        required::<Int32Type>(&mut group, rows.iter().map(|row| row.size[1]))?;
        required::<Int32Type>(&mut group, rows.iter().map(|row| row.class_id.into()))?;
        required::<ByteArrayType>(
            &mut group,
            rows.iter().map(|row| classes[usize::from(row.class_id)].clone()),
        )?;
        required::<Int64Type>(&mut group, rows.iter().map(|row| row.measures.pixels as i64))?;
        required::<DoubleType>(&mut group, rows.iter().map(|row| row.fraction))?;
        for side in 0..4 {
            let sides = rows
                .iter()
                .map(|row| row.measures.bounding_box.map(|sides| sides[side] as i32));
            optional::<Int32Type>(&mut group, sides)?;
        }
        optional::<FloatType>(&mut group, rows.iter().map(|row| row.measures.mean_confidence))?;
        optional::<FloatType>(&mut group, rows.iter().map(|row| row.measures.max_confidence))?;
        required::<FloatType>(&mut group, rows.iter().map(|row| row.measures.presence))?;
        required::<FloatType>(&mut group, rows.iter().map(|row| row.measures.similarity))?;
        required::<FloatType>(&mut group, rows.iter().map(|row| row.measures.image_probability))?;
        group.close()?;
        Ok(())
    }
}

/// Writes the next column, which has a value in every row.
fn required<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    values: impl Iterator<Item = T::T>,
) -> Result<()> {
    let values: Vec<T::T> = values.collect();
    write_column::<T>(group, &values, None)
}

/// Writes the next column, whose values may be missing.
fn optional<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<()> {
    let values: Vec<Option<T::T>> = values.collect();
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let given: Vec<T::T> = values.into_iter().flatten().collect();
    write_column::<T>(group, &given, Some(&levels))
}

fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<()> {
    let mut column = group.next_column()?.expect("the schema has a column for each of these");
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::super::testing::{cat_and_dog, subject};
    use super::*;

    #[test]
    fn every_class_has_a_row_and_what_is_absent_is_null() {
        let mut table = ParquetTable::begin(Vec::new(), &subject()).unwrap();
        table.add(&cat_and_dog()).unwrap();
        let reader = SerializedFileReader::new(Bytes::from(table.finish().unwrap())).unwrap();
        let rows: Vec<String> = reader
            .get_row_iter(None)
            .unwrap()
            .map(|row| row.unwrap().to_string())
            .collect();
        assert_eq!(rows.len(), 3);
        for part in [
            "image: \"pets/a.jpg\"",
            "class: \"cat\"",
            "pixels: 9",
            "fraction: 0.75",
            "box_width: 4",
        ] {
            assert!(rows[0].contains(part), "{part} is not in {}", rows[0]);
        }
        assert!(
            rows[2].contains("x: null") && rows[2].contains("mean_confidence: null"),
            "{}",
            rows[2]
        );
    }
}
