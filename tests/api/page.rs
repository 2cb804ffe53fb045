//! The page and its files.

use axum::body::Body;
use axum::http::{Method, StatusCode, header};

use crate::support::{App, request};

#[tokio::test]
async fn the_page_and_everything_it_refers_to_is_served() {
    let app = App::start().await;
    let page = app.get("/").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (StatusCode::OK, "text/html")
    );
    let html = String::from_utf8(page.body.to_vec()).unwrap();
    let mut assets = 0;
    for path in html.split('"').filter(|text| text.starts_with("assets/")) {
        assert_eq!(app.get(&format!("/{path}")).await.status, StatusCode::OK, "{path}");
        assets += 1;
    }
    assert!(assets > 0, "the page has a style sheet and a script");
    for module in modules(&app).await {
        let reply = app.get(&format!("/assets/{module}")).await;
        assert_eq!(reply.header("content-type"), "text/javascript", "{module}");
    }
    assert_eq!(
        app.get("/assets/app.js").await.header("content-type"),
        "text/javascript"
    );
    assert_eq!(app.get("/assets/style.css").await.header("content-type"), "text/css");
}

/// `app.js` and all modules that it imports, or that those do.
async fn modules(app: &App) -> Vec<String> {
    let mut found = vec!["app.js".to_owned()];
    let mut read = 0;
    while let Some(module) = found.get(read) {
        let reply = app.get(&format!("/assets/{module}")).await;
        assert_eq!(reply.status, StatusCode::OK, "{module}");
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        for import in text.split("from \"./").skip(1) {
            let name = import.split('"').next().unwrap().to_owned();
            if !found.contains(&name) {
                found.push(name);
            }
        }
        read += 1;
    }
    found
}

#[tokio::test]
async fn a_browser_that_holds_the_page_gets_304_without_a_body() {
    let app = App::start().await;
    let page = app.get("/").await;
    assert_eq!(page.header("cache-control"), "no-cache");
    let again = request(Method::GET, "/").header(header::IF_NONE_MATCH, page.header("etag"));
    let reply = app.send(again.body(Body::empty()).unwrap()).await;
    assert_eq!((reply.status, reply.body.len()), (StatusCode::NOT_MODIFIED, 0));
    assert_eq!(reply.header("etag"), page.header("etag"));
}
