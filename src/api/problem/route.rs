//! The problems that a route can answer with, as its operation in the OpenAPI document lists them.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use utoipa::PartialSchema;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

use super::PROBLEM_JSON;
use super::form::ErrorForm;
use super::kind::ProblemType;

/// Declares the problems of a route: the form of its errors, whether it needs a key, kinds that several routes have in
/// common, and the route's own. The kinds that every route has come by themselves.
macro_rules! problems {
    ($($(#[$attribute:meta])* $visibility:vis $name:ident
        = $form:ident.$key:ident($($group:ident +)* [$($kind:ident),* $(,)?]);)+) => {$(
        $(#[$attribute])*
        $visibility struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
                $crate::api::problem::ErrorForm::$form.$key(&[
                    $($crate::api::problem::ProblemType::$group,)*
                    &[$($crate::api::problem::ProblemType::$kind),*],
                ])
            }
        }
    )+};
}

pub(in crate::api) use problems;

problems! {
    /// A route that needs a key, and has no problems of its own.
    pub(in crate::api) KeyProblems = Problem.with_key([]);

    /// A route that has no problems of its own.
    pub(in crate::api) NoProblems = Problem.without_key([]);
}

/// Kinds that several routes have in common.
impl ProblemType {
    /// A body that is read.
    pub(in crate::api) const OF_BODY: &'static [Self] = &[
        Self::Malformed,
        Self::RequestTimeout,
        Self::RequestTooLarge,
        Self::UnsupportedContentEncoding,
        Self::InvalidRequest,
        Self::Overloaded,
    ];

    /// An image that a model looks at.
    pub(in crate::api) const OF_LABELLING: &'static [Self] = &[
        Self::ImageTooLarge,
        Self::UndecodableImage,
        Self::UnsupportedByModel,
        Self::Unavailable,
        Self::ModelUnavailable,
        Self::DeadlineExceeded,
    ];

    /// A key that is needed.
    const OF_KEY: &'static [Self] = &[Self::Unauthorized, Self::Forbidden, Self::Quota];

    /// Every route.
    const OF_ALL: &'static [Self] = &[Self::ForeignOrigin, Self::ForeignHost, Self::Internal];
}

impl ErrorForm {
    /// Returns the problems of a route that needs a key, one response for each status.
    pub(in crate::api) fn with_key(self, kinds: &[&[ProblemType]]) -> BTreeMap<String, RefOr<Response>> {
        self.without_key(&[ProblemType::OF_KEY, &kinds.concat()])
    }

    /// Returns the problems of a route that needs no key, one response for each status.
    pub(in crate::api) fn without_key(self, kinds: &[&[ProblemType]]) -> BTreeMap<String, RefOr<Response>> {
        let kinds: BTreeSet<_> = kinds
            .iter()
            .copied()
            .chain([ProblemType::OF_ALL])
            .flatten()
            .copied()
            .collect();
        let mut by_status = BTreeMap::<_, Vec<ProblemType>>::new();
        for kind in kinds {
            by_status.entry(kind.status()).or_default().push(kind);
        }
        let of_status = |(status, kinds): (StatusCode, Vec<_>)| {
            let mut response = response(&kinds);
            self.write_content(&mut response);
            (status.as_str().to_owned(), response.into())
        };
        by_status.into_iter().map(of_status).collect()
    }
}

/// One status with the kinds of problems it stands for.
fn response(kinds: &[ProblemType]) -> Response {
    let meanings: Vec<_> = kinds
        .iter()
        .map(|kind| format!("`{}`: {}", kind.uri(), kind.meaning()))
        .collect();
    let mut content = ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name("Problem"))));
    for kind in kinds {
        let value = serde_json::json!({"type": kind.uri(), "title": kind.title(), "status": kind.status().as_u16()});
        content = content.examples_from_iter([(kind.name(), ExampleBuilder::new().value(Some(value)).build())]);
    }
    let mut response = ResponseBuilder::new()
        .description(meanings.join("\n\n"))
        .content(PROBLEM_JSON, content.build());
    if kinds.iter().any(|kind| kind.has_retry_after()) {
        response = response.header(
            "retry-after",
            HeaderBuilder::new()
                .description(Some("Seconds to wait before the request is sent again."))
                .schema(Some(u64::schema()))
                .build(),
        );
    }
    if kinds.contains(&ProblemType::Unauthorized) || kinds.contains(&ProblemType::Forbidden) {
        response = response.header(
            "www-authenticate",
            HeaderBuilder::new()
                .description(Some("What is missing, by RFC 6750."))
                .schema(Some(String::schema()))
                .build(),
        );
    }
    response.build()
}
