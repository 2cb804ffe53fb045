//! What parsers say of a request, in the words of whoever wrote it.
//!
//! serde's errors are texts about Rust's types. Their forms are few and documented (`serde::de::Error`), so they are
//! read here and said again. A text of another form stays as it is.

use std::error::Error;

use super::error::ApiError;
use crate::support::{excerpt, without_middle};

/// What is wrong with a value, and with which field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The field, as in `classes[1].name`; `None` for the request as a whole.
    path: Option<String>,
    detail: String,
}

impl Fault {
    /// Reads an error of serde about the value at a path, `.` for the whole.
    pub(super) fn read(path: &str, message: &str) -> Self {
        let message = without_place(message);
        let field = (path != ".").then(|| path.to_owned());
        let whole = || field.clone().unwrap_or_else(|| "the request".to_owned());
        let says = |path, detail| Self { path, detail };
        if let Some(name) = between(message, "missing field `", "`") {
            let path = below(field.as_deref(), name);
            let detail = format!("{path} is missing");
            return says(Some(path), detail);
        }
        if let Some(name) = between(message, "duplicate field `", "`") {
            let path = below(field.as_deref(), name);
            let detail = format!("{path} is there twice");
            return says(Some(path), detail);
        }
        if let Some((name, known)) = given_and_expected(message, "unknown field `") {
            // The path ends with the field already, where the parser knows it.
            let path = match &field {
                Some(field) if field.rsplit('.').next() == Some(name) => field.clone(),
                field => below(field.as_deref(), name),
            };
            let detail = format!("there is no field {}; there {known}", without_middle(path.clone()));
            return says(Some(path), detail);
        }
        if let Some((value, known)) = given_and_expected(message, "unknown variant `") {
            let known = known.trim_start_matches("is ").trim_start_matches("are ");
            let detail = format!("{} must be one of {known}, not {:?}", whole(), excerpt(value));
            return says(field, detail);
        }
        let wrong = ["invalid type: ", "invalid value: ", "invalid length "];
        let wrong = wrong
            .iter()
            .find_map(|start| message.strip_prefix(start)?.rsplit_once(", expected "));
        if let Some((value, expected)) = wrong {
            let detail = format!("{} must be {}, not {}", whole(), kind(expected), given(value));
            return says(field, detail);
        }
        let detail = match &field {
            Some(field) => format!("{field}: {message}"),
            None => message.to_owned(),
        };
        says(field, detail)
    }
}

impl From<Fault> for ApiError {
    fn from(Fault { path, detail }: Fault) -> Self {
        Self::Invalid {
            path: path.map(without_middle),
            detail: without_middle(detail),
            limit: None,
        }
    }
}

/// Returns what stands at the bottom of an error: what has happened, without who came across it on the way.
pub(super) fn root(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Returns what is wrong with a text that is no JSON.
pub(super) fn of_syntax(error: &dyn Error) -> String {
    error.to_string().replace("EOF while parsing", "it ends within")
}

/// Returns a message of serde_json without its line and column: the path says where it is.
fn without_place(message: &str) -> &str {
    let place = message.rsplit_once(" at line ");
    match place {
        Some((before, place))
            if place
                .bytes()
                .all(|byte| byte.is_ascii_digit() || b" column".contains(&byte)) =>
        {
            before
        }
        _ => message,
    }
}

fn between<'a>(message: &'a str, start: &str, end: &str) -> Option<&'a str> {
    message.strip_prefix(start)?.strip_suffix(end)
}

/// Returns a name that a request gives, and those that there are, as in "are name, synonyms".
fn given_and_expected<'a>(message: &'a str, start: &str) -> Option<(&'a str, String)> {
    let rest = message.strip_prefix(start)?;
    // What is expected comes last, and has nothing of the request in it.
    let (name, known) = match rest.rsplit_once("`, expected ") {
        Some((name, known)) => (name, known),
        None => (rest.rsplit_once("`, there are no ")?.0, ""),
    };
    let names: Vec<_> = known.split('`').skip(1).step_by(2).collect();
    let known = match names.as_slice() {
        [] => "are none".to_owned(),
        [one] => format!("is {one}"),
        names => format!("are {}", names.join(", ")),
    };
    Some((name, known))
}

