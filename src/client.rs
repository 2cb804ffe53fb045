//! A client of another `maskclip serve`: sends it images over HTTP and reads its answers.
//!
//! Owns the wire as a client sees it, and the patience with a server that is busy or starts anew. Proxies come from the
//! usual environment variables (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use ureq::http::StatusCode;
use url::Url;

use crate::formats::{ClassMask, ClassMeasures};
use crate::labelling::{Answer, Refusal};
use crate::support::{excerpt, without_secrets};

/// How long a server may be busy or away before it is given up.
const PATIENCE: Duration = Duration::from_secs(600);

/// Longest wait before a repeat, whatever the server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Longest time for one answer.
const ANSWER: Duration = Duration::from_secs(600);

/// Problems that concern the whole run and not one image: (`type` of problem details).
const PROBLEMS_OF_THE_RUN: [&str; 8] = [
    "/problems/unauthorized",
    "/problems/forbidden",
    "/problems/foreign-host",
    "/problems/route-not-found",
    "/problems/method-not-allowed",
    "/problems/vocabulary-not-found",
    "/problems/unknown-model",
    "/problems/unsupported-by-model",
];

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: Url,
    key: Option<String>,
    /// Says to people that the server is away.
    tell: fn(&str),
    /// Whether that was said since the last answer.
    is_told: Arc<AtomicBool>,
}

/// The parts of a reply that are read.
#[derive(Deserialize)]
struct Reply {
    model: String,
    width: u32,
    height: u32,
    classes: Vec<ReplyClass>,
    label_map: LabelMap,
    confidence_map: Option<Encoded>,
    #[serde(default)]
    probability_maps: Vec<ProbabilityMap>,
    warnings: Vec<Warning>,
}

#[derive(Deserialize)]
struct ReplyClass {
    pixels: u64,
    bbox: Option<[u32; 4]>,
    confidence: Confidence,
    presence: f32,
    similarity: f32,
    image_probability: f32,
}

#[derive(Deserialize)]
struct Confidence {
    mean: Option<f32>,
    max: Option<f32>,
}

#[derive(Deserialize)]
struct LabelMap {
    data: Vec<Mask>,
}

#[derive(Deserialize)]
struct Mask {
    class_id: u16,
    counts: String,
}

#[derive(Deserialize)]
struct Encoded {
    data: String,
}

#[derive(Deserialize)]
struct ProbabilityMap {
    class_id: u16,
    data: String,
}

#[derive(Deserialize)]
struct Warning {
    message: String,
}

/// A reply with an error status.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
    detail: String,
}

/// What came of one attempt.
enum Attempt {
    Answered(Vec<u8>),
    /// The server may answer later.
    Busy {
        reason: String,
        wait: Duration,
        /// Whether nobody has answered, which people may want to know before the patience ends.
        is_away: bool,
    },
    Refused(Refusal),
}

impl Client {
    /// Makes a client of the server at this address. `key` goes along with every request. `tell` is called with a text
    /// for people when the server is away, once until it answers.
    ///
    /// # Errors
    /// A text for people when the address is none of HTTP.
    pub fn new(address: &str, key: Option<String>, tell: fn(&str)) -> Result<Self, String> {
        let wrong = |reason: &str| format!("{address:?} is no address of a server: {reason}");
        let mut base = Url::parse(address).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(wrong("it begins with neither http:// nor https://"));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("maskclip/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(ANSWER));
        Ok(Self {
            agent: config.build().into(),
            base,
            key,
            tell,
            is_told: Arc::default(),
        })
    }

    /// Asks for a resource in JSON, at a path without a slash at its beginning. Blocks.
    ///
    /// # Errors
    /// A text for people when the server does not answer, or refuses.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        let bytes = self
            .patiently(|| self.attempt(path, None))
            .map_err(|refusal| match refusal {
                Refusal::Image(reason) | Refusal::Run(reason) => reason,
            })?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{}: the answer is no JSON: {error}", self.shown(path)))
    }

