//! `maskclip serve`: loads settings and models, runs engine and socket, and stops on a signal.

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use figment::value::Dict;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::{ConfigArguments, ModelsArguments, section};
use super::disk::OpenStore;
use super::output::print;
use super::signals::{self, Signal};
use crate::access::{Access, Reloaded};
use crate::api::{self, AppState, Lifecycle, Tls, TlsSettings};
use crate::config::{Config, MemorySum};
use crate::engine::Engine;
use crate::labeller::ServedModel;
use crate::models::ModelSettings;
use crate::shared::SharedState;
use crate::support::run_blocking;
use crate::telemetry::{self, MetricsPush, MetricsRegistry, Traces};
use crate::vocabulary::DiskStore;

/// How often free memory returns to the system. The passes that follow have to ask for it again.
const RETURN_MEMORY_EVERY: Duration = Duration::from_secs(10);

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

/// Serves until SIGTERM or SIGINT, then drains. A second signal ends the process at once.
pub fn run(arguments: ServeArguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = arguments.config.start(arguments.settings())?;
    // A missing model or device is reported before the server listens.
    let models = config.asked_models().find_all()?;
    let sizes = config.asked_models().sizes()?;
    let lowered = config.fit_memory(&sizes);
    if !lowered.is_empty() {
        tracing::info!(
            ?lowered,
            "the defaults do not fit the memory that there is, so they are lowered"
        );
    }
    let memory = config.memory(&sizes);
    memory.check()?;
    let access = Arc::new(Access::open(config.access.clone())?);
    let store = OpenStore::for_keeping(&config.vocabulary)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let served = runtime.block_on(serve(config, models, &memory, access, store.get()));
    // Dropping it would wait for label maps of requests that have been cut off.
    runtime.shutdown_background();
    served
}

