//! The OpenAPI document: what the annotations of the routes come to, and what they cannot say.
//!
//! Owns the form that programs need which make clients of the document: branches with names, descriptions where they
//! are read, no null where none is taken, and fields that exclude each other.

use std::collections::HashMap;

use serde_json::{Value, json};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::schema::{Discriminator, OneOf, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{OpenApi, Ref, RefOr, Schema, Server};

use super::documented;
use super::problem::ProblemType;

/// The OpenAPI document of [`router`](super::router), as it stands in `openapi.yaml`.
pub fn openapi_yaml() -> String {
    let mut openapi = documented().into_openapi();
    // Where the document is, whatever path a proxy puts in front.
    openapi.servers = Some(vec![Server::new(".")]);
    let paths = openapi.paths.paths.values_mut();
    for operation in paths.flat_map(|item| {
        [&mut item.get, &mut item.put, &mut item.post, &mut item.delete]
            .into_iter()
            .flatten()
    }) {
        take_null_from_headers(operation);
        say_what_is_open(operation);
    }
    name_branches(&mut openapi);
    raise_descriptions(&mut openapi);
    write_exclusions(&mut openapi);
    let description = openapi.info.description.get_or_insert_default();
    description.push('\n');
    description.push_str(&ProblemType::table());
    openapi.to_yaml().expect("the document is plain data")
}

/// Says of headers that they are texts. An optional one can be left out, but it is never null.
fn take_null_from_headers(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && parameter.parameter_in == ParameterIn::Header
            && let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
        {
            schema.schema_type = SchemaType::Type(Type::String);
        }
    }
}

/// Says of an open operation that it needs nothing by an empty list, which generators of clients understand. They take a
/// list of an empty requirement for one that may be met.
fn say_what_is_open(operation: &mut Operation) {
    if operation.security == Some(vec![SecurityRequirement::default()]) {
        operation.security = Some(Vec::new());
    }
}

/// Makes a schema with a name of every branch that a tag tells apart, as `LabelMapReplyPng` of `LabelMapReply` with the
/// tag `png`, and says which property is the tag. Generators number branches without names. A schema with one branch is
/// that branch.
fn name_branches(openapi: &mut OpenApi) {
    let components = openapi.components.as_mut().expect("the document has schemas");
    let mut named = Vec::new();
    for (parent, schema) in &mut components.schemas {
        let RefOr::T(schema) = schema else { continue };
        let Schema::OneOf(one_of) = schema else { continue };
        let tags: Vec<_> = one_of.items.iter().filter_map(tag).collect();
        if tags.len() != one_of.items.len() {
            continue;
        }
        if let [RefOr::T(Schema::Object(branch))] = one_of.items.as_slice() {
            let mut branch = branch.clone();
            branch.description.clone_from(&one_of.description);
            *schema = Schema::Object(branch);
            continue;
        }
        let names: Vec<_> = tags
            .iter()
            .map(|(_, value)| format!("{parent}{}", pascal_case(value)))
            .collect();
        let location = |name: &String| format!("#/components/schemas/{name}");
        let mapping = tags
            .iter()
            .zip(&names)
            .map(|((_, value), name)| (value.clone(), location(name)));
        one_of.discriminator = Some(Discriminator::with_mapping(tags[0].0.clone(), mapping));
        for (branch, name) in one_of.items.iter_mut().zip(names) {
            let branch = std::mem::replace(branch, RefOr::Ref(Ref::from_schema_name(&name)));
            named.push((name, branch));
        }
    }
    components.schemas.extend(named);
}

/// The property of a branch that has one value alone, and the value.
fn tag(branch: &RefOr<Schema>) -> Option<(String, String)> {
    let RefOr::T(Schema::Object(branch)) = branch else {
        return None;
    };
    branch.properties.iter().find_map(|(name, property)| match property {
        RefOr::T(Schema::Object(property)) => match property.enum_values.as_deref() {
            Some([value]) => Some((name.clone(), value.as_str()?.to_owned())),
            _ => None,
        },
        _ => None,
    })
}

/// Returns `coco-rle` as `CocoRle`.
fn pascal_case(kebab_case: &str) -> String {
    let words = kebab_case.split('-').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_ascii_uppercase() + rest
    });
    words.collect()
}

/// Moves the description of an optional property from beside its `$ref`, where it is one of two branches and generators
/// pass it over, to the property.
fn raise_descriptions(openapi: &mut OpenApi) {
    let components = openapi.components.as_mut().expect("the document has schemas");
    for schema in components.schemas.values_mut() {
        let RefOr::T(Schema::Object(schema)) = schema else {
            continue;
        };
        for property in schema.properties.values_mut() {
            if let RefOr::T(Schema::OneOf(OneOf { items, description, .. })) = property
                && let [RefOr::Ref(reference), _null] = items.as_mut_slice()
                && description.is_none()
            {
                *description = Some(std::mem::take(&mut reference.description));
            }
        }
    }
}

/// Writes which fields of the bodies of `POST /v1/segment` and `POST /v1/classify` exclude each other, and of which one
/// is needed. A schema says so by what it is `not`, which programs that make clients pass over; for `oneOf` they would
/// make a type for each case.
fn write_exclusions(openapi: &mut OpenApi) {
    let components = openapi.components.as_mut().expect("the document has schemas");
    let of_classes: [(&str, &[&str]); 2] = [
        ("SegmentBody", &["classes", "vocabulary", "protocol"]),
        ("ClassifyBody", &["classes", "vocabulary"]),
    ];
    for (name, classes) in of_classes {
        let Some(RefOr::T(Schema::Object(schema))) = components.schemas.get_mut(name) else {
            unreachable!("the body is an object of the document");
        };
        let excluded = json!([
            both(["image", "image_id"]),
            none(&["image", "image_id"]),
            both(["classes", "vocabulary"]),
            none(classes),
        ]);
        schema.extensions = Some(Extensions::from_iter([("not", json!({"anyOf": excluded}))]));
    }
}

/// The schema of objects that have both fields.
fn both(fields: [&str; 2]) -> Value {
    let given = |field| (field, json!({"not": {"type": "null"}}));
    json!({"required": fields, "properties": HashMap::from(fields.map(given))})
}

/// The schema of objects that have none of the fields.
fn none(fields: &[&str]) -> Value {
    let properties: HashMap<_, _> = fields.iter().map(|field| (field, json!({"type": "null"}))).collect();
    json!({"properties": properties})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_several_words_is_written_in_one() {
        assert_eq!(pascal_case("png"), "Png");
        assert_eq!(pascal_case("coco-rle"), "CocoRle");
    }
}