    /// Asks for the labels of an image. `request` is the body without the image, and has to ask for COCO's run lengths.
    /// Blocks.
    ///
    /// # Errors
    /// [`Refusal`] says whether it concerns this image alone.
    pub fn segment(&self, request: &Value, image: &Bytes) -> Result<Answer, Refusal> {
        let mut body = request.clone();
        body["image"] = BASE64_STANDARD.encode(image).into();
        let body = body.to_string();
        let bytes = self.patiently(|| self.attempt("v1/segment", Some(&body)))?;
        let not_understood =
            |reason: String| Refusal::Run(format!("{} gives another answer: {reason}", self.shown("")));
        let reply: Reply = serde_json::from_slice(&bytes).map_err(|error| not_understood(error.to_string()))?;
        let confidence = reply
            .confidence_map
            .map(|map| BASE64_STANDARD.decode(map.data))
            .transpose();
        let probability = |map: ProbabilityMap| {
            let file = BASE64_STANDARD.decode(map.data);
            file.map(|file| (map.class_id, file))
        };
        let probabilities: Result<Vec<_>, _> = reply.probability_maps.into_iter().map(probability).collect();
        let measures = |class: ReplyClass| ClassMeasures {
            pixels: class.pixels,
            bounding_box: class.bbox,
            mean_confidence: class.confidence.mean,
            max_confidence: class.confidence.max,
            presence: class.presence,
            similarity: class.similarity,
            image_probability: class.image_probability,
        };
        let mask = |mask: Mask| ClassMask {
            class_id: mask.class_id,
            counts: mask.counts,
        };
        Ok(Answer {
            model: reply.model,
            width: reply.width,
            height: reply.height,
            classes: reply.classes.into_iter().map(measures).collect(),
            masks: reply.label_map.data.into_iter().map(mask).collect(),
            confidence: confidence.map_err(|error| not_understood(error.to_string()))?,
            probabilities: probabilities.map_err(|error| not_understood(error.to_string()))?,
            warnings: reply.warnings.into_iter().map(|warning| warning.message).collect(),
        })
    }

    /// Repeats an attempt for as long as the server is busy or away, within [`PATIENCE`].
    fn patiently(&self, attempt: impl Fn() -> Attempt) -> Result<Vec<u8>, Refusal> {
        let begin = Instant::now();
        loop {
            let attempt = attempt();
            self.tell_whether_away(&attempt);
            match attempt {
                Attempt::Answered(bytes) => return Ok(bytes),
                Attempt::Refused(refusal) => return Err(refusal),
                Attempt::Busy { reason, wait, .. } if begin.elapsed() + wait > PATIENCE => {
                    let seconds = PATIENCE.as_secs();
                    return Err(Refusal::Run(format!("no answer within {seconds} s: {reason}")));
                }
                Attempt::Busy { wait, .. } => std::thread::sleep(wait),
            }
        }
    }

    /// Says that the server is away, unless that was said since its last answer.
    fn tell_whether_away(&self, attempt: &Attempt) {
        match attempt {
            Attempt::Busy {
                reason, is_away: true, ..
            } => {
                if !self.is_told.swap(true, Ordering::Relaxed) {
                    (self.tell)(&format!(
                        "trying again for {} minutes: {reason}",
                        PATIENCE.as_secs() / 60
                    ));
                }
            }
            _ => self.is_told.store(false, Ordering::Relaxed),
        }
    }

    /// Returns the address of a path, for people.
    fn shown(&self, path: &str) -> String {
        format!("{}{path}", without_secrets(&self.base))
    }

