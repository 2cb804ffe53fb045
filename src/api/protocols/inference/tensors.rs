//! Tensors of the Open Inference Protocol on the wire: inside of JSON, or behind it as bytes.

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::api::error::ApiError;
use crate::support::excerpt;

/// A tensor that a request brings along.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputTensor {
    /// `image`, `pixels` or `classes`.
    #[schema(example = "classes")]
    pub name: String,
    /// The length of each dimension.
    #[schema(example = json!([2]))]
    pub shape: Vec<u64>,
    /// The type of its elements: `BYTES` or `UINT8`.
    #[schema(example = "BYTES")]
    pub datatype: String,
    /// Where its elements are.
    #[serde(default)]
    #[schema(required = false)]
    pub parameters: InputParameters,
    /// Its elements, in row-major order or in nested lists. Encoded images are base64 here. Absent where the elements
    /// follow as bytes.
    #[schema(value_type = Option<Vec<Value>>, example = json!(["tiger", "lemon"]))]
    pub data: Option<TensorData>,
}

/// Where the elements of a tensor are.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputParameters {
    /// Bytes of the tensor's elements behind the JSON (the binary tensor extension).
    pub binary_data_size: Option<u64>,
}

/// Elements in JSON, without their nesting.
#[derive(Debug, Default, PartialEq)]
pub struct TensorData {
    texts: Vec<String>,
    bytes: Vec<u8>,
}

impl<'de> Deserialize<'de> for TensorData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut data = Self::default();
        Elements(&mut data).deserialize(deserializer)?;
        Ok(data)
    }
}

/// Reads an element, or a list of such.
struct Elements<'a>(&'a mut TensorData);

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("texts or whole numbers from 0 to 255, or lists of them")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.texts.push(text.to_owned());
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        let byte = u8::try_from(number);
        self.0
            .bytes
            .push(byte.map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))?);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Elements(self.0))?.is_some() {}
        Ok(())
    }
}

/// The elements of a tensor.
#[derive(Debug, PartialEq)]
pub(super) enum TensorElements {
    /// Of the type `BYTES`. Those of JSON are texts.
    Texts(Vec<Text>),
    /// Of the type `UINT8`.
    Bytes(Bytes),
}

/// An element of the type `BYTES`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Text {
    /// From JSON.
    Json(String),
    /// From behind it.
    Binary(Bytes),
}

impl Text {
    /// The element as a text.
    pub(super) fn into_string(self) -> Option<String> {
        match self {
            Self::Json(text) => Some(text),
            Self::Binary(bytes) => String::from_utf8(bytes.into()).ok(),
        }
    }
}

impl InputTensor {
    /// Takes the tensor's elements out of JSON or from the beginning of `rest`, which is what follows the JSON.
    ///
    /// # Errors
    /// When the elements are missing, are not of the type, or are not as many as the shape says.
    pub(super) fn elements(&mut self, rest: &mut Bytes) -> Result<TensorElements, ApiError> {
        let name = excerpt(&self.name);
        let wrong = |detail: String| ApiError::invalid(&format!("inputs.{name}"), detail);
        let found = match (self.data.take(), self.parameters.binary_data_size) {
            (Some(_), Some(_)) => return Err(wrong("data and binary_data_size exclude each other".to_owned())),
            (None, None) => return Err(wrong("either data or binary_data_size is required".to_owned())),
            (Some(TensorData { texts, bytes }), None) => match self.datatype.as_str() {
                "BYTES" if bytes.is_empty() => TensorElements::Texts(texts.into_iter().map(Text::Json).collect()),
                "UINT8" if texts.is_empty() => TensorElements::Bytes(bytes.into()),
                "BYTES" | "UINT8" => return Err(wrong(format!("data is not of the type {}", self.datatype))),
                other => return Err(wrong(unread_type(other))),
            },
            (None, Some(size)) => {
                let size = usize::try_from(size).ok().filter(|size| *size <= rest.len());
                let size =
                    size.ok_or_else(|| wrong("binary_data_size is larger than what follows the JSON".to_owned()))?;
                let bytes = rest.split_to(size);
                match self.datatype.as_str() {
                    "BYTES" => {
                        let texts = texts_of(bytes)
                            .ok_or_else(|| wrong("the lengths of its elements do not fit".to_owned()))?;
                        TensorElements::Texts(texts.into_iter().map(Text::Binary).collect())
                    }
                    "UINT8" => TensorElements::Bytes(bytes),
                    other => return Err(wrong(unread_type(other))),
                }
            }
        };
        let count = match &found {
            TensorElements::Texts(texts) => texts.len(),
            TensorElements::Bytes(bytes) => bytes.len(),
        };
        let promised = self
            .shape
            .iter()
            .try_fold(1_u64, |product, side| product.checked_mul(*side));
        if promised != Some(count as u64) {
            return Err(wrong(format!(
                "it has {count} elements, which is not what its shape comes to"
            )));
        }
        Ok(found)
    }
}

