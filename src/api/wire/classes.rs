//! Classes, in requests and replies.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::vocabulary::Class;

/// A name: printable, not blank, and at most `limits.max_name_characters` characters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, min_length = 1, pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$")]
pub struct Name(pub String);

/// One class: a name alone, or a name with synonyms.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ClassBody {
    /// A name, at most `limits.max_name_characters` characters.
    Name(Name),
    /// A name with synonyms.
    Detail(ClassDetail),
}

/// A name with other names for the same thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassDetail {
    /// The name, at most `limits.max_name_characters` characters.
    #[schema(value_type = Name, example = "person")]
    pub name: String,
    /// Other names for the same thing, averaged with the name or scored apart (`synonyms`); at most
    /// `limits.max_synonyms`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Name>, example = json!(["man", "woman"]))]
    pub synonyms: Vec<String>,
}

impl ClassBody {
    /// The name alone.
    pub(in crate::api) fn name(&self) -> &str {
        match self {
            Self::Name(Name(name)) => name,
            Self::Detail(detail) => &detail.name,
        }
    }
}

impl From<ClassBody> for Class {
    fn from(body: ClassBody) -> Self {
        match body {
            ClassBody::Name(Name(name)) => name.into(),
            ClassBody::Detail(ClassDetail { name, synonyms }) => Self { name, synonyms },
        }
    }
}

impl From<Class> for ClassBody {
    fn from(class: Class) -> Self {
        if class.synonyms.is_empty() {
            Self::Name(Name(class.name))
        } else {
            Self::Detail(ClassDetail {
                name: class.name,
                synonyms: class.synonyms,
            })
        }
    }
}

// By hand, like the other types of several forms. serde's untagged enums lose the path of what is wrong and say of a typo in
// `synonyms` only that no variant matched. The crate serde_untagged reports broken JSON inside an object as wrong data, which
// would be a 422 instead of a 400.
impl<'de> Deserialize<'de> for ClassBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = ClassBody;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a name or an object with name and synonyms")
            }

            fn visit_str<E>(self, name: &str) -> Result<ClassBody, E> {
                Ok(ClassBody::Name(Name(name.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ClassBody, A::Error> {
                ClassDetail::deserialize(MapAccessDeserializer::new(map)).map(ClassBody::Detail)
            }
        }

        deserializer.deserialize_any(Forms)
    }
}
