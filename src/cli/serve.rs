//! `maskclip serve`: settings, models, engine, socket, and the end of them all on a signal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use clap::Args;
use figment::value::Dict;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::{ConfigArguments, ModelsArguments, section};
use super::disk::open_disk;
use crate::api::{self, AppState};
use crate::config::Config;
use crate::engine::Engine;
use crate::labeller::ServedModel;
use crate::telemetry::{self, MetricsRegistry};
use crate::vocabulary::DiskStore;

/// Arguments of `maskclip serve`. Each flag overrides the setting it names.
#[derive(Debug, Args)]
pub struct ServeArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Address and port (server.listen); port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    models: ModelsArguments,
}

impl ServeArguments {
    /// The flags that were given, nested like the configuration file.
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
    // Found before anything listens: a model that is not there, a device that is not there.
    let models = config.asked_models().find_all()?;
    let disk = open_disk(&config.vocabulary);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(config, models, disk))
}

async fn serve(
    config: Config,
    models: Vec<ServedModel>,
    disk: Option<Arc<DiskStore>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(config.server.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", config.server.listen))?;
    let address = reachable(listener.local_addr()?);
    println!("listening on http://{address}");

    let metrics = MetricsRegistry::new();
    let engine = Engine::start(config.engine_settings(), models, disk, &metrics);
    let router = api::router(AppState {
        engine: Arc::clone(&engine),
        metrics,
        max_request_bytes: config.limits.max_request_bytes,
    });
    let drain = std::time::Duration::from_secs_f64(config.server.drain_seconds);

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
    tokio::select! {
        error = loaded => Err(error.to_string().into()),
        served = api::serve(listener, router, Arc::clone(&engine), shutdown_signal()?, drain) => Ok(served?),
    }
}

/// A request that works as pasted in a checkout, answered by the embedded model.
fn example(address: &SocketAddr) -> String {
    format!(
        "curl -s http://{address}/v1/segment -F image=@examples/picnic.png \\\n    \
         -F 'request={{\"classes\": [\"tiger\", \"lemon\", \"hamburger\", \"penguin\", \"strawberry\", \"sunflower\"], \"background\": [\"green background\"], \"output\": {{\"label_map\": \"none\"}}}}'"
    )
}

/// The address a client on this machine can use: "every interface" is not one.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

/// Resolves on the first SIGTERM or SIGINT.
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
