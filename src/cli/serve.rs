//! `maskclip serve`: loads settings and models, runs engine and socket, and stops on a signal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Args;
use figment::value::Dict;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::{ConfigArguments, ModelsArguments, section};
use super::disk::OpenStore;
use crate::api::{self, AppState};
use crate::config::Config;
use crate::engine::Engine;
use crate::labeller::ServedModel;
use crate::telemetry::{self, MetricsRegistry};
use crate::vocabulary::DiskStore;

/// Arguments of `maskclip serve`. Each flag overrides the setting that its help names.
#[derive(Debug, Args)]
pub struct ServeArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Address and port to listen on (setting server.listen). Port 0 picks a free port.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    models: ModelsArguments,
}

impl ServeArguments {
    /// Returns the given flags, nested like the configuration file.
    fn settings(&self) -> Dict {
        let listen = self.listen.map(|address| address.to_string());
        let mut settings = self.models.settings();
        settings.extend([section("server", &[("listen", listen)])]);
        settings
    }
}

/// Serves until SIGTERM or SIGINT, then drains.
pub fn run(arguments: ServeArguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(arguments.config.config.as_deref(), arguments.settings())?;
    telemetry::start_logs(&config.telemetry)?;
    // A missing model or device is reported before the server listens.
    let models = config.asked_models().find_all()?;
    let store = OpenStore::for_keeping(&config.vocabulary)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(config, models, store.get()));
    // Dropping it would wait for label maps of requests that have been cut off.
    runtime.shutdown_background();
    served
}

async fn serve(
    config: Config,
    models: Vec<ServedModel>,
    disk: Option<Arc<DiskStore>>,
) -> Result<(), Box<dyn std::error::Error>> {
    // From here on a signal never ends the process by itself.
    let shutdown = shutdown_signal()?;
    let listener = TcpListener::bind(config.server.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", config.server.listen))?;
    let address = reachable(listener.local_addr()?);
    println!("listening on http://{address}");

    let metrics = MetricsRegistry::new();
    let engine = Engine::start(config.engine_settings(), models, disk, &metrics);
    engine.keep_embedded();
    let router = api::router(AppState {
        engine: Arc::clone(&engine),
        metrics,
        max_request_bytes: config.limits.max_request_bytes,
    });
    let drain = Duration::from_secs_f64(config.server.drain_seconds);

    let loaded = async {
        match engine.ready().await {
            Ok(models) => {
                if models[0].embedded {
                    println!("try it:\n  {}", example(&address));
                }
                std::future::pending().await
            }
            Err(error) => error,
        }
    };
    let until = Arc::new(OnceLock::new());
    let shutdown = {
        let until = Arc::clone(&until);
        async move {
            shutdown.await;
            until.get_or_init(|| Instant::now() + drain);
        }
    };
    let served = tokio::select! {
        error = loaded => Err(error.to_string().into()),
        served = api::serve(listener, router, Arc::clone(&engine), shutdown, drain) => served.map_err(Into::into),
    };
    // After an error nothing is worth waiting for.
    engine.close(until.get().copied().unwrap_or_else(Instant::now)).await;
    served
}

/// Returns an example request for the embedded model that works when pasted in a checkout.
fn example(address: &SocketAddr) -> String {
    format!(
        "curl -s http://{address}/v1/segment -F image=@examples/picnic.png \\\n    \
         -F 'request={{\"classes\": [\"tiger\", \"lemon\", \"hamburger\", \"penguin\", \"strawberry\", \"sunflower\"], \"background\": [\"green background\"], \"output\": {{\"label_map\": \"none\"}}}}'"
    )
}

/// Returns the address that a client on this machine can use. A wildcard address becomes the loopback address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

/// Returns a future that resolves on the first SIGTERM or SIGINT.
pub(super) fn shutdown_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
