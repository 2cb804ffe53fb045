//! HTTP: the router, one file per resource, the wire types and the one shape of errors.
//!
//! Owns everything a client sees of HTTP. Builds on [`engine`](crate::engine) through plain data and knows
//! nothing of models. Router and OpenAPI document come from the same annotations: see [`openapi_yaml`].

mod accept;
mod authorisation;
mod base_path;
mod body;
mod browsers;
mod class_choice;
mod classify;
mod client_address;
mod compression;
mod connection;
mod connection_clock;
mod docs;
mod document;
mod error;
mod etag;
mod health;
mod http_metrics;
mod images;
mod lifecycle;
mod metered;
mod metrics;
mod middleware;
mod models;
mod page;
mod problem;
mod protocols;
mod reply_body;
mod request_body;
mod routing;
mod segment;
mod serve;
mod settings;
mod similar;
mod tls;
mod upload;
mod vocabularies;
mod wire;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::{
    from_fn, from_fn_with_state, map_request, map_request_with_state, map_response, map_response_with_state,
};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::decompression::RequestDecompressionLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Access;
use crate::engine::Engine;
use crate::telemetry::{MetricsRegistry, Traces};
use authorisation::{Gate, KeyScheme};
use browsers::BrowserRules;
use client_address::TrustedProxies;
use error::ApiError;
use http_metrics::{HttpMetrics, KeyMetrics};
use middleware::{Observer, X_REQUEST_ID};
use problem::{ErrorMessage, OpenAiError, Problem};

pub use document::openapi_yaml;
pub use lifecycle::{Lifecycle, Phase};
pub use serve::serve;
pub use settings::{ServerSettings, TlsSettings};
pub use tls::{Tls, TlsError};
pub use wire::{ClassBody, ClassDetail};

/// What every handler may use.
#[derive(Clone)]
pub struct AppState {
    /// Labels images and holds the vocabularies.
    pub engine: Arc<Engine>,
    /// Where the metrics of all rooms are registered.
    pub metrics: MetricsRegistry,
    /// The traces of requests.
    pub traces: Traces,
    /// `limits.max_request_bytes`: bytes of a request's body.
    pub max_request_bytes: usize,
    /// `limits.max_json_values`: values of a request's JSON.
    pub max_json_values: usize,
    /// `limits.max_label_config_bytes`: bytes of a labelling configuration.
    pub max_label_config_bytes: usize,
    /// `limits.max_batch_images`: images of a batch, and of tasks of Label Studio.
    pub max_batch_images: usize,
    /// The keys that requests need, if any.
    pub access: Arc<Access>,
    /// The section `server`.
    pub server: ServerSettings,
    /// How far the server is on its way to its end.
    pub lifecycle: Lifecycle,
}

impl AppState {
    /// Whether other machines may use the server without a key.
    fn is_open_to_the_network(&self) -> bool {
        !self.access.is_on() && !self.server.is_on_loopback()
    }
}

/// Everything that is served.
pub fn router(state: AppState) -> Router {
    let (documented, openapi) = documented().split_for_parts();
    let metrics = HttpMetrics::new(&state.metrics);
    declare_metrics(&openapi, &metrics);
    let gate = Gate::new(
        Arc::clone(&state.access),
        &openapi,
        &state.server.base_path,
        state.engine.callers().clone(),
        KeyMetrics::new(&state.metrics),
    );
    let routes = documented
        .route("/docs/", get(docs::get_docs_page))
        .route("/docs/{*file}", get(docs::get_docs_file))
        .route("/assets/{*path}", get(page::get_asset))
        .fallback(async |uri: Uri| ApiError::RouteNotFound(uri.path().to_owned()))
        .method_not_allowed_fallback(async |method: Method| ApiError::MethodNotAllowed(method));
    let times = middleware::Times {
        body_seconds: state.server.body_seconds,
        lifecycle: state.lifecycle.clone(),
    };
    let base = state.server.base_path.clone();
    let routes = base_path::with_page_address(&base, routes);
    let routes = routes.layer(from_fn_with_state(Arc::clone(&state.engine), middleware::weigh_head));
    let edge = Edge {
        rules: BrowserRules::new(&state.server),
        proxies: TrustedProxies::new(&state.server),
        gate,
        replica: routing::replica(state.server.replica.as_deref()),
    };
    let observer = Observer {
        metrics,
        traces: state.traces.clone(),
        log_class_names: state.server.log_class_names,
        scheme: state.server.scheme(),
    };
    let routes = with_layers(routes, state.max_request_bytes, times, edge, observer);
    base_path::under(&base, routes.with_state(state))
}

/// From whom requests are taken, and who answers.
struct Edge {
    rules: BrowserRules,
    proxies: TrustedProxies,
    gate: Gate,
    replica: Option<HeaderValue>,
}

