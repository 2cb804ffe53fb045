//! Label maps as TIFFs that lie where their images lie: with the georeference of a GeoTIFF (OGC 19-008r4).

use std::io::Cursor;

use tiff::TiffResult;
use tiff::decoder::Decoder;
use tiff::encoder::colortype::{ColorType, Gray8, Gray16};
use tiff::encoder::{Compression, DeflateLevel, TiffEncoder, TiffValue};
use tiff::tags::Tag;

use crate::label_map::LabelMap;
use crate::scores::UNLABELLED;

/// The tags of numbers that say where a raster lies.
const PLACE: [Tag; 3] = [
    Tag::ModelPixelScaleTag,
    Tag::ModelTiepointTag,
    Tag::ModelTransformationTag,
];

/// The georeference of a TIFF, as its tags have it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Georeference {
    /// Where the raster lies: the tags of [`PLACE`] that the file has.
    place: Vec<(Tag, Vec<f64>)>,
    /// The directory of keys, which says in which coordinates.
    keys: Vec<u16>,
    /// The numbers that keys refer to.
    numbers: Vec<f64>,
    /// The text that keys refer to.
    text: Option<String>,
}

impl Georeference {
    /// Reads the georeference of an image, which may be of any format. Returns `None` for one that has none.
    ///
    /// # Errors
    /// A reason in words where the image's orientation turns it, so that the georeference would not fit the label map.
    pub fn of(image: &[u8], is_turned_by_tag: bool) -> Result<Option<Self>, String> {
        let Ok(mut decoder) = Decoder::new(Cursor::new(image)) else {
            return Ok(None);
        };
        let orientation = decoder
            .find_tag_unsigned::<u16>(Tag::Orientation)
            .ok()
            .flatten()
            .unwrap_or(1);
        let mut floats = |tag| decoder.get_tag_f64_vec(tag).unwrap_or_default();
        let place = PLACE
            .map(|tag| (tag, floats(tag)))
            .into_iter()
            .filter(|(_, values)| !values.is_empty())
            .collect();
        let numbers = floats(Tag::GeoDoubleParamsTag);
        let keys = decoder.get_tag_u16_vec(Tag::GeoKeyDirectoryTag).unwrap_or_default();
        let text = decoder
            .find_tag(Tag::GeoAsciiParamsTag)
            .ok()
            .flatten()
            .and_then(|value| value.into_string().ok());
        let found = Self {
            place,
            keys,
            numbers,
            text,
        };
        if found == Self::default() {
            return Ok(None);
        }
        match orientation {
            1 => Ok(Some(found)),
            _ if !is_turned_by_tag => Ok(Some(found)),
            _ => Err("its orientation turns it away from its georeference; take the orientation stored".to_owned()),
        }
    }
}

/// Writes the labels as a TIFF of 8 bits, or of 16 bits above 255 classes, with a georeference if there is one. Pixels
/// without a class have `unlabelled`, or the largest value, which the file declares as the value of no data.
pub fn geotiff(map: &LabelMap, unlabelled: Option<u16>, georeference: Option<&Georeference>) -> Vec<u8> {
    let value = |&label: &u16| match (label, unlabelled) {
        (UNLABELLED, Some(value)) => value,
        _ => label,
    };
    let values = map.labels.iter().map(value);
    let written = if map.classes.len() <= usize::from(u8::MAX) {
        let samples: Vec<u8> = values.map(|value| value.to_le_bytes()[0]).collect();
        let no_data = unlabelled.unwrap_or(u8::MAX.into());
        write::<Gray8>(map, &samples, no_data, georeference)
    } else {
        let samples: Vec<u16> = values.collect();
        write::<Gray16>(map, &samples, unlabelled.unwrap_or(UNLABELLED), georeference)
    };
    written.expect("a label map has fewer bytes than a TIFF may, and writing to memory cannot fail")
}