fn below(path: Option<&str>, name: &str) -> String {
    match path {
        Some(path) => format!("{path}.{name}"),
        None => name.to_owned(),
    }
}

/// Returns what serde expects, in JSON's words.
fn kind(expected: &str) -> String {
    let word = match expected {
        "a map" | "an object" => "an object",
        "a sequence" => "a list",
        "a string" | "a borrowed string" => "a string",
        "a boolean" => "true or false",
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        _ if expected.starts_with("struct ") => "an object",
        _ => expected,
    };
    word.to_owned()
}

/// Returns what the request has, in JSON's words.
fn given(value: &str) -> String {
    let number = ["integer `", "floating point `", "boolean `"];
    let number = number.iter().find_map(|start| between(value, start, "`"));
    let word = match value {
        "map" => "an object",
        "sequence" => "a list",
        "unit value" => "null",
        _ => number.or_else(|| value.strip_prefix("string ")).unwrap_or(value),
    };
    excerpt(word)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only errors are looked at")]
    struct Thing {
        name: String,
        #[serde(default)]
        share: Option<f32>,
        #[serde(default)]
        parts: Vec<Thing>,
        #[serde(default)]
        form: Option<Form>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Form {
        Round,
        VeryFlat,
    }

    /// What is said of a text, and the path.
    fn said(json: &str) -> (String, String) {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let error = serde_path_to_error::deserialize::<_, Thing>(&mut deserializer).unwrap_err();
        let fault = Fault::read(&error.path().to_string(), &error.inner().to_string());
        (fault.detail, fault.path.unwrap_or_default())
    }

    #[test]
    fn what_is_wrong_is_said_in_the_words_of_the_request() {
        for (json, detail, path) in [
            (r#"{"share": 1}"#, "name is missing", "name"),
            (
                r#"{"name": "a", "parts": [{}]}"#,
                "parts[0].name is missing",
                "parts[0].name",
            ),
            (r#"{"name": "a", "name": "b"}"#, "name is there twice", "name"),
            (
                r#"{"name": "a", "size": 1}"#,
                "there is no field size; there are name, share, parts, form",
                "size",
            ),
            (
                r#"{"name": "a", "parts": [{"nme": "a"}]}"#,
                "there is no field parts[0].nme; there are name, share, parts, form",
                "parts[0].nme",
            ),
            (
                r#"{"name": "a", "form": "flat`, expected `x"}"#,
                "form must be one of round, very-flat, not \"flat`, expected `x\"",
                "form",
            ),
            (r#"{"name": 7}"#, "name must be a string, not 7", "name"),
            (r#"{"name": null}"#, "name must be a string, not null", "name"),
            (r#"{"name": ["a"]}"#, "name must be a string, not a list", "name"),
            (
                r#"{"name": "a", "share": "b, expected c"}"#,
                "share must be a number, not \"b, expected c\"",
                "share",
            ),
            (
                r#"{"name": "a", "parts": {}}"#,
                "parts must be a list, not an object",
                "parts",
            ),
            (
                r#"{"name": "a", "parts": [5]}"#,
                "parts[0] must be an object, not 5",
                "parts[0]",
            ),
            ("true", "the request must be an object, not true", ""),
            (r#""text""#, "the request must be an object, not \"text\"", ""),
        ] {
            assert_eq!(said(json), (detail.to_owned(), path.to_owned()), "{json}");
        }
    }

    #[test]
    fn a_text_of_another_form_stays_with_its_field_before_it() {
        let fault = Fault::read("protocol", "there is no such protocol at line 1 column 9");
        assert_eq!(fault.detail, "protocol: there is no such protocol");
        assert_eq!(Fault::read(".", "too deep").detail, "too deep");
    }

    #[test]
    fn a_text_that_ends_too_early_says_where() {
        let error = serde_json::from_str::<Thing>(r#"{"name": "a"#).unwrap_err();
        assert_eq!(of_syntax(&error), "it ends within a string at line 1 column 11");
    }
}