/// What happens around every request, from the inside out.
fn with_layers<S: Clone + Send + Sync + 'static>(
    routes: Router<S>,
    max_request_bytes: usize,
    times: middleware::Times,
    edge: Edge,
    observer: Observer,
) -> Router<S> {
    let routes = routes
        .layer(DefaultBodyLimit::max(max_request_bytes))
        .layer(map_request(compression::take_turns))
        .layer(RequestDecompressionLayer::new())
        .layer(map_request_with_state(
            max_request_bytes,
            compression::gather_compressed,
        ))
        .layer(from_fn(compression::refuse_unknown_encoding))
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .layer(from_fn_with_state(times, middleware::limit_time))
        .layer(from_fn_with_state(edge.gate, authorisation::authorise))
        .layer(from_fn(middleware::limit_head));
    let routes = match edge.rules.cors() {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes
        .layer(from_fn_with_state(edge.rules, browsers::refuse_foreign))
        .layer(from_fn_with_state(observer, middleware::observe))
        .layer(map_request_with_state(edge.proxies, client_address::find))
        .layer(compression::of_replies())
        .layer(map_request(compression::drop_hopeless_accept_encoding))
        .layer(PropagateRequestIdLayer::new(X_REQUEST_ID))
        .layer(map_response(browsers::protect))
        .layer(map_response_with_state(edge.replica, routing::name_replica))
        .layer(SetRequestIdLayer::new(X_REQUEST_ID, MakeRequestUuid))
        .layer(map_request(middleware::drop_strange_request_id))
}

/// The routes that the document describes.
fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(segment::segment))
        .routes(routes!(segment::batch::segment_batch))
        .routes(routes!(classify::classify))
        .routes(routes!(protocols::create_embeddings))
        .routes(routes!(images::post_image))
        .routes(routes!(images::get_image, images::delete_image))
        .routes(routes!(similar::post_similar))
        .routes(routes!(vocabularies::list_vocabularies))
        .routes(routes!(
            vocabularies::put_vocabulary,
            vocabularies::get_vocabulary,
            vocabularies::delete_vocabulary
        ))
        .routes(routes!(vocabularies::get_vocabulary_status))
        .routes(routes!(models::list_models))
        .routes(routes!(protocols::get_inference_server))
        .routes(routes!(protocols::get_inference_liveness))
        .routes(routes!(protocols::get_inference_readiness))
        .routes(routes!(protocols::get_inference_model))
        .routes(routes!(protocols::get_inference_model_version))
        .routes(routes!(protocols::get_inference_model_readiness))
        .routes(routes!(protocols::get_inference_model_version_readiness))
        .routes(routes!(protocols::list_inference_models))
        .routes(routes!(protocols::infer))
        .routes(routes!(protocols::infer_by_version))
        .routes(routes!(protocols::get_backend_health))
        .routes(routes!(protocols::set_up_backend))
        .routes(routes!(protocols::predict_tasks))
        .routes(routes!(protocols::take_note_of_event))
        .routes(routes!(health::get_liveness))
        .routes(routes!(health::get_readiness))
        .routes(routes!(metrics::get_metrics))
        .routes(routes!(docs::get_openapi))
        .routes(routes!(docs::get_docs))
        .routes(routes!(page::get_page, protocols::post_hub_task))
}

/// Makes a counter for every documented status of every route exist from the start.
fn declare_metrics(openapi: &utoipa::openapi::OpenApi, metrics: &HttpMetrics) {
    for (route, item) in &openapi.paths.paths {
        let operations = [
            ("GET", &item.get),
            ("PUT", &item.put),
            ("POST", &item.post),
            ("DELETE", &item.delete),
        ];
        for (method, operation) in operations {
            for status in operation
                .iter()
                .flat_map(|operation| operation.responses.responses.keys())
            {
                let status = status.parse().expect("the routes document numbers, no ranges");
                metrics.declare(route, method, status);
            }
        }
    }
}

/// What the document says before it comes to routes.
#[derive(OpenApi)]
#[openapi(
    info(title = "MaskCLIP server", description = include_str!("openapi.md"), license(name = "Apache-2.0", identifier = "Apache-2.0")),
    components(schemas(Problem, ErrorMessage, OpenAiError)),
    modifiers(&KeyScheme),
    tags(
        (name = "segmentation", description = "An image and a list of classes in, a label map and confidences out."),
        (name = "embeddings", description = "Whole images and texts: their vectors in CLIP's one space, and the classes of an image."),
        (name = "vocabularies", description = "Class lists with a name, embedded before they are needed."),
        (name = "models", description = "What is loaded and what it can do."),
        (name = "protocols", description = "What clients of other servers speak."),
        (name = "operations", description = "For orchestrators and monitoring."),
        (name = "documentation", description = "For people."),
    ),
)]
struct Document;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;
    use crate::access::AccessSettings;
    use crate::engine::Callers;

    #[tokio::test]
    async fn a_panicking_handler_is_a_problem_without_detail() {
        async fn get_panic() -> StatusCode {
            panic!("a secret")
        }

        let registry = MetricsRegistry::new();
        let observer = Observer {
            metrics: HttpMetrics::new(&registry),
            traces: Traces::default(),
            log_class_names: false,
            scheme: "http",
        };
        let times = middleware::Times {
            body_seconds: 1.0,
            lifecycle: Lifecycle::new(),
        };
        let access = Access::open(AccessSettings::default()).unwrap();
        let key_metrics = KeyMetrics::new(&registry);
        let edge = Edge {
            rules: BrowserRules::default(),
            proxies: TrustedProxies::default(),
            gate: Gate::new(
                Arc::new(access),
                &Document::openapi(),
                "",
                Callers::default(),
                key_metrics,
            ),
            replica: None,
        };
        let router = with_layers(
            Router::new().route("/panic", get(get_panic)),
            1000,
            times,
            edge,
            observer,
        );

        let request = Request::get("/panic")
            .header("x-request-id", "test-1")
            .body(Body::empty())
            .unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        assert_eq!(
            body,
            r#"{"type":"/problems/internal","title":"Internal error","status":500,"instance":"test-1"}"#
        );
    }
}