fn unread_type(datatype: &str) -> String {
    format!(
        "tensors of the type {:?} are not read, only BYTES and UINT8",
        excerpt(datatype)
    )
}

/// The elements of the type `BYTES` behind the JSON: each has its length before it, 32 bits in little-endian order.
fn texts_of(mut bytes: Bytes) -> Option<Vec<Bytes>> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.get(..4)?.try_into().map(u32::from_le_bytes).ok()? as usize;
        let _length = bytes.split_to(4);
        if length > bytes.len() {
            return None;
        }
        texts.push(bytes.split_to(length));
    }
    Some(texts)
}

/// A tensor that a reply brings along.
#[derive(Debug, Serialize, ToSchema)]
pub struct OutputTensor {
    /// `label_map`, `scores` or `classes`.
    #[schema(example = "scores")]
    pub name: &'static str,
    /// The type of its elements.
    #[schema(example = "FP32")]
    pub datatype: &'static str,
    /// The length of each dimension.
    #[schema(example = json!([2]))]
    pub shape: Vec<u64>,
    /// How many bytes of the tensor's elements follow the JSON, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<OutputParameters>,
    /// Its elements in row-major order, if they do not follow the JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Value>>)]
    pub data: Option<Values>,
}

/// Where the elements of a tensor are.
#[derive(Debug, Serialize, ToSchema)]
pub struct OutputParameters {
    /// Bytes of the tensor's elements behind the JSON.
    pub binary_data_size: usize,
}

/// The values of a tensor of a reply, which are as many as pixels: so they become JSON one by one, as it is written.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Values {
    /// Labels, `UINT16`.
    Labels(Vec<u16>),
    /// Probabilities, `FP32`.
    Floats(Vec<f32>),
    /// Names, `BYTES`.
    Names(Vec<String>),
}

impl OutputTensor {
    /// A tensor with its elements in JSON, or at the end of `rest`.
    pub(super) fn new(name: &'static str, shape: Vec<u64>, values: Values, rest: Option<&mut Vec<u8>>) -> Self {
        let datatype = match &values {
            Values::Labels(_) => "UINT16",
            Values::Floats(_) => "FP32",
            Values::Names(_) => "BYTES",
        };
        let tensor = Self {
            name,
            datatype,
            shape,
            parameters: None,
            data: None,
        };
        match rest {
            None => Self {
                data: Some(values),
                ..tensor
            },
            Some(rest) => {
                let before = rest.len();
                values.write(rest);
                let binary_data_size = rest.len() - before;
                Self {
                    parameters: Some(OutputParameters { binary_data_size }),
                    ..tensor
                }
            }
        }
    }
}

