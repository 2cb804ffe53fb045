//! `maskclip health`: asks the server of this machine whether it is ready, for container engines and scripts.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::Args;
use figment::value::Dict;
use serde::Deserialize;
use ureq::tls::TlsConfig;

use super::arguments::{ConfigArguments, section};
use super::output::print;
use super::serve::reachable;
use crate::config::Config;

/// Arguments of `maskclip health`. With the settings of the server it finds its address by itself.
#[derive(Debug, Args)]
pub struct HealthArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Address and port that the server listens on (setting server.listen), or the name and port of a Service.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Seconds to wait for the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0, value_parser = seconds)]
    timeout: f64,
}

/// Finds the address of a name, or takes the address as it is. A server takes requests by its address whatever
/// server.allowed_hosts says.
fn address(text: &str) -> std::io::Result<SocketAddr> {
    let found = text.to_socket_addrs()?.min_by_key(SocketAddr::is_ipv6);
    found.ok_or_else(|| std::io::Error::other("nobody has that name"))
}

/// Checks a number of seconds.
fn seconds(text: &str) -> Result<f64, &'static str> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=3600.0).contains(seconds));
    seconds.ok_or("0.01 to 3600 seconds")
}

/// What this command reads of the answer of `/health/ready`, ready or not.
#[derive(Debug, Deserialize)]
struct Answer {
    /// Why the server is not ready.
    detail: Option<String>,
    #[serde(default)]
    models: Vec<Model>,
}

/// The state of a model.
#[derive(Debug, Deserialize)]
struct Model {
    name: String,
    status: String,
    /// Why it could not be loaded.
    detail: Option<String>,
}

/// Prints the states of the models. Succeeds if the server is ready.
pub fn run(arguments: HealthArguments) -> Result<(), Box<dyn std::error::Error>> {
    let listen = arguments.listen.map(|address| address.to_string());
    let flags = Dict::from([section("server", &[("listen", listen)])]);
    let server = Config::load(arguments.config.config.as_deref(), flags)?.server;
    if server.listen.port() == 0 {
        return Err("server.listen has port 0: the server has picked another, which --listen can name".into());
    }
    let url = format!("{}://{}/health/ready", server.scheme(), reachable(server.listen));
    // The server is on this machine: no proxy is in between, and its certificate is for other names than this address.
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs_f64(arguments.timeout)))
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .tls_config(TlsConfig::builder().disable_verification(true).build())
        .build()
        .into();
    let mut reply = agent.get(&url).call().map_err(|error| format!("{url}: {error}"))?;
    let status = reply.status();
    let body = reply.body_mut().read_to_string()?;
    let answer: Answer =
        serde_json::from_str(&body).map_err(|_| format!("{url} answers {status}, and not as a server of MaskCLIP"))?;
    for model in &answer.models {
        print(&format!("{model}\n"))?;
    }
    match status.as_u16() {
        200 => Ok(()),
        _ => Err(answer
            .detail
            .unwrap_or_else(|| format!("{url} answers {status}"))
            .into()),
    }
}

impl std::fmt::Display for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.name, self.status)?;
        match &self.detail {
            Some(detail) => write!(formatter, ", {detail}"),
            None => Ok(()),
        }
    }
}
