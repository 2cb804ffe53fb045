//! The forms in which the clients of a protocol expect an error. What an error is, and its status, are the same in all.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response};

use super::{PROBLEM_JSON, Problem};

/// The body of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum ErrorForm {
    /// RFC 9457 problem details.
    Problem,
    /// OpenAI's: an object `error` with a message, a type and a code.
    OpenAi,
    /// A text under `error`, as Hugging Face's servers and those of the Open Inference Protocol have it.
    Message,
}

impl ErrorForm {
    /// Returns the form for the clients of a path, or of a route in its place.
    pub(in crate::api) fn of_path(path: &str, method: &str) -> Self {
        match path {
            "/v1/embeddings" => Self::OpenAi,
            "/" if method == Method::POST.as_str() => Self::Message,
            _ if path == "/v2" || path.starts_with("/v2/") => Self::Message,
            _ => Self::Problem,
        }
    }

    /// Returns the media type of the body.
    pub(in crate::api) fn media_type(self) -> &'static str {
        match self {
            Self::Problem => PROBLEM_JSON,
            Self::OpenAi | Self::Message => "application/json",
        }
    }

    /// Returns the body that tells of a problem.
    pub(in crate::api) fn body(self, problem: &Problem) -> Vec<u8> {
        let body = match self {
            Self::Problem => serde_json::to_vec(problem),
            Self::OpenAi => serde_json::to_vec(&OpenAiError::from(problem)),
            Self::Message => serde_json::to_vec(&ErrorMessage::from(problem)),
        };
        body.expect("an error is plain strings and numbers")
    }

    /// Writes what a response of the document has in this form.
    pub(super) fn write_content(self, response: &mut Response) {
        let schema = match self {
            Self::Problem => return,
            Self::OpenAi => OpenAiError::name(),
            Self::Message => ErrorMessage::name(),
        };
        let content = ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name(&*schema))));
        response.content = [(self.media_type().to_owned(), content.build().into())]
            .into_iter()
            .collect();
    }
}

/// An error in OpenAI's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct OpenAiError {
    /// The error.
    pub error: OpenAiErrorDetail,
}

/// What is wrong, in OpenAI's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct OpenAiErrorDetail {
    /// What is wrong with this request, for people.
    #[schema(example = "input must not be empty")]
    pub message: String,
    /// Whose fault it is.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub kind: &'static str,
    /// The field at fault, as in `input[1]`.
    #[schema(required)]
    pub param: Option<String>,
    /// The kind of problem: the end of its `type` elsewhere, after `/problems/`.
    #[schema(example = "invalid-request")]
    pub code: &'static str,
}

impl From<&Problem> for OpenAiError {
    fn from(problem: &Problem) -> Self {
        let kind = match problem.status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        Self {
            error: OpenAiErrorDetail {
                message: words(problem),
                kind,
                param: problem.path.clone(),
                code: problem.kind.name(),
            },
        }
    }
}

/// An error as a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorMessage {
    /// What is wrong with this request, for people.
    #[schema(example = "one of classes and vocabulary is required")]
    pub error: String,
}

impl From<&Problem> for ErrorMessage {
    fn from(problem: &Problem) -> Self {
        Self { error: words(problem) }
    }
}

/// Returns what is wrong, with the field at fault where the text does not begin with it.
fn words(problem: &Problem) -> String {
    match (&problem.detail, &problem.path) {
        (None, _) => problem.title.to_owned(),
        (Some(detail), Some(path)) if !detail.starts_with(path.as_str()) => format!("{path}: {detail}"),
        (Some(detail), _) => detail.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::problem::ProblemType;

    fn problem(kind: ProblemType, detail: &str, path: Option<&str>) -> Problem {
        Problem {
            kind,
            title: kind.title(),
            status: kind.status().as_u16(),
            detail: Some(detail.to_owned()),
            instance: None,
            path: path.map(str::to_owned),
            limit: None,
            models: None,
        }
    }

    fn written(form: ErrorForm, problem: &Problem) -> Value {
        serde_json::from_slice(&form.body(problem)).expect("JSON")
    }

    #[test]
    fn each_protocol_has_the_form_of_its_clients() {
        let form = |route| ErrorForm::of_path(route, "POST");
        assert_eq!(form("/v1/segment"), ErrorForm::Problem);
        assert_eq!(form("/v1/embeddings"), ErrorForm::OpenAi);
        assert_eq!(form("/"), ErrorForm::Message);
        assert_eq!(form("/v2/models/{model}/infer"), ErrorForm::Message);
        assert_eq!(ErrorForm::of_path("/", "GET"), ErrorForm::Problem);
    }

    #[test]
    fn a_problem_is_told_in_each_form() {
        let invalid = problem(ProblemType::InvalidRequest, "must not be empty", Some("input[1]"));
        assert_eq!(
            written(ErrorForm::OpenAi, &invalid),
            json!({"error": {
                "message": "input[1]: must not be empty",
                "type": "invalid_request_error",
                "param": "input[1]",
                "code": "invalid-request",
            }})
        );
        let overloaded = problem(ProblemType::Overloaded, "full", None);
        assert_eq!(
            written(ErrorForm::OpenAi, &overloaded)["error"]["type"],
            "rate_limit_error"
        );
        assert_eq!(written(ErrorForm::Message, &overloaded), json!({"error": "full"}));
        let internal = Problem {
            detail: None,
            ..problem(ProblemType::Internal, "", None)
        };
        assert_eq!(
            written(ErrorForm::Message, &internal),
            json!({"error": "Internal error"})
        );
    }
}