    /// Sends one request: a POST with a body in JSON, or a GET.
    fn attempt(&self, path: &str, body: Option<&str>) -> Attempt {
        let address = format!("{}{path}", self.base);
        let authorization = self.key.as_ref().map(|key| format!("Bearer {key}"));
        let sent = match body {
            Some(body) => {
                let mut request = self.agent.post(&address).header("content-type", "application/json");
                if let Some(value) = &authorization {
                    request = request.header("authorization", value);
                }
                request.send(body)
            }
            None => {
                let mut request = self.agent.get(&address);
                if let Some(value) = &authorization {
                    request = request.header("authorization", value);
                }
                request.call()
            }
        };
        let away = |reason: String| Attempt::Busy {
            reason: format!("{}: {reason}", self.shown(path)),
            wait: Duration::from_secs(1),
            is_away: true,
        };
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => return away(error.to_string()),
        };
        let status = response.status();
        let wait = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let wait = Duration::from_secs(wait.unwrap_or(1)).min(LONGEST_WAIT);
        // Label maps are large: the default limit is 10 MB.
        let bytes = match response.body_mut().with_config().limit(u64::MAX).read_to_vec() {
            Ok(bytes) => bytes,
            Err(error) => return away(error.to_string()),
        };
        if status.is_success() {
            return Attempt::Answered(bytes);
        }
        refused(&self.shown(path), status, &bytes, wait)
    }
}

/// Returns what a reply with an error status means for the run.
fn refused(address: &str, status: StatusCode, bytes: &[u8], wait: Duration) -> Attempt {
    let problem: Problem = serde_json::from_slice(bytes).unwrap_or_default();
    let detail = match problem.detail.as_str() {
        "" => excerpt(&String::from_utf8_lossy(bytes)).to_string(),
        detail => detail.to_owned(),
    };
    let reason = format!("{address} answers {status}: {detail}");
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => {
            let is_away = false;
            Attempt::Busy { reason, wait, is_away }
        }
        _ if problem.kind.is_empty() || PROBLEMS_OF_THE_RUN.contains(&problem.kind.as_str()) => {
            Attempt::Refused(Refusal::Run(reason))
        }
        _ => Attempt::Refused(Refusal::Image(detail)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn an_address_is_one_of_http() {
        let base = |address: &str| Client::new(address, None, |_| ()).map(|client| client.base.to_string());
        assert_eq!(base("http://localhost:8080"), Ok("http://localhost:8080/".to_owned()));
        assert_eq!(base("https://host/maskclip"), Ok("https://host/maskclip/".to_owned()));
        assert_eq!(
            base("localhost:8080"),
            Err("\"localhost:8080\" is no address of a server: it begins with neither http:// nor https://".to_owned())
        );
    }

    #[test]
    fn that_a_server_is_away_is_said_once_until_it_answers() {
        static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let tell = |text: &str| SAID.lock().expect("no test panics with it").push(text.to_owned());
        let client = Client::new("http://host", None, tell).expect("an address");
        let busy = |is_away| Attempt::Busy {
            reason: "http://host/: refused".to_owned(),
            wait: Duration::from_secs(1),
            is_away,
        };
        for attempt in [
            busy(false),
            busy(true),
            busy(true),
            Attempt::Answered(Vec::new()),
            busy(true),
        ] {
            client.tell_whether_away(&attempt);
        }
        let text = "trying again for 10 minutes: http://host/: refused";
        assert_eq!(*SAID.lock().expect("no test panics with it"), [text, text]);
    }

    #[test]
    fn a_refusal_is_of_an_image_of_the_run_or_of_the_moment() {
        let refused = |status: u16, kind: &str| {
            let body = serde_json::json!({"type": kind, "detail": "so"}).to_string();
            let status = StatusCode::from_u16(status).expect("a status");
            refused("http://host/", status, body.as_bytes(), Duration::from_secs(3))
        };
        let Attempt::Refused(Refusal::Image(reason)) = refused(422, "/problems/undecodable-image") else {
            panic!("it is the image's fault");
        };
        assert_eq!(reason, "so");
        let Attempt::Refused(Refusal::Run(reason)) = refused(401, "/problems/unauthorized") else {
            panic!("no other image would be let in");
        };
        assert_eq!(reason, "http://host/ answers 401 Unauthorized: so");
        let Attempt::Busy { wait, .. } = refused(429, "/problems/overloaded") else {
            panic!("a repeat may be answered");
        };
        assert_eq!(wait, Duration::from_secs(3));
    }
}
