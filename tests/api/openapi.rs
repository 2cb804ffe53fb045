//! The OpenAPI document equals the committed one, is served, and describes what the router does.

use std::path::Path;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use maskclip::api::openapi_yaml;

use crate::support::{App, DOCUMENT, request};

#[test]
fn openapi_yaml_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.yaml");
    let generated = openapi_yaml();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "openapi.yaml is not what the router says; run: UPDATE_OPENAPI=1 cargo test --test api openapi"
    );
}

#[tokio::test]
async fn the_document_is_served() {
    let app = App::start().await;
    let reply = app.get("/openapi.yaml").await;
    assert_eq!(reply.header("content-type"), "application/yaml");
    assert_eq!(reply.body, openapi_yaml());
}

/// An unknown route would be a 404 of the kind route-not-found, an unknown method a 405.
#[tokio::test]
async fn every_documented_operation_is_served() {
    let app = App::start().await;
    for (path, operations) in DOCUMENT["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let reply = app
                .send(
                    request(
                        method.clone(),
                        &path.replace("{model}", "colours").replace(['{', '}'], ""),
                    )
                    .body(Body::empty())
                    .unwrap(),
                )
                .await;
            assert_ne!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            if reply.status == StatusCode::NOT_FOUND {
                assert_ne!(reply.json()["type"], "/problems/route-not-found", "{method} {path}");
            }
        }
    }
}

#[test]
fn every_kind_of_problem_is_documented_with_its_status() {
    let description = DOCUMENT["info"]["description"].as_str().unwrap();
    let kinds = DOCUMENT["components"]["schemas"]["ProblemType"]["enum"]
        .as_array()
        .unwrap();
    assert!(kinds.len() >= 33);
    for kind in kinds {
        assert!(description.contains(&format!("`{}`", kind.as_str().unwrap())), "{kind}");
    }
}

#[test]
fn every_schema_that_is_referred_to_is_there() {
    let text = DOCUMENT.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(DOCUMENT["components"]["schemas"][name].is_object(), "{name}");
    }
}

#[tokio::test]
async fn the_documentation_page_loads_nothing_from_elsewhere() {
    let app = App::start().await;
    assert_eq!(app.get("/docs").await.header("location"), "docs/");
    let page = app.get("/docs/").await;
    let html = String::from_utf8(page.body.to_vec()).unwrap();
    assert_eq!(page.header("content-type"), "text/html");
    for attribute in ["src=\"", "href=\""] {
        for address in html
            .split(attribute)
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
        {
            assert!(!address.contains("//"), "{address}");
            let path = format!("/docs/{}", address.trim_start_matches("./"));
            assert_eq!(app.get(&path).await.status, StatusCode::OK, "{path}");
        }
    }
    let initializer = app.get("/docs/swagger-initializer.js").await;
    assert!(
        String::from_utf8(initializer.body.to_vec())
            .unwrap()
            .contains("/openapi.yaml")
    );
}