fn write<C: ColorType>(
    map: &LabelMap,
    samples: &[C::Inner],
    no_data: u16,
    georeference: Option<&Georeference>,
) -> TiffResult<Vec<u8>>
where
    [C::Inner]: TiffValue,
{
    let mut file = Cursor::new(Vec::new());
    let compression = Compression::Deflate(DeflateLevel::Fast);
    let mut encoder = TiffEncoder::new(&mut file)?.with_compression(compression);
    let mut image = encoder.new_image::<C>(map.width, map.height)?;
    let tags = image.encoder();
    tags.write_tag(Tag::GdalNodata, no_data.to_string().as_str())?;
    if let Some(Georeference {
        place,
        keys,
        numbers,
        text,
    }) = georeference
    {
        for (tag, values) in place {
            tags.write_tag(*tag, &values[..])?;
        }
        if !keys.is_empty() {
            tags.write_tag(Tag::GeoKeyDirectoryTag, &keys[..])?;
        }
        if !numbers.is_empty() {
            tags.write_tag(Tag::GeoDoubleParamsTag, &numbers[..])?;
        }
        if let Some(text) = text {
            tags.write_tag(Tag::GeoAsciiParamsTag, text.as_str())?;
        }
    }
    image.write_data(samples)?;
    Ok(file.into_inner())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tiff::decoder::DecodingResult;

    use super::super::testing::labelled;
    use super::*;

    /// Returns a TIFF with a georeference and an orientation.
    fn source(orientation: u16) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut file).unwrap();
        let mut image = encoder.new_image::<Gray8>(2, 1).unwrap();
        let tags = image.encoder();
        tags.write_tag(Tag::Orientation, orientation).unwrap();
        tags.write_tag(Tag::ModelPixelScaleTag, &[0.5, 0.5, 0.0][..]).unwrap();
        tags.write_tag(Tag::ModelTiepointTag, &[0.0, 0.0, 0.0, 399_000.0, 5_820_000.0, 0.0][..])
            .unwrap();
        tags.write_tag(Tag::GeoKeyDirectoryTag, &[1_u16, 1, 0, 1, 3072, 0, 1, 32633][..])
            .unwrap();
        tags.write_tag(Tag::GeoAsciiParamsTag, "UTM 33|").unwrap();
        image.write_data(&[1, 2]).unwrap();
        file.into_inner()
    }

    #[test]
    fn a_map_lies_where_its_image_lies() {
        let georeference = Georeference::of(&source(1), true).unwrap().unwrap();
        for (classes, no_data) in [(3, "255"), (300, "65535")] {
            let map = labelled("a.tif", 2, &[2, UNLABELLED], classes).label_map().unwrap();
            let file = geotiff(&map, None, Some(&georeference));
            assert_eq!(Georeference::of(&file, true).unwrap().as_ref(), Some(&georeference));
            let mut decoder = Decoder::new(Cursor::new(&file)).unwrap();
            assert_eq!(
                decoder.get_tag(Tag::GdalNodata).unwrap().into_string().unwrap(),
                no_data
            );
            match decoder.read_image().unwrap() {
                DecodingResult::U8(values) => assert_eq!(values, [2, 255]),
                DecodingResult::U16(values) => assert_eq!(values, [2, 65_535]),
                other => panic!("{other:?}"),
            }
        }
        let map = labelled("a.tif", 2, &[2, UNLABELLED], 3).label_map().unwrap();
        let file = geotiff(&map, Some(7), None);
        assert_eq!(Georeference::of(&file, true), Ok(None));
    }

    #[test]
    fn an_image_that_is_turned_away_from_its_place_is_refused() {
        assert!(
            Georeference::of(&source(6), true)
                .unwrap_err()
                .contains("orientation stored")
        );
        assert!(Georeference::of(&source(6), false).unwrap().is_some());
        assert_eq!(Georeference::of(b"no TIFF", true), Ok(None));
    }
}
