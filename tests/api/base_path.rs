//! The server under a path of a proxy, which takes the path off or leaves it to the server.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use regex::Regex;
use serde_json::json;
use url::Url;

use crate::support::{App, Reply, post_json, request, with_image};

/// Where browsers find the server.
const ROOT: &str = "http://proxy.test/tools/maskclip/";

/// A server behind a proxy.
struct Proxy {
    app: App,
    /// What the proxy takes off the path of each request.
    stripped: &'static str,
}

impl Proxy {
    /// A proxy that takes its path off, in front of a server that does not know it.
    async fn stripping() -> Self {
        let app = App::start_with(|config| config.server.allowed_hosts = vec!["proxy.test".to_owned()]).await;
        let stripped = "/tools/maskclip";
        Self { app, stripped }
    }

    /// A proxy that passes paths on as they are.
    async fn passing() -> Self {
        let app = App::start_with(|config| {
            config.server.allowed_hosts = vec!["proxy.test".to_owned()];
            config.server.base_path = "/tools/maskclip".to_owned();
        });
        Self {
            app: app.await,
            stripped: "",
        }
    }

    /// Passes on what a browser asks.
    async fn ask(&self, method: Method, url: &Url) -> Reply {
        assert!(url.as_str().starts_with(ROOT), "{url} lies elsewhere");
        let path = url.path().strip_prefix(self.stripped).expect("it lies below the root");
        let request = request(method, path).header("host", "proxy.test");
        self.app.send(request.body(Body::empty()).unwrap()).await
    }

    /// Passes on a `GET` that must be answered. Returns the text.
    async fn text(&self, url: &Url) -> String {
        let reply = self.ask(Method::GET, url).await;
        assert_eq!(reply.status, StatusCode::OK, "{url}");
        String::from_utf8_lossy(&reply.body).into_owned()
    }
}

/// The addresses that a pattern finds in a text, as a browser resolves them on the page.
fn addresses(pattern: &str, text: &str, page: &Url) -> Vec<Url> {
    let pattern = Regex::new(pattern).unwrap();
    let found: Vec<_> = pattern
        .captures_iter(text)
        .map(|found| page.join(&found[1]).unwrap())
        .collect();
    assert!(!found.is_empty(), "nothing like {pattern} in {page}");
    found
}

async fn everything_is_found_behind(proxy: &Proxy) {
    let root = Url::parse(ROOT).unwrap();
    let page = proxy.text(&root).await;
    for url in addresses(r#"(?:src|href)="([^"]+)""#, &page, &root) {
        proxy.text(&url).await;
    }

    // The scripts of the page.
    let script = root.join("assets/app.js").unwrap();
    let mut code = proxy.text(&script).await;
    for url in addresses(r#"from "([^"]+)""#, &code, &script) {
        code.push_str(&proxy.text(&url).await);
    }
    for url in addresses(r#"getJson\("([^"]+)"\)"#, &code, &root) {
        proxy.text(&url).await;
    }
    for url in addresses(r#"post(?:Json|Image)\("([^"]+)","#, &code, &root) {
        // They are there, but answer another method.
        let reply = proxy.ask(Method::GET, &url).await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{url}");
    }

    // Swagger UI, the document it loads, and the addresses that the document gives.
    let docs = root.join("docs").unwrap();
    let moved = proxy.ask(Method::GET, &docs).await;
    assert_eq!(moved.status, StatusCode::PERMANENT_REDIRECT);
    let docs = docs.join(moved.header("location")).unwrap();
    let page = proxy.text(&docs).await;
    for url in addresses(r#"(?:src|href)="([^"]+)""#, &page, &docs) {
        proxy.text(&url).await;
    }
    let initializer = proxy.text(&docs.join("swagger-initializer.js").unwrap()).await;
    let document = &addresses(r#""url": "([^"]+)""#, &initializer, &docs)[0];
    let text = proxy.text(document).await;
    assert_eq!(addresses(r"servers:\n *- url: (\S+)", &text, document), [root]);
}

#[tokio::test]
async fn a_proxy_may_take_its_path_off() {
    everything_is_found_behind(&Proxy::stripping().await).await;
}

#[tokio::test]
async fn a_proxy_may_leave_its_path_on() {
    let proxy = Proxy::passing().await;
    everything_is_found_behind(&proxy).await;
    // Whoever leaves the last slash out is told the address of the page.
    let bare = Url::parse(ROOT.trim_end_matches('/')).unwrap();
    let moved = proxy.app.get(bare.path()).await;
    assert_eq!(moved.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(bare.join(moved.header("location")).unwrap().as_str(), ROOT);
}

#[tokio::test]
async fn an_image_is_dropped_where_the_answer_says() {
    for proxy in [Proxy::stripping().await, Proxy::passing().await] {
        let images = Url::parse(ROOT).unwrap().join("v1/images").unwrap();
        let path = images.path().strip_prefix(proxy.stripped).unwrap();
        let mut upload = post_json(path, &with_image(json!({})));
        upload.headers_mut().insert("host", "proxy.test".parse().unwrap());
        let created = proxy.app.send(upload).await;
        assert_eq!(created.status, StatusCode::CREATED);
        let image = images.join(created.header("location")).unwrap();
        let dropped = proxy.ask(Method::DELETE, &image).await;
        assert_eq!(dropped.status, StatusCode::NO_CONTENT, "{image}");
    }
}

#[tokio::test]
async fn the_routes_are_there_without_the_path_and_counted_as_the_same() {
    let Proxy { app, .. } = Proxy::passing().await;
    app.get("/v1/models").await.ok();
    app.get("/tools/maskclip/v1/models").await.ok();
    let counted = r#"maskclip_http_requests_total{method="GET",route="/v1/models",status="200"}"#;
    assert_eq!(app.metric(counted).await, 2);
    for elsewhere in ["/tools/v1/models", "/tools/maskclips/v1/models", "/maskclip/v1/models"] {
        assert_eq!(app.get(elsewhere).await.status, StatusCode::NOT_FOUND, "{elsewhere}");
    }
}
