//! `GET /health/live` and `GET /health/ready`: for orchestrators.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::lifecycle::Phase;
use super::problem::{NoProblems, problems};
use super::wire::ModelHealth;
use crate::engine::Readiness;

/// Whether the process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub struct Liveness {
    /// `live`.
    status: &'static str,
}

/// The server can answer requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ready`.
    status: &'static str,
    /// Every model, in the order of the settings.
    models: Vec<ModelHealth>,
    /// What replicas have in common; only where they share anything (`shared.url`).
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_state: Option<SharedStateHealth>,
    /// What whoever runs the server should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<ServerWarning>,
}

/// Whether what replicas have in common can be reached.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum SharedStateHealth {
    /// It can.
    Reachable,
    /// It cannot: this replica answers from what it has, and refuses changes of vocabularies.
    Unreachable,
}

/// Something about the server that whoever runs it should know.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerWarning {
    /// A code for programs.
    code: ServerWarningCode,
    /// What it means, for people.
    message: &'static str,
}

/// Codes of warnings about the server.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum ServerWarningCode {
    /// The server listens beyond this machine and needs no keys.
    NoKeys,
    /// Named vocabularies end with the server: the store that the settings ask for cannot be used.
    NotDurable,
    /// What replicas have in common cannot be reached.
    SharedStateUnreachable,
}

/// The warning of a server that everybody on the network may use.
pub(super) const NO_KEYS: &str = "the server listens beyond this machine, and everybody who reaches it may do everything: there are no keys (access.keys_file)";

/// The warning of a server without the store that its settings ask for.
const NOT_DURABLE: &str = "named vocabularies are held in memory only and are lost when the server ends: the store on disk cannot be used (vocabulary.store_path); the log says why";

/// The warning of a replica that is cut off from what replicas have in common.
const SHARED_STATE_UNREACHABLE: &str = "what the replicas have in common cannot be reached (shared.url): this replica answers from what it has, and refuses changes of named vocabularies; the log says why";

/// Is the process alive?
///
/// Answers as soon as the server listens. A failure means that the process should be restarted.
#[utoipa::path(
    get,
    path = "/health/live",
    operation_id = "get_liveness",
    security(()),
    tag = "operations",
    responses((status = 200, description = "It is.", body = Liveness, example = json!({"status": "live"})), NoProblems),
)]
pub(super) async fn get_liveness() -> Json<Liveness> {
    Json(Liveness { status: "live" })
}

/// Can the server answer requests?
///
/// Only while each model has a warm worker: the model loaded and run once. With `engine.ready_when: any` one such model
/// is enough. A failure means that requests should go elsewhere. While one model of several recovers from a failure,
/// requests to the others are answered all the same.
///
/// A replica that cannot reach what replicas have in common stays ready, and says so in `shared_state` and `warnings`.
///
/// Either reply lists the state of every model: in `models` of the answer or of the problem. Neither this route nor
/// `/health/live` needs a key, because orchestrators have none.
#[utoipa::path(
    get,
    path = "/health/ready",
    operation_id = "get_readiness",
    security(()),
    tag = "operations",
    responses(
        (status = 200, description = "It can.", body = Health,
            example = json!({"status": "ready", "models": [{"name": "demo", "status": "ready"}]})),
        ReadyProblems,
    ),
)]
pub(super) async fn get_readiness(State(state): State<AppState>) -> Result<Json<Health>, ApiError> {
    let models = state.engine.model_states().into_iter().map(ModelHealth::from).collect();
    let reason = match state.engine.readiness() {
        _ if state.lifecycle.phase() > Phase::Serving => "the server is going down",
        Readiness::Ready => {
            return Ok(Json(Health {
                status: "ready",
                models,
                shared_state: state
                    .engine
                    .reaches_shared_state()
                    .map(|is_reachable| match is_reachable {
                        true => SharedStateHealth::Reachable,
                        false => SharedStateHealth::Unreachable,
                    }),
                warnings: warnings(&state),
            }));
        }
        Readiness::Starting => "a model is being loaded",
        Readiness::Recovering => "a model failed and is being loaded again",
        Readiness::Draining => "the server is going down",
    };
    Err(ApiError::NotReady { reason, models })
}

/// What whoever runs the server should know.
fn warnings(state: &AppState) -> Vec<ServerWarning> {
    let no_keys = state.is_open_to_the_network().then_some(ServerWarning {
        code: ServerWarningCode::NoKeys,
        message: NO_KEYS,
    });
    let not_durable = state.engine.lacks_store().then_some(ServerWarning {
        code: ServerWarningCode::NotDurable,
        message: NOT_DURABLE,
    });
    let is_cut_off = state.engine.reaches_shared_state() == Some(false);
    let cut_off = is_cut_off.then_some(ServerWarning {
        code: ServerWarningCode::SharedStateUnreachable,
        message: SHARED_STATE_UNREACHABLE,
    });
    no_keys.into_iter().chain(not_durable).chain(cut_off).collect()
}

problems! {
    /// The problems of `GET /health/ready`.
    ReadyProblems = Problem.without_key([Unavailable]);
}
