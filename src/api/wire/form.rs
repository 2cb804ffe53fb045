//! How the JSON part of a multipart form stands in the OpenAPI document.

use utoipa::PartialSchema;
use utoipa::openapi::{RefOr, Schema};

/// Returns the schema of a JSON body as the part `request` of a form: without `image`, which is a part of its own.
pub fn without_image<T: PartialSchema>() -> RefOr<Schema> {
    let mut schema = T::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.properties.remove("image");
        object.required.retain(|field| field != "image");
    }
    schema
}
