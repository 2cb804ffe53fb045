//! How the JSON part of a multipart form stands in the OpenAPI document.

use std::borrow::Cow;
use std::marker::PhantomData;

use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A JSON body as the part `request` of a form, in which the image is a part of its own.
pub struct BodyInForm<T>(PhantomData<T>);

impl<T: PartialSchema> PartialSchema for BodyInForm<T> {
    fn schema() -> RefOr<Schema> {
        without_image::<T>()
    }
}

impl<T: ToSchema> ToSchema for BodyInForm<T> {
    fn name() -> Cow<'static, str> {
        format!("{}InForm", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        T::schemas(schemas);
    }
}

/// Returns the schema of a JSON body as the part `request` of a form: without `image`.
pub fn without_image<T: PartialSchema>() -> RefOr<Schema> {
    let mut schema = T::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.properties.remove("image");
        object.required.retain(|field| field != "image");
    }
    schema
}