impl Values {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Labels(labels) => bytes.extend(labels.iter().flat_map(|label| label.to_le_bytes())),
            Self::Floats(floats) => bytes.extend(floats.iter().flat_map(|value| value.to_le_bytes())),
            Self::Names(names) => {
                for name in names {
                    let length = u32::try_from(name.len()).expect("a name is short");
                    bytes.extend(length.to_le_bytes());
                    bytes.extend(name.bytes());
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(tensor: &Value, rest: &'static [u8]) -> Result<TensorElements, String> {
        let mut tensor: InputTensor = serde_json::from_value(tensor.clone()).map_err(|error| error.to_string())?;
        tensor
            .elements(&mut Bytes::from_static(rest))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn elements_are_read_from_json_with_and_without_nesting() {
        let bytes = |data: Value| {
            read(
                &json!({"name": "pixels", "shape": [1, 2, 3], "datatype": "UINT8", "data": data}),
                b"",
            )
        };
        let expected = Ok(TensorElements::Bytes(Bytes::from_static(&[1, 2, 3, 4, 5, 255])));
        assert_eq!(bytes(json!([1, 2, 3, 4, 5, 255])), expected);
        assert_eq!(bytes(json!([[[1, 2, 3], [4, 5, 255]]])), expected);
        assert!(bytes(json!([1, 2])).unwrap_err().contains("has 2 elements"));
        assert!(bytes(json!([1, 2, 3, 4, 5, 256])).unwrap_err().contains("256"));
        assert!(bytes(json!(["a"])).unwrap_err().contains("not of the type UINT8"));
    }

    #[test]
    fn elements_are_read_from_behind_the_json() {
        let tensor = |datatype: &str, shape: Value, size: usize| json!({"name": "classes", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}});
        let texts = b"\x03\0\0\0cat\0\0\0\0";
        let expected = [Bytes::from_static(b"cat"), Bytes::new()].map(Text::Binary);
        assert_eq!(
            read(&tensor("BYTES", json!([2]), 11), texts),
            Ok(TensorElements::Texts(expected.into()))
        );
        assert!(
            read(&tensor("BYTES", json!([2]), 10), texts)
                .unwrap_err()
                .contains("lengths")
        );
        assert!(
            read(&tensor("BYTES", json!([2]), 12), texts)
                .unwrap_err()
                .contains("larger than what follows")
        );
        assert!(
            read(&tensor("FP32", json!([2]), 8), texts)
                .unwrap_err()
                .contains("only BYTES and UINT8")
        );
        let pixels = read(&tensor("UINT8", json!([3]), 3), b"abc");
        assert_eq!(pixels, Ok(TensorElements::Bytes(Bytes::from_static(b"abc"))));
    }

    #[test]
    fn a_shape_that_overflows_is_refused() {
        let tensor = json!({"name": "x", "shape": [u64::MAX, 2], "datatype": "UINT8", "data": []});
        assert!(read(&tensor, b"").unwrap_err().contains("shape"));
    }

    #[test]
    fn outputs_are_written_in_both_ways() {
        let names = || Values::Names(vec!["a".to_owned(), "bc".to_owned()]);
        let tensor = serde_json::to_value(OutputTensor::new("classes", vec![2], names(), None)).unwrap();
        assert_eq!(
            tensor,
            json!({"name": "classes", "datatype": "BYTES", "shape": [2], "data": ["a", "bc"]})
        );
        let labels = OutputTensor::new("label_map", vec![1, 2], Values::Labels(vec![7, 65535]), None);
        assert_eq!(
            serde_json::to_string(&labels).unwrap(),
            r#"{"name":"label_map","datatype":"UINT16","shape":[1,2],"data":[7,65535]}"#
        );
        let scores = OutputTensor::new("scores", vec![2], Values::Floats(vec![0.1, 1.0]), None);
        assert!(
            serde_json::to_string(&scores)
                .unwrap()
                .ends_with(r#""data":[0.1,1.0]}"#)
        );
        let mut rest = vec![9];
        let tensor = serde_json::to_value(OutputTensor::new("classes", vec![2], names(), Some(&mut rest))).unwrap();
        assert_eq!(tensor["parameters"], json!({"binary_data_size": 11}));
        assert_eq!(rest, b"\x09\x01\0\0\0a\x02\0\0\0bc");
    }
}