async fn serve(
    config: Config,
    models: Vec<ServedModel>,
    memory: &MemorySum,
    access: Arc<Access>,
    disk: Option<Arc<DiskStore>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let tls = start_tls(config.server.tls.as_ref())?;
    // From here on a signal never ends the process by itself.
    let stop = stop_signal(Duration::from_secs_f64(config.server.unready_seconds))?;
    read_keys_at_hangup(&access)?;
    if tls.is_none() && access.file().is_none() {
        at_hangup(|| tracing::info!("SIGHUP: there is neither a file of keys nor a certificate to read again"))?;
    }
    let listener = TcpListener::bind(config.server.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", config.server.listen))?;
    let scheme = config.server.scheme();
    let address = listener.local_addr()?;
    announce(scheme, address);

    let metrics = MetricsRegistry::new();
    memory.register(&metrics);
    let traces = Traces::start(&config.telemetry.otlp);
    let push = MetricsPush::start(&config.telemetry.otlp, metrics.clone());
    let shared = SharedState::start(&config.shared, &metrics).await?;
    let engine = Engine::start_replica(config.engine_settings(), models, disk, shared, &metrics);
    engine.keep_embedded();
    engine.keep_in_step();
    let state = AppState {
        engine: Arc::clone(&engine),
        metrics,
        traces: traces.clone(),
        max_request_bytes: config.limits.max_request_bytes,
        max_json_values: config.limits.max_json_values,
        max_label_config_bytes: config.limits.max_label_config_bytes,
        max_batch_images: config.limits.max_batch_images,
        access,
        server: config.server,
        lifecycle: Lifecycle::new(),
    };

    tokio::spawn(return_free_memory());

    let loaded = async {
        match engine.ready().await {
            Ok(models) => {
                notify_supervisor(NotifyState::Ready);
                // For people, and nothing that a script should find among other lines.
                if models[0].embedded && std::io::stdout().is_terminal() && !telemetry::writes_json() {
                    say(&format!("try it:\n  {}", example(scheme, reachable(address))));
                }
                std::future::pending().await
            }
            Err(error) => error,
        }
    };
    let served = tokio::select! {
        error = loaded => Err(error.to_string().into()),
        until = api::serve(listener, tls, state, stop) => Ok(until),
    };
    // After an error nothing is worth waiting for.
    engine.close(*served.as_ref().unwrap_or(&Instant::now())).await;
    run_blocking(move || {
        traces.end();
        if let Some(push) = push {
            push.end();
        }
    })
    .await;
    served.map(|_| ())
}

/// Returns free memory to the system now and then. Without it, what a peak has left stays resident, and so do the gaps
/// that passes of many shapes leave between each other.
async fn return_free_memory() {
    loop {
        tokio::time::sleep(RETURN_MEMORY_EVERY).await;
        run_blocking(ModelSettings::return_free_memory).await;
    }
}

/// Says where the server listens: in the log where that is JSON, else on standard output.
fn announce(scheme: &str, address: SocketAddr) {
    let url = format!("{scheme}://{address}");
    if telemetry::writes_json() {
        tracing::info!(address = url, "listening");
    } else {
        say(&format!("listening on {url}"));
    }
}

/// Prints a line to standard output. Whoever read the lines may have gone, as in `maskclip serve | head -1`, or the
/// disk under them be full; the server goes on.
fn say(line: &str) {
    if let Err(error) = print(&format!("{line}\n")) {
        tracing::warn!(%error, "standard output cannot be written");
    }
}

/// Returns an example request for the embedded model that works when pasted in a checkout.
fn example(scheme: &str, address: SocketAddr) -> String {
    format!(
        "curl -s {scheme}://{address}/v1/segment -F image=@examples/picnic.png \\\n    \
         -F 'request={{\"classes\": [\"tiger\", \"lemon\", \"hamburger\", \"penguin\", \"strawberry\", \"sunflower\"], \"background\": [\"green background\"], \"output\": {{\"label_map\": \"none\"}}}}'"
    )
}

/// Returns the address that a client on this machine can use. A wildcard address becomes the loopback address: that of
/// IPv4 also for `[::]` on a machine without one of IPv6, as a container may be.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let has_loopback = |ip: Ipv6Addr| UdpSocket::bind((ip, 0)).is_ok();
        address.set_ip(match address.ip() {
            IpAddr::V6(_) if has_loopback(Ipv6Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.into(),
            _ => Ipv4Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Reads the certificate in the settings, if there is one, and again whenever SIGHUP comes.
fn start_tls(settings: Option<&TlsSettings>) -> Result<Option<Tls>, Box<dyn std::error::Error>> {
    let tls = settings.map(Tls::start).transpose();
    let tls = tls.map_err(|error| format!("server.tls: {error}"))?;
    if let Some(tls) = tls.clone() {
        at_hangup(move || tls.reload())?;
    }
    Ok(tls)
}

/// Does the work at each SIGHUP, which from then on does not end the process.
fn at_hangup(work: impl Fn() + Send + Sync + 'static) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let work = Arc::new(work);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let work = Arc::clone(&work);
            run_blocking(move || work()).await;
        }
    });
    Ok(())
}

/// Returns a future that resolves on the first SIGTERM or SIGINT with the time for which the server is to say that it
/// is not ready before it closes. Load balancers need it; whoever presses Ctrl-C does not, so it is zero for SIGINT. A
/// second signal ends the process at once.
fn stop_signal(unready: Duration) -> std::io::Result<impl Future<Output = Duration>> {
    signals::first_sets_flag()?;
    let first = signals::first_signal()?;
    Ok(async move {
        let first = first.await;
        notify_supervisor(NotifyState::Stopping);
        match first {
            Signal::Terminate => unready,
            Signal::Interrupt => Duration::ZERO,
        }
    })
}

/// Tells systemd or whatever else has set `NOTIFY_SOCKET` how far the server is (sd_notify(3)).
fn notify_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "NOTIFY_SOCKET cannot be written");
    }
}

/// Reads the file of keys anew at each SIGHUP, if there is one.
fn read_keys_at_hangup(access: &Arc<Access>) -> std::io::Result<()> {
    let Some(file) = access.file().map(Path::to_owned) else {
        return Ok(());
    };
    let access = Arc::clone(access);
    at_hangup(move || match access.reload() {
        Ok(Reloaded { keys, added, removed }) => {
            tracing::info!(file = %file.display(), keys, ?added, ?removed, "read the keys anew");
        }
        Err(error) => tracing::error!(%error, "could not read the keys anew; the old ones stay"),
    })
}
